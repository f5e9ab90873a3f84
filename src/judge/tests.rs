//! Every rule is a row here; what must hold for every scene is a property below.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::model::{
    CgroupId, CgroupPath, Container, Endpoint, Engine, FileId, Host, Inode, InvocationId, Lineage, Pid, Port, Program,
    Protocol, Run, Session, StartTime, StopRules, Terminal, UnitState,
};

const OURS: InvocationId = InvocationId(1);
const EARLIER: InvocationId = InvocationId(2);
const STRANGE: InvocationId = InvocationId(3);
const OWN_FILE: FileId = FileId { device: 1, inode: 2 };

fn unit(name: &str) -> UnitName {
    name.parse().unwrap()
}

fn endpoint() -> Endpoint {
    Endpoint { host: Host::Any, port: Port::new(8080).unwrap(), protocol: Protocol::Tcp }
}

fn rules() -> Rules {
    Rules {
        endpoints: vec![endpoint()],
        reuse_address: true,
        on_stale: StaleRule::Stop,
        on_foreign: ForeignRule::Refuse,
        on_lookalike: LookalikeRule::AsForeign,
        on_blind: BlindRule::Allow,
        replaces: Vec::new(),
        wait: None,
        stop: StopRules::default(),
    }
}

fn guarded() -> Guarded {
    Guarded {
        unit: unit("app@1.service"),
        user: None,
        phase: Phase::Within,
        invocation: Some(OURS),
        ended: Some(StartTime(1000)),
        known: vec![Pid(900)],
        triggered_by: vec![unit("app.socket")],
        runs: vec![Run { cgroup: Some(CgroupId(70)), invocation: EARLIER }],
        knows_triggers: false,
        stored: None,
        keeps_files: false,
        program: Some(Program { file: OWN_FILE, argv: vec!["app".to_owned()], folders: (OWN_FILE, OWN_FILE), uid: 0 }),
    }
}

fn process(owner: Owner) -> Process {
    Process {
        pid: Pid(500),
        start: StartTime(100),
        uid: 0,
        comm: "python3".to_owned(),
        exe: Some(PathBuf::from("/usr/bin/python3")),
        argv: vec!["python3".to_owned()],
        cgroup: None,
        owner,
        invocation: Invocation::Absent,
        terminal: None,
        program: None,
        folders: None,
        container: None,
        lineage: Lineage::Other,
    }
}

fn held(holders: Vec<Process>) -> HeldSocket {
    HeldSocket {
        socket: Socket {
            protocol: Protocol::Tcp,
            local: "[::]:8080".parse().unwrap(),
            peer: None,
            v6only: false,
            state: SocketState::Listen,
            inode: Inode(9),
            uid: 0,
            device: None,
            cgroup: None,
            backlog: None,
            left: None,
        },
        birthplace: None,
        born_in: None,
        holders: holders.into_iter().map(Rc::new).collect(),
        socket_unit: None,
    }
}

fn scene(guarded: Guarded, sockets: Vec<HeldSocket>) -> Scene {
    let seen = EndpointScene { endpoint: endpoint(), probe: Probe::Busy, sockets };
    Scene { guarded, endpoints: vec![seen], units: BTreeMap::new(), blind_spots: Vec::new() }
}

/// The one finding of a scene with one holder.
fn judged(guarded: Guarded, socket: HeldSocket) -> (Relation, Action) {
    let verdict = judge(&scene(guarded, vec![socket]), &rules());
    let [finding] = verdict.findings() else { panic!("one finding expected: {verdict:?}") };
    (finding.relation.clone(), finding.action)
}

fn of(owner: Owner) -> (Relation, Action) {
    judged(guarded(), held(vec![process(owner)]))
}

fn own() -> Owner {
    Owner::Unit(unit("app@1.service"))
}

#[test]
fn a_holder_elsewhere_is_refused_and_named_for_what_it_is() {
    let session = Owner::Session(Session { id: "3".to_owned() });
    let user_unit = |name| Owner::UserUnit { uid: 1000, unit: unit(name) };
    for (owner, relation) in [
        (Owner::Unit(unit("web.service")), Relation::OtherUnit(unit("web.service"))),
        (Owner::Unit(unit("app@2.service")), Relation::Sibling(unit("app@2.service"))),
        (Owner::Unit(unit("run-1.scope")), Relation::OtherUnit(unit("run-1.scope"))),
        (user_unit("web.service"), Relation::OtherUserUnit { uid: 1000, unit: unit("web.service") }),
        (user_unit("app@1.service"), Relation::Twin { uid: Some(1000) }),
        (session, Relation::Session { id: "3".to_owned() }),
        (Owner::Nobody, Relation::OtherProcess),
        (Owner::Unknown, Relation::OtherProcess),
        (Owner::Init, Relation::OtherProcess),
    ] {
        assert_eq!(of(owner.clone()), (relation, Action::Refuse), "{owner:?}");
    }
}

#[test]
fn units_of_no_template_are_no_siblings() {
    let plain = Guarded { unit: unit("app.service"), ..guarded() };
    for name in ["web.service", "app@1.service"] {
        let socket = held(vec![process(Owner::Unit(unit(name)))]);
        assert_eq!(judged(plain.clone(), socket).0, Relation::OtherUnit(unit(name)));
    }
}

#[test]
fn in_its_own_cgroup_only_what_is_proven_to_be_of_an_earlier_run_is_left_over() {
    use Invocation::{Absent, Known, Unreadable};
    let ended = Some(StartTime(1000));
    let leftover = (Relation::Leftover, Action::Stop);
    let own_start = (Relation::OwnStart, Action::Refuse);
    let own_run = (Relation::OwnRun, Action::Refuse);
    let unproven = (Relation::Unproven, Action::Refuse);
    for (phase, invocation, start, ended, expected) in [
        // The ledger knows its run, however young it is: a process of an earlier run can fork at any time.
        (Phase::Within, Known(EARLIER), 100, ended, &leftover),
        (Phase::Within, Known(EARLIER), 2000, ended, &leftover),
        (Phase::Within, Known(EARLIER), 100, None, &leftover),
        (Phase::Within, Known(OURS), 100, ended, &own_start),
        // An id that the ledger does not have proves nothing, only age does.
        (Phase::Within, Known(STRANGE), 999, ended, &leftover),
        (Phase::Within, Known(STRANGE), 1000, ended, &unproven),
        (Phase::Within, Known(STRANGE), 100, None, &unproven),
        (Phase::Within, Absent, 999, ended, &leftover),
        (Phase::Within, Unreadable, 999, ended, &leftover),
        (Phase::Within, Absent, 1000, ended, &unproven),
        (Phase::Within, Unreadable, 1001, ended, &unproven),
        (Phase::Within, Absent, 100, None, &unproven),
        (Phase::Stopped, Absent, 100, None, &leftover),
        (Phase::Running, Known(EARLIER), 100, ended, &own_run),
        (Phase::Running, Absent, 100, ended, &own_run),
        (Phase::Unknown, Known(EARLIER), 100, None, &unproven),
    ] {
        let holder = Process { invocation, start: StartTime(start), ..process(own()) };
        let seen = judged(Guarded { phase, ended, ..guarded() }, held(vec![holder]));
        assert_eq!(&seen, expected, "{phase:?} {invocation:?} {start} {ended:?}");
    }
}

#[test]
fn what_the_manager_knows_as_the_units_own_is_never_left_over() {
    // A daemon of an earlier run that this one has taken over lives in no cgroup of the unit.
    for owner in [own(), Owner::Nobody, Owner::Unit(unit("run-1.scope"))] {
        for phase in [Phase::Within, Phase::Running, Phase::Unknown] {
            let main = Process { pid: Pid(900), invocation: Invocation::Known(EARLIER), ..process(owner.clone()) };
            let guarded = Guarded { phase, ..guarded() };
            assert_eq!(judged(guarded, held(vec![main])), (Relation::OwnRun, Action::Refuse), "{owner:?} {phase:?}");
        }
    }
}

#[test]
fn nothing_has_escaped_from_a_unit_that_is_running() {
    for (phase, action) in [
        (Phase::Within, Action::Stop),
        (Phase::Stopped, Action::Stop),
        (Phase::Running, Action::Refuse),
        (Phase::Unknown, Action::Refuse),
    ] {
        let holder = Process { invocation: Invocation::Known(EARLIER), ..process(Owner::Nobody) };
        assert_eq!(judged(Guarded { phase, ..guarded() }, held(vec![holder])).1, action, "{phase:?}");
    }
}

