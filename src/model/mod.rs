//! The plain nouns. Nothing here opens, asks, logs or signals, and nothing here imports another module of the crate.

mod container;
mod endpoint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod outcome;
mod process;
mod scene;
mod socket;
mod text;
mod unit;
mod unit_pattern;
mod verdict;

pub use container::{Container, Engine};
pub use endpoint::{Addresses, Endpoint, EndpointError, EndpointRange, Host, Port, Protocol};
pub use outcome::{Asked, Outcome, Stopped};
pub use process::{
    FileId, Hindrance, Invocation, InvocationId, Lineage, Owner, Pid, Process, Session, StartTime, Terminal,
};
pub use scene::{
    ActiveState, BlindRule, BlindSpot, EndpointScene, ForeignRule, Guarded, HeldSocket, LookalikeRule, Phase, Probe,
    Program, Rules, Run, Scene, Signal, SocketUnit, StaleRule, StopRules, UnitFacts, UnitState,
};
pub use socket::{Backlog, CgroupId, CgroupPath, Inode, Socket, SocketState};
pub use text::printable;
pub use unit::{UnitName, UnitNameError, UnitType};
pub use unit_pattern::UnitPattern;
pub use verdict::{Action, Finding, Obstacle, Relation, Verdict};
