//! args → run → exit status. What happens in between is `guard::run`.
//!
//! This is the C library's `main`: what Rust's own start-up does before its `main` (a handler for stack overflows, a
//! look at `/proc/self/maps`, a signal stack) is a fifth of the system calls of a start whose ports are free. What it does
//! about standard streams that are closed is in `sys::open_first`.

#![no_main]
#![expect(unsafe_code, reason = "the C library looks for its main by that name")]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt as _;

use portguard::cli::{Otherwise, Request};
use portguard::observe::{Place, Roots};
use portguard::report::Report;
use portguard::{commands, guard, policy};

/// musl's own maps and unmaps a page for every few objects, a third of the system calls of a start whose ports are free.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// `EX_USAGE`, sysexits.h.
const USAGE: u8 = 64;
/// `EX_SOFTWARE`.
const INTERNAL: i32 = 70;

// SAFETY: nothing else in the program is named so, and this is the signature that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    portguard::ignore_sigpipe();
    std::panic::set_hook(Box::new(|bug| {
        let _ = writeln!(std::io::stderr(), "portguard: internal error, please report it: {bug}");
        std::process::exit(INTERNAL);
    }));
    // SAFETY: they are those of `main`.
    i32::from(run(&unsafe { words(count, arguments) }))
}

/// The arguments, which `std::env::args` does not have here: but for glibc, they come to it from Rust's own start-up.
///
/// # Safety
/// `arguments` are so many strings, as the C library gives them to `main`.
unsafe fn words(count: c_int, arguments: *const *const c_char) -> Vec<OsString> {
    let word = |index| {
        // SAFETY: the caller has promised that there are so many, and each is a string that stays until the exit.
        let word = unsafe { CStr::from_ptr(*arguments.add(index)) };
        OsStr::from_bytes(word.to_bytes()).to_owned()
    };
    (0..usize::try_from(count).unwrap_or(0)).map(word).collect()
}

fn run(arguments: &[OsString]) -> u8 {
    let args = match Request::of(arguments) {
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
    let place = Place::here(Roots::of_host(args.user), &args.unit, args.user);
    // What it has open is left to the exit.
    let mut report = ManuallyDrop::new(Report::new(&args, &place));
    guard::run(&args, &place, &policy::Roots::default(), &mut report).exit_status()
}