#[test]
fn only_a_process_that_itself_carries_an_earlier_invocation_has_escaped() {
    let session = || Owner::Session(Session { id: "3".to_owned() });
    let escaped = (Relation::Escaped, Action::Stop);
    for (owner, id, expected) in [
        (Owner::Unit(unit("run-1.scope")), EARLIER, escaped.clone()),
        (session(), EARLIER, escaped.clone()),
        (Owner::Nobody, EARLIER, escaped),
        (Owner::Nobody, STRANGE, (Relation::OtherProcess, Action::Refuse)),
        (Owner::Nobody, OURS, (Relation::OtherProcess, Action::Refuse)),
        // A service has taken it over.
        (Owner::Unit(unit("web.service")), EARLIER, (Relation::OtherUnit(unit("web.service")), Action::Refuse)),
    ] {
        let holder = Process { invocation: Invocation::Known(id), ..process(owner.clone()) };
        assert_eq!(judged(guarded(), held(vec![holder])), expected, "{owner:?} {id:?}");
    }
}

/// Whoever may not signal a process could have it stopped by handing it a socket.
#[test]
fn a_socket_of_neither_root_nor_the_user_of_the_leftover_gets_nobody_stopped() {
    let escaped = || Process { invocation: Invocation::Known(EARLIER), uid: 33, ..process(Owner::Nobody) };
    let leftover = || Process { uid: 33, start: StartTime(100), ..process(own()) };
    for holder in [escaped(), leftover()] {
        for (maker, expected) in [(0, Action::Stop), (33, Action::Stop), (1000, Action::Refuse)] {
            let mut socket = held(vec![holder.clone()]);
            socket.socket.uid = maker;
            assert_eq!(judged(guarded(), socket).1, expected, "{maker}");
        }
    }
    let mut socket = held(vec![process(own())]);
    socket.socket.uid = 1000;
    assert_eq!(judged(guarded(), socket).1, Action::Refuse, "root's own process");
}

/// So could somebody with the same uid, or root's, who may not signal it: in a container, or without `CAP_KILL`.
#[test]
fn a_socket_that_was_made_elsewhere_gets_nobody_stopped() {
    let web = || Owner::Unit(unit("web.service"));
    let escaped = || Process { invocation: Invocation::Known(EARLIER), ..process(Owner::Nobody) };
    let leftover = || process(own());
    for holder in [leftover(), escaped()] {
        for (born, expected) in [
            (Some(web()), Action::Refuse),
            (Some(Owner::Session(Session { id: "3".to_owned() })), Action::Refuse),
            (Some(Owner::UserUnit { uid: 1000, unit: unit("init.scope") }), Action::Refuse),
            (Some(own()), Action::Stop),
            (Some(Owner::Init), Action::Stop),
            (Some(Owner::Unit(unit("app.socket"))), Action::Stop),
            (Some(Owner::UserUnit { uid: 1000, unit: unit("app.socket") }), Action::Refuse),
            (Some(Owner::Nobody), Action::Refuse),
            (None, Action::Refuse),
        ] {
            let mut socket = HeldSocket { birthplace: born.clone(), ..held(vec![holder.clone()]) };
            socket.socket.cgroup = Some(CgroupId(60));
            assert_eq!(judged(guarded(), socket).1, expected, "{born:?}");
        }
        let mut socket = HeldSocket { birthplace: Some(Owner::Init), ..held(vec![holder]) };
        socket.socket.cgroup = Some(CgroupId(60));
        let of_no_socket = Guarded { triggered_by: Vec::new(), ..guarded() };
        assert_eq!(judged(of_no_socket, socket).1, Action::Refuse, "PID 1 has made none for the unit");
    }
    // There is one cgroup of a unit or a session, and many that are nobody's.
    let path = |path: &str| Some(CgroupPath(path.to_owned()));
    for (born_in, expected) in
        [(path("/mine"), Action::Stop), (path("/docker/1"), Action::Refuse), (None, Action::Refuse)]
    {
        let holder = Process { cgroup: path("/mine"), ..escaped() };
        let socket = HeldSocket { birthplace: Some(Owner::Nobody), born_in, ..held(vec![holder]) };
        assert_eq!(judged(guarded(), socket).1, expected);
    }
}

/// A server that binds as one user, and has workers of another: none but the unit could make a socket there.
#[test]
fn a_socket_that_was_made_in_the_units_own_cgroup_is_its_own_whoever_made_it() {
    let worker = || Process { uid: 33, ..process(own()) };
    let of = |cgroup, birthplace| {
        let mut socket = HeldSocket { birthplace, ..held(vec![worker()]) };
        (socket.socket.uid, socket.socket.cgroup) = (1000, Some(CgroupId(cgroup)));
        judged(guarded(), socket).1
    };
    assert_eq!(of(999, None), Action::Refuse);
    assert_eq!(of(999, Some(own())), Action::Stop);
    let mut of_roots = HeldSocket { birthplace: Some(own()), ..held(vec![process(own())]) };
    of_roots.socket.uid = 1000;
    assert_eq!(judged(guarded(), of_roots).1, Action::Refuse, "the unit's user may not signal what is root's");
    let earlier = guarded().runs[0].cgroup.unwrap();
    assert_eq!(of(earlier.0, None), Action::Stop, "in the cgroup of an earlier run, which is gone");
}

#[test]
fn whoever_sits_at_a_terminal_has_not_escaped() {
    let shell = Process {
        invocation: Invocation::Known(EARLIER),
        terminal: Some(Terminal(0x8800)),
        ..process(Owner::Session(Session { id: "3".to_owned() }))
    };
    assert_eq!(judged(guarded(), held(vec![shell])).1, Action::Refuse);
}

#[test]
fn the_manager_of_a_user_holds_for_socket_units_as_pid_1_does() {
    let own = Owner::UserUnit { uid: 1000, unit: unit("init.scope") };
    let socket = HeldSocket {
        socket_unit: Some(unit("app.socket")),
        ..held(vec![Process { lineage: Lineage::Manager, ..process(own) }])
    };
    let guarded = Guarded { user: Some(1000), ..guarded() };
    assert_eq!(judged(guarded, socket), (Relation::OwnSocketUnit(unit("app.socket")), Action::Pass));
}

#[test]
fn a_socket_unit_is_nobody_elses_while_the_manager_says_nothing() {
    let init = Process { pid: Pid::INIT, lineage: Lineage::Manager, ..process(Owner::Init) };
    let socket = HeldSocket { socket_unit: Some(unit("other.socket")), ..held(vec![init]) };
    let mut scene = scene(guarded(), vec![socket]);
    scene.blind_spots.push(BlindSpot::Manager(String::new()));
    assert_eq!(judge(&scene, &rules()).findings()[0].relation, Relation::Unchecked(Probe::Busy));
}

#[test]
fn a_unit_of_another_manager_is_not_taken_for_its_namesake() {
    let going = UnitState { active: ActiveState::Stopping, can_stop: true, stops_too: Some(Vec::new()) };
    let mine = |unit: UnitName| Owner::UserUnit { uid: 1000, unit };
    for (user, owner, expected) in [
        (None, Owner::Unit(unit("web.service")), Action::Wait),
        (None, mine(unit("web.service")), Action::Refuse),
        (Some(1000), mine(unit("web.service")), Action::Wait),
        (Some(1001), mine(unit("web.service")), Action::Refuse),
        (Some(1000), Owner::Unit(unit("web.service")), Action::Refuse),
        (Some(1000), Owner::Unit(unit("app@2.service")), Action::Refuse),
    ] {
        let mut scene = scene(Guarded { user, ..guarded() }, vec![held(vec![process(owner.clone())])]);
        scene.units = [unit("web.service"), unit("app@2.service")].map(|unit| (unit, going.clone())).into();
        assert_eq!(judge(&scene, &rules()).findings()[0].action, expected, "{user:?} {owner:?}");
    }
}

#[test]
fn a_socket_unit_that_was_told_to_be_anothers_is_so_while_the_manager_says_nothing() {
    let init = Process { pid: Pid::INIT, lineage: Lineage::Manager, ..process(Owner::Init) };
    let other = unit("other.socket");
    for (knows_triggers, expected) in
        [(false, Relation::Unchecked(Probe::Busy)), (true, Relation::OtherSocketUnit(other.clone()))]
    {
        let socket = HeldSocket { socket_unit: Some(other.clone()), ..held(vec![init.clone()]) };
        let mut scene = scene(Guarded { knows_triggers, ..guarded() }, vec![socket]);
        scene.blind_spots.push(BlindSpot::Manager(String::new()));
        assert_eq!(judge(&scene, &rules()).findings()[0].relation, expected);
    }
}

