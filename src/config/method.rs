//! How a network is trained.

use super::{Config, as_written};
use crate::choice::choices;

choices! {
    /// How a network is trained.
    pub enum Method {
        /// Max-margin training (Ding et al., 2020): every image at its own decision boundary, until its margin reaches
        /// d_max; and a share of the clean loss.
        Mma = "mma",
        /// MMA without the clean loss: --clean-loss-coeff 0.
        Omma = "omma",
        /// The cross-entropy of the images as they are; no attack.
        Std = "std",
        /// PGD training (Madry et al., 2018): every image where PGD within --attack-eps raises the loss most.
        Pgd = "pgd",
        /// PGD training whose eps grows linearly from 0 to --attack-eps, over --eps-ramp-steps.
        Pgdls = "pgdls",
        /// TRADES (Zhang et al., 2019): the clean loss, and --trades-beta times the divergence of the answers within
        /// --attack-eps from those to the images as they are.
        Trades = "trades",
    }
}

impl Method {
    /// MMA with this share of the clean loss's gradient: without any it is OMMA.
    pub fn of_share(clean_loss_coeff: f32) -> Method {
        if clean_loss_coeff == 0.0 { Method::Omma } else { Method::Mma }
    }

    /// Whether it is MMA, whatever the share of the clean loss.
    pub fn is_mma(self) -> bool {
        matches!(self, Method::Mma | Method::Omma)
    }

    /// Whether it attacks within [`Config::attack_eps`](super::Config::attack_eps).
    pub fn has_fixed_eps(self) -> bool {
        matches!(self, Method::Pgd | Method::Pgdls | Method::Trades)
    }
}

impl Config {
    /// The length that the method is known by, as it was written: d_max of MMA, eps of those that attack within one.
    pub fn trained_with(&self) -> Option<f64> {
        match self.method {
            method if method.is_mma() => Some(as_written(self.hinge_maxeps)),
            method if method.has_fixed_eps() => Some(as_written(self.attack_eps)),
            _ => None,
        }
    }
}
