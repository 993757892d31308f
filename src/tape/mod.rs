//! Placeholder: the two enums that settings name.

use serde::{Deserialize, Serialize};

/// A norm on perturbations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// The largest change of a pixel.
    Linf,
    /// The Euclidean length.
    L2,
}

/// A loss of logits and a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Cross-entropy.
    Xent,
    /// Soft logit margin.
    Slm,
    /// Logit margin.
    Lm,
    /// Logit margin, floored.
    Cw,
}