#[test]
fn a_socket_that_was_handed_over_does_not_get_its_holder_stopped() {
    for owner in [Owner::Session(Session { id: "3".to_owned() }), Owner::Nobody, Owner::Unknown] {
        let mut socket = held(vec![process(owner)]);
        socket.socket.cgroup = Some(CgroupId(70));
        assert_eq!(judged(guarded(), socket), (Relation::Heir, Action::Refuse));
    }
    let mut socket = held(vec![process(Owner::Unit(unit("web.service")))]);
    socket.socket.cgroup = Some(CgroupId(70));
    assert_eq!(judged(guarded(), socket), (Relation::OtherUnit(unit("web.service")), Action::Refuse));
}

#[test]
fn what_pid_1_holds_is_told_by_the_unit_it_holds_it_for() {
    let init = || Process { pid: Pid::INIT, lineage: Lineage::Manager, ..process(Owner::Init) };
    let own_socket = (Relation::OwnSocketUnit(unit("app.socket")), Action::Pass);
    let other_socket = (Relation::OtherSocketUnit(unit("other.socket")), Action::Refuse);
    for (socket_unit, birthplace, cgroup, expected) in [
        (Some("app.socket"), None, 60, own_socket),
        (Some("other.socket"), None, 60, other_socket),
        (None, Some(own()), 60, (Relation::OwnFdStore, Action::Pass)),
        (None, None, 70, (Relation::OwnFdStore, Action::Pass)),
        (None, Some(Owner::Unit(unit("web.service"))), 60, (Relation::OtherUnit(unit("web.service")), Action::Refuse)),
        (None, None, 60, (Relation::Manager, Action::Refuse)),
        (None, Some(Owner::Init), 60, (Relation::Manager, Action::Refuse)),
    ] {
        let mut socket = HeldSocket { birthplace, socket_unit: socket_unit.map(unit), ..held(vec![init()]) };
        socket.socket.cgroup = Some(CgroupId(cgroup));
        assert_eq!(judged(guarded(), socket.clone()), expected, "{socket:?}");
    }
}

#[test]
fn a_socket_without_a_holder_is_hidden_unless_everything_was_seen() {
    let hidden = BlindSpot::Processes { hidden: 1 };
    for (state, blind, expected) in [
        (SocketState::Listen, None, Relation::KernelHeld),
        (SocketState::Listen, Some(hidden.clone()), Relation::Hidden),
        // The tables changed all the time: who has it may have been missed.
        (SocketState::Listen, Some(BlindSpot::Unsteady), Relation::Unexplained),
        (SocketState::TimeWait, Some(hidden), Relation::TimeWait),
        (SocketState::Connected, None, Relation::Client),
    ] {
        let mut socket = held(Vec::new());
        socket.socket.state = state;
        let mut scene = scene(guarded(), vec![socket]);
        scene.blind_spots.extend(blind);
        assert_eq!(judge(&scene, &rules()).findings()[0].relation, expected, "{state:?}");
    }
}

#[test]
fn a_probe_that_says_nothing_is_not_free_but_a_table_that_says_nobody_is() {
    let unread = Some(BlindSpot::Sockets("denied".to_owned()));
    for (probe, blind, relation, action) in [
        (Probe::Busy, None, Relation::Unexplained, Action::Refuse),
        (Probe::Busy, unread.clone(), Relation::Hidden, Action::Refuse),
        (Probe::Denied, unread.clone(), Relation::Unchecked(Probe::Denied), Action::Pass),
        (Probe::Failed(5), unread.clone(), Relation::Unchecked(Probe::Failed(5)), Action::Pass),
        (Probe::NotLocal, None, Relation::NotBindable(Probe::NotLocal), Action::Pass),
        (Probe::NotLocal, unread, Relation::Unchecked(Probe::NotLocal), Action::Pass),
    ] {
        let mut scene = scene(guarded(), Vec::new());
        scene.endpoints[0].probe = probe;
        scene.blind_spots.extend(blind);
        let verdict = judge(&scene, &rules());
        let [finding] = verdict.findings() else { panic!("{probe:?}: {verdict:?}") };
        assert_eq!((&finding.relation, finding.action), (&relation, action), "{probe:?}");
    }
    let mut denied = scene(guarded(), Vec::new());
    denied.endpoints[0].probe = Probe::Denied;
    assert_eq!(judge(&denied, &rules()), Verdict::Free);
}

/// By TCP only a bind tells whether it is in the way, which was denied.
#[test]
fn a_connection_where_a_bind_is_denied_is_no_free_port() {
    let (udp, tcp) = (Protocol::Udp, Protocol::Tcp);
    let rows = [
        (udp, SocketState::Connected, true, Some((Relation::Client, Action::Refuse, Action::Refuse))),
        (tcp, SocketState::Connected, true, Some((Relation::Unchecked(Probe::Denied), Action::Pass, Action::Refuse))),
        (tcp, SocketState::Bound, true, Some((Relation::Client, Action::Refuse, Action::Refuse))),
        (tcp, SocketState::TimeWait, true, None),
        (tcp, SocketState::TimeWait, false, Some((Relation::TimeWait, Action::Wait, Action::Wait))),
    ];
    for (protocol, state, reuse_address, expected) in rows {
        let holders = if state == SocketState::TimeWait { Vec::new() } else { vec![process(Owner::Nobody)] };
        let mut client = held(holders);
        client.socket = Socket { protocol, state, ..client.socket };
        let mut scene = scene(guarded(), vec![client]);
        scene.endpoints[0].endpoint.protocol = protocol;
        scene.endpoints[0].probe = Probe::Denied;
        let found = |on_blind| {
            let verdict = judge(&scene, &Rules { reuse_address, on_blind, ..rules() });
            verdict.findings().first().map(|finding| (finding.relation.clone(), finding.action))
        };
        let (allowed, refused) = (found(BlindRule::Allow), found(BlindRule::Refuse));
        let row = format!("{protocol} {state:?} {reuse_address}");
        let Some((relation, allow, refuse)) = expected else {
            assert_eq!((allowed, refused), (None, None), "{row}");
            continue;
        };
        let relation = if state == SocketState::Bound { Relation::OtherProcess } else { relation };
        assert_eq!((allowed, refused), (Some((relation.clone(), allow)), Some((relation, refuse))), "{row}");
    }
}

/// Nor is a leftover stopped, where the start may be refused for it then.
#[test]
fn a_connection_at_another_address_where_a_bind_is_denied_is_left_to_on_blind_before_a_leftover_is_stopped() {
    let leftover = HeldSocket {
        socket: Socket { local: "127.0.0.1:8080".parse().unwrap(), ..held(Vec::new()).socket },
        ..held(vec![Process { invocation: Invocation::Known(EARLIER), ..process(own()) }])
    };
    let mut client = held(vec![Process { pid: Pid(501), ..process(Owner::Nobody) }]);
    let (local, state) = ("127.0.0.2:8080".parse().unwrap(), SocketState::Connected);
    client.socket = Socket { local, state, ..client.socket };
    let mut both = scene(guarded(), vec![leftover, client]);
    both.endpoints[0].probe = Probe::Denied;
    let judged = |scene: &Scene, on_blind| judge(scene, &Rules { on_blind, ..rules() });
    assert!(matches!(judged(&both, BlindRule::Allow), Verdict::Clear(_)));
    assert!(matches!(judged(&both, BlindRule::Refuse), Verdict::Refuse(_)));
}

/// An address that this host does not have is nobody's.
#[test]
fn a_connection_at_an_address_that_is_gone_is_in_nobodys_way() {
    let mut connected = held(vec![process(Owner::Nobody)]);
    let (protocol, state) = (Protocol::Udp, SocketState::Connected);
    connected.socket = Socket { protocol, state, ..connected.socket };
    let mut gone = scene(guarded(), vec![connected]);
    (gone.endpoints[0].endpoint.protocol, gone.endpoints[0].probe) = (protocol, Probe::NotLocal);
    let verdict = judge(&gone, &rules());
    let [finding] = verdict.findings() else { panic!("{verdict:?}") };
    assert_eq!((&finding.relation, finding.action), (&Relation::NotBindable(Probe::NotLocal), Action::Pass));
}

#[test]
fn what_could_not_be_checked_is_left_to_on_blind_and_what_is_held_is_not() {
    let unread = BlindSpot::Sockets("denied".to_owned());
    for on_foreign in [ForeignRule::Refuse, ForeignRule::Wait, ForeignRule::Ignore] {
        let strict = Rules { on_blind: BlindRule::Refuse, on_foreign, ..rules() };
        let lenient = Rules { on_blind: BlindRule::Allow, on_foreign, ..rules() };
        let mut scene = scene(guarded(), Vec::new());
        scene.blind_spots.push(unread.clone());
        scene.endpoints[0].probe = Probe::Denied;
        assert!(matches!(judge(&scene, &strict), Verdict::Refuse(_)));
        assert!(matches!(judge(&scene, &lenient), Verdict::Pass(_)));
        scene.endpoints[0].probe = Probe::Busy;
        assert_eq!(judge(&scene, &strict), judge(&scene, &lenient));
    }
}

