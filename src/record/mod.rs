//! What a run leaves behind: its folder, its checkpoints, its metrics, and what it says meanwhile.
//!
//! - [`atomic`]: the one way in which a file is replaced.
//! - [`tensors`]: safetensors files, with errors that say what is wrong where.
//! - [`run`]: the run folder, its names and its lock.
//! - [`metrics`]: `metrics.jsonl`, cut back when a run goes on.
//! - [`figures`]: the figures in its lines, for those who write them and those who read them.
//! - [`margins`]: histograms of margins, for a line of them.
//! - [`events`]: the same figures once more, as TensorBoard reads them.
//! - [`progress`]: the bar or the lines on stderr.
//!
//! Nothing here knows models, attacks or training: tensors have names and shapes, settings are anything that
//! serde can write, and the meaning of both lies with the caller.

pub mod atomic;
pub mod events;
pub mod figures;
pub mod margins;
pub mod metrics;
pub mod progress;
pub mod run;
pub mod tensors;

pub use atomic::write_atomic;
pub use events::Events;
pub use figures::{AtStep, EpochRecord, ResultRecord, RunMetrics, StepRecord};
pub use margins::MarginCounts;
pub use metrics::{Kind, Metrics, read_metrics};
pub use progress::Progress;
pub use run::RunFolder;
pub use tensors::{Data, Element, Tensor, TensorFile, write_tensors};
