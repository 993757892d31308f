//! AutoAttack (Croce and Hein, ICML 2020): attacks that run one after the other, each on the examples that are still
//! robust.

use super::apgd::{ApgdLoss, ApgdSettings, apgd};
use super::fab::{FabSettings, fab};
use super::interface::Attack;
use super::square::{SquareSettings, square};
use crate::Result;
use crate::batch::Batch;
use crate::model::Model;
use crate::tape::{Memory, Norm};

/// Version of AutoAttack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoAttack {
    /// RobustBench's: four attacks.
    Standard,
    /// More starts, and the untargeted forms: six attacks.
    Plus,
}

/// One of AutoAttack's attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AutoAttackMember {
    /// A number of random starts, or nine target classes.
    Apgd(ApgdLoss, u32),
    /// Nine target classes.
    FabTargeted,
    /// A number of random starts.
    Fab(u32),
    /// 5,000 queries.
    Square,
}

impl AutoAttack {
    /// Attacks in the released program's order.
    fn members(self) -> &'static [AutoAttackMember] {
        use AutoAttackMember::*;
        match self {
            AutoAttack::Standard => &[Apgd(ApgdLoss::Xent, 1), Apgd(ApgdLoss::TargetedDlr, 9), FabTargeted, Square],
            AutoAttack::Plus => &[
                Apgd(ApgdLoss::Xent, 5),
                Apgd(ApgdLoss::Dlr, 5),
                Fab(5),
                Square,
                Apgd(ApgdLoss::TargetedDlr, 9),
                FabTargeted,
            ],
        }
    }
}

/// Records the attacks on `batch`.
///
/// # Errors
/// The network has too few classes: the targeted losses need four.
pub fn auto_attack(
    memory: &mut Memory,
    model: &dyn Model,
    batch: &Batch,
    version: AutoAttack,
    norm: Norm,
    seed: u64,
) -> Result<Vec<Attack>> {
    let record = |member: &AutoAttackMember| match *member {
        AutoAttackMember::Apgd(loss, runs) => {
            let settings = ApgdSettings { runs, ..ApgdSettings::published(loss, norm, seed) };
            apgd(memory, model, batch, &settings)
        }
        AutoAttackMember::FabTargeted => fab(memory, model, batch, &FabSettings::published(norm, true, true, seed)),
        AutoAttackMember::Fab(runs) => {
            let settings = FabSettings { runs, ..FabSettings::published(norm, false, true, seed) };
            fab(memory, model, batch, &settings)
        }
        AutoAttackMember::Square => {
            Ok(square(memory, model, batch, &SquareSettings { seed, ..SquareSettings::published(norm) }))
        }
    };
    version.members().iter().map(record).collect()
}
