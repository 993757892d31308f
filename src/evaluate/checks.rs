//! Signs that a figure means little: an attack that did nothing, a network that hides its gradients. They are those of
//! AutoAttack's own checks (Croce and Hein, 2020; checks.py of the released code), and a few more. None ends an
//! evaluation: they are told beside its figures.

use std::sync::Arc;

use super::Examples;
use super::checkpoint::{AttackStatistics, EvaluationState};
use crate::Result;
use crate::device::Device;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Program, Reduction, Tape};

/// The share of examples that the black-box attack may break beyond the white-box ones before it is a sign: AutoAttack's.
const SQUARE_BETTER: f64 = 0.002;

/// The gradients' magnitudes of a batch.
#[derive(Clone, Debug)]
pub(super) struct GradientCheck {
    program: Arc<Program>,
    largest: Buffer,
}

impl GradientCheck {
    /// Records the largest magnitude in the gradient of each example's cross-entropy by its image.
    pub(super) fn new(memory: &mut Memory, model: &dyn Model, examples: &Examples) -> GradientCheck {
        let target = &examples.target;
        let n = target.capacity();
        let largest = memory.f32("largest_gradient", &[n]);
        let mut tape = Tape::new("gradients");
        tape.set_rows(&target.rows);
        let (x, labels) = (tape.leaf(&target.x), tape.leaf(&target.labels));
        let logits = model.logits(&mut tape, x, Mode::Eval);
        let loss = tape.loss(LossRule { loss: Loss::Xent, confidence: 0.0 }, logits, labels);
        let ones = tape.fill(1.0, &[n]);
        let dx = tape.grad(loss, ones, &[x])[0];
        let most = tape.reduce(Reduction::Max, [dx], |[dx]| dx.abs());
        tape.keep(most, &largest);
        GradientCheck { program: Arc::new(tape.finish()), largest }
    }

    pub(super) fn programs(&self) -> [&Program; 1] {
        [&self.program]
    }
}

/// What is odd about an evaluation, a line each. The network is looked at on the first batch.
pub(super) fn suspicious(
    model: &dyn Model,
    device: &mut dyn Device,
    examples: &Examples,
    gradients: &GradientCheck,
    right: &[bool],
    state: &EvaluationState,
    eps: &[f64],
) -> Result<Vec<String>> {
    let mut odd = Vec::new();
    let all = examples.all();
    let Some(first) = examples.batches(&all).next() else { return Ok(odd) };
    examples.look(device, first)?;
    let logits = examples.logits(device)?;
    let used = first.len() * model.classes();
    examples.look(device, first)?;
    if examples.logits(device)?[..used].iter().zip(&logits).any(|(a, b)| a.to_bits() != b.to_bits()) {
        odd.push("the network's output is random: two passes of the same images differ".into());
    }
    let probabilities =
        |row: &[f32]| row.iter().all(|z| (0.0..=1.0).contains(z)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-4;
    if logits[..used].chunks(model.classes()).all(probabilities) {
        odd.push("the network's output is probabilities, not logits: losses on them have small gradients".into());
    }
    device.execute(&gradients.program)?;
    let largest = device.read_f32(&gradients.largest)?;
    let flat = first.iter().zip(&largest).filter(|(i, g)| right[**i as usize] && **g == 0.0).count();
    if flat > 0 {
        odd.push(format!(
            "the cross-entropy's gradient is zero on {flat} of the first {} images: attacks on it do nothing there",
            first.len()
        ));
    }
    let balls = state.tallies.iter().enumerate().flat_map(|(e, tallies)| tallies.iter().map(move |t| (eps[e], t)));
    for (eps, tally) in balls.chain(state.nearest_tallies.iter().map(|tally| (f64::INFINITY, tally))) {
        odd.extend(idle(eps, tally));
    }
    for (tallies, eps) in state.tallies.iter().zip(eps) {
        let square = tallies.iter().position(|tally| tally.name == "square");
        if let Some(tally) = square.filter(|at| *at > 0).map(|at| &tallies[at]) {
            let share = tally.broken as f64 / right.len() as f64;
            if share > SQUARE_BETTER {
                odd.push(format!(
                    "eps {eps}: the black-box attack square broke {} images that no white-box attack broke: gradients may \
                     be masked",
                    tally.broken
                ));
            }
        }
    }
    Ok(odd)
}

/// An attack that had something to do and did nothing.
fn idle(eps: f64, tally: &AttackStatistics) -> Option<String> {
    let AttackStatistics { name, attacked, moved, passes, .. } = tally;
    // Each result is judged by a forward pass that is none of the attack's.
    let own = passes.forward.saturating_sub(*attacked as u64) + passes.backward;
    match () {
        () if *attacked == 0 || eps == 0.0 => None,
        () if own == 0 => Some(format!("{name}, eps {eps}: made no pass through the network")),
        () if *moved == 0 => Some(format!("{name}, eps {eps}: changed none of {attacked} images")),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::passes::Passes;
    use super::*;

    fn tally(attacked: usize, moved: u64, forward: u64) -> AttackStatistics {
        AttackStatistics {
            name: "pgd-xent".into(),
            attacked,
            moved,
            passes: Passes { forward, backward: 0 },
            ..AttackStatistics::default()
        }
    }

    #[test]
    fn an_attack_that_does_nothing_is_told() {
        assert_eq!(idle(0.3, &tally(9, 0, 9)).unwrap(), "pgd-xent, eps 0.3: made no pass through the network");
        assert_eq!(idle(0.3, &tally(9, 0, 18)).unwrap(), "pgd-xent, eps 0.3: changed none of 9 images");
        assert_eq!(idle(0.3, &tally(9, 1, 18)), None);
    }

    #[test]
    fn an_attack_that_has_nothing_to_do_is_not() {
        assert_eq!(idle(0.0, &tally(9, 0, 18)), None, "in a ball without size nothing can move");
        assert_eq!(idle(0.3, &tally(0, 0, 0)), None, "nobody was left to attack");
    }
}
