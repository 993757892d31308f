//! Checks of an evaluation: signs that a figure means little, such as an attack that did nothing or a network that
//! hides its gradients.
//!
//! [`CHECKS`] is the table of all of them; `docs/checks.md` says what each means and what to do. The four from
//! `random-output` to `black-box-stronger` are AutoAttack's (Croce and Hein, 2020; checks.py of the released code). A
//! check never ends an evaluation: its warning stands beside the figures.

use std::sync::Arc;

use super::checkpoint::EvaluationState;
use super::clean_outputs::CleanOutputs;
use super::examples::Examples;
use super::report::AttackStatistics;
use crate::Result;
use crate::device::Device;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Program, Reduction, Tape};

/// Fraction of the images that the black-box attack may find beyond the white-box ones: AutoAttack's.
const SQUARE_BETTER: f64 = 0.002;

/// A check by its name.
pub struct Check {
    /// Name, which begins the check's warnings and is a section of `docs/checks.md`.
    pub name: &'static str,
    /// Condition under which the check warns.
    pub condition: &'static str,
    /// Messages of the warnings that the observations raise.
    messages: fn(&Observations) -> Vec<String>,
}

/// Name of the check that ends an evaluation with exit code 1: its figures mean nothing.
const NON_FINITE_OUTPUT: &str = "non-finite-output";

/// True if a warning is of a check that no figure can stand beside.
pub fn is_fatal(warning: &str) -> bool {
    warning.split(':').next() == Some(NON_FINITE_OUTPUT)
}

/// Every check, in the order of their warnings.
pub const CHECKS: [Check; 8] = [
    Check {
        name: NON_FINITE_OUTPUT,
        condition: "a logit of a clean image is NaN or infinite",
        messages: non_finite_output,
    },
    Check {
        name: "constant-prediction",
        condition: "one class is predicted for every clean image, though they are of several classes",
        messages: constant_prediction,
    },
    Check {
        name: "random-output",
        condition: "two forward passes over the same images give different logits",
        messages: random_output,
    },
    Check {
        name: "probability-output",
        condition: "every row of logits lies in [0, 1] and sums to 1",
        messages: probability_output,
    },
    Check {
        name: "zero-gradient",
        condition: "the gradient of the cross-entropy with respect to a correctly classified image is zero",
        messages: zero_gradient,
    },
    Check {
        name: "black-box-stronger",
        condition: "square finds adversarial images for more than 0.2 % of the images after white-box attacks found none",
        messages: black_box_stronger,
    },
    Check {
        name: "no-passes",
        condition: "an attack made no pass through the network, apart from the one that verifies its results",
        messages: no_passes,
    },
    Check {
        name: "nothing-changed",
        condition: "an attack returned every image unchanged, in balls of a radius above 0",
        messages: nothing_changed,
    },
];

/// Observations on a finished evaluation, from which the checks decide.
#[derive(Debug, Default)]
pub(super) struct Observations {
    /// Outputs on clean images.
    pub outputs: CleanOutputs,
    /// Number of images.
    count: usize,
    /// Images in the first batch.
    first_batch: usize,
    /// Number of classes.
    classes: usize,
    /// Logits of the first batch, `[first_batch, classes]`, from two passes.
    logits: [Vec<f32>; 2],
    /// Correctly classified images of the first batch with a zero gradient.
    zero_gradients: usize,
    /// Attacks at each eps.
    bounded: Vec<ObservedAttack>,
    /// Minimum-norm attacks.
    minimum_norm: Vec<AttackStatistics>,
}

/// An attack in balls of one radius.
#[derive(Clone, Debug)]
struct ObservedAttack {
    eps: f64,
    /// True if an attack before it was run at the same eps.
    after_others: bool,
    statistics: AttackStatistics,
}

impl Observations {
    /// Observations on clean images alone.
    pub(super) fn of_outputs(outputs: CleanOutputs) -> Observations {
        Observations { outputs, ..Observations::default() }
    }

    /// Observes the network on the first batch of the examples; `eps` are the radii of the state's attacks in balls.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn new(
        model: &dyn Model,
        device: &mut dyn Device,
        examples: &Examples,
        gradients: &GradientCheck,
        correct: &[bool],
        state: &EvaluationState,
        eps: &[f64],
    ) -> Result<Observations> {
        let indices = examples.indices();
        let Some(first) = examples.batches(&indices).next() else { return Ok(Observations::default()) };
        let classes = model.classes();
        let mut pass = || -> Result<Vec<f32>> {
            examples.predict(device, first)?;
            let mut logits = examples.logits(device)?;
            logits.truncate(first.len() * classes);
            Ok(logits)
        };
        let logits = [pass()?, pass()?];
        let largest = gradients.largest(device)?;
        let zero_gradients = first.iter().zip(&largest).filter(|(i, g)| correct[**i as usize] && **g == 0.0).count();
        let observed = |(&eps, attacks): (&f64, &Vec<AttackStatistics>)| {
            let attacks = attacks.iter().cloned().enumerate();
            attacks.map(|(at, statistics)| ObservedAttack { eps, after_others: at > 0, statistics }).collect::<Vec<_>>()
        };
        Ok(Observations {
            outputs: CleanOutputs::default(),
            count: correct.len(),
            first_batch: first.len(),
            classes,
            logits,
            zero_gradients,
            bounded: eps.iter().zip(&state.bounded).flat_map(observed).collect(),
            minimum_norm: state.minimum_norm.clone(),
        })
    }

    /// Warnings of all checks, each beginning with the check's name.
    pub(super) fn warnings(&self) -> Vec<String> {
        let named = |check: &Check| {
            let messages = (check.messages)(self).into_iter();
            messages.map(|message| format!("{}: {message}", check.name)).collect::<Vec<_>>()
        };
        CHECKS.iter().flat_map(named).collect()
    }
}

