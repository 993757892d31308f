//! Speed of a device: a training step, its programs, every op of it on its real shapes, and attacks' own steps on a
//! large batch; each beside the rates of a copy and of a matrix product on the same device.
//!
//! - `workload`: programs that are timed
//! - `rotation`: each op on operands that are in no cache
//! - `timer`: all timing
//! - `ceilings`: rates that items are compared with
//! - `item`, `summary`, `report`: results, by item, by kernel and as a whole
//! - `table`: the report as text
//! - `run`: the order of the items
//!
//! Results of the computations that are timed are not checked here; the tests do that.

mod ceilings;
mod item;
mod report;
mod rotation;
mod run;
mod settings;
mod summary;
mod table;
mod timer;
mod workload;

pub use ceilings::{Ceilings, OwnRates, Reference, References};
pub use item::{BenchItem, UntimedItem};
pub use report::BenchReport;
pub use run::{BenchObserver, run};
pub use settings::{BenchSettings, ROTATED_MEGABYTES};
pub use summary::{KernelTime, StepSummary};
