//! Builds the scene: who holds the endpoints, whose they are, and where the guarded unit is in its life.
//!
//! It only looks: nothing here judges, logs or signals. What cannot be seen becomes a blind spot in the scene, never
//! an empty answer.

pub mod again;
pub mod cgroup;
pub mod container;
mod guarded;
mod hindrance;
pub mod holders;
pub mod net_tables;
mod order;
pub mod pin;
pub mod proc;
pub mod sock_diag;
pub mod systemd;
pub mod units;
pub mod users;

#[cfg(test)]
mod errors;
#[cfg(test)]
pub(crate) mod fixture;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::Metadata;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::interrupt::Interrupt;
use crate::manager::Scope;
use crate::model::{
    Addresses, BlindSpot, CgroupId, CgroupPath, Container, Endpoint, EndpointScene, Engine, Guarded, HeldSocket, Host,
    Inode, InvocationId, Lineage, Owner, Phase, Pid, Port, Probe, Process, Protocol, Rules, Scene, Socket, SocketState,
    SocketUnit, StaleRule, UnitFacts, UnitName, UnitType,
};
use crate::probe::{probe, probe_beside};
use crate::word;
use again::Again;
use container::{Docker, Trace};
use holders::{Holders, Search, Sight, SoFar, Thorough};
use pin::Pins;
use proc::ProcError;
use sock_diag::{Closings, SockDiagError, Wish};
use systemd::{Answer, Question};

/// The bus, and after it `systemctl`, have so long to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A holder that ends while it is looked at makes a picture that never was: so many looks to get one that fits.
const MAX_LOOKS: usize = 4;

/// How long it is asked of addresses whether they can be bound beside what is there.
const PROBING: Duration = Duration::from_millis(250);

/// `DefaultTimeoutStartSec=` as systemd is built, where the manager does not tell.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);

/// So many sockets that are in the way are looked at: each takes a kilobyte.
const MOST_SOCKETS: usize = 1 << 16;

/// A process of a container is at most so far below the one that looks after it.
const CONMON_ABOVE: usize = 8;

/// A manager's child can have children before it executes anything: `execute_directories()`, systemd v257 `src/shared/exec-util.c`.
const FORKS_ABOVE: usize = 4;

/// Where the system is.
#[derive(Clone, Debug)]
pub struct Roots {
    /// procfs.
    pub proc: PathBuf,
    /// Where the cgroup v2 hierarchy is on most hosts.
    pub cgroup: PathBuf,
    /// The folder of passwd.
    pub etc: PathBuf,
    /// `/run`, or `$XDG_RUNTIME_DIR` in a user manager.
    pub run: PathBuf,
}

/// Where portguard runs, as seen at its start.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where the system is.
    pub roots: Roots,
    /// The folder of the ledgers.
    pub ledger: PathBuf,
    /// Which manager has the guarded unit.
    pub scope: Scope,
    docker: Docker,
    /// Where the cgroup v2 hierarchy is mounted, if it is; looked up when it is needed.
    hierarchy: OnceCell<Option<cgroup::Mount>>,
    /// The guarded unit's cgroup, if portguard runs inside it.
    within: Option<CgroupPath>,
    /// `INVOCATION_ID` of portguard's environment.
    invocation: Option<InvocationId>,
    /// The same, as the manager has noted it; looked up when it is needed.
    noted: OnceCell<Option<InvocationId>>,
    /// When portguard began.
    began: Instant,
    /// Why the bus is not worth another try.
    no_bus: RefCell<Option<String>>,
    /// What one search for holders leaves to the next.
    searches: SoFar,
    /// By whose it is, and its id.
    podman_names: RefCell<BTreeMap<(Owner, String), String>>,
    /// What the manager has said last of the guarded unit.
    last_said: RefCell<UnitFacts>,
    /// What it took so far to read what is told to people alone.
    waited_for_words: Cell<Duration>,
}

/// What a look is for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The guarded unit.
    pub unit: &'a UnitName,
    /// Its rules.
    pub rules: &'a Rules,
    /// What ends a look in its middle. What was seen by then is not the whole, and nobody's to judge.
    pub interrupt: &'a Interrupt,
    /// What the kernel has told of sockets that are gone, the look's own as well: a look forgets it before it sees which are there.
    pub closings: Option<&'a Closings>,
}

/// What a look has seen.
#[derive(Debug)]
pub struct Look {
    /// What `judge` needs.
    pub scene: Scene,
    /// What `act` needs.
    pub facts: UnitFacts,
    /// The processes of the scene, pinned before anything was read of them.
    pub pins: Pins,
    /// How long the manager still waits for this start; `None` where it has no bound, or this is no start.
    pub left: Option<Duration>,
    /// Whether it was the bus that answered, if anybody was asked.
    pub has_bus: bool,
    /// What was asked instead of what is asked first, each in words.
    pub fallbacks: Vec<String>,
    /// A holder was on its way out: what was read of it may be half of a process.
    pub ending: bool,
}

impl Look {
    /// Those that could not be looked into in time.
    pub fn late(&self) -> impl Iterator<Item = Pid> {
        let late = |spot: &BlindSpot| if let BlindSpot::Late(pids) = spot { pids.clone() } else { Vec::new() };
        self.scene.blind_spots.iter().flat_map(late)
    }

    /// So many were not looked at, for want of time.
    fn passed_over(&self) -> usize {
        let count = |spot: &BlindSpot| if let BlindSpot::PassedOver { processes } = spot { *processes } else { 0 };
        self.scene.blind_spots.iter().map(count).sum()
    }

    /// Whether some were not looked at, for want of time.
    #[must_use]
    pub fn has_passed_over(&self) -> bool {
        self.passed_over() > 0
    }

    /// Whether each process that could not be looked into was merely not in time, or there was no time for it.
    #[must_use]
    pub fn hides_only_for_want_of_time(&self) -> bool {
        let hidden = self.late().count() + self.passed_over();
        hidden > 0 && self.scene.blind_spots.contains(&BlindSpot::Processes { hidden })
    }
}

impl Place {
    /// Where this process runs. `user`: the unit is one of its user's own manager.
    #[must_use]
    pub fn here(roots: Roots, unit: &UnitName, user: bool) -> Self {
        let own = proc::own_cgroup(&roots.proc);
        let scope = if user { Scope::User } else { Scope::System };
        let within = own.filter(|path| guarded::is_guarded(&cgroup::owner_of(path), unit, scope));
        Self {
            ledger: roots.run.join("portguard/ledger"),
            docker: Docker::new(&roots.run),
            hierarchy: OnceCell::new(),
            within: within.as_ref().and_then(cgroup::unit_cgroup),
            invocation: std::env::var("INVOCATION_ID").ok().and_then(|id| id.parse().ok()),
            noted: OnceCell::new(),
            began: Instant::now(),
            no_bus: RefCell::new(None),
            searches: SoFar::default(),
            podman_names: RefCell::default(),
            last_said: RefCell::default(),
            waited_for_words: Cell::default(),
            roots,
            scope,
        }
    }