#[test]
fn a_connection_explains_a_busy_port_only_where_no_listener_does() {
    let mut connected = held(vec![process(Owner::Unit(unit("web.service")))]);
    connected.socket.state = SocketState::Connected;
    let listener = held(vec![process(own())]);
    let both = judge(&scene(guarded(), vec![connected.clone(), listener]), &rules());
    assert!(matches!(both, Verdict::Clear(found) if found.len() == 1));
    assert_eq!(judged(guarded(), connected), (Relation::Client, Action::Refuse));
}

/// Nothing is stopped beside what is in the way for itself.
#[test]
fn a_connection_at_an_address_of_none_that_waits_is_in_the_way_by_itself() {
    let rows = [
        ("127.0.0.1:8080", Protocol::Tcp, "127.0.0.2:8080", true),
        ("127.0.0.1:8080", Protocol::Tcp, "127.0.0.1:8080", false),
        ("0.0.0.0:8080", Protocol::Tcp, "127.0.0.2:8080", false),
        ("127.0.0.1:8080", Protocol::Udp, "127.0.0.2:8080", true),
        ("127.0.0.1:8080", Protocol::Udp, "127.0.0.1:8080", false),
    ];
    for (listens, protocol, connected, in_the_way) in rows {
        let at = |address: &str, state, owner| {
            let pid = if state == SocketState::Connected { Pid(501) } else { Pid(500) };
            let mut one = held(vec![Process { pid, ..process(owner) }]);
            one.socket = Socket { protocol, local: address.parse().unwrap(), state, ..one.socket };
            one
        };
        let waiting = if protocol == Protocol::Tcp { SocketState::Listen } else { SocketState::Unconnected };
        let leftover = at(listens, waiting, own());
        let other = at(connected, SocketState::Connected, Owner::Unit(unit("web.service")));
        let mut both = scene(guarded(), vec![other, leftover]);
        both.endpoints[0].endpoint.protocol = protocol;
        let verdict = judge(&both, &rules());
        assert_eq!(matches!(verdict, Verdict::Refuse(_)), in_the_way, "{connected} beside {listens}/{protocol}");
        assert_eq!(matches!(verdict, Verdict::Clear(_)), !in_the_way, "{connected} beside {listens}/{protocol}");
    }
}

/// Of a leftover one process is stopped, and none of the others of its cgroup.
#[test]
fn what_another_of_the_own_unit_has_at_another_address_is_judged_for_itself() {
    let at = |address: &str, state, holder: Process| {
        let mut one = held(vec![holder]);
        one.socket = Socket { protocol: Protocol::Udp, local: address.parse().unwrap(), state, ..one.socket };
        one
    };
    let earlier = |pid| Process { pid: Pid(pid), invocation: Invocation::Known(EARLIER), ..process(own()) };
    let of_this_start = Process { pid: Pid(501), invocation: Invocation::Known(OURS), ..process(own()) };
    let rows = [(earlier(500), 1), (earlier(501), 2), (of_this_start, 0)];
    for (other, stops) in rows {
        let row = format!("{other:?}");
        let leftover = at("127.0.0.1:8080", SocketState::Unconnected, earlier(500));
        let connected = at("127.0.0.2:8080", SocketState::Connected, other);
        let mut both = scene(guarded(), vec![leftover, connected]);
        both.endpoints[0].endpoint.protocol = Protocol::Udp;
        let verdict = judge(&both, &rules());
        let stopped = verdict.findings().iter().filter(|finding| finding.action == Action::Stop).count();
        assert_eq!(stopped, stops, "{row}: {verdict:?}");
        assert_eq!(matches!(verdict, Verdict::Refuse(_)), stops == 0, "{row}: {verdict:?}");
    }
}

/// It is gone with what its unit has that waits, or with the unit that takes its own along.
#[test]
fn a_connection_of_a_predecessor_at_another_address_is_none_of_a_client() {
    let replaces = ["old.service", "worker.service"].map(|name| name.parse().unwrap()).to_vec();
    let rules = Rules { replaces, ..rules() };
    let at = |address: &str, state, pid, owner: &str| {
        let mut one = held(vec![Process { pid: Pid(pid), ..process(Owner::Unit(unit(owner))) }]);
        one.birthplace = Some(Owner::Unit(unit(owner)));
        one.socket = Socket { local: address.parse().unwrap(), state, ..one.socket };
        one
    };
    for (owner, goes) in [("old.service", true), ("worker.service", true), ("web.service", false)] {
        let waiting = at("127.0.0.1:8080", SocketState::Listen, 500, "old.service");
        let connected = at("127.0.0.2:8080", SocketState::Connected, 501, owner);
        let mut both = scene(guarded(), vec![waiting, connected]);
        let stops_too = Some(vec![unit("worker.service")]);
        let old = UnitState { active: ActiveState::Up, can_stop: true, stops_too };
        both.units.insert(unit("old.service"), old);
        let verdict = judge(&both, &rules);
        assert_eq!(matches!(verdict, Verdict::Clear(_)), goes, "{owner}: {verdict:?}");
        assert_eq!(matches!(verdict, Verdict::Refuse(_)), !goes, "{owner}: {verdict:?}");
    }
}

/// The service need not bind what systemd has bound for it.
#[test]
fn what_waits_for_nobody_is_in_no_way_of_an_own_socket_unit() {
    for (protocol, state) in [(Protocol::Udp, SocketState::Connected), (Protocol::Tcp, SocketState::Bound)] {
        let own_socket = || {
            let mut socket = held(vec![Process { pid: Pid::INIT, lineage: Lineage::Manager, ..process(Owner::Init) }]);
            socket.socket_unit = Some(unit("app.socket"));
            socket.socket.protocol = protocol;
            if protocol == Protocol::Udp {
                socket.socket.state = SocketState::Unconnected;
            }
            socket
        };
        for owner in [own(), Owner::Unit(unit("web.service"))] {
            let mut other = held(vec![process(owner.clone())]);
            (other.socket.protocol, other.socket.state) = (protocol, state);
            let mut both = scene(guarded(), vec![own_socket(), other]);
            both.endpoints[0].endpoint.protocol = protocol;
            let verdict = judge(&both, &rules());
            assert!(matches!(&verdict, Verdict::Pass(found) if found.len() == 1), "{owner:?} {protocol}: {verdict:?}");
        }
    }
}

#[test]
fn one_holder_to_refuse_keeps_every_other_from_being_touched() {
    let leftover = Process { invocation: Invocation::Known(EARLIER), ..process(own()) };
    let foreign = Process { pid: Pid(501), ..process(Owner::Unit(unit("web.service"))) };
    let together = scene(guarded(), vec![held(vec![leftover.clone(), foreign])]);
    let Verdict::Refuse(findings) = judge(&together, &rules()) else { panic!("the start is to be refused") };
    let actions: Vec<Action> = findings.iter().map(|finding| finding.action).collect();
    assert_eq!(actions, [Action::Spare, Action::Refuse], "and nobody is said to be stopped");
    let waiting = Rules { on_foreign: ForeignRule::Wait, ..rules() };
    let Verdict::Wait(findings) = judge(&together, &waiting) else { panic!("the other is to be waited for") };
    let actions: Vec<Action> = findings.iter().map(|finding| finding.action).collect();
    assert_eq!(actions, [Action::Spare, Action::Wait], "before anybody is stopped");
    assert!(matches!(judge(&scene(guarded(), vec![held(vec![leftover])]), &rules()), Verdict::Clear(_)));
}

#[test]
fn the_policy_chooses_between_its_words() {
    let leftover = || held(vec![Process { invocation: Invocation::Known(EARLIER), ..process(own()) }]);
    let foreign = || held(vec![process(Owner::Unit(unit("web.service")))]);
    let action = |socket, rules: &Rules| judge(&scene(guarded(), vec![socket]), rules).findings()[0].action;
    for (on_stale, expected) in
        [(StaleRule::Stop, Action::Stop), (StaleRule::Refuse, Action::Refuse), (StaleRule::Ignore, Action::Pass)]
    {
        assert_eq!(action(leftover(), &Rules { on_stale, ..rules() }), expected);
    }
    for (on_foreign, expected) in
        [(ForeignRule::Refuse, Action::Refuse), (ForeignRule::Wait, Action::Wait), (ForeignRule::Ignore, Action::Pass)]
    {
        assert_eq!(action(foreign(), &Rules { on_foreign, ..rules() }), expected);
    }
    // What nobody has goes by itself, so that it is waited for unless it is to be ignored.
    for (on_foreign, expected) in
        [(ForeignRule::Refuse, Action::Wait), (ForeignRule::Wait, Action::Wait), (ForeignRule::Ignore, Action::Pass)]
    {
        let mut remains = held(Vec::new());
        remains.socket.state = SocketState::TimeWait;
        assert_eq!(action(remains, &Rules { on_foreign, ..rules() }), expected);
    }
}

