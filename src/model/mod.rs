//! The plain nouns. Nothing here opens, asks, logs or signals, and nothing here imports another module of the crate.

mod endpoint;
mod outcome;
mod process;
mod scene;
mod socket;
mod text;
mod unit;
mod verdict;

pub use endpoint::{Endpoint, EndpointError, EndpointRange, Host, Port, Protocol};
pub use outcome::Outcome;
pub use process::{Invocation, InvocationId, Lineage, Owner, Pid, Process, Session, StartTime};
pub use scene::{
    ActiveState, BlindSpot, EndpointScene, ForeignRule, Guarded, HeldSocket, Phase, Probe, Rules, Run, Scene, Signal,
    SocketUnit, StaleRule, StopRules, UnitFacts,
};
pub use socket::{CgroupId, CgroupPath, Inode, Socket, SocketState};
pub use text::printable;
pub use unit::{UnitName, UnitNameError, UnitType};
pub use verdict::{Action, Finding, Relation, Verdict};