    /// Whether portguard runs in the cgroup of the guarded unit.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.within.is_some()
    }

    /// If nobody hangs any more, the next look looks at everybody.
    pub fn forget_who_was_late(&self) {
        if !word::has_left_any() {
            self.searches.late.borrow_mut().clear();
        }
    }

    /// For what is to be signalled.
    #[must_use]
    pub fn again<'a>(&'a self, interrupt: &'a Interrupt) -> Again<'a> {
        Again::new(&self.roots.proc, interrupt, &self.searches)
    }

    fn hierarchy(&self) -> Option<&cgroup::Mount> {
        self.hierarchy.get_or_init(|| cgroup::mount(&self.roots.proc, &self.roots.cgroup).ok()).as_ref()
    }

    fn directory(&self, path: &CgroupPath) -> Option<PathBuf> {
        self.hierarchy()?.dir_of(path)
    }

    /// Looks at everything that is in the way of these endpoints.
    ///
    /// [`Thorough::IfNobodyFound`] looks for holders where they are likely, which is enough to refuse; before anything is
    /// stopped, [`Thorough::Always`] has to see that nobody else holds the same sockets. `others`: also those that wait for
    /// nobody and would be in the way all the same once those that do are gone; see [`Self::has_others`].
    #[must_use]
    pub fn look(&self, wanted: &Wanted<'_>, thorough: Thorough, others: bool) -> Look {
        let mut looks = 1;
        loop {
            let (mut look, steady) = self.look_once(wanted, thorough, others);
            if steady || looks == MAX_LOOKS || wanted.interrupt.has_come() {
                if !steady {
                    look.scene.blind_spots.push(BlindSpot::Unsteady);
                }
                return look;
            }
            self.forget_who_was_late();
            looks += 1;
        }
    }

    /// A look that costs the same however many listeners a host has, and may lead to a plain refusal and nothing else.
    ///
    /// It takes the TCP listeners that the kernel finds by address ([`sock_diag::listeners_at`]) where one is likely, and
    /// the first holders of those ([`Thorough::UntilFound`]). Others on the same ports, and other holders, may be missing. Whether
    /// all that is in the way may be stopped, waited for or passed can only be said of all of it, so that is for
    /// [`Self::look`]. But one reason to refuse is enough, whatever else is there, as long as each endpoint that is not
    /// free has a listener here, and each listener a holder that is no service manager: a property in `judge`'s tests.
    ///
    /// # Errors
    /// How thorough the first look has to be instead, where this does not explain everything, or is not worth it: there are more
    /// endpoints than the kernel is asked for one by one, one of UDP is not free, or a socket was born in the unit's own cgroup,
    /// as that of a leftover is.
    pub fn quick_look(&self, wanted: &Wanted<'_>) -> Result<Look, Thorough> {
        let rules = wanted.rules;
        let instead = Thorough::IfNobodyFound;
        if rules.endpoints.len() > sock_diag::PORTS_ASKED_ONE_BY_ONE {
            return Err(instead);
        }
        let probed = probed(rules);
        let in_question = || probed.iter().filter(|(_, seen)| *seen != Probe::Free).map(|(endpoint, _)| endpoint);
        if in_question().any(|endpoint| endpoint.protocol == Protocol::Udp) {
            return Err(instead);
        }
        let addresses: Vec<SocketAddr> = in_question().flat_map(Endpoint::likely_addresses).collect();
        let tables = sock_diag::listeners_at(&addresses).ok().filter(|tables| are_explained(&probed, tables));
        let tables = tables.ok_or(instead)?;
        let born = self.birthplaces(&tables);
        if rules.on_stale == StaleRule::Stop && born.values().any(|born| Some(born) == self.within.as_ref()) {
            return Err(Thorough::Always);
        }
        let seen = self.seen(probed, tables, born, Thorough::UntilFound, wanted.interrupt);
        if seen.tables.iter().any(|socket| seen.has_nobody(socket)) {
            return Err(instead);
        }
        let (look, steady) = self.picture(wanted, seen, Vec::new());
        if steady { Ok(look) } else { Err(instead) }
    }

    /// A look, and whether nothing ended in the middle of it.
    fn look_once(&self, wanted: &Wanted<'_>, thorough: Thorough, others: bool) -> (Look, bool) {
        let mut blind_spots = Vec::new();
        let probed = probed(wanted.rules);
        let _ = wanted.closings.map(Closings::was_wanted);
        let Tables { sockets, is_full, fallback } = self.tables(&probed, wanted, others).unwrap_or_else(|why| {
            blind_spots.push(BlindSpot::Sockets(why));
            Tables::default()
        });
        let born = self.birthplaces(&sockets);
        let seen = Seen { fallback, ..self.seen(probed, sockets, born, thorough, wanted.interrupt) };
        if seen.holders.hidden > 0 && seen.tables.iter().any(|socket| seen.has_nobody(socket)) {
            blind_spots.push(BlindSpot::Processes { hidden: seen.holders.hidden });
        }
        if is_full || seen.is_full() {
            blind_spots.push(BlindSpot::Crowd);
        }
        if seen.holders.passed_over > 0 {
            blind_spots.push(BlindSpot::PassedOver { processes: seen.holders.passed_over });
        }
        self.picture(wanted, seen, blind_spots)
    }

    /// Who has these sockets, which were born there.
    fn seen(
        &self,
        probed: Vec<(Endpoint, Probe)>,
        mut tables: Vec<Socket>,
        born: HashMap<CgroupId, CgroupPath>,
        thorough: Thorough,
        interrupt: &Interrupt,
    ) -> Seen {
        if self.hierarchy().is_none() {
            // An id that leads nowhere would pass for that of a cgroup that is gone.
            for socket in &mut tables {
                socket.cgroup = None;
            }
        }
        let holders = self.holders(&tables, &born, thorough, interrupt);
        Seen { probed, tables, fallback: None, born, holders }
    }

    /// Who has the sockets of these ports, or those that are connected through them where none waits there, whatever a
    /// bind would say: each socket is the scene of an endpoint of its own, which counts as busy.
    #[must_use]
    pub fn survey(&self, wanted: &Wanted<'_>, ports: &[(Protocol, Port)]) -> Scene {
        let mut blind_spots = Vec::new();
        let tables = self.sockets_of(ports, wanted.interrupt).unwrap_or_else(|why| {
            blind_spots.push(BlindSpot::Sockets(why));
            Vec::new()
        });
        let Tables { sockets, is_full, .. } = Tables::new(tables, None);
        let born = self.birthplaces(&sockets);
        let seen = self.seen(Vec::new(), sockets, born, Thorough::ToTheEnd, wanted.interrupt);
        if seen.holders.hidden > 0 {
            blind_spots.push(BlindSpot::Processes { hidden: seen.holders.hidden });
        }
        if is_full || seen.is_full() {
            blind_spots.push(BlindSpot::Crowd);
        }
        let known = self.known(wanted, seen, blind_spots);
        let scene_of = |held: HeldSocket| {
            let Socket { protocol, local, .. } = held.socket;
            let port = Port::new(local.port())?;
            let endpoint = Endpoint { host: Host::Ip(local.ip()), port, protocol };
            Some(EndpointScene { endpoint, probe: Probe::Busy, sockets: vec![held] })
        };
        let endpoints = known.held.into_iter().filter_map(scene_of).collect();
        Scene { guarded: known.guarded, endpoints, units: known.answer.states, blind_spots: known.blind_spots }
    }

    fn sockets_of(&self, ports: &[(Protocol, Port)], interrupt: &Interrupt) -> Result<Vec<Socket>, String> {
        let waiting = match sock_diag::listeners(ports, &Wish::all(interrupt)) {
            Ok(sockets) => sockets,
            Err(netlink) => return self.sockets_of_proc(ports, netlink, interrupt),
        };
        let explained: HashSet<(Protocol, u16)> =
            waiting.iter().map(|socket| (socket.protocol, socket.local.port())).collect();
        let is_open = |(protocol, port): &&(Protocol, Port)| !explained.contains(&(*protocol, port.get()));
        let open: Vec<(Protocol, Port)> = ports.iter().filter(is_open).copied().collect();
        if open.is_empty() || open.len() > sock_diag::PORTS_ASKED_ONE_BY_ONE {
            return Ok(waiting);
        }
        let others = sock_diag::others(&open, &Wish::all(interrupt))
            .or_else(|netlink| self.sockets_of_proc(&open, netlink, interrupt))?;
        Ok(waiting.into_iter().chain(others).collect())
    }

    /// The tables of /proc/net have listeners and all others in one.
    fn sockets_of_proc(
        &self,
        wanted: &[(Protocol, Port)],
        netlink: SockDiagError,
        interrupt: &Interrupt,
    ) -> Result<Vec<Socket>, String> {
        let from_tables = net_tables::sockets(&self.roots.proc, wanted, interrupt);
        from_tables.map_err(|tables| format!("netlink: {netlink}; /proc/net: {tables}"))
    }

    /// All that is known of what was seen, and whether nothing ended in the middle of it.
    fn picture(&self, wanted: &Wanted<'_>, mut seen: Seen, blind_spots: Vec<BlindSpot>) -> (Look, bool) {
        let probed = std::mem::take(&mut seen.probed);
        let without_netlink = seen.fallback.map(|why| {
            format!("/proc/net was read instead of asking netlink ({why}), and does not say where a socket was made")
        });
        let without_cgroups = (!seen.tables.is_empty() && self.hierarchy().is_none())
            .then(|| "no cgroup v2 hierarchy is to be seen here, and so not where a socket was made".to_owned());
        let Known { held, guarded, answer, pins, passing, blind_spots } = self.known(wanted, seen, blind_spots);
        let endpoints: Vec<EndpointScene> = probed
            .into_iter()
            .map(|(endpoint, probe)| {
                let sockets = held.iter().filter(|held| endpoint.is_contested_by(&held.socket)).cloned().collect();
                EndpointScene { endpoint, probe, sockets }
            })
            .collect();
        let steady = passing == Passing::None && !has_changed(&endpoints, wanted.rules);
        // systemd arms the timer anew for each command of ExecStartPre=: service_run_next_control() and
        // service_spawn(), systemd v257 src/core/service.c.
        let timeout = answer.unit.timeout_start.unwrap_or(DEFAULT_TIMEOUT);
        let bounded = guarded.phase == Phase::Within && timeout != Duration::MAX;
        let left = bounded.then(|| timeout.saturating_sub(self.began.elapsed()));
        let scene = Scene { guarded, endpoints, units: answer.states, blind_spots };
        let ending = passing == Passing::Ending;
        let has_bus = answer.fallback.is_none();
        let without_bus = answer.fallback.map(|why| format!("systemctl was asked instead of the bus: {why}"));
        let fallbacks = [without_netlink, without_cgroups, without_bus].into_iter().flatten().collect();
        (Look { scene, facts: answer.unit, pins, left, has_bus, fallbacks, ending }, steady)
    }

    /// The sockets with their holders, and whose those are.
    fn known(&self, wanted: &Wanted<'_>, seen: Seen, mut blind_spots: Vec<BlindSpot>) -> Known {
        let &Wanted { unit, rules, interrupt, .. } = wanted;
        let Seen { tables, born, mut holders, .. } = seen;
        if !holders.late.is_empty() {
            blind_spots.push(BlindSpot::Late(holders.late.clone()));
        }
        let mut pins = Pins::default();
        let mut reader = proc::Reader::new(interrupt);
        let (mut processes, passing) = self.processes(&holders, &tables, &mut pins, &mut reader, interrupt);
        let passing = passing.max(self.leave_out_what_goes(unit, &mut holders, &mut processes, interrupt));
        if reader.unread > 0 {
            blind_spots.push(BlindSpot::Memory { unread: reader.unread });
        }
        let question = self.question(unit, rules, &processes, &tables, &born);
        let answer = if tables.is_empty() {
            Answer { unit: self.last_said.borrow().clone(), ..Answer::default() }
        } else {
            match self.ask(&question, interrupt) {
                Ok(answer) => {
                    self.last_said.replace(answer.unit.clone());
                    answer
                }
                Err(why) => {
                    blind_spots.push(BlindSpot::Manager(why));
                    self.without_an_answer()
                }
            }
        };
        let guarded = self.guarded(unit, &answer, &mut blind_spots);
        let processes = match self.scope {
            Scope::System => adopt(processes, &answer, &guarded.unit),
            Scope::User => processes,
        };
        let processes = processes.into_iter().map(|(pid, process)| (pid, Rc::new(process))).collect();
        let held: Vec<HeldSocket> = tables
            .into_iter()
            .map(|socket| self.assemble(socket, &born, &holders, &processes, &answer.socket_units))
            .collect();
        Known { held, guarded, answer, pins, passing, blind_spots }
    }

    /// What does not change in the midst of a start is as it was said before: that it is one, and whose command portguard is; how
    /// long it may take, and whether more time can be asked for; by which socket units it is started, when the last run was over,
    /// and which signals its processes are asked with. Whether they may be killed is not, nor how long they have.
    fn without_an_answer(&self) -> Answer {
        let said = self.last_said.borrow().clone();
        let unit = UnitFacts {
            starting: said.starting,
            main_pid: said.main_pid,
            control_pid: said.control_pid,
            timeout_start: said.timeout_start,
            helpers_may_notify: said.helpers_may_notify,
            triggered_by: said.triggered_by,
            ended: said.ended,
            kill_signal: said.kill_signal,
            send_sighup: said.send_sighup,
            ..UnitFacts::default()
        };
        Answer { unit, ..Answer::default() }
    }

    /// Whether there is, or may be, something besides what this scene has that would still be in the way when all that waits for
    /// somebody is gone: then it takes a look with those `others` before anything is stopped. It costs the kernel a walk of all
    /// its sockets.
    #[must_use]
    pub fn has_others(&self, wanted: &Wanted<'_>, scene: &Scene) -> bool {
        let which = |socket: &Socket| (socket.protocol, socket.local, socket.peer, socket.inode);
        let seen = scene.endpoints.iter().flat_map(|endpoint| &endpoint.sockets);
        let seen: HashSet<_> = seen.map(|held| which(&held.socket)).collect();
        let tables = self.tables(&probed(wanted.rules), wanted, true);
        let is_new = |socket: &Socket| !waits(socket) && !seen.contains(&which(socket));
        tables.map_or(true, |tables| tables.is_full || tables.sockets.iter().any(is_new))
    }

    /// The sockets that are in the way of these endpoints: those that wait for somebody. For each busy endpoint that these do not
    /// explain also the others: those without a peer, or else those with one; and where `others` are wanted, what is in the way
    /// by itself ([`Beside`]).
    fn tables(
        &self,
        probed: &[(Endpoint, Probe)],
        &Wanted { rules, interrupt, .. }: &Wanted<'_>,
        others: bool,
    ) -> Result<Tables, String> {
        let wanted = &wanted(probed)[..];
        if wanted.is_empty() {
            return Ok(Tables::default());
        }
        // A port has many addresses. However many have it at others, it costs no look at any of them.
        let mut endpoints: HashMap<(Protocol, u16), Vec<&Endpoint>> = HashMap::new();
        for (endpoint, _) in probed {
            endpoints.entry((endpoint.protocol, endpoint.port.get())).or_default().push(endpoint);
        }
        let is_contested = |socket: &Socket| {
            let at_port = endpoints.get(&(socket.protocol, socket.local.port()));
            at_port.is_some_and(|endpoints| endpoints.iter().any(|endpoint| endpoint.is_contested_by(socket)))
        };
        let bound_to = |protocol, port: Port| {
            let at_port = endpoints.get(&(protocol, port.get()))?;
            let each = at_port.iter().map(|endpoint| endpoint.addresses_in_the_way());
            each.collect::<Option<Vec<_>>>().map(|addresses| addresses.into_iter().flatten().collect())
        };
        let mut fallback = None;
        let mut of_proc = |netlink| {
            fallback = Some(netlink);
            let mut all = self.sockets_of_proc(wanted, netlink, interrupt)?;
            all.retain(is_contested);
            Ok::<_, String>(all)
        };
        let wish = Wish { keep: &is_contested, bound_to: &bound_to, interrupt };
        let (waiting, rest): (Vec<_>, Vec<_>) = match sock_diag::listeners(wanted, &wish) {
            Ok(waiting) => {
                let are_explained = are_explained(probed, &waiting);
                if are_explained && !others {
                    return Ok(Tables::new(waiting, fallback));
                }
                // However many connections the port has, those of its listeners are not kept.
                let addresses: Addresses = waiting.iter().collect();
                let keep = |socket: &Socket| is_contested(socket) && !(are_explained && addresses.meet(socket));
                let rest = sock_diag::others(wanted, &Wish { keep: &keep, ..wish }).or_else(of_proc)?;
                (waiting, rest)
            }
            Err(netlink) => of_proc(netlink)?.into_iter().partition(waits),
        };
        let beside = others.then(|| Beside::new(probed, &waiting, rules, interrupt));
        Ok(Tables::new(in_the_way(probed, waiting, rest, beside), fallback))
    }

    /// The cgroup in which each socket was born, as far as it is still there.
    fn birthplaces(&self, tables: &[Socket]) -> HashMap<CgroupId, CgroupPath> {
        let Some(hierarchy) = self.hierarchy() else { return HashMap::new() };
        let ids = tables.iter().filter_map(|socket| socket.cgroup).collect();
        cgroup::paths_of(&self.roots.proc, hierarchy, &ids)
    }

    fn holders(
        &self,
        tables: &[Socket],
        born: &HashMap<CgroupId, CgroupPath>,
        thorough: Thorough,
        interrupt: &Interrupt,
    ) -> Holders {
        // A socket that nobody can have does not make it worth a walk of all processes.
        let of_processes = || tables.iter().filter(|socket| socket.state != SocketState::TimeWait);
        let inodes: Vec<Inode> = of_processes().map(|socket| socket.inode).collect();
        if inodes.is_empty() {
            return Holders::default();
        }
        let births: BTreeSet<&CgroupPath> = born.values().filter(|path| Some(*path) != self.within.as_ref()).collect();
        let likely = self.within.iter().chain(births).filter(|path| path.0 != "/");
        let cgroups: Vec<PathBuf> = likely.filter_map(|path| self.directory(path)).collect();
        let users = of_processes().map(|socket| socket.uid).collect();
        let search = Search {
            proc: &self.roots.proc,
            cgroups: &cgroups,
            users: &users,
            thorough,
            interrupt,
            so_far: &self.searches,
        };
        let found = holders::holders(&search, &inodes);
        // Whoever has moved away together with the one that was found is best found with it.
        let are_all_found = || inodes.iter().all(|inode| inode.0 == 0 || found.by_inode.contains_key(inode));
        let is_cut = thorough == Thorough::UntilAllAreFound && found.passed_over > 0 && are_all_found();
        if is_cut && self.searches.has_more_time() { holders::holders(&search, &inodes) } else { found }
    }

    /// The facts of each holder, and whether one of them was gone, or on its way out, before they could be read.
    fn processes(
        &self,
        holders: &Holders,
        tables: &[Socket],
        pins: &mut Pins,
        reader: &mut proc::Reader<'_>,
        interrupt: &Interrupt,
    ) -> (HashMap<Pid, Process>, Passing) {
        let own = own_pid();
        let ancestors = proc::ancestors(&self.roots.proc, own);
        let everybody: BTreeSet<Pid> = holders.by_inode.values().flatten().copied().collect();
        pin::make_room(everybody.len());
        let mut processes = HashMap::new();
        let mut passing = Passing::None;
        for pid in everybody {
            if interrupt.has_come() {
                return (processes, Passing::Gone);
            }
            let facts = if pins.add(pid) { reader.process(&self.roots.proc, pid) } else { Ok(None) };
            let Ok(Some(facts)) = facts else {
                if matches!(facts, Err(ProcError::Late)) {
                    // The next look says so.
                    self.searches.late.borrow_mut().push(pid);
                }
                passing = passing.max(Passing::Gone);
                continue;
            };
            if facts.ending {
                passing = Passing::Ending;
            }
            let owner = facts.cgroup.as_ref().map_or(Owner::Unknown, cgroup::owner_of);
            let lineage = if pid == own {
                Lineage::Itself
            } else if pid == Pid::INIT || self.is_own_manager(facts.uid, &owner) {
                Lineage::Manager
            } else if ancestors.contains(&pid) {
                Lineage::Ancestor
            } else {
                Lineage::Other
            };
            let held = tables.iter().filter(|socket| holders.has(socket.inode, pid));
            let trace = container::trace(&facts, &owner);
            let container = trace.and_then(|trace| self.container(trace, pid, &owner, held, reader, interrupt));
            processes.insert(pid, facts.into_process(owner, container, lineage));
        }
        (processes, passing)
    }

    /// Who has a socket of a service manager's and will not have it once the service starts holds nothing that the manager does not
    /// hold:
    ///
    /// - portguard, and the command in front of the start that has called it, to which the manager gives the unit's sockets where it
    ///   gives one to the service as its standard input (`service_spawn_internal()`, systemd v257 `src/core/service.c`);
    /// - a child of the manager, which has all that the manager has open, also what is of other units, until it closes that and
    ///   executes its own program: for some thousandths of a second, and up to 5 s before systemd 255 where its unit is
    ///   `Type=idle`, as each getty of a boot is (`exec_child()` of systemd v252, `src/core/execute.c`, which has
    ///   `do_idle_pipe_dance()` before `close_remaining_fds()`). One that has executed its program just now has let go of it. Of one
    ///   that has ended it is not known what it was, nor what it has left.
    fn leave_out_what_goes(
        &self,
        unit: &UnitName,
        holders: &mut Holders,
        processes: &mut HashMap<Pid, Process>,
        interrupt: &Interrupt,
    ) -> Passing {
        let is_manager = |pid: &Pid| processes.get(pid).is_some_and(Process::is_manager);
        let mut suspects: BTreeMap<Pid, Vec<Inode>> = BTreeMap::new();
        for (inode, pids) in holders.by_inode.iter().filter(|(_, pids)| pids.iter().any(is_manager)) {
            for pid in pids.iter().filter(|pid| !is_manager(pid)) {
                suspects.entry(*pid).or_default().push(*inode);
            }
        }
        let mut again = self.again(interrupt);
        let mut passing = Passing::None;
        for (pid, mut inodes) in suspects {
            if interrupt.has_come() {
                return Passing::Gone;
            }
            let is_of_this_command = processes.get(&pid).is_some_and(|process| {
                matches!(process.lineage, Lineage::Itself | Lineage::Ancestor)
                    && guarded::is_guarded(&process.owner, unit, self.scope)
            });
            if !is_of_this_command && !self.is_fork_of_a_manager(pid, &mut again) {
                let now = again.open(pid, &inodes);
                // Who has ended has nothing open either, until it is waited for.
                let mut is_gone = || again.facts(pid, false).is_ok_and(|facts| facts.is_none_or(|facts| facts.ending));
                if now.inodes.is_empty() && now.sight != Sight::Hidden && is_gone() {
                    passing = Passing::Gone;
                }
                inodes.retain(|inode| now.sight != Sight::Hidden && !now.inodes.contains(inode));
            }
            for inode in inodes {
                holders.by_inode.entry(inode).and_modify(|pids| pids.retain(|holder| *holder != pid));
            }
            if !holders.by_inode.values().any(|pids| pids.contains(&pid)) {
                processes.remove(&pid);
            }
        }
        passing
    }

    /// Whether a process runs what a service manager runs, as the manager's user, and so does whoever is between the two.
    fn is_fork_of_a_manager(&self, pid: Pid, again: &mut Again<'_>) -> bool {
        let mut of = |pid| again.facts(pid, false).ok().flatten();
        let Some(child) = of(pid) else { return false };
        let mut above = child.ppid;
        for _ in 0..FORKS_ABOVE {
            let Some(parent) = of(above) else { return false };
            if child.program.is_none() || (parent.program, parent.uid) != (child.program, child.uid) {
                return false;
            }
            let owner = parent.cgroup.as_ref().map_or(Owner::Unknown, cgroup::owner_of);
            if parent.pid == Pid::INIT || self.is_own_manager(parent.uid, &owner) {
                return true;
            }
            above = parent.ppid;
        }
        false
    }

    /// The container of a trace, by the name that its engine gave to it, where that can be had.
    fn container<'a>(
        &self,
        trace: Trace,
        pid: Pid,
        owner: &Owner,
        held: impl Iterator<Item = &'a Socket>,
        reader: &mut proc::Reader<'_>,
        interrupt: &Interrupt,
    ) -> Option<Container> {
        // A daemon knows its own: the system's nothing of a user's, nor the other way round.
        let is_users = matches!(owner, Owner::UserUnit { .. });
        let docker = (is_users == (self.scope == Scope::User)).then_some(&self.docker);
        let (engine, name) = match trace {
            Trace::Known(container) => return Some(container),
            Trace::DockerId(id) => (
                Engine::Docker,
                Some(docker.map_or_else(|| container::short_id(&id), |docker| docker.name_of(&id, interrupt))),
            ),
            Trace::PodmanId(id) => (Engine::Podman, Some(self.podman_name(pid, owner, &id, reader))),
            Trace::DockerPort { address, certain } => {
                let mut ports = held.filter_map(|socket| Some((socket.protocol, Port::new(socket.local.port())?)));
                let name = docker.and_then(|docker| {
                    ports.find_map(|(protocol, port)| docker.name_by_port(protocol, port, address.clone(), interrupt))
                });
                (Engine::Docker, if certain || name.is_some() { name } else { return None })
            }
        };
        Some(Container { engine, name })
    }

    /// What conmon, above the process or the process itself, calls the container; else the id as Podman prints it.
    /// Looked for once for all processes of a cgroup, which can be many.
    fn podman_name(&self, pid: Pid, owner: &Owner, id: &str, reader: &mut proc::Reader<'_>) -> String {
        let mut of = |pid| reader.process(&self.roots.proc, pid).ok().flatten();
        let look = || {
            let mut chain = std::iter::successors(of(pid), |facts| of(facts.ppid)).take(1 + CONMON_ABOVE);
            let name = chain.find_map(|facts| container::name_by_conmon(&facts, owner, id));
            name.unwrap_or_else(|| container::short_id(id))
        };
        let mut names = self.podman_names.borrow_mut();
        names.entry((owner.clone(), id.to_owned())).or_insert_with(look).clone()
    }

    fn question(
        &self,
        unit: &UnitName,
        rules: &Rules,
        processes: &HashMap<Pid, Process>,
        tables: &[Socket],
        born: &HashMap<CgroupId, CgroupPath>,
    ) -> Question {
        let born_for = |socket: &Socket| self.socket_unit_of(born.get(&socket.cgroup?)?);
        let kept =
            processes.values().any(Process::is_manager) && !tables.iter().all(|socket| born_for(socket).is_some());
        let owners = processes.values().filter_map(|process| self.unit_of(&process.owner));
        let units: BTreeSet<UnitName> = owners.chain(tables.iter().filter_map(born_for)).collect();
        Question {
            scope: self.scope,
            run: self.roots.run.clone(),
            unit: unit.clone(),
            pids: processes.keys().copied().filter(|pid| *pid != Pid::INIT).collect(),
            units: units.into_iter().collect(),
            dependents: !rules.replaces.is_empty(),
            listening: if kept {
                tables.iter().map(|socket| (socket.protocol, socket.local)).collect()
            } else {
                Vec::new()
            },
            store: kept,
        }
    }

    /// The manager of a user is alone in the `init.scope` of its tree, but for what that user moves there.
    fn is_own_manager(&self, uid: u32, owner: &Owner) -> bool {
        let own = rustix::process::getuid().as_raw();
        let is_it = |unit: UnitName| unit.as_str() == "init.scope";
        self.scope == Scope::User && uid == own && self.unit_of(owner).is_some_and(is_it)
    }

    /// Whether this is the cgroup of the user's manager itself, which makes the sockets of its socket units.
    fn is_own_managers(&self, born: &CgroupPath) -> bool {
        self.scope == Scope::User
            && self.unit_of(&cgroup::owner_of(born)).is_some_and(|unit| unit.as_str() == "init.scope")
    }

    /// The socket unit of the guarded unit's manager whose cgroup this is. One of the same name in another manager is
    /// another: a user names the cgroups of their own tree.
    fn socket_unit_of(&self, born: &CgroupPath) -> Option<UnitName> {
        self.unit_of(&cgroup::owner_of(born)).filter(|unit| unit.unit_type() == UnitType::Socket)
    }

    fn assemble(
        &self,
        socket: Socket,
        born: &HashMap<CgroupId, CgroupPath>,
        holders: &Holders,
        processes: &HashMap<Pid, Rc<Process>>,
        socket_units: &[SocketUnit],
    ) -> HeldSocket {
        let birthplace = socket.cgroup.and_then(|id| born.get(&id));
        let pids = holders.by_inode.get(&socket.inode).map_or(&[][..], Vec::as_slice);
        let by_address = || {
            let listens = |unit: &&SocketUnit| unit.listens.contains(&(socket.protocol, socket.local));
            let unborn =
                birthplace.is_none_or(|born| cgroup::owner_of(born) == Owner::Init || self.is_own_managers(born));
            let kept = unborn
                && socket.device.is_none()
                && pids.iter().filter_map(|pid| processes.get(pid)).any(|process| process.is_manager());
            socket_units.iter().find(listens).filter(|_| kept).map(|listening| listening.unit.clone())
        };
        HeldSocket {
            socket_unit: birthplace.and_then(|born| self.socket_unit_of(born)).or_else(by_address),
            birthplace: birthplace.map(cgroup::owner_of),
            born_in: birthplace.cloned(),
            holders: pids.iter().filter_map(|pid| processes.get(pid)).cloned().collect(),
            socket,
        }
    }

    /// The unit of an owner, if the manager that has the guarded unit has it.
    fn unit_of(&self, owner: &Owner) -> Option<UnitName> {
        let user = match self.scope {
            Scope::System => None,
            Scope::User => Some(rustix::process::getuid().as_raw()),
        };
        owner.unit_in(user).cloned()
    }

    fn ask(&self, question: &Question, interrupt: &Interrupt) -> Result<Answer, String> {
        let answer = systemd::ask(question, PATIENCE, self.no_bus.borrow().clone(), interrupt);
        // A bus that hangs costs a second once, not at every look.
        *self.no_bus.borrow_mut() = match &answer {
            Ok(answer) => answer.fallback.clone(),
            Err(error) => Some(error.bus.clone()),
        };
        answer.map_err(|error| error.to_string())
    }
}

