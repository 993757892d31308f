//! Settings whose values have names: methods, optimizers, and choices between the released code and the paper.

use crate::choice::choices;

choices! {
    /// Training method.
    pub enum Method {
        /// Max-margin training (Ding et al., 2020): every image at its own decision boundary, until its margin reaches
        /// d_max, and a share of the clean loss.
        Mma = "mma",
        /// MMA without the clean loss: --clean-loss-coeff 0.
        Omma = "omma",
        /// Standard training: the cross-entropy of the clean images, without an attack.
        Std = "std",
        /// PGD training (Madry et al., 2018): every image at the point within --attack-eps that PGD finds.
        Pgd = "pgd",
        /// PGD training whose eps grows linearly from 0 to --attack-eps, over --eps-ramp-steps.
        Pgdls = "pgdls",
        /// TRADES (Zhang et al., 2019): the clean loss, and --trades-beta times the KL divergence between the
        /// predictions for an image and for the point within --attack-eps that maximizes it.
        Trades = "trades",
    }
}

impl Method {
    /// MMA with this weight of the clean loss's gradient; without any it is OMMA.
    pub fn with_clean_loss_coeff(clean_loss_coeff: f32) -> Method {
        if clean_loss_coeff == 0.0 { Method::Omma } else { Method::Mma }
    }

    /// True for MMA, whatever the weight of the clean loss.
    pub fn is_mma(self) -> bool {
        matches!(self, Method::Mma | Method::Omma)
    }

    /// True if the method attacks within [`Config::attack_eps`](super::Config::attack_eps).
    pub fn has_fixed_eps(self) -> bool {
        matches!(self, Method::Pgd | Method::Pgdls | Method::Trades)
    }
}

choices! {
    /// Optimizer.
    pub enum OptimizerKind {
        /// Adam (Kingma and Ba, 2015), with beta 0.9 and 0.999, eps 1e-8, as PyTorch computes it.
        Adam = "adam",
        /// SGD with momentum, as PyTorch computes it.
        Sgd = "sgd",
    }
}

choices! {
    /// Mode of batch norm in the bisection.
    pub enum SearchMode {
        /// Batch statistics, and every probe updates the running statistics (released).
        Train = "train",
        /// Running statistics, unchanged (paper).
        Eval = "eval",
    }
}

choices! {
    /// Start of the bisection when margins are measured.
    pub enum TestSearchStart {
        /// Half of the upper bound, with the sign of the loss at PGD's eps (released).
        HalfMaxeps = "half-maxeps",
        /// PGD's eps, where the sign was measured (paper).
        TestEps = "test-eps",
    }
}

choices! {
    /// Loss that PGD ascends when margins are measured.
    pub enum TestAttackLoss {
        /// Soft logit margin, whatever --attack-loss-fn is (released).
        Slm = "slm",
        /// The loss of --attack-loss-fn, with which training attacks (paper).
        AttackLossFn = "attack-loss-fn",
    }
}

choices! {
    /// Random starts of PGD when margins are measured.
    pub enum TestStarts {
        /// Others at each training step (released).
        Fresh = "fresh",
        /// Equal starts at every training step, so that two measurements differ by the network alone (paper).
        Same = "same",
    }
}

choices! {
    /// Images that are attacked when margins are measured.
    pub enum TestAttacked {
        /// All. A misclassified image has the margin that the bisection returns: 1/2048 of the upper bound if ten
        /// probes are misclassified, too (released).
        All = "all",
        /// Those that are classified correctly. A misclassified image has margin 0 (paper).
        Correct = "correct",
    }
}

choices! {
    /// Sources of all choices between the released code and the paper.
    pub enum FidelityPreset {
        /// The released code, which the published figures came from.
        Released = "released",
        /// The paper's text, as it is written or meant.
        Paper = "paper",
    }
}
