//! What becomes of real processes, each a child of the test.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::model::{CgroupPath, FileId, Lineage, Owner};
use crate::observe::fixture::{Cgroup, Child, NOBODY, Role, assert_holds_in_a_process_of_its_own, is_alone, own_pid};
use crate::observe::holders::SoFar;
use crate::observe::pin::Pins;
use crate::observe::proc;
use crate::observe::sock_diag::Awaited;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(300);
const TERM: Signal = Signal(Known::SIGTERM as i32);
const KILL: Signal = Signal(Known::SIGKILL as i32);
const PROC: &str = "/proc";

/// Children that were judged, and pinned before.
struct Judged {
    children: Vec<Child>,
    pins: Pins,
    processes: Vec<Process>,
}

impl Judged {
    fn new(children: Vec<Child>) -> Self {
        let mut pins = Pins::default();
        let mut judge = |child: &Child| {
            assert!(pins.add(child.pid()));
            let facts = proc::process(Path::new(PROC), child.pid()).unwrap().unwrap();
            facts.into_process(Owner::Nobody, None, Lineage::Other)
        };
        let processes = children.iter().map(&mut judge).collect();
        Self { children, pins, processes }
    }

    fn one(role: Role) -> Self {
        Self::new(vec![Child::spawn(role, &[])])
    }

    fn pidfd(&self, nth: usize) -> BorrowedFd<'_> {
        self.pins.of(self.processes[nth].pid).unwrap()
    }

    fn lives(&self) -> bool {
        !has_ended(self.pidfd(0))
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let all = self.processes.iter().zip(&self.children);
        all.map(|(process, child)| Target {
            process,
            pidfd: self.pins.of(process.pid),
            inodes: vec![child.inode()],
            by_argv: false,
        })
        .collect()
    }

    /// What `stop` comes to, and what it says meanwhile, a letter a step: `T`, `H` and `K` for those signals.
    fn stop(&self, ladder: &Ladder, tell: impl FnMut(&Step<'_>)) -> (Count, String) {
        self.stop_targets(&self.targets(), None, ladder, tell)
    }

    fn stop_targets(
        &self,
        targets: &[Target<'_>],
        closings: Option<&Closings>,
        ladder: &Ladder,
        mut tell: impl FnMut(&Step<'_>),
    ) -> (Count, String) {
        let mut said = String::new();
        let mut asked = Vec::new();
        let interrupt = Interrupt::default();
        let eyes = Eyes { closings, interrupt: &interrupt };
        let so_far = SoFar::default();
        let mut again = Again::new(Path::new(PROC), &interrupt, &so_far);
        let budget = Budget { patience: ladder.patience, grace: SECOND * 10, extend: None };
        let mut hear = |step: &Step<'_>| {
            let word = match step {
                Step::Signal { signal, .. } => signal.to_string().chars().nth(3).unwrap().to_string(),
                Step::SignalMore { processes, .. } => format!(" and {} more ", processes.len()),
                Step::Ended { .. } => "e".to_owned(),
                Step::EndedMore { count, .. } => format!(" and {count} more"),
                Step::LetGo { .. } => "l".to_owned(),
                Step::Changed { why, .. } => format!(" {why}"),
                Step::ChangedMore { count } => format!(" and {count} more changed"),
                Step::StopUnit { .. } | Step::UnitStopped { .. } => panic!("{step:?}"),
            };
            said.push_str(&word);
            tell(step);
        };
        let count = stop(targets, &eyes, &mut again, ladder, &budget, &mut asked, &mut hear).unwrap();
        // Whoever was named was signalled, and nobody else was.
        let signalled = said.contains(['T', 'H', 'K']);
        let all: BTreeSet<Pid> = self.processes.iter().map(|process| process.pid).collect();
        let asked: BTreeSet<Pid> = asked.into_iter().collect();
        assert_eq!(asked, if signalled { all } else { BTreeSet::new() }, "{said}");
        (count, said)
    }
}

const GENTLE: Ladder = Ladder { first: TERM, hangup: false, patience: MOMENT, last: None };
const WHOLE: Ladder = Ladder { last: Some(KILL), ..GENTLE };

#[test]
fn whoever_ignores_the_first_signal_is_killed_when_its_time_is_over_and_not_before() {
    let deaf = Judged::one(Role::Deaf);
    let began = Instant::now();
    assert_eq!(deaf.stop(&GENTLE, |_| ()), (Count { ended: 0, alive: 1 }, "T".to_owned()));
    assert!(began.elapsed() >= MOMENT && deaf.lives());
    assert_eq!(deaf.stop(&WHOLE, |_| ()), (Count { ended: 1, alive: 0 }, "TKe".to_owned()));
    assert!(began.elapsed() >= MOMENT * 2 && !deaf.lives());
}

#[test]
fn a_hangup_follows_the_first_signal_where_the_unit_has_it_so() {
    let deaf = Judged::one(Role::Deaf);
    let ladder = Ladder { hangup: true, patience: SECOND * 10, ..GENTLE };
    assert_eq!(deaf.stop(&ladder, |_| ()), (Count { ended: 1, alive: 0 }, "THe".to_owned()));
}

#[test]
fn a_stopped_process_is_let_go_on_so_that_it_sees_its_signal() {
    let stopped = Judged::one(Role::Listen);
    pidfd_send_signal(stopped.pidfd(0), rustix::process::Signal::STOP).unwrap();
    let stat = format!("{PROC}/{}/stat", stopped.processes[0].pid);
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::yield_now();
    }
    let ladder = Ladder { patience: SECOND * 10, ..GENTLE };
    assert_eq!(stopped.stop(&ladder, |_| ()), (Count { ended: 1, alive: 0 }, "Te".to_owned()));
}