/// The sockets in the way, where they were born, and who has them.
struct Seen {
    probed: Vec<(Endpoint, Probe)>,
    tables: Vec<Socket>,
    /// See [`Tables`].
    fallback: Option<SockDiagError>,
    born: HashMap<CgroupId, CgroupPath>,
    holders: Holders,
}

/// The sockets in the way, as the kernel says.
#[derive(Default)]
struct Tables {
    sockets: Vec<Socket>,
    /// Whether there are others.
    is_full: bool,
    /// Why it was not netlink that said so.
    fallback: Option<SockDiagError>,
}

impl Tables {
    fn new(mut sockets: Vec<Socket>, fallback: Option<SockDiagError>) -> Self {
        let is_full = sockets.len() > MOST_SOCKETS;
        sockets.truncate(MOST_SOCKETS);
        Self { sockets, is_full, fallback }
    }
}

/// Whether a holder went while it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Passing {
    None,
    /// It was gone before it could be read.
    Gone,
    /// It is on its way out.
    Ending,
}

/// The same, with all that is known of them.
struct Known {
    held: Vec<HeldSocket>,
    guarded: Guarded,
    answer: Answer,
    pins: Pins,
    /// A process was gone, or on its way out, before it could be read.
    passing: Passing,
    blind_spots: Vec<BlindSpot>,
}

