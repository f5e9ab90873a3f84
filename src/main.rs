//! args → run → exit status. What happens in between is `guard::run`.

use std::io::Write;
use std::process::ExitCode;

use portguard::cli::{Cli, Otherwise};
use portguard::guard;
use portguard::observe::{Place, Roots};
use portguard::policy;
use portguard::report::Report;

/// `EX_USAGE`, sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Cli::from_args() {
        Ok(args) => args,
        // Nobody to tell if these cannot be written.
        Err(Otherwise::Show(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Otherwise::Usage(text)) => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            return ExitCode::from(USAGE);
        }
    };
    let roots = Roots::of_host(args.user);
    let etc = roots.etc.clone();
    let place = Place::here(roots, &args.unit, args.user);
    let mut report = Report::new(&args, place.is_within(), etc);
    let outcome = guard::run(&args, &place, &policy::Roots::default(), &mut report);
    ExitCode::from(outcome.exit_status())
}
