//! Request of an evaluation: the settings that its result depends on, and the files that it writes.

use std::path::PathBuf;
use std::time::Duration;

use super::attacks::{AttackName, AttackSettings};
use crate::config::{Config, Method};
pub use crate::data::Split;
use crate::model::state_dict::WeightsOptions;

/// Method that trained a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainedBy {
    /// The method.
    pub method: Method,
    /// d_max, or eps; absent for methods without one.
    pub d_max: Option<f64>,
}

/// Evaluation of a file of weights.
#[derive(Clone, Debug)]
pub struct EvaluationRequest {
    /// File of weights.
    pub weights: PathBuf,
    /// Options of its reading.
    pub weights_options: WeightsOptions,
    /// Data set, norm, and AN-PGD's settings for the margins.
    pub config: Config,
    /// Training of the weights, if they are a run's.
    pub trained: Option<TrainedBy>,
    /// Part of the data set.
    pub split: Split,
    /// Number of images, the first of that part; `None`: as many as the config says.
    pub size: Option<usize>,
    /// Folder of the data sets.
    pub data: PathBuf,
    /// Name of the published protocol that the attacks and eps belong to.
    pub protocol: Option<String>,
    /// Attacks, in the order in which they are run.
    pub attacks: Vec<AttackName>,
    /// Settings of the attacks.
    pub settings: AttackSettings,
    /// Radii of the balls as they were written, ascending.
    pub eps: Vec<f64>,
    /// True if margins are measured.
    pub margins: bool,
    /// Images per batch. The result does not depend on it.
    pub batch_size: usize,
    /// True if no progress is shown.
    pub quiet: bool,
}

/// Files that an evaluation writes while it runs, and images that it keeps for a file.
#[derive(Clone, Debug)]
pub struct OutputPaths {
    /// Folder of the evaluation, which exists; an interrupted evaluation continues from the state in it.
    pub folder: Option<PathBuf>,
    /// Least time between two writes of the state.
    pub checkpoint_interval: Duration,
    /// True if the report shall hold the adversarial images.
    pub keep_images: bool,
}

impl Default for OutputPaths {
    fn default() -> OutputPaths {
        OutputPaths { folder: None, checkpoint_interval: Duration::from_secs(5), keep_images: false }
    }
}