impl Seen {
    /// Whether there is more than is looked at.
    fn is_full(&self) -> bool {
        let births: HashSet<CgroupId> = self.tables.iter().filter_map(|socket| socket.cgroup).collect();
        self.holders.is_full || births.len() > cgroup::MOST_BIRTHS
    }

    /// Whether nobody was seen to have a socket that somebody can have.
    fn has_nobody(&self, socket: &Socket) -> bool {
        socket.state != SocketState::TimeWait && !self.holders.by_inode.contains_key(&socket.inode)
    }
}

fn probed(rules: &Rules) -> Vec<(Endpoint, Probe)> {
    rules.endpoints.iter().map(|endpoint| (*endpoint, probe(endpoint, rules.reuse_address))).collect()
}

/// Whether these sockets tell why each endpoint is not free.
fn are_explained(probed: &[(Endpoint, Probe)], sockets: &[Socket]) -> bool {
    probed.iter().all(|seen| is_explained(seen, sockets))
}

fn is_explained((endpoint, seen): &(Endpoint, Probe), sockets: &[Socket]) -> bool {
    matches!(seen, Probe::Free | Probe::NotLocal) || sockets.iter().any(|socket| endpoint.is_contested_by(socket))
}

fn waits(socket: &Socket) -> bool {
    socket.state.waits()
}