/// What is judged of a holder that is in web.service, which `replaces` names.
fn replacing(pattern: &str, state: Option<UnitState>, change: impl FnOnce(&mut HeldSocket)) -> Finding {
    let mut socket = held(vec![process(Owner::Unit(unit("web.service")))]);
    socket.socket.cgroup = None;
    change(&mut socket);
    let mut scene = scene(guarded(), vec![socket]);
    scene.units.extend(state.map(|state| (unit("web.service"), state)));
    let rules = Rules { replaces: vec![pattern.parse().unwrap()], ..rules() };
    judge(&scene, &rules).findings()[0].clone()
}

#[test]
fn a_predecessor_is_stopped_by_its_unit_unless_that_would_stop_others_as_well() {
    let up = |stops_too: &[&str]| UnitState {
        active: ActiveState::Up,
        can_stop: true,
        stops_too: Some(stops_too.iter().map(|name| unit(name)).collect()),
    };
    let untold = UnitState { active: ActiveState::Up, can_stop: true, stops_too: None };
    let down = UnitState { active: ActiveState::Down, can_stop: true, stops_too: Some(Vec::new()) };
    let others = |names: &[&str]| Some(Obstacle::StopsToo(names.iter().map(|name| unit(name)).collect()));
    for (pattern, state, action, obstacle) in [
        ("web.service", Some(up(&[])), Action::StopUnit, None),
        ("w*.service", Some(up(&["worker.service"])), Action::StopUnit, None),
        ("web.service", Some(up(&["worker.service"])), Action::Refuse, others(&["worker.service"])),
        ("web.service", Some(up(&["app@1.service"])), Action::Refuse, others(&["app@1.service"])),
        // Even where a pattern has the guarded unit in it, or one that keeps the host reachable.
        ("*.service", Some(up(&["app@1.service"])), Action::Refuse, others(&["app@1.service"])),
        ("*.service", Some(up(&["sshd.service"])), Action::Refuse, others(&["sshd.service"])),
        ("web.service", Some(untold), Action::Refuse, Some(Obstacle::Untold)),
        ("web.service", None, Action::Refuse, Some(Obstacle::Untold)),
        ("web.service", Some(down), Action::Refuse, Some(Obstacle::NotActive)),
    ] {
        let finding = replacing(pattern, state.clone(), |_| ());
        assert_eq!(finding.relation, Relation::Predecessor(unit("web.service")), "{pattern} {state:?}");
        assert_eq!((finding.action, finding.obstacle), (action, obstacle), "{pattern} {state:?}");
    }
    let unwilling = UnitState { can_stop: false, ..up(&[]) };
    assert_eq!(replacing("web.service", Some(unwilling), |_| ()).obstacle, Some(Obstacle::RefusesStop));
    let other = replacing("old.service", Some(up(&[])), |_| ());
    assert_eq!((other.relation, other.action), (Relation::OtherUnit(unit("web.service")), Action::Refuse));
    let connection = replacing("web.service", Some(up(&[])), |socket| socket.socket.state = SocketState::Connected);
    assert_eq!((connection.relation, connection.action), (Relation::Client, Action::Refuse));
}

#[test]
fn a_predecessor_is_stopped_for_no_socket_that_may_have_been_handed_to_it() {
    let up = || UnitState { active: ActiveState::Up, can_stop: true, stops_too: Some(Vec::new()) };
    let judged = |change: &dyn Fn(&mut HeldSocket)| {
        let finding = replacing("web.service", Some(up()), change);
        assert_eq!(finding.relation, Relation::Predecessor(unit("web.service")));
        assert_eq!(finding.action == Action::StopUnit, finding.obstacle.is_none());
        finding.obstacle
    };
    let (elsewhere, by_another) = (Some(Obstacle::Protected(BORN_ELSEWHERE)), Some(Obstacle::Protected(BY_ANOTHER)));
    for (birthplace, obstacle) in [
        (Owner::Unit(unit("web.service")), None),
        (Owner::Init, None),
        (Owner::Unit(unit("evil.service")), elsewhere.clone()),
        (Owner::UserUnit { uid: 1000, unit: unit("web.service") }, elsewhere.clone()),
        (Owner::Nobody, elsewhere),
    ] {
        assert_eq!(judged(&|socket| socket.birthplace = Some(birthplace.clone())), obstacle, "{birthplace:?}");
    }
    // Where nothing tells of its birth, who made it has to do.
    assert_eq!(judged(&|socket| socket.socket.uid = 1000), by_another);
    // Without an id there is nothing to go by but who has it; with one, it is of a cgroup that was removed.
    let gone = Some(Obstacle::Protected(BORN_WHERE_NOTHING_IS));
    for (cgroup, obstacle) in [(None, None), (Some(CgroupId(60)), gone)] {
        assert_eq!(judged(&|socket| socket.socket.cgroup = cgroup), obstacle, "{cgroup:?}");
    }
}

#[test]
fn what_the_manager_of_a_user_has_made_stays_with_the_leftover_and_what_pid_1_has_is_handed_to_nobody() {
    let of_user = |name| Owner::UserUnit { uid: 1000, unit: unit(name) };
    let leftover = Process { invocation: Invocation::Known(EARLIER), ..process(of_user("app@1.service")) };
    let mut socket = held(vec![leftover]);
    socket.birthplace = Some(of_user("init.scope"));
    let users = Guarded { user: Some(1000), ..guarded() };
    assert_eq!(judged(users, socket), (Relation::Leftover, Action::Stop));

    // It is wherever it may have been made.
    let manager = Process { pid: Pid::INIT, lineage: Lineage::Manager, ..process(Owner::Init) };
    let mut socket = HeldSocket { socket_unit: Some(unit("web.socket")), ..held(vec![manager]) };
    (socket.birthplace, socket.socket.cgroup) = (None, Some(CgroupId(60)));
    let mut scene = scene(guarded(), vec![socket]);
    let up = UnitState { active: ActiveState::Up, can_stop: true, stops_too: Some(Vec::new()) };
    scene.units.insert(unit("web.socket"), up);
    let rules = Rules { replaces: vec!["web.socket".parse().unwrap()], ..rules() };
    let finding = judge(&scene, &rules).findings()[0].clone();
    assert_eq!((finding.relation, finding.action), (Relation::Predecessor(unit("web.socket")), Action::StopUnit));
}

#[test]
fn in_a_users_manager_a_predecessor_is_of_that_manager_and_so_is_its_socket() {
    let of_user = |uid, name| Owner::UserUnit { uid, unit: unit(name) };
    for (birthplace, is_its_own) in [
        (of_user(1000, "web.service"), true),
        // The manager of that user has made it, for a socket unit.
        (of_user(1000, "init.scope"), true),
        (of_user(1000, "evil.service"), false),
        (of_user(1001, "web.service"), false),
        (of_user(1001, "init.scope"), false),
        (Owner::Unit(unit("web.service")), false),
    ] {
        let mut socket = held(vec![process(of_user(1000, "web.service"))]);
        socket.birthplace = Some(birthplace.clone());
        let rules = Rules { replaces: vec!["web.service".parse().unwrap()], ..rules() };
        let scene = scene(Guarded { user: Some(1000), ..guarded() }, vec![socket]);
        let finding = judge(&scene, &rules).findings()[0].clone();
        assert_eq!(finding.relation, Relation::Predecessor(unit("web.service")), "{birthplace:?}");
        assert_eq!(finding.obstacle == Some(Obstacle::Untold), is_its_own, "{birthplace:?}: {:?}", finding.obstacle);
    }
    // Where `replaces` does not name it, it is another's, wherever its socket is of; the system's units are others'.
    for (owner, expected) in [
        (of_user(1000, "web.service"), Relation::OtherUserUnit { uid: 1000, unit: unit("web.service") }),
        (Owner::Unit(unit("web.service")), Relation::OtherUnit(unit("web.service"))),
        (Owner::Unit(unit("app@1.service")), Relation::Twin { uid: None }),
    ] {
        let mut socket = held(vec![process(owner.clone())]);
        socket.socket.cgroup = None;
        assert_eq!(judged(Guarded { user: Some(1000), ..guarded() }, socket).0, expected, "{owner:?}");
    }
}

