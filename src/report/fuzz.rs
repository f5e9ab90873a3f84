//! The rules that every sentence keeps, whatever another process calls itself: see [`crate::fuzzing`].

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::words::{About, finding, outcome, step};
use super::*;
use crate::fuzzing::{assert_printable, shell_words};
use crate::model::{
    ActiveState, CgroupId, Container, Engine, Inode, Invocation, Lineage, Obstacle, Owner, Probe, Protocol, Relation,
    Signal, Socket, SocketState, StartTime, Stopped, UnitName, fuzz::shown,
};

/// Fields that end in a zero byte: the word of a relation, two units, then what somebody else chose: the name of a
/// process, its executable, a device, and its arguments.
pub(crate) fn words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    shown(&text);
    let mut fields = text.split('\0');
    let mut field = || fields.next().unwrap_or_default();
    let (word, unit, other) = (field(), field().parse::<UnitName>(), field().parse::<UnitName>());
    let (Ok(unit), Ok(other)) = (unit, other) else { return };
    let (comm, exe, device) = (field(), field(), field());
    // As the kernel takes the name of a device: `dev_valid_name()`, Linux `net/core/dev.c`.
    let device: String = device.chars().filter(|c| !c.is_whitespace() && !"/:".contains(*c)).take(15).collect();
    let argv: Vec<String> = fields.map(str::to_owned).collect();
    let container = Container { engine: Engine::Machined, name: Some("box-1".to_owned()) };
    let process = Process {
        pid: Pid(97),
        start: StartTime(1),
        uid: 0,
        comm: comm.chars().take(15).collect(),
        exe: Some(exe.into()),
        argv,
        cgroup: None,
        owner: Owner::Unit(other.clone()),
        invocation: Invocation::Absent,
        terminal: None,
        program: None,
        folders: None,
        container: Some(container),
        lineage: Lineage::Other,
    };
    let local = SocketAddr::from(([0; 16], 8080));
    let socket = Socket {
        protocol: Protocol::Tcp,
        local,
        peer: Some(local),
        v6only: true,
        state: SocketState::Listen,
        inode: Inode(1),
        uid: 0,
        device: Some(device),
        cgroup: Some(CgroupId(1)),
        backlog: None,
        left: None,
    };
    let relation = relation(word, &other, process.container.clone().unwrap_or_else(|| unreachable!("it has one")));
    let endpoint = "8080".parse::<crate::model::EndpointRange>().ok().and_then(|range| range.endpoints().next());
    let found = Finding {
        endpoint: endpoint.unwrap_or_else(|| unreachable!("8080 is one")),
        socket: Some(socket),
        holder: Some(Rc::new(process.clone())),
        birthplace: Some(Owner::UserUnit { uid: 1000, unit: other.clone() }),
        relation,
        action: Action::Refuse,
        obstacle: None,
        unit_state: ActiveState::Unknown,
    };
    for obstacle in [None, Some(Obstacle::RefusesStop), Some(Obstacle::StopsToo(vec![unit.clone(), other.clone()]))] {
        for user in [false, true] {
            let about = About { unit: unit.clone(), user, dry_run: false, etc: "/none".into(), proc: "/none".into() };
            let found = Finding { obstacle: obstacle.clone(), ..found.clone() };
            of_an_entry(&finding(&found, &about), [&unit, &other]);
            let nobody = Finding { holder: None, ..found.clone() };
            of_an_entry(&finding(&nobody, &about), [&unit, &other]);
            let named = Process { comm: "x".to_owned(), ..process.clone() };
            of_its_command(&finding(&Finding { holder: Some(Rc::new(named)), ..found.clone() }, &about));
            for entry in outcomes(&text).iter().flat_map(|end| outcome(end, &about, &[], std::slice::from_ref(&found)))
            {
                of_an_entry(&entry, [&unit, &other]);
            }
        }
    }
    for step_of in [
        Step::Ended { process: &process, after: Duration::ZERO },
        Step::SignalMore { processes: vec![&process], signal: Signal(15) },
        Step::LetGo { process: &process, after: Duration::ZERO },
        Step::StopUnit { unit: &other },
        Step::UnitStopped { unit: &other, after: Duration::ZERO },
    ] {
        of_an_entry(&step(&step_of, &unit, &|_| None), [&unit, &other]);
    }
}

