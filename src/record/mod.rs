//! Records of a run: its folder, its checkpoints, its metrics, and its progress on stderr.
//!
//! - [`atomic`]: replacement of files, whole or not at all.
//! - [`output`]: files that flags name, which are checked first and may be pipes.
//! - [`tensors`]: safetensors files, with errors that name the byte or the tensor.
//! - [`run`]: the run folder, the names of its files and its lock.
//! - [`mod@line`]: lines of `metrics.jsonl` and their reader.
//! - [`metrics`]: the writer of `metrics.jsonl`, which is truncated to the checkpoint when a run is resumed.
//! - [`figures`]: the figures in its lines, as they are written and read.
//! - [`margins`]: margins of images, and histograms of them for a line.
//! - [`events`]: the same figures for TensorBoard.
//! - [`progress`]: the progress bar or lines on stderr.
//!
//! This module knows no models, attacks or training: tensors have names and shapes, and settings are text. The caller
//! knows the meaning of both.

pub mod atomic;
pub mod events;
pub mod figures;
pub mod line;
mod lock;
pub mod margins;
pub mod metrics;
pub mod output;
pub mod progress;
pub mod run;
mod system;
pub mod tensors;

pub use atomic::{create_folder, write_atomic};
pub use events::Events;
pub use figures::{AtStep, EpochRecord, ResultRecord, RunMetrics, StepRecord};
pub use line::{CLOCK, Kind, read_metrics};
pub use margins::{MarginCounts, Margins};
pub use metrics::Metrics;
pub use output::OutputFile;
pub use progress::Progress;
pub use run::RunFolder;
pub use tensors::{Element, Tensor, TensorData, TensorFile, write_tensors};
