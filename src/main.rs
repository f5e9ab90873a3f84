//! args → run → exit status. What happens in between is `guard::run`.
//!
//! This is the C library's `main`: what Rust's own start-up does before its `main` (a handler for stack overflows, a
//! look at `/proc/self/maps`, a signal stack) is a fifth of the system calls of a start whose ports are free. What it does
//! about standard streams that are closed is in `sys::open_first`.

#![no_main]
#![expect(unsafe_code, reason = "the C library looks for its main by that name")]

use std::io::Write;
use std::mem::ManuallyDrop;

use portguard::cli::{Otherwise, Request};
use portguard::observe::{Place, Roots};
use portguard::report::Report;
use portguard::{commands, guard, policy};

/// `EX_USAGE`, sysexits.h.
const USAGE: u8 = 64;
/// `EX_SOFTWARE`.
const INTERNAL: i32 = 70;

// SAFETY: nothing else in the program is named so, and this is the signature that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    portguard::ignore_sigpipe();
    std::panic::set_hook(Box::new(|bug| {
        let _ = writeln!(std::io::stderr(), "portguard: internal error, please report it: {bug}");
        std::process::exit(INTERNAL);
    }));
    i32::from(run())
}

/// Its arguments come from `std::env::args`, which the C library fills before `main`.
fn run() -> u8 {
    let args = match Request::from_args() {
        Ok(Request::Guard(args)) => args,
        Ok(Request::Command(command)) => return commands::run(&command),
        // Nobody to tell if these cannot be written.
        Err(Otherwise::Show(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
            return 0;
        }
        Err(Otherwise::Usage(text)) => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            return USAGE;
        }
    };
    let roots = Roots::of_host(args.user);
    let (etc, proc) = (roots.etc.clone(), roots.proc.clone());
    let place = Place::here(roots, &args.unit, args.user);
    // What it has open is left to the exit.
    let mut report = ManuallyDrop::new(Report::new(&args, place.is_within(), etc, proc));
    guard::run(&args, &place, &policy::Roots::default(), &mut report).exit_status()
}
