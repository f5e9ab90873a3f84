use zbus::Message;
use zbus::names::OwnedErrorName;

use super::*;

const MOMENT: Duration = Duration::from_millis(100);

/// What a call came back with, as it is told to the operator; `None` where nobody has answered it.
fn told(error: &zbus::Error) -> Option<String> {
    match refused(error) {
        BusError::Stop(error) => Some(error.to_string()),
        BusError::NotReached => None,
    }
}

fn method_error(text: Option<&str>) -> zbus::Error {
    let name = OwnedErrorName::try_from("org.freedesktop.systemd1.TransactionJobsConflicting").unwrap();
    let reply = Message::method_call("/", "StopUnit").build(&()).unwrap();
    zbus::Error::MethodError(name, text.map(str::to_owned), reply)
}

#[test]
fn what_systemd_answers_is_told_in_its_own_words() {
    let told_text = told(&method_error(Some("Transaction contains conflicting jobs")));
    assert_eq!(told_text.as_deref(), Some("systemd does not stop it: Transaction contains conflicting jobs"));
    let told_name = told(&method_error(None)).unwrap();
    assert!(told_name.ends_with("org.freedesktop.systemd1.TransactionJobsConflicting"), "{told_name}");
    let denied = zbus::fdo::Error::AccessDenied("not you".to_owned());
    assert!(told(&zbus::Error::FDO(Box::new(denied))).unwrap().contains("not you"));
}

/// systemd may be busy, and queue the job later: `systemctl` is asked then.
#[test]
fn no_answer_in_time_is_none() {
    let errors: [fn(String) -> zbus::fdo::Error; 3] =
        [zbus::fdo::Error::NoReply, zbus::fdo::Error::Timeout, zbus::fdo::Error::TimedOut];
    for error in errors {
        assert_eq!(told(&zbus::Error::FDO(Box::new(error(String::new())))), None);
    }
    assert_eq!(told(&zbus::Error::InvalidReply), None);
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

#[test]
fn what_is_told_is_waited_for_until_the_deadline_and_no_longer() {
    let (send, told) = mpsc::channel();
    let began = Instant::now();
    let heard = told_by(&told, began + MOMENT * 3, &Interrupt::default());
    assert!(heard.is_none() && began.elapsed() >= MOMENT * 3);
    // More than one turn of looking whether something is to end us.
    let later = std::thread::spawn(move || {
        std::thread::sleep(MOMENT * 2);
        send.send(Told::Queued).unwrap();
    });
    let heard = told_by(&told, Instant::now() + MOMENT * 200, &Interrupt::default());
    assert!(matches!(heard, Some(Told::Queued)));
    later.join().unwrap();
    // Whoever was to tell is gone.
    let began = Instant::now();
    assert!(told_by(&told, began + MOMENT * 200, &Interrupt::default()).is_none());
    assert!(began.elapsed() < MOMENT * 100);
}

/// In a process of its own, as the mask is its first thread's.
#[test]
fn whoever_is_to_end_waits_for_nothing_more() {
    let Some(us) = crate::sys::fork().unwrap() else {
        let interrupt = Interrupt::listen();
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
        let (_send, told) = mpsc::channel();
        let began = Instant::now();
        let heard = told_by(&told, began + MOMENT * 300, &interrupt);
        std::process::exit(if heard.is_none() && began.elapsed() < MOMENT * 100 { 7 } else { 1 });
    };
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(us.0), None).unwrap();
    assert!(matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 7)), "{ended:?}");
}