/// All that wait for somebody, and of the rest what may tell why an endpoint is busy of which none of those does, or is in the way
/// by itself.
fn in_the_way(
    probed: &[(Endpoint, Probe)],
    waiting: Vec<Socket>,
    rest: Vec<Socket>,
    mut beside: Option<Beside<'_>>,
) -> Vec<Socket> {
    let (bound, connected): (Vec<_>, Vec<_>) =
        rest.into_iter().filter(|socket| !waits(socket)).partition(|socket| socket.state == SocketState::Bound);
    let unexplained = |those: &[&[Socket]]| -> Vec<Endpoint> {
        let is_open = |seen: &&(Endpoint, Probe)| !those.iter().any(|sockets| is_explained(seen, sockets));
        probed.iter().filter(is_open).map(|(endpoint, _)| *endpoint).collect()
    };
    let without_bound = unexplained(&[&waiting]);
    let without_both = unexplained(&[&waiting, &bound]);
    let mut is_kept = |socket: &Socket, unexplained: &[Endpoint]| {
        unexplained.iter().any(|endpoint| endpoint.is_contested_by(socket))
            || beside.as_mut().is_some_and(|beside| beside.outlasts(socket))
    };
    let mut all = waiting;
    all.extend(bound.into_iter().filter(|socket| is_kept(socket, &without_bound)));
    all.extend(connected.into_iter().filter(|socket| is_kept(socket, &without_both)));
    all
}

