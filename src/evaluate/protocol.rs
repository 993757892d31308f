//! Published ways of measuring robust accuracy, so that figures can be held against each other.

use super::attacks::AttackName;
use crate::choice::choices;
use crate::data::DatasetKind;
use crate::tape::Norm;

choices! {
    /// A published protocol.
    pub enum Protocol {
        /// The paper's, on the network itself: at each eps of its grid ten random starts of PGD-100, half on the
        /// cross-entropy and half on the cw loss
        Paper = "paper",
        /// RobustBench's: AutoAttack standard at its eps (CIFAR10: 8/255, l2 0.5; digits: 0.3, l2 2)
        Autoattack = "autoattack",
    }
}

impl Protocol {
    /// The attacks, in turn.
    pub fn attacks(self) -> Vec<AttackName> {
        match self {
            Protocol::Paper => vec![AttackName::Pgd],
            Protocol::Autoattack => vec![AttackName::Autoattack],
        }
    }

    /// The radii at which it is reported, ascending (paper, section 4 and appendix).
    pub fn eps(self, dataset: DatasetKind, norm: Norm) -> Vec<f64> {
        let cifar10 = dataset == DatasetKind::Cifar10;
        match (self, cifar10, norm) {
            (Protocol::Paper, true, Norm::Linf) => (1..=8).map(|i| f64::from(4 * i) / 255.0).collect(),
            (Protocol::Paper, true, Norm::L2) => (1..=5).map(|i| 0.5 * f64::from(i)).collect(),
            (Protocol::Paper, false, Norm::Linf) => vec![0.1, 0.2, 0.3, 0.4],
            (Protocol::Paper, false, Norm::L2) => vec![1.0, 2.0, 3.0, 4.0],
            (Protocol::Autoattack, true, Norm::Linf) => vec![8.0 / 255.0],
            (Protocol::Autoattack, true, Norm::L2) => vec![0.5],
            (Protocol::Autoattack, false, Norm::Linf) => vec![0.3],
            (Protocol::Autoattack, false, Norm::L2) => vec![2.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_grid_for_cifar10_ends_at_32_of_255() {
        let grid = Protocol::Paper.eps(DatasetKind::Cifar10, Norm::Linf);
        assert_eq!((grid.len(), grid[0], grid[7]), (8, 4.0 / 255.0, 32.0 / 255.0));
    }
}
