//! Strength of an attack: the settings that decide how hard it tries, beside the published ones.

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use super::attack_flags::AttackFlag;
use super::attacks::{AttackName, AttackSettings, PGD_ITERATIONS, RecordedAttack};
use crate::choice::Choice as _;
use crate::config::{Config, as_written, preset};
use crate::text::counted;

/// Settings that decide how hard an attack tries. Those that an attack does not have are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StrengthValues {
    /// Iterations of a run, or queries of Square.
    pub iterations: u32,
    /// Runs: random starts, or target classes.
    pub restarts: u32,
    /// Loss that is ascended.
    pub loss: Option<String>,
    /// Step size: a number, or a fraction of eps.
    pub step: Option<String>,
    /// Samples of the loss for a gradient.
    pub samples: Option<u32>,
    /// Radius that the attack sets itself.
    pub eps: Option<f64>,
}

/// Strength of an attack, and its published strength.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttackStrength {
    /// Strength of the attack as it was run.
    #[serde(flatten)]
    pub used: StrengthValues,
    /// Its published strength.
    pub published: StrengthValues,
}

/// Strength of the attack of this name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedStrength {
    /// Name of the attack.
    pub name: String,
    /// Its strength.
    #[serde(flatten)]
    pub strength: AttackStrength,
}

impl AttackName {
    /// Loss that the attack ascends, if it is not chosen by a flag.
    fn own_loss(self) -> Option<&'static str> {
        match self {
            AttackName::ApgdCe => Some("xent"),
            AttackName::ApgdDlr => Some("dlr"),
            AttackName::ApgdT => Some("targeted dlr"),
            AttackName::Ddn => Some("slm"),
            AttackName::Fab | AttackName::FabT | AttackName::Square | AttackName::Spsa => Some("lm"),
            AttackName::Fmn | AttackName::Cw => Some("lm"),
            _ => None,
        }
    }
}

impl AttackStrength {
    /// Strength of an attack that was recorded with these settings.
    pub(super) fn of(recorded: &RecordedAttack, config: &Config, settings: &AttackSettings) -> AttackStrength {
        let RecordedAttack { asked, ref attack } = *recorded;
        if asked == AttackName::AnPgd {
            return AttackStrength::of_an_pgd(config);
        }
        // The attacks of AutoAttack have names of their own; PGD has its loss in its name.
        let member = AttackName::from_name(&attack.name).unwrap_or(asked);
        let reads = |flag: AttackFlag| flag.is_read_by(asked);
        let standard = AttackSettings::published(config);
        let published = StrengthValues {
            iterations: member.published_iterations(config.norm).unwrap_or_default(),
            restarts: match asked {
                AttackName::Pgd => standard.nb_restart / 2,
                AttackName::PgdLoss => standard.nb_restart,
                _ => attack.runs,
            },
            loss: match attack.name.strip_prefix("pgd-") {
                Some(loss) => Some(loss.trim_end_matches("-t").into()),
                None => member.own_loss().map(String::from),
            },
            step: reads(AttackFlag::EpsIter).then(|| standard.step.to_string()),
            samples: reads(AttackFlag::NbSample).then_some(standard.nb_sample),
            eps: None,
        };
        let used = StrengthValues {
            iterations: settings.nb_iter.filter(|_| reads(AttackFlag::NbIter)).unwrap_or(published.iterations),
            restarts: attack.runs,
            step: published.step.as_ref().map(|_| settings.step.to_string()),
            samples: published.samples.map(|_| settings.nb_sample),
            ..published.clone()
        };
        AttackStrength { used, published }
    }

    /// Strength of AN-PGD with the settings of a config.
    pub(super) fn of_an_pgd(config: &Config) -> AttackStrength {
        let values = |config: &Config| StrengthValues {
            iterations: config.nb_iter,
            restarts: 1,
            loss: Some(config.test_attack_loss().loss.to_string()),
            step: Some(as_written(config.test_eps_iter).to_string()),
            samples: None,
            eps: Some(as_written(config.test_eps)),
        };
        let used = values(config);
        let published = preset(&config.dataset.preset(config.norm)).map(|preset| values(&preset.config));
        AttackStrength { published: published.unwrap_or_else(|| used.clone()), used }
    }

    /// Values that are not the published ones, such as "1 of 100 iterations".
    pub fn unpublished(&self) -> Vec<String> {
        self.parts().into_iter().filter_map(|part| part.differs.then_some(part.text)).collect()
    }

    fn parts(&self) -> Vec<StrengthPart> {
        let AttackStrength { used, published } = self;
        let samples =
            used.samples.map(|samples| beside_published(samples, published.samples.unwrap_or(samples), "sample"));
        let parts = [
            Some(beside_published(used.iterations, published.iterations, "iteration")),
            Some(beside_published(used.restarts, published.restarts, "run")),
            compared("loss", used.loss.as_ref(), published.loss.as_ref()),
            compared("step", used.step.as_ref(), published.step.as_ref()),
            samples,
            compared("eps", used.eps.as_ref(), published.eps.as_ref()),
        ];
        parts.into_iter().flatten().collect()
    }
}

/// Every value in a line; those that are not the published ones are marked.
impl Display for AttackStrength {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts().into_iter().map(|part| part.text).collect::<Vec<_>>().join(", "))
    }
}

/// Lines of a table on the strength of attacks, by their names.
pub(super) fn strength_lines<'a>(attacks: impl Iterator<Item = (&'a str, &'a AttackStrength)>) -> String {
    let lines: String = attacks.map(|(name, strength)| format!("  {name:12} {strength}\n")).collect();
    if lines.is_empty() { lines } else { format!("\nstrength of the attacks\n{lines}") }
}