#[test]
fn whoever_lets_go_of_its_socket_may_live_on() {
    let server = Judged::one(Role::LetsGo);
    let ladder = Ladder { patience: SECOND * 10, ..WHOLE };
    let began = Instant::now();
    assert_eq!(server.stop(&ladder, |_| ()), (Count { ended: 1, alive: 0 }, "Tl".to_owned()));
    assert!(began.elapsed() < ladder.patience && server.lives());
    let again = server.stop(&ladder, |_| ());
    assert_eq!(again, (Count { ended: 0, alive: 0 }, " it has let go of the socket".to_owned()));
}

/// Where that can be heard, no clock wakes the wait in between.
#[test]
fn whoever_lets_go_of_its_socket_is_known_by_the_kernels_word() {
    let server = Judged::one(Role::LetsGo);
    let closings =
        Closings::of(Awaited { sockets: [server.children[0].socket()].into(), ..Awaited::default() }).unwrap();
    let ladder = Ladder { patience: SECOND * 10, ..WHOLE };
    let began = Instant::now();
    let stopped = server.stop_targets(&server.targets(), Some(&closings), &ladder, |_| ());
    assert_eq!(stopped, (Count { ended: 1, alive: 0 }, "Tl".to_owned()));
    assert!(began.elapsed() < LOOK_AFTER && server.lives());
}

/// As where others have the socket as well.
#[test]
fn whoever_ends_is_known_to_at_once_though_no_end_of_a_socket_is_told() {
    let server = Judged::one(Role::Listen);
    let closings = Closings::of(Awaited::default()).unwrap();
    let ladder = Ladder { patience: SECOND * 10, ..WHOLE };
    let began = Instant::now();
    let stopped = server.stop_targets(&server.targets(), Some(&closings), &ladder, |_| ());
    assert_eq!(stopped, (Count { ended: 1, alive: 0 }, "Te".to_owned()));
    assert!(began.elapsed() < LOOK_AFTER);
}