#[test]
fn units_and_programs_that_carry_others_are_not_stopped_as_predecessors() {
    let up = || UnitState { active: ActiveState::Up, can_stop: true, stops_too: Some(Vec::new()) };
    let sshd = replacing("*.service", Some(up()), |socket| {
        Rc::make_mut(&mut socket.holders[0]).exe = Some("/usr/sbin/sshd".into());
    });
    assert!(matches!(sshd.obstacle, Some(Obstacle::Protected(_))), "{sshd:?}");
    for name in
        ["ssh.service", "sshd@1.service", "dbus.service", "systemd-logind.service", "user@0.service", "docker.service"]
    {
        let mut scene = scene(guarded(), vec![held(vec![process(Owner::Unit(unit(name)))])]);
        scene.units.insert(unit(name), up());
        let rules = Rules { replaces: vec!["*.service".parse().unwrap()], ..rules() };
        assert_eq!(judge(&scene, &rules).findings()[0].action, Action::Refuse, "{name}");
    }
}

#[test]
fn a_holder_that_is_on_its_way_down_is_waited_for() {
    let stopping = UnitState { active: ActiveState::Stopping, can_stop: true, stops_too: None };
    let finding = replacing("old.service", Some(stopping), |_| ());
    assert_eq!((finding.action, finding.unit_state), (Action::Wait, ActiveState::Stopping));
}

#[test]
fn a_container_is_named_and_refused_wherever_its_process_is() {
    let container = || Container { engine: Engine::Docker, name: Some("web".to_owned()) };
    for owner in [
        Owner::Nobody,
        Owner::Unit(unit("docker.service")),
        Owner::UserUnit { uid: 1000, unit: unit("run-1.scope") },
        Owner::Session(Session { id: "3".to_owned() }),
    ] {
        // Whatever environment it was given.
        let holder = Process {
            container: Some(container()),
            invocation: Invocation::Known(EARLIER),
            program: Some(OWN_FILE),
            argv: vec!["app".to_owned()],
            ..process(owner.clone())
        };
        let expected = (Relation::Container(container()), Action::Refuse);
        assert_eq!(judged(guarded(), held(vec![holder])), expected, "{owner:?}");
    }
    // What an earlier run of the unit itself has in its own cgroup is still that run's.
    let own = Process { container: Some(container()), invocation: Invocation::Known(EARLIER), ..process(own()) };
    assert_eq!(judged(guarded(), held(vec![own])), (Relation::Leftover, Action::Stop));
}

#[test]
fn only_the_same_program_user_and_arguments_in_no_service_are_a_lookalike() {
    let lookalike = || Process {
        program: Some(OWN_FILE),
        folders: Some((OWN_FILE, OWN_FILE)),
        argv: vec!["app".to_owned()],
        ..process(Owner::Session(Session { id: "3".to_owned() }))
    };
    let relation = |phase, holder| judged(Guarded { phase, ..guarded() }, held(vec![holder])).0;
    let session = Relation::Session { id: "3".to_owned() };
    assert_eq!(relation(Phase::Within, lookalike()), Relation::Lookalike);
    assert_eq!(relation(Phase::Stopped, lookalike()), Relation::Lookalike);
    assert_eq!(relation(Phase::Within, Process { owner: Owner::Nobody, ..lookalike() }), Relation::Lookalike);
    // While the unit runs, it can be one of its own.
    assert_eq!(relation(Phase::Running, lookalike()), session);
    assert_eq!(relation(Phase::Unknown, lookalike()), session);
    assert_eq!(relation(Phase::Within, Process { invocation: Invocation::Known(OURS), ..lookalike() }), session);
    assert_eq!(relation(Phase::Within, Process { uid: 1, ..lookalike() }), session);
    let with_argv = |argv: &[&str]| Process { argv: argv.iter().map(ToString::to_string).collect(), ..lookalike() };
    assert_eq!(relation(Phase::Within, with_argv(&["/opt/app"])), Relation::Lookalike);
    for other in [&[][..], &["ppa"], &["app", "-v"], &["app/x"]] {
        assert_eq!(relation(Phase::Within, with_argv(other)), session, "{other:?}");
    }
    assert_eq!(relation(Phase::Within, Process { program: None, ..lookalike() }), session);
    let elsewhere = FileId { device: 1, inode: 3 };
    for folders in [None, Some((elsewhere, OWN_FILE)), Some((OWN_FILE, elsewhere))] {
        assert_eq!(relation(Phase::Within, Process { folders, ..lookalike() }), session);
    }
    let in_service = Process { owner: Owner::Unit(unit("web.service")), ..lookalike() };
    assert_eq!(relation(Phase::Within, in_service), Relation::OtherUnit(unit("web.service")));

    let stop = Rules { on_lookalike: LookalikeRule::Stop, ..rules() };
    let by = |rules: &Rules, holder| judge(&scene(guarded(), vec![held(vec![holder])]), rules).findings()[0].action;
    let action = |holder| by(&stop, holder);
    assert_eq!((action(lookalike()), by(&rules(), lookalike())), (Action::Stop, Action::Refuse));
    assert_eq!(action(Process { terminal: Some(Terminal(0x8800)), ..lookalike() }), Action::Refuse);
    assert_eq!(action(Process { lineage: Lineage::Ancestor, ..lookalike() }), Action::Refuse);
}

#[test]
fn nothing_is_stopped_where_not_all_who_have_a_socket_were_looked_for() {
    let mut crowd = scene(guarded(), vec![held(vec![process(own())])]);
    assert!(matches!(judge(&crowd, &rules()), Verdict::Clear(_)));
    crowd.blind_spots.push(BlindSpot::Crowd);
    let Verdict::Refuse(findings) = judge(&crowd, &rules()) else { panic!() };
    assert_eq!((&findings[0].relation, findings[0].action), (&Relation::Leftover, Action::Refuse));
    assert!(findings[0].obstacle.is_some());
}

#[test]
fn where_not_all_sockets_were_looked_at_a_denied_bind_does_not_tell_of_a_free_port() {
    let mut crowd = scene(guarded(), Vec::new());
    crowd.endpoints[0].probe = Probe::Denied;
    assert_eq!(judge(&crowd, &rules()), Verdict::Free);
    crowd.blind_spots.push(BlindSpot::Crowd);
    assert_eq!(judge(&crowd, &rules()).findings()[0].relation, Relation::Unchecked(Probe::Denied));
}

#[test]
fn what_the_manager_says_of_its_store_comes_before_where_a_socket_was_born() {
    let init = || Process { pid: Pid::INIT, lineage: Lineage::Manager, ..process(Owner::Init) };
    let web = Owner::Unit(unit("web.service"));
    for (stored, keeps_files, birthplace, expected) in [
        (Some(vec![Inode(9)]), true, None, (Relation::OwnFdStore, Action::Pass)),
        (Some(Vec::new()), true, Some(own()), (Relation::Manager, Action::Refuse)),
        (Some(Vec::new()), true, None, (Relation::Manager, Action::Refuse)),
        (None, true, Some(own()), (Relation::OwnFdStore, Action::Pass)),
        (None, true, Some(web), (Relation::OtherUnit(unit("web.service")), Action::Refuse)),
        (None, true, None, (Relation::Unchecked(Probe::Busy), Action::Pass)),
        (None, true, Some(Owner::Init), (Relation::Manager, Action::Refuse)),
        (None, false, None, (Relation::Manager, Action::Refuse)),
    ] {
        let socket = HeldSocket { birthplace, ..held(vec![init()]) };
        let guarded = Guarded { stored: stored.clone(), keeps_files, ..guarded() };
        assert_eq!(judged(guarded, socket), expected, "{stored:?}, {keeps_files}");
    }
    // In a user's store is nothing that PID 1 has.
    let guarded = Guarded { keeps_files: true, user: Some(1000), ..guarded() };
    assert_eq!(judged(guarded.clone(), held(vec![init()])), (Relation::Manager, Action::Refuse));
    let users = Process { pid: Pid(700), ..init() };
    assert_eq!(judged(guarded, held(vec![users])), (Relation::Unchecked(Probe::Busy), Action::Pass));
}

#[test]
fn programs_that_carry_others_are_never_signalled() {
    for (exe, comm, protected) in [
        (Some("/usr/bin/containerd-shim-runc-v2"), "x", true),
        (Some("/usr/sbin/sshd (deleted)"), "x", true),
        (Some("/usr/lib/systemd/systemd-networkd"), "x", true),
        (Some("/usr/bin/docker-proxy"), "x", true),
        (None, "dockerd", true),
        // A name that the process chose itself does not protect it where the executable is known.
        (Some("/usr/bin/python3"), "sshd", false),
        (Some("/usr/bin/sshdaemon"), "x", false),
    ] {
        let holder = Process {
            exe: exe.map(PathBuf::from),
            comm: comm.to_owned(),
            invocation: Invocation::Known(EARLIER),
            ..process(own())
        };
        let (_, action) = judged(guarded(), held(vec![holder]));
        assert_eq!(action == Action::Refuse, protected, "{exe:?} {comm}");
    }
}