/// Attack in balls in a few words, with every value that is not the published one.
pub(super) fn describe(attack: AttackName, config: &Config, settings: &AttackSettings) -> String {
    let (standard, norm) = (AttackSettings::published(config), config.norm);
    let read = |flag: AttackFlag| flag.is_read_by(attack);
    let is_pgd = read(AttackFlag::EpsIter);
    let iterations = attack
        .published_iterations(norm)
        .map(|published| beside_published(settings.nb_iter.unwrap_or(published), published, "iteration"));
    let unusual = iterations.filter(|iterations| iterations.differs);
    let mut head = match (is_pgd, &unusual) {
        (true, None) => format!("PGD-{PGD_ITERATIONS} {norm}"),
        (true, Some(_)) => format!("PGD {norm}"),
        (false, _) => format!("{attack} {norm}"),
    };
    if read(AttackFlag::Loss) {
        head += &format!(" on {}", settings.loss);
    }
    let starts = beside_published(settings.nb_restart, standard.nb_restart, "start");
    let step = compared("step", Some(&settings.step), Some(&standard.step));
    let samples = beside_published(settings.nb_sample, standard.nb_sample, "sample");
    let parts = [
        Some(head),
        (attack == AttackName::PgdT).then(|| "towards each other class".into()),
        unusual.map(|part| part.text),
        read(AttackFlag::NbRestart).then_some(starts.text),
        step.filter(|part| is_pgd && part.differs).map(|part| part.text),
        (read(AttackFlag::NbSample) && samples.differs).then_some(samples.text),
    ];
    parts.into_iter().flatten().collect::<Vec<String>>().join(", ")
}

/// A value in words.
struct StrengthPart {
    text: String,
    /// True if the published value is another; the text names it.
    differs: bool,
}

/// Number with its noun, beside the published number where it differs.
fn beside_published(used: u32, published: u32, noun: &str) -> StrengthPart {
    let own = counted(used.into(), noun);
    let text = match used.cmp(&published) {
        Ordering::Less => format!("{used} of {}", counted(published.into(), noun)),
        Ordering::Equal => own,
        Ordering::Greater => format!("{own} (published: {published})"),
    };
    StrengthPart { text, differs: used != published }
}

/// A value with its name, if the attack has it.
fn compared<T: Display + PartialEq>(name: &str, used: Option<&T>, published: Option<&T>) -> Option<StrengthPart> {
    let used = used?;
    let other = published.filter(|published| *published != used);
    let mark = other.map(|published| format!(" (published: {published})")).unwrap_or_default();
    Some(StrengthPart { text: format!("{name} {used}{mark}"), differs: other.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::StepLength;

    fn strength(iterations: [u32; 2], restarts: [u32; 2], step: [&str; 2]) -> AttackStrength {
        let values = |i: usize| StrengthValues {
            iterations: iterations[i],
            restarts: restarts[i],
            loss: Some("xent".into()),
            step: Some(step[i].into()),
            ..StrengthValues::default()
        };
        AttackStrength { used: values(0), published: values(1) }
    }

    #[test]
    fn a_value_that_is_not_the_published_one_is_marked() {
        let published = strength([100; 2], [5; 2], ["eps / 40"; 2]);
        assert_eq!(published.to_string(), "100 iterations, 5 runs, loss xent, step eps / 40");
        assert!(published.unpublished().is_empty());
        let weak = strength([1, 100], [1, 5], ["0.01", "eps / 40"]);
        let marks = ["1 of 100 iterations", "1 of 5 runs", "step 0.01 (published: eps / 40)"];
        assert_eq!(weak.unpublished(), marks);
        assert_eq!(weak.to_string(), "1 of 100 iterations, 1 of 5 runs, loss xent, step 0.01 (published: eps / 40)");
        let strong = strength([1000, 100], [1; 2], ["eps / 4"; 2]);
        assert_eq!(strong.unpublished(), ["1000 iterations (published: 100)"]);
    }

    #[test]
    fn attacks_in_balls_are_described_with_every_unpublished_value() {
        let config = preset("mnist-linf").unwrap().config;
        let published = AttackSettings::published(&config);
        let weak = AttackSettings {
            nb_iter: Some(1),
            nb_restart: 2,
            step: StepLength::Fixed(0.01),
            nb_sample: 64,
            ..published.clone()
        };
        for (attack, as_published, weakened) in [
            (
                AttackName::Pgd,
                "PGD-100 linf, 10 starts",
                "PGD linf, 1 of 100 iterations, 2 of 10 starts, step 0.01 (published: eps / 40)",
            ),
            (
                AttackName::PgdT,
                "PGD-100 linf on xent, towards each other class",
                "PGD linf on xent, towards each other class, 1 of 100 iterations, step 0.01 (published: eps / 40)",
            ),
            (AttackName::ApgdCe, "apgd-ce linf", "apgd-ce linf, 1 of 100 iterations"),
            (AttackName::Square, "square linf", "square linf, 1 of 5000 iterations"),
            (AttackName::Spsa, "spsa linf", "spsa linf, 1 of 100 iterations, 64 of 8192 samples"),
            (AttackName::Autoattack, "autoattack linf", "autoattack linf"),
        ] {
            assert_eq!(describe(attack, &config, &published), as_published);
            assert_eq!(describe(attack, &config, &weak), weakened);
        }
    }

    #[test]
    fn an_pgd_beside_fewer_iterations_than_published_is_marked() {
        let config = preset("mnist-linf").unwrap().config;
        assert!(AttackStrength::of_an_pgd(&config).unpublished().is_empty());
        let fewer = AttackStrength::of_an_pgd(&Config { nb_iter: 5, ..config });
        assert_eq!(fewer.unpublished(), ["5 of 40 iterations"]);
    }
}
