use std::os::unix::net::UnixListener;

use zbus::Message;
use zbus::names::OwnedErrorName;

use super::*;
use crate::observe::fixture::{assert_holds_in_a_process_of_its_own, is_alone};

/// What a call came back with, as it is told to the operator.
fn told(error: &zbus::Error) -> String {
    not_queued(error).to_string()
}

fn method_error(text: Option<&str>) -> zbus::Error {
    let name = OwnedErrorName::try_from("org.freedesktop.systemd1.TransactionJobsConflicting").unwrap();
    let reply = Message::method_call("/", "StopUnit").build(&()).unwrap();
    zbus::Error::MethodError(name, text.map(str::to_owned), reply)
}

#[test]
fn what_systemd_answers_is_told_in_its_own_words() {
    let told_text = told(&method_error(Some("Transaction contains conflicting jobs")));
    assert_eq!(told_text, "systemd does not stop it: Transaction contains conflicting jobs");
    let told_name = told(&method_error(None));
    assert!(told_name.ends_with("org.freedesktop.systemd1.TransactionJobsConflicting"), "{told_name}");
    let denied = zbus::fdo::Error::AccessDenied("not you".to_owned());
    assert!(told(&zbus::Error::FDO(Box::new(denied))).contains("not you"));
}

#[test]
fn a_stop_that_did_not_come_about_says_why() {
    for (error, words) in [
        (StopError::Refused("x".to_owned()), "systemd does not stop it: x"),
        (StopError::Failed("x".to_owned()), "systemd could not stop it: x"),
        (StopError::Late, "systemd has not stopped it in time"),
    ] {
        assert_eq!(error.to_string(), words);
    }
}

/// What a stop comes to in a process of its own, over a bus that takes connections and says nothing, where SIGTERM
/// comes so long after its beginning; and whether it was called at all.
fn interrupted_after(wait: Duration) -> (Result<(), StopError>, bool) {
    let folder = tempfile::tempdir().unwrap();
    let bus = UnixListener::bind(folder.path().join("bus")).unwrap();
    bus.set_nonblocking(true).unwrap();
    let interrupt = Interrupt::listen();
    let come = move || {
        std::thread::sleep(wait);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
    };
    if wait.is_zero() {
        come();
    } else {
        std::thread::spawn(come);
    }
    let unit = "old.service".parse().unwrap();
    let result = stop(&unit, Scope::User, folder.path(), true, Duration::from_secs(30), &interrupt);
    (result, bus.accept().is_ok())
}

#[test]
fn nothing_is_asked_for_once_we_are_to_end() {
    if !is_alone() {
        return;
    }
    for (wait, called) in [(Duration::ZERO, false), (Duration::from_millis(200), true)] {
        assert_holds_in_a_process_of_its_own(|| {
            assert_eq!(interrupted_after(wait), (Err(StopError::NotAsked), called), "{wait:?}");
        });
    }
}

/// Then `systemctl` is asked.
#[test]
fn a_bus_that_is_gone_since_or_says_nothing_is_not_asked_for_a_stop() {
    let (gone, silent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _bus = UnixListener::bind(silent.path().join("bus")).unwrap();
    for (run, least) in [(gone, Duration::ZERO), (silent, PATIENCE)] {
        let (unit, begin) = ("old.service".parse().unwrap(), Instant::now());
        let deadline = begin + Duration::from_secs(30);
        let told = stop_over_bus(&unit, Scope::User, run.path(), deadline, &Interrupt::default());
        let took = begin.elapsed();
        assert!(told.is_none() && took >= least && took < least + Duration::from_secs(10), "{told:?} after {took:?}");
    }
}

#[test]
fn what_is_lost_after_it_was_asked_for_is_no_refusal() {
    use zbus::fdo::Error;
    let fdo = |error| not_queued(&zbus::Error::FDO(Box::new(error)));
    for lost in [Error::NoReply(String::new()), Error::TimedOut(String::new()), Error::Disconnected(String::new())] {
        let shown = lost.to_string();
        assert!(matches!(fdo(lost), StopError::Unclear(_)), "{shown}");
    }
    assert!(matches!(fdo(Error::AccessDenied(String::new())), StopError::Refused(_)));
    let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert!(matches!(not_queued(&broken.into()), StopError::Unclear(_)));
}

#[test]
fn what_systemctl_says_tells_a_lost_answer_from_a_refusal() {
    let told = |why: &str| match not_stopped(why.to_owned()) {
        StopError::Unclear(_) => "unclear",
        StopError::Refused(_) => "refused",
        StopError::Failed(_) => "failed",
        StopError::Late | StopError::NotAsked => "else",
    };
    for (why, expected) in [
        ("Failed to stop old.service: Connection reset by peer", "unclear"),
        ("Failed to wait for response: Connection reset by peer", "unclear"),
        ("Failed to stop old.service: Message recipient disconnected from message bus without replying", "unclear"),
        ("systemctl ended with signal: 15 (SIGTERM)", "unclear"),
        ("Failed to connect to bus: Connection refused", "refused"),
        (
            "Failed to stop old.service: Operation refused, unit old.service may be requested by dependency only",
            "refused",
        ),
        ("Job for old.service canceled.", "failed"),
    ] {
        assert_eq!(told(why), expected, "{why}");
    }
}