/// One line, without anything that a terminal obeys, of a bounded length; and what is to be typed is one command, in
/// which a unit is one word.
fn of_an_entry(entry: &Entry, units: [&UnitName; 2]) {
    for shown in std::iter::once(&entry.message).chain(entry.fields.iter().map(|(_, value)| value)) {
        assert_printable(shown);
    }
    let Some((_, command)) = entry.fields.iter().find(|(name, _)| *name == "PORTGUARD_NEXT") else { return };
    assert!(entry.message.contains(command), "{command:?} is not in {:?}", entry.message);
    let words = shell_words(command).unwrap_or_else(|| panic!("{command:?} is not one command"));
    for unit in units.map(UnitName::as_str).into_iter().filter(|unit| command.contains(*unit)) {
        assert!(words.iter().any(|word| word == unit || word.contains(unit)), "{unit:?} is no word of {command:?}");
    }
    let options = words.iter().take_while(|word| *word != "--");
    assert!(
        !options.skip(1).any(|word| units.iter().any(|unit| unit.as_str() == word && word.starts_with('-'))),
        "{command:?}"
    );
}

/// The command line of another process ends where its quotes end, and it cannot end them itself.
fn of_its_command(entry: &Entry) {
    let (_, command) = entry.message.split_once("pid 97 (x, user uid 0: \"").unwrap_or_else(|| panic!("{entry:?}"));
    let mut escaped = false;
    let end = command.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let end = end.unwrap_or_else(|| panic!("{command:?} has no end"));
    assert!(command[end..].starts_with("\")"), "{command:?} ends too soon");
    assert!(command[..end].chars().count() <= 101, "{command:?} is too long");
    let last = &command[end + 2..];
    assert!(!last.contains("pid 97 (x, user uid 0") && last.contains("; not touched"), "{last:?}");
}

fn relation(word: &str, other: &UnitName, container: Container) -> Relation {
    every_relation(other, container)
        .into_iter()
        .find(|relation| relation.word() == word)
        .unwrap_or(Relation::OtherUserUnit { uid: 1000, unit: other.clone() })
}

/// One for each word.
pub(super) fn every_relation(other: &UnitName, container: Container) -> [Relation; 25] {
    [
        Relation::OwnSocketUnit(other.clone()),
        Relation::OwnFdStore,
        Relation::OwnStart,
        Relation::OwnRun,
        Relation::Leftover,
        Relation::Escaped,
        Relation::Heir,
        Relation::Unproven,
        Relation::Predecessor(other.clone()),
        Relation::Lookalike,
        Relation::Sibling(other.clone()),
        Relation::Twin { uid: Some(1000) },
        Relation::OtherUnit(other.clone()),
        Relation::OtherSocketUnit(other.clone()),
        Relation::Manager,
        Relation::Container(container),
        Relation::Session { id: "1".to_owned() },
        Relation::OtherProcess,
        Relation::Client,
        Relation::TimeWait,
        Relation::KernelHeld,
        Relation::Hidden,
        Relation::Unexplained,
        Relation::Unchecked(Probe::Busy),
        Relation::NotBindable(Probe::NotLocal),
    ]
}

fn outcomes(why: &str) -> [Outcome; 4] {
    let why = why.to_owned();
    [
        Outcome::StillHeld { took: Duration::ZERO, why: why.clone(), hindrance: None },
        Outcome::Refused { stopped: Stopped::default(), signalled: Vec::new(), why: Some(why.clone()) },
        Outcome::BadPolicy { count: 2, shown: vec![why.clone(), why.clone()] },
        Outcome::Internal(why),
    ]
}