fn any_unit() -> impl Strategy<Value = UnitName> {
    prop::sample::select(vec![
        "app@1.service",
        "app@2.service",
        "web.service",
        "run-1.scope",
        "sshd.service",
        "app.socket",
    ])
    .prop_map(unit)
}

fn any_owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        any_unit().prop_map(Owner::Unit),
        (0u32..3, any_unit()).prop_map(|(uid, unit)| Owner::UserUnit { uid, unit }),
        Just(Owner::Session(Session { id: "1".to_owned() })),
        Just(Owner::Init),
        Just(Owner::Nobody),
        Just(Owner::Unknown),
    ]
}

fn any_invocation() -> impl Strategy<Value = Invocation> {
    prop_oneof![
        (1u128..5).prop_map(|id| Invocation::Known(InvocationId(id))),
        Just(Invocation::Absent),
        Just(Invocation::Unreadable),
    ]
}

fn any_process() -> impl Strategy<Value = Process> {
    let lineage = prop::sample::select(vec![Lineage::Itself, Lineage::Ancestor, Lineage::Kernel, Lineage::Other]);
    let exe = prop::option::of(prop::sample::select(vec!["/usr/bin/python3", "/usr/sbin/sshd", "/usr/bin/conmon"]));
    (1i32..6, 900u64..1100, any_owner(), any_invocation(), lineage, exe, any_user()).prop_map(
        |(pid, start, owner, invocation, lineage, exe, uid)| Process {
            pid: Pid(pid),
            uid,
            start: StartTime(start),
            invocation,
            lineage: if pid == 1 { Lineage::Manager } else { lineage },
            exe: exe.map(PathBuf::from),
            terminal: (pid == 4).then_some(Terminal(0x8800)),
            program: (pid == 5).then_some(OWN_FILE),
            folders: (pid == 5).then_some((OWN_FILE, OWN_FILE)),
            argv: vec!["app".to_owned()],
            container: (pid == 2).then_some(Container { engine: Engine::Docker, name: None }),
            ..process(owner)
        },
    )
}

/// Mostly root.
fn any_user() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 0, 0, 1000, 1001])
}

fn any_socket() -> impl Strategy<Value = HeldSocket> {
    let state = prop::sample::select(vec![
        SocketState::Listen,
        SocketState::Bound,
        SocketState::Unconnected,
        SocketState::Connected,
        SocketState::TimeWait,
    ]);
    let local = prop::sample::select(vec!["[::]:8080", "127.0.0.1:8080", "0.0.0.0:8080", "[::1]:8080", "[::]:8081"]);
    let holders = prop::collection::vec(any_process(), 0..3);
    let of = (prop::option::of(any_owner()), prop::option::of(any_unit()), any_user());
    (holders, state, local, prop::option::weighted(0.8, 60u64..80), of).prop_map(
        |(holders, state, local, cgroup, (birthplace, socket_unit, uid))| {
            let mut socket = HeldSocket { birthplace, socket_unit, ..held(holders) };
            socket.socket.uid = uid;
            socket.socket.state = state;
            socket.socket.local = local.parse().unwrap();
            socket.socket.cgroup = cgroup.map(CgroupId);
            socket
        },
    )
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let probe = prop::sample::select(vec![
        Probe::Busy,
        Probe::Busy,
        Probe::Denied,
        Probe::NotLocal,
        Probe::Failed(5),
        Probe::Free,
    ]);
    let phase = prop::sample::select(vec![Phase::Within, Phase::Stopped, Phase::Running, Phase::Unknown]);
    let blind = prop::sample::select(vec![
        None,
        Some(BlindSpot::Processes { hidden: 2 }),
        Some(BlindSpot::Crowd),
        Some(BlindSpot::Sockets(String::new())),
        Some(BlindSpot::Manager(String::new())),
    ]);
    let sockets = prop::collection::vec(any_socket(), 0..4);
    let user = prop::option::of(0u32..3);
    let store = (prop::option::of(Just(vec![Inode(9)])), any::<bool>());
    (sockets, probe, phase, blind, user, prop::option::of(950u64..1050), any_units(), store).prop_map(
        |(sockets, probe, phase, blind, user, ended, units, (stored, keeps_files))| {
            // What is over has no present run, as the observer says it.
            let invocation = (phase != Phase::Stopped).then_some(OURS);
            let (ended, known) = (ended.map(StartTime), vec![Pid(3)]);
            let mut scene =
                scene(Guarded { user, phase, invocation, ended, known, stored, keeps_files, ..guarded() }, sockets);
            scene.units = units;
            scene.endpoints[0].probe = probe;
            scene.blind_spots.extend(blind);
            scene
        },
    )
}

fn any_units() -> impl Strategy<Value = BTreeMap<UnitName, UnitState>> {
    let active = prop::sample::select(vec![
        ActiveState::Up,
        ActiveState::Up,
        ActiveState::Stopping,
        ActiveState::Down,
        ActiveState::Unknown,
    ]);
    let stops_too = prop::option::of(prop::collection::vec(any_unit(), 0..2));
    let state = (active, stops_too).prop_map(|(active, stops_too)| UnitState {
        active,
        can_stop: stops_too.as_ref().is_none_or(|units| units.len() != 2),
        stops_too,
    });
    prop::collection::btree_map(any_unit(), state, 0..6)
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let on_stale = prop::sample::select(vec![StaleRule::Stop, StaleRule::Refuse, StaleRule::Ignore]);
    let on_foreign = prop::sample::select(vec![ForeignRule::Refuse, ForeignRule::Wait, ForeignRule::Ignore]);
    let on_lookalike = prop::sample::select(vec![LookalikeRule::AsForeign, LookalikeRule::Stop]);
    let patterns = prop::sample::select(vec!["web.service", "*.service", "app@*.service", "run-*.scope", "*.socket"]);
    let replaces = prop::collection::vec(patterns.prop_map(|pattern| pattern.parse().unwrap()), 0..2);
    let on_blind = prop::sample::select(vec![BlindRule::Allow, BlindRule::Refuse]);
    (on_stale, on_foreign, on_lookalike, on_blind, replaces).prop_map(
        |(on_stale, on_foreign, on_lookalike, on_blind, replaces)| Rules {
            on_stale,
            on_foreign,
            on_lookalike,
            on_blind,
            replaces,
            ..rules()
        },
    )
}

/// With a holder, or two.
fn any_listener() -> impl Strategy<Value = HeldSocket> {
    let address = prop::sample::select(vec!["[::]:8080", "127.0.0.1:8080", "0.0.0.0:8080"]);
    (any_process(), address, any::<bool>()).prop_map(|(holder, local, both)| {
        let other = Some(process(Owner::Unit(unit("web.service")))).filter(|_| both);
        let mut listener = held([holder].into_iter().chain(other).collect());
        listener.socket.local = local.parse().unwrap();
        listener
    })
}

/// A scene of two endpoints, and what a quick look would see of it: some of its listeners with some of their holders, as
/// long as there is one for each endpoint. The manager is not asked for the store; nothing is hidden or unread.
fn any_whole_and_quick() -> impl Strategy<Value = (Scene, Scene)> {
    let listeners = || prop::collection::vec((any_listener(), any::<bool>(), 1usize..3), 1..4);
    let both = (any_scene(), any_scene(), listeners(), listeners(), 0usize..5);
    both.prop_map(|(mut whole, other, of_one, of_other, at)| {
        whole.endpoints.extend(other.endpoints);
        whole.endpoints[1].endpoint.host = Host::Ip("127.0.0.1".parse().unwrap());
        let mut quick = whole.clone();
        quick.guarded.stored = None;
        quick.blind_spots.retain(|spot| matches!(spot, BlindSpot::Manager(_)));
        for (index, listeners) in [of_one, of_other].into_iter().enumerate() {
            let sockets = &mut whole.endpoints[index].sockets;
            let at = at.min(sockets.len());
            sockets.splice(at..at, listeners.iter().map(|(listener, ..)| listener.clone()));
            let seen = listeners.into_iter().enumerate().filter(|(nth, (_, seen, _))| *nth == 0 || *seen);
            quick.endpoints[index].sockets = seen
                .map(|(_, (mut listener, _, holders))| {
                    listener.holders.truncate(holders);
                    listener
                })
                .collect();
        }
        (whole, quick)
    })
}