/// Tells which sockets that wait for nobody are in the way by themselves, and not for those that do wait there.
struct Beside<'a> {
    /// Those that are not free for some holder.
    endpoints: Vec<Endpoint>,
    waiting: Addresses,
    reuse_address: bool,
    interrupt: &'a Interrupt,
    /// However many sockets an address has, one of them tells of all.
    known: HashMap<(SocketAddr, Option<String>), bool>,
    /// What is not asked by then counts as in nobody's way.
    until: Instant,
}

impl<'a> Beside<'a> {
    fn new(probed: &[(Endpoint, Probe)], waiting: &[Socket], rules: &Rules, interrupt: &'a Interrupt) -> Self {
        let is_held = |seen: &&(Endpoint, Probe)| !matches!(seen.1, Probe::Free | Probe::NotLocal);
        Self {
            endpoints: probed.iter().filter(is_held).map(|(endpoint, _)| *endpoint).collect(),
            waiting: waiting.iter().collect(),
            reuse_address: rules.reuse_address,
            interrupt,
            known: HashMap::new(),
            until: Instant::now() + PROBING,
        }
    }

    /// At an address of one that waits there it is that one's, or lets others bind as that does: by TCP two are in each other's way
    /// unless both have `SO_REUSEADDR` and neither listens, or both `SO_REUSEPORT` and one user (`inet_csk_bind_conflict()`, Linux
    /// `net/ipv4/inet_connection_sock.c`). Elsewhere a bind tells whether it has that. By UDP each is in the way of whoever has not.
    fn outlasts(&mut self, socket: &Socket) -> bool {
        let is_asked = self.endpoints.iter().any(|endpoint| endpoint.is_contested_by(socket));
        if !is_asked || self.waiting.meet(socket) {
            return false;
        }
        let Self { reuse_address, interrupt, until, .. } = *self;
        let asked = || {
            // Where that is denied it is not known.
            let is_busy = || matches!(probe_beside(socket, reuse_address), Probe::Busy | Probe::Denied);
            !interrupt.has_come() && Instant::now() < until && is_busy()
        };
        socket.protocol == Protocol::Udp
            || *self.known.entry((socket.local, socket.device.clone())).or_insert_with(asked)
    }
}

/// Whether an endpoint that is busy for no process that was seen is not busy any more: its holder ended meanwhile.
fn has_changed(endpoints: &[EndpointScene], rules: &Rules) -> bool {
    endpoints
        .iter()
        .filter(|seen| seen.probe == Probe::Busy && seen.sockets.iter().all(|held| held.holders.is_empty()))
        .any(|seen| probe(&seen.endpoint, rules.reuse_address) != Probe::Busy)
}

fn own_pid() -> Pid {
    Pid(rustix::process::Pid::as_raw(Some(rustix::process::getpid())))
}

/// The protocols and ports that a look is worth.
fn wanted(probed: &[(Endpoint, Probe)]) -> Vec<(Protocol, Port)> {
    let wanted: BTreeSet<(Protocol, Port)> = probed
        .iter()
        .filter(|(_, seen)| *seen != Probe::Free)
        .map(|(endpoint, _)| (endpoint.protocol, endpoint.port))
        .collect();
    wanted.into_iter().collect()
}

