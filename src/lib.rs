//! portguard: before a systemd service starts, sees that its ports are free of its own left-over processes.
//!
//! The flow is policy → observe → judge → act → observe → report, in one direction: [`guard`] leads through it,
//! [`model`] has the nouns, and nothing points back. The library is there for the binary and its tests; its
//! interface is not stable.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
pub mod act;
pub mod cli;
pub mod commands;
mod deadlines;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guard;
pub mod interrupt;
pub mod judge;
pub mod ledger;
pub mod manager;
pub mod model;
pub mod observe;
mod pipe;
pub mod policy;
pub mod probe;
pub mod report;
mod sys;
pub mod timespan;
mod wait;
mod word;

/// See `sys::ignore_sigpipe`.
pub fn ignore_sigpipe() {
    sys::ignore_sigpipe();
}
