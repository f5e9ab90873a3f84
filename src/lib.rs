//! portguard: before a systemd service starts, sees that its ports are free of its own left-over processes.
//!
//! The flow is policy → observe → judge → act → observe → report, in one direction.

pub mod model;