/// What the manager says of a process counts where its cgroup names another unit of the system, or none: sessions and
/// the units of users are told more exactly by the cgroup. It never makes a process the guarded unit's: that is the
/// cgroup's word alone.
fn adopt(mut processes: HashMap<Pid, Process>, answer: &Answer, guarded: &UnitName) -> HashMap<Pid, Process> {
    for (pid, process) in &mut processes {
        let Some(unit) = answer.units.get(pid).filter(|unit| *unit != guarded) else { continue };
        match &process.owner {
            Owner::Unit(_) | Owner::Nobody | Owner::Unknown => process.owner = Owner::Unit(unit.clone()),
            Owner::UserUnit { .. } | Owner::Session(_) | Owner::Init => {}
        }
    }
    processes
}

/// The calling user's own. `su` and `sudo -E` keep the variable of who was there before, whose manager and bus would then
/// say whom root is to stop; and in a folder where others may write, a bus can be anybody's.
fn runtime_folder() -> PathBuf {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = || Path::new("/run/user").join(rustix::process::getuid().as_raw().to_string());
    named.filter(|folder| is_own_folder(folder)).unwrap_or_else(own)
}

/// Whether it is a folder of the calling user's, no link to one, in which nobody else may write.
fn is_own_folder(path: &Path) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    let is_own = |found: Metadata| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0;
    path.is_absolute() && path.symlink_metadata().is_ok_and(is_own)
}

/// The folders of this host.
impl Roots {
    /// `user`: for a unit of the calling user's own manager.
    #[must_use]
    pub fn of_host(user: bool) -> Self {
        let run = if user { runtime_folder() } else { PathBuf::from("/run") };
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into(), etc: "/etc".into(), run }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

    use super::fixture::{Cgroup, Child, Role, cgroup2};
    use super::*;
    use crate::judge::judge;
    use crate::model::{ForeignRule, Host, LookalikeRule, StaleRule, StopRules, Verdict};

    fn rules(endpoints: Vec<Endpoint>) -> Rules {
        Rules {
            endpoints,
            reuse_address: true,
            on_stale: StaleRule::Stop,
            on_foreign: ForeignRule::Refuse,
            on_lookalike: LookalikeRule::AsForeign,
            on_blind: crate::model::BlindRule::Allow,
            replaces: Vec::new(),
            wait: None,
            stop: StopRules::default(),
        }
    }

    #[test]
    fn only_a_folder_of_our_own_in_which_nobody_else_may_write_is_a_runtime_folder() {
        use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, mode| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (own, file, link) = (made("own", 0o700), folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "").unwrap();
        symlink(&own, &link).unwrap();
        let others = made("others", 0o700);
        chown(&others, Some(65534), None).unwrap();
        assert!(is_own_folder(&own) && is_own_folder(&made("seen", 0o755)));
        let foreign = [made("as-tmp", 0o1777), made("of-a-group", 0o770), others, file, link, PathBuf::from(".")];
        for path in foreign {
            assert!(!is_own_folder(&path), "{}", path.display());
        }
    }

    fn any(address: SocketAddr, protocol: Protocol) -> Endpoint {
        Endpoint { host: Host::Any, port: Port::new(address.port()).unwrap(), protocol }
    }

    #[test]
    fn a_quick_look_is_none_unless_it_explains_all_with_a_holder_of_each() {
        let cgroup = Cgroup::create("quick");
        let child = Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", cgroup.dir().to_str().unwrap())]);
        let run = tempfile::tempdir().unwrap();
        let roots = Roots { run: run.path().to_owned(), cgroup: cgroup2(), ..Roots::of_host(false) };
        let unit: UnitName = "app.service".parse().unwrap();
        let place = Place::here(roots, &unit, false);
        let look = |endpoints: &[Endpoint]| {
            place.quick_look(&Wanted {
                unit: &unit,
                rules: &rules(endpoints.to_vec()),
                interrupt: &Interrupt::default(),
                closings: None,
            })
        };

        let held = Endpoint { host: Host::Any, port: child.port(), protocol: Protocol::Tcp };
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The port of the one is free for the other.
        let (free, busy_udp) =
            (Endpoint { protocol: Protocol::Udp, ..held }, any(udp.local_addr().unwrap(), Protocol::Udp));
        let seen = look(&[held, free]).unwrap().scene;
        let [of_held, of_free] = &seen.endpoints[..] else { panic!("{seen:?}") };
        let [socket] = &of_held.sockets[..] else { panic!("{seen:?}") };
        assert_eq!((of_held.probe, socket.socket.inode, of_free.probe), (Probe::Busy, child.inode(), Probe::Free));
        assert_eq!(socket.holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [child.pid()]);

        // One by UDP, one at an address where it does not look, too many.
        let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
        assert!(look(&[held, busy_udp]).is_err());
        assert!(look(&[held, any(elsewhere.local_addr().unwrap(), Protocol::Tcp)]).is_err());
        assert!(look(&[held; 17]).is_err());

        // One that no process has open but in a thread with a table of its own.
        let own_table = Child::spawn(Role::OwnTable, &[]);
        let hidden = Endpoint { host: Host::Any, port: own_table.port(), protocol: Protocol::Tcp };
        assert!(look(&[hidden]).is_err() && look(&[held, hidden]).is_err());

        // In another cgroup than that of its birth.
        let later = Cgroup::create("later");
        std::fs::write(later.dir().join("cgroup.procs"), child.pid().to_string()).unwrap();
        let seen = look(&[held]).unwrap().scene;
        assert_eq!(
            seen.endpoints[0].sockets[0].holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(),
            [child.pid()]
        );
        // Before the cgroup that it is in.
        drop(child);
    }

