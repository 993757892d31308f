//! Published protocols for robust accuracy, so that figures can be compared.

use super::attacks::AttackName;
use crate::catalog::DatasetKind;
use crate::choice::choices;
use crate::tape::Norm;

choices! {
    /// Published protocol: attacks and radii.
    pub enum Protocol {
        /// The paper's white-box attacks: at each eps of its grid ten random starts of PGD-100, half on the
        /// cross-entropy and half on the cw loss
        Paper = "paper",
        /// RobustBench's: AutoAttack standard at its eps (CIFAR10: 8/255, l2 0.5; digits: 0.3, l2 2)
        Autoattack = "autoattack",
    }
}

impl Protocol {
    /// Attacks, in the order in which they are run.
    pub fn attacks(self) -> Vec<AttackName> {
        match self {
            Protocol::Paper => vec![AttackName::Pgd],
            Protocol::Autoattack => vec![AttackName::Autoattack],
        }
    }

    /// Radii at which the protocol is reported, ascending.
    pub fn eps(self, dataset: DatasetKind, norm: Norm) -> Vec<f64> {
        let radii = dataset.radii(norm);
        match self {
            Protocol::Paper => radii.paper.to_vec(),
            Protocol::Autoattack => vec![radii.autoattack],
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