fn sorted(verdict: &Verdict) -> Vec<String> {
    let mut all: Vec<String> = verdict.findings().iter().map(|finding| format!("{finding:?}")).collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn unknown_is_never_free(scene in any_scene(), rules in any_rules()) {
        let EndpointScene { endpoint, probe, sockets } = &scene.endpoints[0];
        let is_unread = scene.blind_spots.iter().any(|spot| matches!(spot, BlindSpot::Sockets(_)));
        let may_be_in_the_way = |held: &HeldSocket| {
            let is_over = held.socket.state == SocketState::TimeWait && rules.reuse_address;
            endpoint.is_contested_by(&held.socket) && !is_over
        };
        let is_known = matches!(probe, Probe::Busy | Probe::NotLocal);
        if *probe != Probe::Free && (is_known || is_unread || sockets.iter().any(may_be_in_the_way)) {
            prop_assert_ne!(judge(&scene, &rules), Verdict::Free);
        }
    }

    #[test]
    fn nothing_but_a_proven_leftover_or_what_the_policy_permits_is_ever_signalled(
        scene in any_scene(),
        rules in any_rules(),
    ) {
        for finding in judge(&scene, &rules).findings() {
            if finding.action == Action::Stop {
                let holder = finding.holder.as_ref().unwrap();
                let (socket, born) = (finding.socket.as_ref().unwrap(), finding.birthplace.as_ref());
                let of_run = |run: &Run| run.cgroup.is_some() && run.cgroup == socket.cgroup;
                if scene.guarded.runs.iter().any(of_run) || born.is_some_and(|born| scene.guarded.is(born)) {
                    prop_assert!(socket.uid == 0 || socket.uid == holder.uid || holder.uid != 0, "{} made it", socket.uid);
                } else {
                    prop_assert!(socket.uid == 0 || socket.uid == holder.uid, "{} made it", socket.uid);
                    prop_assert!(born.is_some() || socket.cgroup.is_none(), "in a cgroup that is gone");
                    let is_known = |born: &Owner| {
                        matches!(born, Owner::Init)
                            || born.unit_name().is_some_and(|name| ["app.socket", "init.scope"].contains(&name.as_str()))
                            || (*born == holder.owner && !matches!(born, Owner::Nobody | Owner::Unknown))
                    };
                    prop_assert!(born.is_none_or(is_known), "in {born:?}");
                }
                prop_assert!(!matches!(scene.guarded.phase, Phase::Running | Phase::Unknown));
                if finding.relation == Relation::Lookalike {
                    prop_assert!(holder.pid > Pid::INIT && holder.protection().is_none() && holder.terminal.is_none());
                    prop_assert_eq!(rules.on_lookalike, LookalikeRule::Stop);
                    prop_assert_eq!((holder.program, holder.uid), (Some(OWN_FILE), 0));
                    prop_assert!(!matches!(&holder.owner, Owner::Unit(unit) if unit.unit_type() == UnitType::Service));
                    continue;
                }
                prop_assert!(matches!(finding.relation, Relation::Leftover | Relation::Escaped));
                prop_assert!(finding.relation == Relation::Leftover || holder.terminal.is_none());
                prop_assert!(holder.pid > Pid::INIT && holder.protection().is_none());
                if let Some(present) = scene.guarded.invocation {
                    prop_assert_ne!(holder.invocation, Invocation::Known(present));
                }
                prop_assert_ne!(holder.pid, Pid(3));
                let in_ledger = holder.invocation == Invocation::Known(EARLIER);
                let is_older = scene.guarded.ended.is_some_and(|ended| holder.start < ended);
                prop_assert!(in_ledger || is_older || scene.guarded.phase == Phase::Stopped);
                prop_assert_eq!(rules.on_stale, StaleRule::Stop);
            }
        }
    }

    #[test]
    fn no_unit_is_stopped_that_the_policy_does_not_name_or_that_takes_others_with_it(
        scene in any_scene(),
        rules in any_rules(),
    ) {
        for finding in judge(&scene, &rules).findings() {
            if finding.action == Action::StopUnit {
                let Relation::Predecessor(unit) = &finding.relation else { panic!("{finding:?}") };
                prop_assert!(rules.replaces.iter().any(|pattern| pattern.matches(unit)));
                prop_assert!(unit.protection().is_none() && *unit != scene.guarded.unit);
                let state = &scene.units[unit];
                prop_assert!(matches!(state.active, ActiveState::Up | ActiveState::Stopping));
                prop_assert!(!state.stops_too.as_ref().unwrap().contains(&scene.guarded.unit));
                if let Some(holder) = &finding.holder {
                    prop_assert!(holder.is_manager() || holder.protection().is_none());
                }
            }
        }
    }

    #[test]
    fn more_protection_never_adds_an_action(scene in any_scene(), rules in any_rules(), index in 0usize..8) {
        let acts = |scene: &Scene| {
            let verdict = judge(scene, &rules);
            let acts = verdict.findings().iter().filter(|f| matches!(f.action, Action::Stop | Action::StopUnit)).count();
            (acts, matches!(verdict, Verdict::Clear(_)))
        };
        let mut protected = scene.clone();
        let mut all = protected.endpoints[0].sockets.iter_mut().flat_map(|socket| &mut socket.holders);
        if let Some(holder) = all.nth(index) {
            Rc::make_mut(holder).lineage = Lineage::Ancestor;
        }
        let (before, after) = (acts(&scene), acts(&protected));
        prop_assert!(after.0 <= before.0 && (before.1 || !after.1), "{:?} {:?}", before, after);
    }

    /// Only this makes a quick look worth anything: what it does not see may change every verdict but a refusal.
    #[test]
    fn what_a_quick_look_refuses_is_refused_for_the_same_reasons_whatever_else_is_there(
        (whole, quick) in any_whole_and_quick(),
        rules in any_rules(),
    ) {
        let (of_all, of_some) = (judge(&whole, &rules), judge(&quick, &rules));
        let is_managers = |finding: &Finding| finding.holder.as_ref().is_some_and(|holder| holder.is_manager());
        // What a manager has is looked at as a whole.
        if matches!(of_some, Verdict::Refuse(_)) && !of_some.findings().iter().any(is_managers) {
            prop_assert!(matches!(of_all, Verdict::Refuse(_)));
            for finding in of_some.findings() {
                let stays = of_all.findings().contains(finding);
                prop_assert!(stays || finding.action != Action::Refuse, "{finding:#?}\n{of_all:#?}");
            }
        }
    }

    #[test]
    fn nothing_is_stopped_beside_something_that_is_refused_or_waited_for(scene in any_scene(), rules in any_rules()) {
        let verdict = judge(&scene, &rules);
        let any = |action| verdict.findings().iter().any(|finding| finding.action == action);
        prop_assert_eq!(any(Action::Refuse), matches!(verdict, Verdict::Refuse(_)));
        prop_assert_eq!(!any(Action::Refuse) && any(Action::Wait), matches!(verdict, Verdict::Wait(_)));
        prop_assert!(!any(Action::Refuse) || !any(Action::Wait));
        let is_first = any(Action::Refuse) || any(Action::Wait);
        prop_assert!(!is_first || ![Action::Stop, Action::StopUnit].into_iter().any(any));
        prop_assert!(is_first || !any(Action::Spare));
    }

    #[test]
    fn the_order_of_holders_does_not_matter(scene in any_scene(), rules in any_rules()) {
        let mut turned = scene.clone();
        turned.endpoints[0].sockets.reverse();
        turned.endpoints[0].sockets.iter_mut().for_each(|socket| socket.holders.reverse());
        let (one, other) = (judge(&scene, &rules), judge(&turned, &rules));
        prop_assert_eq!(sorted(&one), sorted(&other));
        prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&other));
    }

    #[test]
    fn a_stricter_policy_never_adds_a_stop(scene in any_scene(), rules in any_rules()) {
        let stops = |rules: &Rules| judge(&scene, rules).findings().iter().filter(|f| f.action == Action::Stop).count();
        let strict = Rules { on_stale: StaleRule::Refuse, on_lookalike: LookalikeRule::AsForeign, ..rules.clone() };
        prop_assert_eq!(stops(&strict), 0);
        let protected = {
            let mut scene = scene.clone();
            for process in scene.endpoints[0].sockets.iter_mut().flat_map(|socket| &mut socket.holders) {
                Rc::make_mut(process).exe = Some(PathBuf::from("/usr/sbin/sshd"));
            }
            judge(&scene, &rules).findings().iter().filter(|f| f.action == Action::Stop).count()
        };
        prop_assert_eq!(protected, 0);
    }
}
