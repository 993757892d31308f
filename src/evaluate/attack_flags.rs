//! Flags of attacks, and which attacks read which: one table, from which the refusal of flags without effect, the help
//! and the identity of an evaluation follow.

use super::attacks::AttackName;
use crate::choice::{Choice as _, choices};

choices! {
    /// Setting of attacks by the name of its flag.
    pub enum AttackFlag {
        /// Radius of the balls, one or several: 0.3 or 8/255 or 0.1,0.2,0.3 [default: test-eps of the run, or of the
        /// norm's preset]
        Eps = "eps",
        /// Step size of PGD [default: eps / 40 for linf on digits and mnist, eps / 4 otherwise]
        EpsIter = "eps-iter",
        /// Iterations, or queries of Square [default: as published; 100 for PGD]
        NbIter = "nb-iter",
        /// Random starts of PGD, half of them (one more if odd) on xent, half on cw [default: 10]
        NbRestart = "nb-restart",
        /// Loss of the attacks pgd-loss and pgd-t [default: xent]
        Loss = "loss",
        /// Samples of SPSA for a gradient, each of two passes [default: 8192]
        NbSample = "nb-sample",
        /// d_max: margins are searched up to 1.05 times this [default: the run's, or that of the norm's preset]
        HingeMaxeps = "hinge-maxeps",
        /// Seed of the random starts [default: 0]
        Seed = "seed",
    }
}

impl AttackFlag {
    /// True if the flag changes what an attack does. Of the attacks with published settings alone, it does not.
    pub fn is_read_by(self, attack: AttackName) -> bool {
        use AttackName::{AnPgd, Autoattack, AutoattackPlus, Cw, Fab, FabT, Pgd, PgdLoss, PgdT, Spsa};
        match self {
            AttackFlag::Eps => !attack.is_minimum_norm(),
            AttackFlag::EpsIter => matches!(attack, Pgd | PgdLoss | PgdT),
            AttackFlag::NbIter => !matches!(attack, Autoattack | AutoattackPlus | AnPgd),
            AttackFlag::NbRestart => matches!(attack, Pgd | PgdLoss),
            AttackFlag::Loss => matches!(attack, PgdLoss | PgdT),
            AttackFlag::NbSample => attack == Spsa,
            AttackFlag::HingeMaxeps => attack == AnPgd,
            AttackFlag::Seed => !matches!(attack, Fab | FabT | Cw),
        }
    }

    /// Names of the attacks that read the flag, separated by commas.
    pub fn readers(self) -> String {
        let readers = AttackName::ALL.iter().filter(|attack| self.is_read_by(**attack));
        readers.map(|attack| attack.name()).collect::<Vec<_>>().join(", ")
    }

    /// Help with the attacks that read the flag.
    pub fn long_help(self) -> String {
        let also = if self == AttackFlag::HingeMaxeps { "margins, " } else { "" };
        format!("{}\n\nUsed by {also}{}; refused where nothing uses it", self.help(), self.readers())
    }
}

#[cfg(test)]
mod tests {
    use super::super::attacks::{AttackSettings, RecordedAttack, record};
    use super::super::examples::Examples;
    use super::*;
    use crate::attack::StepLength;
    use crate::config::{Config, preset};
    use crate::model::{LeNet5, Model as _, ModelInPrecision};
    use crate::tape::{Loss, Memory, Norm};

    /// Programs and runs of an attack, as text.
    fn recorded(attack: AttackName, config: &Config, settings: &AttackSettings) -> String {
        let mut model = LeNet5::with_sizes([8, 8, 1], [1, 1], 3, 2, 10);
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let examples = Examples::new(&mut memory, &model, "images", 2, 2);
        let attacked = ModelInPrecision::single_precision(&model);
        let attacks = record(&mut memory, &attacked, &examples, &[attack], config, settings).unwrap();
        let text = |one: &RecordedAttack| format!("{:?}", (one.attack.runs, &one.attack.schedule));
        attacks.iter().map(text).collect()
    }

    #[test]
    fn a_flag_changes_the_programs_of_the_attacks_that_read_it_and_of_no_others() {
        for &attack in AttackName::ALL {
            let norm = attack.only_norm().unwrap_or(Norm::Linf);
            let config = preset(&format!("mnist-{norm}")).unwrap().config;
            let settings = AttackSettings { nb_iter: Some(20), nb_sample: 64, ..AttackSettings::published(&config) };
            let plain = recorded(attack, &config, &settings);
            let hinge = Config { hinge_maxeps: 0.2, ..config.clone() };
            let changed = |config: &Config, change: fn(&mut AttackSettings)| {
                let mut other = settings.clone();
                change(&mut other);
                recorded(attack, config, &other) != plain
            };
            for (flag, config, change) in [
                (AttackFlag::EpsIter, &config, (|s| s.step = StepLength::Fixed(0.01)) as fn(&mut AttackSettings)),
                (AttackFlag::NbIter, &config, |s| s.nb_iter = Some(10)),
                (AttackFlag::NbRestart, &config, |s| s.nb_restart = 4),
                (AttackFlag::Loss, &config, |s| s.loss = Loss::Cw),
                (AttackFlag::NbSample, &config, |s| s.nb_sample = 256),
                (AttackFlag::Seed, &config, |s| s.seed = 1),
                (AttackFlag::HingeMaxeps, &hinge, |_| ()),
            ] {
                assert_eq!(changed(config, change), flag.is_read_by(attack), "{flag} of {attack}");
            }
        }
    }

    #[test]
    fn the_documentation_says_which_attacks_read_each_flag() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/evaluation.md");
        let text = std::fs::read_to_string(path).expect("docs/evaluation.md");
        for &flag in AttackFlag::ALL {
            let row = format!("| `--{flag}` | {} |", flag.readers());
            assert!(text.contains(&row), "docs/evaluation.md has no line {row}");
        }
    }
}
