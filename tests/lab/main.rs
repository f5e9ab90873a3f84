//! The lab: every scenario on every systemd that portguard promises to work with, and those that only the kernel matters to on two.
//!
//! A trial is one scenario on one release, in a machine of its own that nobody has used before: a real systemd as
//! PID 1 with its journal, D-Bus and logind, booted by systemd-nspawn. Nothing is mocked, and nothing is skipped: a
//! lab that cannot be had fails every trial, with the reason and what to install.
//!
//! `PORTGUARD_UNDER_TEST=/path/to/binary` tests another binary; `PORTGUARD_UNDER_TEST=true` puts `/bin/true` in its
//! place, with which every scenario must fail: a test that passes without a guard tests nothing.

mod cgroups;
mod image;
mod machine;
mod scenarios;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Condvar, Mutex};
use std::thread;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::image::{Image, Release};
use crate::machine::{Hierarchy, Machine};
use crate::scenarios::Scenario;

/// Scenarios mostly wait for a systemd, so there are two machines a core; more than this only wait for each other.
const MOST_MACHINES_AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let machines = *args.test_threads.get_or_insert((2 * cores).min(MOST_MACHINES_AT_ONCE));
    *FREE_TURNS.lock().expect("it is new") = (machines / 2).max(1);

    let trials = trials();
    assert!(!trials.is_empty(), "the lab has no trial: that is no success");

    // A panic is reported once, by `run_in_a_fresh_machine`, together with the machine's journal.
    panic::set_hook(Box::new(|info| {
        LAST_PANIC.with_borrow_mut(|last| *last = info.to_string());
    }));
    let listing = args.list;
    let conclusion = libtest_mimic::run(&args, trials);
    if !listing && conclusion.num_passed + conclusion.num_failed == 0 {
        eprintln!("no scenario has run: that is no success");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Crowds come last, as there are fewer of them at once.
fn trials() -> Vec<Trial> {
    let unified = Hierarchy::Unified;
    let bare = on_each(all_releases, scenarios::ALL, Image::Bare, unified);
    let stocked = on_each(all_releases, scenarios::WITH_SOFTWARE, Image::Stocked, unified);
    let hybrid = on_each(with_cgroup_v1, scenarios::ON_HYBRID_CGROUPS, Image::Bare, Hierarchy::Hybrid);
    let legacy = on_each(with_cgroup_v1, scenarios::ON_LEGACY_CGROUPS, Image::Bare, Hierarchy::Legacy);
    let kernels = on_each(old_and_newest, scenarios::OF_THE_KERNEL, Image::Bare, unified);
    let most = bare.chain(stocked).chain(hybrid).chain(legacy).chain(kernels).map(|(name, run)| Trial::test(name, run));
    let kernels_crowds = on_each(old_and_newest, scenarios::WITH_A_CROWD_OF_THE_KERNEL, Image::Bare, unified);
    let crowds = on_each(all_releases, scenarios::WITH_A_CROWD, Image::Bare, unified).chain(kernels_crowds);
    let crowds = crowds.map(|(name, run)| {
        let in_turn = move || {
            let _turn = Turn::wait();
            run()
        };
        Trial::test(name, in_turn)
    });
    most.chain(crowds).collect()
}

fn all_releases(_: &Release) -> bool {
    true
}

/// Since 256, systemd refuses to boot with cgroup v1 (its NEWS).
fn with_cgroup_v1(release: &Release) -> bool {
    release.systemd < 256
}

fn old_and_newest(release: &Release) -> bool {
    ["bookworm", "forky"].contains(&release.name)
}

/// These scenarios on each of these releases, each with its name. Every release begins with another of them: what waits
/// most of its time does so beside what does not, and two threads begin with two images and not with one lock.
fn on_each(
    is_on: fn(&Release) -> bool,
    scenarios: &'static [(&str, Scenario)],
    image: Image,
    hierarchy: Hierarchy,
) -> impl Iterator<Item = (String, impl FnOnce() -> Result<(), Failed> + use<>)> {
    let releases: Vec<&'static Release> = image::RELEASES.iter().filter(|release| is_on(release)).collect();
    let (rows, columns) = (scenarios.len(), releases.len());
    (0..rows).flat_map(move |row| {
        let trial = |(column, &release): (usize, &&'static Release)| {
            let (name, scenario) = scenarios[(row + column * rows / columns) % rows];
            (format!("{}::{name}", release.name), move || run_in_a_fresh_machine(release, image, hierarchy, scenario))
        };
        releases.iter().enumerate().map(trial).collect::<Vec<_>>()
    })
}

/// Scenarios with a crowd keep a processor busy and are measured, so there are half as many at once as of the others: so many more
/// may begin.
static FREE_TURNS: Mutex<usize> = Mutex::new(0);
static TURN_IS_OVER: Condvar = Condvar::new();

/// The turn of one crowd; over on drop.
struct Turn;

impl Turn {
    fn wait() -> Self {
        let free = FREE_TURNS.lock().expect("nobody panics with it");
        *TURN_IS_OVER.wait_while(free, |free| *free == 0).expect("nor here") -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE_TURNS.lock().expect("nobody panics with it") += 1;
        TURN_IS_OVER.notify_one();
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn run_in_a_fresh_machine(
    release: &'static Release,
    image: Image,
    hierarchy: Hierarchy,
    scenario: Scenario,
) -> Result<(), Failed> {
    let machine = Machine::boot(release, image, hierarchy)?;
    panic::catch_unwind(AssertUnwindSafe(|| scenario(&machine))).map_err(|_| {
        let what = LAST_PANIC.take();
        Failed::from(format!(
            "{what}\n\nrelease: {} (systemd {})\n{}\nthe machine's journal, its last lines:\n{}",
            release.name,
            release.systemd,
            machine.story(),
            machine.last_of_the_journal(),
        ))
    })
}
