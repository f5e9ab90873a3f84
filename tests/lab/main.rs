//! The lab: every scenario on every systemd that portguard promises to work with.
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
    args.test_threads.get_or_insert((2 * cores).min(MOST_MACHINES_AT_ONCE));

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

/// Releases change faster than scenarios, so that two threads begin with two images and not with one lock.
fn trials() -> Vec<Trial> {
    let on = |image: Image, hierarchy: Hierarchy, &(name, scenario): &(&'static str, Scenario)| {
        image::RELEASES.iter().filter(move |release| boots_on(release, hierarchy)).map(move |release| {
            let run = move || run_in_a_fresh_machine(release, image, hierarchy, scenario);
            Trial::test(format!("{}::{name}", release.name), run)
        })
    };
    let bare = scenarios::ALL.iter().flat_map(|row| on(Image::Bare, Hierarchy::Unified, row));
    let stocked = scenarios::WITH_SOFTWARE.iter().flat_map(|row| on(Image::Stocked, Hierarchy::Unified, row));
    let hybrid = scenarios::ON_HYBRID_CGROUPS.iter().flat_map(|row| on(Image::Bare, Hierarchy::Hybrid, row));
    let legacy = scenarios::ON_LEGACY_CGROUPS.iter().flat_map(|row| on(Image::Bare, Hierarchy::Legacy, row));
    bare.chain(stocked).chain(hybrid).chain(legacy).collect()
}

/// Since 256, systemd refuses to boot with cgroup v1 (its NEWS).
fn boots_on(release: &Release, hierarchy: Hierarchy) -> bool {
    hierarchy == Hierarchy::Unified || release.systemd < 256
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
