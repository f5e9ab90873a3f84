//! The problem and its solution, told by a real systemd in under ten seconds: `cargo test --test demo`.
//!
//! `-- --release NAME` or `PORTGUARD_DEMO_RELEASE=NAME` tells it on another release than bookworm. It fails where the
//! story does not happen as told.

#[path = "lab/cgroups.rs"]
mod cgroups;
#[path = "lab/image.rs"]
mod image;
#[path = "lab/machine.rs"]
#[expect(dead_code, reason = "the demo needs less of a machine than the scenarios do")]
mod machine;

use std::env;
use std::time::Duration;

use crate::image::{Image, Release};
use crate::machine::{Hierarchy, Machine};

const APP: &str = "app.service";

const SERVICE: &str = "\
[Service]
Type=notify
KillMode=process
ExecStart=/usr/bin/python3 /opt/lab/app.py 8080/tcp
";

const POLICY: &str = "\
[unit.\"app.service\"]
ports = [\"8080/tcp\"]
";

const DROP_IN: &str = "\
[Service]
ExecStartPre=+/usr/bin/portguard --unit %n
";

fn main() -> Result<(), String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    // `cargo test -- --list` asks every test program for its tests.
    if arguments.iter().any(|argument| argument == "--list") {
        println!("demo: test");
        return Ok(());
    }
    let release = chosen_release(&arguments)?;
    println!("Booting a Debian {} with systemd {} …\n", release.name, release.systemd);
    let machine = Machine::boot(release, Image::Bare, Hierarchy::Unified)?;

    let leftover = a_service_and_its_leftover(&machine);
    without_a_guard(&machine);
    with_the_guard(&machine, leftover);
    Ok(())
}

fn chosen_release(arguments: &[String]) -> Result<&'static Release, String> {
    let by_argument = arguments.iter().skip_while(|argument| *argument != "--release").nth(1).cloned();
    let by_environment = env::var("PORTGUARD_DEMO_RELEASE").ok();
    let name = by_argument.or(by_environment).unwrap_or_else(|| "bookworm".to_owned());
    let release = image::RELEASES.iter().find(|release| release.name == name);
    release.ok_or_else(|| format!("the lab knows no release named {name}"))
}

fn a_service_and_its_leftover(machine: &Machine) -> u32 {
    println!("A service with a worker that inherits its socket. systemd is told to stop the main process only:\n");
    show("/etc/systemd/system/app.service", SERVICE);
    machine.unit(APP, SERVICE);
    machine.ok("systemctl start app.service");
    let main = machine.main_pid(APP);
    let worker = machine.processes_of(APP).into_iter().find(|&pid| pid != main);
    let worker = worker.expect("app.service has a worker");
    println!("It is up: main process {main}, worker {worker}.\n");
    worker
}

fn without_a_guard(machine: &Machine) {
    println!("# systemctl restart app.service");
    let restart = machine.restart(APP);
    let journal = machine.journal(APP);
    print!("{}", restart.stderr);
    show("journalctl -u app.service", &journal);
    assert!(!restart.status.success(), "the restart should have failed");
    assert!(journal.contains("Address already in use"), "the service should have died of its leftover");
    println!("The worker of the run before still has the port. Every further start would end like this one.\n");
}

fn with_the_guard(machine: &Machine, leftover: u32) {
    println!("Now portguard goes first. It is told which port the service needs, and nothing else:\n");
    show("/etc/portguard/portguard.toml", POLICY);
    show("/etc/systemd/system/app.service.d/portguard.conf", DROP_IN);
    machine.write("/etc/portguard/portguard.toml", POLICY);
    machine.unit("app.service.d/portguard.conf", DROP_IN);
    let before = machine.journal(APP).lines().count();

    println!("# systemctl restart app.service");
    let restart = machine.restart(APP);
    print!("{}", restart.stderr);
    let journal = machine.journal(APP);
    let news: Vec<_> = journal.lines().skip(before).collect();
    show("journalctl -u app.service", &news.join("\n"));
    assert!(restart.status.success(), "the restart should have succeeded");
    assert!(!machine.guard_entries(APP).is_empty(), "portguard should have said what it did");
    machine.wait_until("the leftover is gone", Duration::from_secs(10), || !machine.alive(leftover));
    let holders = machine.holders("8080/tcp");
    assert!(holders.contains(&machine.main_pid(APP)), "the new main process should have the port");
    println!("The leftover {leftover} is gone, the service is up, and 8080/tcp is held by {holders:?}.");
}

/// Prints a file or a log below its name, set off from the story.
fn show(name: &str, text: &str) {
    println!("    --- {name}");
    for line in text.lines() {
        println!("    {line}");
    }
    println!();
}