/// On a machine that is busy it can take longer than it gets, but not again and again.
#[test]
fn whoever_lets_go_of_its_socket_as_it_ends_is_said_to_have_ended() {
    let ladder = Ladder { patience: SECOND * 10, ..WHOLE };
    let ends = || {
        let server = Judged::one(Role::LetsGoAndEnds);
        let closings =
            Closings::of(Awaited { sockets: [server.children[0].socket()].into(), ..Awaited::default() }).unwrap();
        let (count, said) = server.stop_targets(&server.targets(), Some(&closings), &ladder, |_| ());
        assert_eq!(count, Count { ended: 1, alive: 0 });
        said == "Te"
    };
    assert!((0..10).any(|_| ends()));
}

/// Otherwise it would be killed for what it was a minute and a half before.
#[test]
fn a_process_that_moves_after_the_first_signal_is_not_killed() {
    let deaf = Judged::one(Role::Deaf);
    let elsewhere = Cgroup::create("moved");
    let pid = deaf.processes[0].pid;
    let (count, said) = deaf.stop(&WHOLE, |step| {
        if matches!(step, Step::Signal { .. }) {
            std::fs::write(elsewhere.dir().join("cgroup.procs"), pid.to_string()).unwrap();
        }
    });
    assert_eq!((count, said.as_str()), (Count { ended: 0, alive: 0 }, "T it has moved to another cgroup"));
    assert!(deaf.lives());
    drop(deaf);
}

#[test]
fn twenty_are_named_each_and_all_are_signalled() {
    let crowd = Judged::new((0..NAMED + 2).map(|_| Child::spawn(Role::Listen, &[])).collect());
    let ladder = Ladder { patience: SECOND * 20, ..GENTLE };
    let (count, said) = crowd.stop(&ladder, |_| ());
    assert_eq!(count, Count { ended: NAMED + 2, alive: 0 });
    // Some are gone before the others are looked at; in what order is theirs.
    assert_eq!(said, format!("{} and 2 more {} and 2 more", "T".repeat(NAMED), "e".repeat(NAMED)));
}

/// In a process of its own, which sees all that nobody has (by its uid for files), and may signal none of it.
#[test]
fn whoever_may_not_be_signalled_is_not_said_to_be() {
    const SOMEBODY: u32 = 65533;
    if !is_alone() {
        return;
    }
    let judged = Judged::one(Role::ListenAsNobody);
    assert_holds_in_a_process_of_its_own(|| {
        let (somebody, nobody) = (SOMEBODY.into(), NOBODY.into());
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
        nix::unistd::setresuid(somebody, somebody, nobody).unwrap();
        nix::unistd::setfsuid(nobody);
        let interrupt = Interrupt::default();
        let eyes = Eyes { closings: None, interrupt: &interrupt };
        let so_far = SoFar::default();
        let mut again = Again::new(Path::new(PROC), &interrupt, &so_far);
        let budget = Budget { patience: MOMENT, grace: SECOND, extend: None };
        let mut said = 0;
        let targets = judged.targets();
        let stopped = stop(&targets, &eyes, &mut again, &WHOLE, &budget, &mut Vec::new(), &mut |_| said += 1);
        let is_right = matches!(stopped, Err(ActError::NotPermitted(pid)) if pid == judged.processes[0].pid);
        assert!(is_right && said == 0, "{stopped:?}, {said}");
    });
}