    /// The same place, rules and moment: whatever the quick look has, the full look has as well, and in the same words.
    #[test]
    fn a_quick_look_at_real_listeners_shows_what_a_full_look_shows_of_them() {
        let cgroup = Cgroup::create("both");
        let dir = cgroup.dir().to_str().unwrap();
        let listens = |address: &str| {
            Child::spawn(Role::Listen, &[("PORTGUARD_TEST_CGROUP", dir), ("PORTGUARD_TEST_ADDRESS", address)])
        };
        let run = tempfile::tempdir().unwrap();
        let roots = Roots { run: run.path().to_owned(), cgroup: cgroup2(), ..Roots::of_host(false) };
        let unit: UnitName = "app.service".parse().unwrap();
        let place = Place::here(roots, &unit, false);

        // The second listener has the port of the first. With how many listeners each look has to come back.
        let rows = [
            ("127.0.0.1", None, "any", 1, 1),
            ("0.0.0.0", None, "any", 1, 1),
            ("[::1]", None, "any", 1, 1),
            ("[::]", None, "any", 1, 1),
            ("127.0.0.1", None, "127.0.0.1", 1, 1),
            ("0.0.0.0", None, "127.0.0.1", 1, 1),
            ("[::]", None, "127.0.0.1", 1, 1),
            ("[::]", None, "::1", 1, 1),
            ("[::]", None, "0.0.0.0", 1, 1),
            ("127.0.0.3", None, "127.0.0.3", 1, 1),
            ("127.0.0.1", Some("[::1]"), "any", 2, 2),
            ("127.0.0.1", Some("127.0.0.2"), "any", 1, 2),
            ("127.0.0.1", Some("127.0.0.2"), "0.0.0.0", 1, 2),
        ];
        for (first, second, wanted, in_quick, in_full) in rows {
            let first_child = listens(&format!("{first}:0"));
            let port = first_child.port();
            let _second_child = second.map(|address| listens(&format!("{address}:{port}")));
            let host = if wanted == "any" { Host::Any } else { Host::Ip(wanted.parse().unwrap()) };
            let rules = rules(vec![Endpoint { host, port, protocol: Protocol::Tcp }]);
            let row = format!("{wanted} beside {first} and {second:?}");
            let interrupt = Interrupt::default();
            let wanted = Wanted { unit: &unit, rules: &rules, interrupt: &interrupt, closings: None };
            let quick = place.quick_look(&wanted).unwrap_or_else(|_| panic!("{row}: no quick look"));
            let full = place.look(&wanted, Thorough::IfNobodyFound, false);
            let (seen, all) = (&quick.scene.endpoints[0], &full.scene.endpoints[0]);
            assert_eq!((seen.sockets.len(), all.sockets.len()), (in_quick, in_full), "{row}");
            assert!(seen.sockets.iter().all(|held| held.holders.len() == 1 && all.sockets.contains(held)), "{row}");
            assert_eq!((seen.probe, all.probe), (Probe::Busy, Probe::Busy), "{row}");
            assert_eq!((&quick.scene.guarded, &quick.scene.units), (&full.scene.guarded, &full.scene.units), "{row}");
            assert_eq!(quick.scene.blind_spots, full.scene.blind_spots, "{row}");
            let verdicts = [judge(&quick.scene, &rules), judge(&full.scene, &rules)];
            assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Refuse(_))), "{row}: {verdicts:?}");
            assert!(verdicts[0].findings().iter().all(|finding| verdicts[1].findings().contains(finding)), "{row}");
        }
    }

    #[test]
    fn a_manager_that_says_nothing_takes_nothing_away_but_what_may_have_changed() {
        let unit: UnitName = "app.service".parse().unwrap();
        let place = Place::here(Roots::of_host(false), &unit, false);
        let kept = UnitFacts {
            starting: Some(false),
            main_pid: Some(Pid(7)),
            control_pid: Some(Pid(8)),
            timeout_start: Some(Duration::MAX),
            helpers_may_notify: true,
            triggered_by: vec!["app.socket".parse().unwrap()],
            ended: Some(Duration::from_secs(1)),
            kill_signal: Some(crate::model::Signal(2)),
            send_sighup: Some(true),
            ..UnitFacts::default()
        };
        // Nobody is killed without having been told of, in that very look, as one that may be.
        place.last_said.replace(UnitFacts {
            active: crate::model::ActiveState::Up,
            send_sigkill: Some(true),
            timeout_stop: Some(Duration::ZERO),
            ..kept.clone()
        });
        assert_eq!(place.without_an_answer().unit, kept);
    }

    /// Beside a listener on 127.0.0.1; of one that is bound and does not listen, whether it would be in the way of another.
    #[test]
    fn what_waits_for_nobody_outlasts_a_listener_where_it_is_or_may_be_in_the_way_by_itself() {
        let (listener, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.3:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        let bound = |ip: &str, reuse: bool| {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            setsockopt(&socket, sockopt::ReuseAddr, &reuse).unwrap();
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
            socket
        };
        let _kept = [bound("127.0.0.2", false), bound("127.0.0.4", true)];
        let seen = |protocol, ip: &str, port, state| {
            let local = SocketAddr::new(ip.parse().unwrap(), port);
            let (peer, cgroup, backlog, left) = (None, None, None, None);
            let device = ip.starts_with("fe80").then(|| "lo".to_owned());
            Socket {
                protocol,
                local,
                peer,
                v6only: true,
                state,
                inode: Inode(1),
                uid: 0,
                device,
                cgroup,
                backlog,
                left,
            }
        };
        let waiting = [seen(Protocol::Tcp, "127.0.0.1", port, SocketState::Listen)];
        let own_port = client.local_addr().unwrap().port();
        let rows = [
            ("127.0.0.1", port, SocketState::Connected, false),
            ("127.0.0.1", port, SocketState::Bound, false),
            ("127.0.0.2", port, SocketState::Bound, true),
            ("127.0.0.2", port, SocketState::Connected, true),
            ("127.0.0.2", port, SocketState::TimeWait, true),
            ("::ffff:127.0.0.2", port, SocketState::Connected, true),
            ("127.0.0.4", port, SocketState::Bound, false),
            ("127.0.0.5", port, SocketState::Connected, false),
            ("::ffff:127.0.0.5", port, SocketState::Connected, false),
            // The port of a client, where nobody listens.
            ("127.0.0.1", own_port, SocketState::Connected, true),
            // Of an address that is no more, of a device, and of none.
            ("198.51.100.7", port, SocketState::Connected, false),
            ("2001:db8::7", port, SocketState::Connected, false),
            ("fe80::7", port, SocketState::Connected, false),
        ];
        let (rules, interrupt) = (rules(Vec::new()), Interrupt::default());
        let outlasts = |socket: &Socket, waiting: &[Socket], probe, time| {
            let probed = [(any(socket.local, socket.protocol), probe)];
            let beside = Beside::new(&probed, waiting, &rules, &interrupt);
            Beside { until: Instant::now() + time, ..beside }.outlasts(socket)
        };
        let minute = Duration::from_mins(1);
        for (ip, port, state, expected) in rows {
            let found = outlasts(&seen(Protocol::Tcp, ip, port, state), &waiting, Probe::Busy, minute);
            assert_eq!(found, expected, "{ip}:{port} {state:?}");
        }
        let in_the_way = seen(Protocol::Tcp, "127.0.0.2", port, SocketState::Bound);
        assert!(!outlasts(&in_the_way, &waiting, Probe::Busy, Duration::ZERO), "no time is left");
        assert!(!outlasts(&in_the_way, &waiting, Probe::Free, minute), "nobody is in the way");
        let udp = |state| seen(Protocol::Udp, "127.0.0.3", udp.local_addr().unwrap().port(), state);
        let (connected, waiting) = (udp(SocketState::Connected), [udp(SocketState::Unconnected)]);
        for probe in [Probe::Busy, Probe::Denied] {
            assert!(outlasts(&connected, &[], probe, minute) && !outlasts(&connected, &waiting, probe, minute));
        }
    }

    #[test]
    fn a_manager_can_take_a_process_away_from_a_unit_and_never_give_it_to_the_guarded_one() {
        let of = |owner: &Owner, answer: &str| {
            let process = Process {
                pid: Pid(7),
                start: crate::model::StartTime(1),
                uid: 0,
                comm: String::new(),
                exe: None,
                argv: Vec::new(),
                cgroup: None,
                owner: owner.clone(),
                invocation: crate::model::Invocation::Absent,
                terminal: None,
                program: None,
                folders: None,
                container: None,
                lineage: Lineage::Other,
            };
            let units = HashMap::from([(Pid(7), answer.parse().unwrap())]);
            let guarded = "app.service".parse().unwrap();
            adopt(HashMap::from([(Pid(7), process)]), &Answer { units, ..Answer::default() }, &guarded)[&Pid(7)]
                .owner
                .clone()
        };
        let session = Owner::Session(crate::model::Session { id: "1".to_owned() });
        assert_eq!(of(&session, "user@0.service"), session);
        assert_eq!(of(&Owner::Nobody, "web.service"), Owner::Unit("web.service".parse().unwrap()));
        // What is the guarded unit's is for its cgroup to say.
        let web = Owner::Unit("web.service".parse().unwrap());
        assert_eq!(of(&web, "app.service"), web);
        assert_eq!(of(&Owner::Nobody, "app.service"), Owner::Nobody);
    }
}
