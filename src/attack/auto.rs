//! AutoAttack (Croce and Hein, ICML 2020): attacks that are run one after the other, each on what the ones before it left.

use super::{ApgdLoss, ApgdSettings, Attack, FabSettings, SquareSettings, apgd, fab, square};
use crate::Result;
use crate::batch::Batch;
use crate::model::Model;
use crate::tape::{Memory, Norm};

/// Which attacks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoAttack {
    /// As RobustBench runs it: four attacks.
    Standard,
    /// More starts, and the untargeted forms: six.
    Plus,
}

/// One of the attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// So many random starts of a loss; or nine targets.
    Apgd(ApgdLoss, u32),
    /// Nine targets.
    FabTargeted,
    /// So many starts.
    Fab(u32),
    /// 5,000 queries.
    Square,
}

impl AutoAttack {
    /// In the order of the released program.
    fn parts(self) -> &'static [Part] {
        use Part::*;
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

/// Records the attacks on `target`.
///
/// # Errors
/// The network has too few classes: the targeted losses need four.
pub fn auto_attack(
    memory: &mut Memory,
    model: &dyn Model,
    target: &Batch,
    version: AutoAttack,
    norm: Norm,
    seed: u64,
) -> Result<Vec<Attack>> {
    let record = |part: &Part| match *part {
        Part::Apgd(loss, runs) => {
            let settings = ApgdSettings { runs, ..ApgdSettings::published(loss, norm, seed) };
            apgd(memory, model, target, &settings)
        }
        Part::FabTargeted => fab(memory, model, target, &FabSettings::published(norm, true, true, seed)),
        Part::Fab(runs) => {
            let settings = FabSettings { runs, ..FabSettings::published(norm, false, true, seed) };
            fab(memory, model, target, &settings)
        }
        Part::Square => Ok(square(memory, model, target, &SquareSettings { seed, ..SquareSettings::published(norm) })),
    };
    version.parts().iter().map(record).collect()
}