/// Largest magnitude in the gradient of each example's cross-entropy with respect to its image.
#[derive(Clone, Debug)]
pub(super) struct GradientCheck {
    program: Arc<Program>,
    /// `[n]`.
    largest: Buffer,
}

impl GradientCheck {
    /// Records the gradients' magnitudes for the examples' batch.
    pub(super) fn new(memory: &mut Memory, model: &dyn Model, examples: &Examples) -> GradientCheck {
        let batch = &examples.batch;
        let n = batch.capacity();
        let largest = memory.f32("largest_gradient", &[n]);
        let mut tape = Tape::new("gradients");
        tape.set_rows(&batch.rows);
        let (x, labels) = (tape.leaf(&batch.x), tape.leaf(&batch.labels));
        let logits = model.logits(&mut tape, x, Mode::Eval);
        let loss = tape.loss(LossRule { loss: Loss::Xent, confidence: 0.0 }, logits, labels);
        let ones = tape.fill(1.0, &[n]);
        let dx = tape.grad(loss, ones, &[x])[0];
        let magnitude = tape.reduce(Reduction::Max, [dx], |[dx]| dx.abs());
        tape.keep(magnitude, &largest);
        GradientCheck { program: Arc::new(tape.finish()), largest }
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Magnitudes `[n]` for the batch that the examples hold.
    fn largest(&self, device: &mut dyn Device) -> Result<Vec<f32>> {
        device.execute(&self.program)?;
        device.read_f32(&self.largest)
    }
}

fn non_finite_output(seen: &Observations) -> Vec<String> {
    let CleanOutputs { count, non_finite, layer, .. } = &seen.outputs;
    let layer =
        layer.as_deref().map_or(String::new(), |layer| format!("; the first layer with such a value is {layer}"));
    Vec::from_iter((*non_finite > 0).then(|| {
        format!("logits are NaN or infinite for {non_finite} of {count} clean images{layer}; no figure means anything")
    }))
}

fn constant_prediction(seen: &Observations) -> Vec<String> {
    let CleanOutputs { count, constant, layer, .. } = &seen.outputs;
    let layer = match layer {
        Some(layer) => format!("the first layer with equal values for images of several classes is {layer}"),
        None => "its logit is always the largest, though no layer has equal values for all images".into(),
    };
    Vec::from_iter(constant.map(|class| format!("class {class} is predicted for every one of {count} images; {layer}")))
}

fn random_output(seen: &Observations) -> Vec<String> {
    let [first, second] = &seen.logits;
    let differ = first.iter().zip(second).any(|(a, b)| a.to_bits() != b.to_bits());
    Vec::from_iter(differ.then(|| "two forward passes over the same images give different logits".into()))
}

fn probability_output(seen: &Observations) -> Vec<String> {
    let probabilities =
        |row: &[f32]| row.iter().all(|z| (0.0..=1.0).contains(z)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-4;
    let all = !seen.logits[0].is_empty() && seen.logits[0].chunks(seen.classes).all(probabilities);
    Vec::from_iter(all.then(|| {
        "the network's outputs are probabilities instead of logits, so that the losses have small gradients".into()
    }))
}

fn zero_gradient(seen: &Observations) -> Vec<String> {
    let Observations { zero_gradients, first_batch, .. } = seen;
    Vec::from_iter((*zero_gradients > 0).then(|| {
        format!(
            "the gradient of the cross-entropy is zero for {zero_gradients} of the first {first_batch} images; attacks \
             that follow it do nothing there"
        )
    }))
}

fn black_box_stronger(seen: &Observations) -> Vec<String> {
    let stronger = seen.bounded.iter().filter(|attack| {
        let fraction = attack.statistics.found as f64 / seen.count as f64;
        attack.statistics.name == "square" && attack.after_others && fraction > SQUARE_BETTER
    });
    let message = |attack: &ObservedAttack| {
        format!(
            "eps {}: the black-box attack square found adversarial images for {} images that withstood every white-box \
             attack; gradients may be masked",
            attack.eps, attack.statistics.found
        )
    };
    stronger.map(message).collect()
}

fn no_passes(seen: &Observations) -> Vec<String> {
    seen.attempts()
        .filter(|(_, attack)| own_passes(attack) == 0)
        .map(|(label, _)| format!("{label}: made no pass through the network"))
        .collect()
}

fn nothing_changed(seen: &Observations) -> Vec<String> {
    seen.attempts()
        .filter(|(_, attack)| own_passes(attack) > 0 && attack.moved == 0)
        .map(|(label, attack)| format!("{label}: changed none of {} images", attack.attacked))
        .collect()
}

impl Observations {
    /// Attacks that were given images and room to change them, with a label for messages.
    fn attempts(&self) -> impl Iterator<Item = (String, &AttackStatistics)> {
        let bounded = self.bounded.iter().filter(|attack| attack.eps != 0.0);
        let bounded = bounded.map(|at| (format!("{}, eps {}", at.statistics.name, at.eps), &at.statistics));
        let minimum_norm = self.minimum_norm.iter().map(|attack| (attack.name.clone(), attack));
        bounded.chain(minimum_norm).filter(|(_, attack)| attack.attacked > 0)
    }
}

/// Passes of an attack without those that verify its results.
fn own_passes(attack: &AttackStatistics) -> u64 {
    attack.passes.forward.saturating_sub(attack.attacked as u64) + attack.passes.backward
}

#[cfg(test)]
mod tests {
    use super::super::passes::Passes;
    use super::*;

    fn statistics(name: &str, attacked: usize, moved: u64, forward: u64) -> AttackStatistics {
        let passes = Passes { forward, backward: 0 };
        AttackStatistics { name: name.into(), attacked, moved, passes, ..AttackStatistics::default() }
    }

    /// Warnings about one attack on 1,000 images.
    fn warnings(eps: f64, after_others: bool, statistics: AttackStatistics) -> Vec<String> {
        let bounded = vec![ObservedAttack { eps, after_others, statistics }];
        Observations { count: 1000, bounded, ..Observations::default() }.warnings()
    }

    #[test]
    fn an_attack_that_does_nothing_raises_a_warning() {
        let pgd = |moved, forward| warnings(0.3, false, statistics("pgd-xent", 9, moved, forward));
        assert_eq!(pgd(0, 9), ["no-passes: pgd-xent, eps 0.3: made no pass through the network"]);
        assert_eq!(pgd(0, 18), ["nothing-changed: pgd-xent, eps 0.3: changed none of 9 images"]);
        assert!(pgd(1, 18).is_empty());
        let ddn = Observations { minimum_norm: vec![statistics("ddn", 9, 0, 18)], ..Observations::default() };
        assert_eq!(ddn.warnings(), ["nothing-changed: ddn: changed none of 9 images"]);
    }

    #[test]
    fn an_attack_that_has_nothing_to_do_raises_no_warning() {
        assert!(warnings(0.0, false, statistics("pgd-xent", 9, 0, 18)).is_empty(), "a ball of radius 0 has no room");
        assert!(warnings(0.3, false, statistics("pgd-xent", 0, 0, 0)).is_empty(), "no image was left to attack");
    }

    #[test]
    fn a_black_box_attack_that_finds_more_than_the_white_box_ones_raises_a_warning() {
        let square = |found| AttackStatistics { found, ..statistics("square", 500, 500, 5000) };
        let warning = "black-box-stronger: eps 0.3: the black-box attack square found adversarial images for 3 images \
                       that withstood every white-box attack; gradients may be masked";
        assert_eq!(warnings(0.3, true, square(3)), [warning]);
        assert!(warnings(0.3, true, square(2)).is_empty(), "0.2 % are tolerated");
        assert!(warnings(0.3, false, square(3)).is_empty(), "no white-box attack came before it");
    }

    #[test]
    fn odd_outputs_raise_a_warning() {
        let seen = |first: [f32; 2], second: [f32; 2], zero_gradients| Observations {
            classes: 2,
            first_batch: 1,
            logits: [first.into(), second.into()],
            zero_gradients,
            ..Observations::default()
        };
        let names = |seen: Observations| {
            let warnings = seen.warnings();
            warnings.iter().map(|w| w.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(seen([3.0, -1.0], [3.0, -1.5], 0)), ["random-output"]);
        assert_eq!(names(seen([0.75, 0.25], [0.75, 0.25], 1)), ["probability-output", "zero-gradient"]);
        assert!(names(seen([3.0, -1.0], [3.0, -1.0], 0)).is_empty());
    }

    #[test]
    fn the_documentation_has_a_section_for_every_check() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md");
        let text = std::fs::read_to_string(path).expect("docs/checks.md");
        for check in CHECKS {
            let section = text.lines().any(|line| line.starts_with('#') && line.contains(check.name));
            assert!(section, "docs/checks.md has no section for {}", check.name);
        }
    }
}
