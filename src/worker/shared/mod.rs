//! What the jobs of a worker share: who it is, its slots, the jobs that it holds and what is told of each, its counters.

mod context;
mod held;
mod metrics;
mod seen;
mod slots;
mod told;

pub use context::{Context, Folders, Identity};
pub use held::{Begun, HeldJob, Hold, Stop, conflict};
pub use metrics::{Happened, Metrics};
pub use seen::Sight;
pub use slots::{Permits, Slots};
pub use told::{Lost, Open, Outlet, Reader};