/// Its other files are its own; its environment is one that nobody writes, so that whoever opens it waits. Alone, as what is lost
/// is lost for the whole process.
#[test]
fn whoever_has_a_memory_that_cannot_be_read_any_more_is_not_signalled_unless_it_was_judged_so() {
    if !is_alone() {
        return;
    }
    let mut judged = Judged::one(Role::Listen);
    let folder = tempfile::tempdir().unwrap();
    let (pid, dir) = (judged.processes[0].pid, folder.path().join(judged.processes[0].pid.to_string()));
    std::fs::create_dir(&dir).unwrap();
    for name in ["stat", "status", "cgroup", "cmdline", "exe", "cwd", "root", "fd", "task"] {
        std::os::unix::fs::symlink(format!("{PROC}/{pid}/{name}"), dir.join(name)).unwrap();
    }
    nix::unistd::mkfifo(&dir.join("environ"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (interrupt, so_far) = (Interrupt::default(), SoFar::default());
    let why = |judged: &Judged| {
        let mut again = Again::new(folder.path(), &interrupt, &so_far);
        match verify(&judged.targets()[0], &mut again).unwrap() {
            Now::Same(_) => None,
            Now::Changed(why) => Some(why),
            Now::Gone => Some("gone"),
        }
    };
    assert_eq!(why(&judged), Some(UNSEEN));
    judged.processes[0].invocation = crate::model::Invocation::Unreadable;
    assert_eq!(why(&judged), None);
}

/// What others have cost counts for no one that is to be signalled.
#[test]
fn a_process_is_read_again_though_all_that_others_get_was_lost_before() {
    if !is_alone() {
        return;
    }
    let judged = Judged::one(Role::Listen);
    crate::word::wait_was_in_vain(crate::word::MORE_PATIENCE);
    let ladder = Ladder { patience: SECOND * 10, ..GENTLE };
    assert_eq!(judged.stop(&ladder, |_| ()), (Count { ended: 1, alive: 0 }, "Te".to_owned()));
}

#[test]
fn twenty_that_have_changed_are_named_each() {
    let mut crowd = Judged::new((0..NAMED + 2).map(|_| Child::spawn(Role::Listen, &[])).collect());
    for process in &mut crowd.processes {
        process.uid += 1;
    }
    let (count, said) = crowd.stop(&GENTLE, |_| ());
    let each = " its user has changed".repeat(NAMED);
    assert_eq!((count, said), (Count { ended: 0, alive: 0 }, format!("{each} and 2 more changed")));
}

#[test]
fn one_of_two_that_lives_on_is_counted_as_such() {
    let both = Judged::new(vec![Child::spawn(Role::Listen, &[]), Child::spawn(Role::Deaf, &[])]);
    assert_eq!(both.stop(&GENTLE, |_| ()), (Count { ended: 1, alive: 1 }, "TTe".to_owned()));
}

#[test]
fn arguments_and_folders_count_for_those_that_are_stopped_for_them() {
    let changes: [fn(&mut Process); 2] = [
        |process| process.argv.push("more".to_owned()),
        |process| process.folders = Some((FileId { device: 0, inode: 0 }, FileId { device: 0, inode: 0 })),
    ];
    for change in changes {
        let mut judged = Judged::one(Role::Listen);
        change(&mut judged.processes[0]);
        let by_argv: Vec<_> = judged.targets().into_iter().map(|target| Target { by_argv: true, ..target }).collect();
        let (count, said) = judged.stop_targets(&by_argv, None, &GENTLE, |_| ());
        assert_eq!((count, said.as_str()), (Count { ended: 0, alive: 0 }, " it runs another program now"));
        let (count, _) = judged.stop(&Ladder { patience: SECOND * 10, ..GENTLE }, |_| ());
        assert_eq!(count, Count { ended: 1, alive: 0 });
    }
}

#[test]
fn whoever_waits_for_one_is_woken_by_its_end_and_by_nothing_else() {
    let child = Judged::one(Role::Listen);
    let wait = |patience| {
        let began = Instant::now();
        let seen = wait_for_one(&[child.pidfd(0)], None, &Interrupt::default(), patience).unwrap();
        (seen, began.elapsed())
    };
    let (seen, took) = wait(MOMENT);
    assert!(!seen && took >= MOMENT, "{took:?}");
    pidfd_send_signal(child.pidfd(0), rustix::process::Signal::KILL).unwrap();
    let (seen, took) = wait(SECOND * 20);
    assert!(seen && took < SECOND * 10, "{took:?}");
}

/// Other sockets of the host end all the time: in this very test.
#[test]
fn whoever_waits_for_a_port_is_woken_by_the_end_of_its_socket_and_of_no_other() {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (wanted, other) = (listen(), listen());
    let socket = (crate::model::Protocol::Tcp, wanted.local_addr().unwrap());
    let closings = Closings::of(Awaited { sockets: [socket].into(), ..Awaited::default() }).unwrap();
    let wait = |closed: TcpListener, patience| {
        let later = std::thread::spawn(move || {
            std::thread::sleep(MOMENT / 3);
            drop(closed);
        });
        let began = Instant::now();
        let seen = wait_for_one(&[], Some(&closings), &Interrupt::default(), patience).unwrap();
        later.join().unwrap();
        (seen, began.elapsed())
    };
    let (seen, took) = wait(other, MOMENT);
    assert!(!seen && took >= MOMENT, "{took:?}");
    let (seen, took) = wait(wanted, SECOND * 20);
    assert!(seen && took < SECOND * 10, "{took:?}");
}

#[test]
fn a_holder_is_there_only_as_it_was_judged() {
    let judged = Judged::one(Role::Listen);
    let (process, inode) = (&judged.processes[0], judged.children[0].inode());
    let (interrupt, so_far) = (Interrupt::default(), SoFar::default());
    let again = RefCell::new(Again::new(Path::new(PROC), &interrupt, &so_far));
    let holds = |process: &Process, pidfd, inode| still_holds(process, pidfd, &[inode], &mut again.borrow_mut());
    assert!(holds(process, Ok(judged.pidfd(0)), inode));
    assert!(!holds(process, Ok(judged.pidfd(0)), Inode(u64::MAX)), "another socket");
    assert!(!holds(process, Err(Errno::NOSYS), inode), "no pidfd");
    let moved = Process { cgroup: Some(CgroupPath("/elsewhere".to_owned())), ..process.clone() };
    assert!(!holds(&moved, Ok(judged.pidfd(0)), inode), "another cgroup");
    // The number of one that has ended is another's: here, for the sake of a number that is there, our own.
    let gone = Judged::one(Role::Listen);
    pidfd_send_signal(gone.pidfd(0), rustix::process::Signal::KILL).unwrap();
    assert!(wait_for_one(&[gone.pidfd(0)], None, &Interrupt::default(), SECOND * 20).unwrap());
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let own_inode = Inode(nix::sys::stat::fstat(&own).unwrap().st_ino);
    let ourselves = Process { pid: own_pid(), ..process.clone() };
    assert!(!holds(&ourselves, Ok(gone.pidfd(0)), own_inode), "it has ended");
    assert!(holds(&ourselves, Ok(judged.pidfd(0)), own_inode));
}

#[test]
fn errors_say_what_could_not_be_done_and_for_what_reason() {
    use std::error::Error as _;
    for (error, words, has_source) in [
        (ActError::NoPidfd(Errno::NOSYS), "processes cannot be pinned here", true),
        (ActError::NotPermitted(Pid(7)), "pid 7 may not be signalled by this user", false),
        (ActError::Wait(Errno::INVAL), "waiting for processes to end", true),
        (ActError::Signal(Signal(99)), "there is no ", false),
    ] {
        assert!(error.to_string().starts_with(words), "{error}");
        assert_eq!(error.source().is_some(), has_source, "{error:?}");
    }
}

#[test]
fn a_stop_that_would_end_with_the_start_is_cut_short() {
    let fit = |left| Budget::fit(SECOND * 85, Some(SECOND * left), false);
    assert_eq!(fit(91), Budget { patience: SECOND * 85, grace: Budget::GRACE, extend: None });
    assert_eq!(fit(90).patience, SECOND * 80);
    // More time is asked for only where it is needed.
    assert_eq!(Budget::fit(SECOND * 85, Some(SECOND * 200), true).extend, None);
}
