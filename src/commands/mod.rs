//! What people type: `portguard who` and its kin. Each command looks, puts together one document, and has
//! [`crate::report::document`] print it, as text or as JSON. None of them signals anybody.

mod who;

use std::io::Write as _;

use crate::cli::Command;
use crate::model::printable;
use crate::report::document::{self, Document};

/// Why a command could not do its work; the message is one line for standard error, or several of a policy.
#[derive(Debug)]
pub struct CommandError {
    message: String,
    status: u8,
}

impl CommandError {
    /// The policy makes no sense (`EX_CONFIG`).
    fn policy(error: &crate::policy::PolicyError) -> Self {
        Self { message: error.to_string(), status: 78 }
    }

    /// What is needed cannot be looked at (`EX_NOPERM`).
    fn blind(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 77 }
    }
}

/// Runs one, and returns the exit status.
#[must_use]
pub fn run(command: &Command) -> u8 {
    let done = match command {
        Command::Who(args) => who::run(args),
    };
    done.unwrap_or_else(|error| {
        for line in error.message.lines() {
            // Nobody to tell if it cannot be written.
            let _ = writeln!(std::io::stderr(), "portguard: {}", printable(line));
        }
        error.status
    })
}

/// Prints a document, and returns this exit status.
fn show(document: &impl Document, json: bool, status: u8) -> Result<u8, CommandError> {
    let failed = |error: std::io::Error| CommandError { message: format!("cannot write: {error}"), status: 74 };
    document::show(document, json).map_err(failed)?;
    Ok(status)
}
