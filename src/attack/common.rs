//! Steps that attacks have in common: each records a few ops on a tape.

use crate::batch::Batch;
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::{Buffer, Formula, L2Order, Loss, LossRule, Norm, PgdRule, Reduction, Tape, Value};
use crate::{Error, Result};

/// Number added to norms that are divided by.
pub(super) const TINY: f32 = 1e-12;

/// Logit margin: the largest other logit less the label's. Negative where the label has the largest logit.
pub(super) const LOGIT_MARGIN: LossRule = LossRule { loss: Loss::Lm, confidence: 0.0 };

/// Number of classes of a network.
///
/// # Errors
/// The attack called `name` needs `least` of them, and there are fewer.
pub(super) fn check_classes(model: &dyn Model, name: &str, least: usize) -> Result<usize> {
    match model.classes() {
        few if few < least => {
            Err(Error::usage(format!("{name}: expected a network of {least} classes or more; found {few}")))
        }
        classes => Ok(classes),
    }
}

/// Formula of a constant.
pub(super) fn constant(value: f32) -> Formula {
    Formula::from(value)
}

/// Writes `value` to all elements of `buffer`.
pub(super) fn fill(tape: &mut Tape, buffer: &Buffer, value: f32) {
    let filled = tape.fill(value, &buffer.dims);
    tape.keep(filled, buffer);
}

/// Copies `value` to `buffer`.
pub(super) fn copy_into(tape: &mut Tape, buffer: &Buffer, value: Value) {
    tape.map_into(buffer, [value], |_, [value]| value);
}

/// Logit margins `[n]` of logits `[n, classes]` for the batch's labels.
pub(super) fn logit_margin(tape: &mut Tape, batch: &Batch, logits: Value) -> Value {
    let labels = tape.leaf(&batch.labels);
    tape.loss(LOGIT_MARGIN, logits, labels)
}

/// 1 where an example of logit margin `margin` `[n]` is adversarial, else 0.
pub(super) fn is_adversarial(tape: &mut Tape, margin: Value) -> Value {
    tape.map([margin], |[margin]| 1.0 - margin.less(0.0))
}

/// Writes each example's target class, u32 `[n]`: run number r (u32 `[1]`) leads to the class with the (r + 2)-th
/// largest logit of the image, the label's left out.
pub(super) fn choose_target_class(tape: &mut Tape, model: &dyn Model, batch: &Batch, run: &Buffer, classes: &Buffer) {
    let [x, labels, run] = [&batch.x, &batch.labels, run].map(|b| tape.leaf(b));
    let logits = model.logits(tape, x, Mode::Eval);
    let class = tape.rank_class(0, logits, labels, Some(run));
    tape.keep(class, classes);
}

/// Norm `[n]` of the formula's numbers along each row.
pub(super) fn row_norm<const N: usize>(
    tape: &mut Tape,
    norm: Norm,
    inputs: [Value; N],
    formula: impl FnOnce([Formula; N]) -> Formula,
) -> Value {
    match norm {
        Norm::Linf => tape.reduce(Reduction::Max, inputs, |inputs| formula(inputs).abs()),
        Norm::L2 => {
            let squares = tape.reduce(Reduction::Sum, inputs, |inputs| {
                let value = formula(inputs);
                &value * &value
            });
            tape.map([squares], |[squares]| squares.sqrt())
        }
    }
}

/// Dual norm `[n]` of each row of a gradient: l1 for linf, l2 for l2.
pub(super) fn dual_norm(tape: &mut Tape, norm: Norm, gradient: Value) -> Value {
    match norm {
        Norm::Linf => tape.reduce(Reduction::Sum, [gradient], |[gradient]| gradient.abs()),
        Norm::L2 => row_norm(tape, Norm::L2, [gradient], |[gradient]| gradient),
    }
}

/// Norm `[n]` of the largest change of each image that stays in the box.
pub(super) fn largest_distance(tape: &mut Tape, norm: Norm, x: Value) -> Value {
    row_norm(tape, norm, [x], |[x]| x.max(1.0 - &x))
}

/// Brings `point` into ball and box exactly, by a PGD step of length 0.
pub(super) fn project_into_ball(tape: &mut Tape, norm: Norm, point: &Buffer, x: Value, eps: Value) {
    let rule = PgdRule { norm, l2_order: L2Order::BallBox, l2_grad_floor: TINY };
    let no_step = tape.map([eps], |_| constant(0.0));
    tape.pgd_step(rule, point, x, x, eps, no_step);
}

/// Direction of the gradient `dx`, of l2 norm 1. Where the gradient is 0 (a network whose units are all dead there), a
/// random direction of norm about 1: counter-based random numbers of `step` and each example's index.
pub(super) fn unit_direction(tape: &mut Tape, batch: &Batch, dx: Value, step: &Buffer, seed: u64) -> Value {
    let [step, index] = [step, &batch.index].map(|b| tape.leaf(b));
    let noise = tape.uniform(dx, step, index, seed, Purpose::AttackDirection, true);
    let elements: usize = tape.dims(dx)[1..].iter().product();
    // The mean square of a number in [-1, 1) is 1/3.
    let scale = (3.0 / elements as f32).sqrt();
    let norm = row_norm(tape, Norm::L2, [dx], |[dx]| dx);
    tape.map([dx, norm, noise], |[dx, norm, noise]| constant(0.0).less(&norm).select(dx / &norm, noise * scale))
}

/// Cosine schedule of a rate `[1]` from `first` to `last`: `last + (first - last) (1 + cos(pi step / steps)) / 2`,
/// where `step` `[1]` of `steps` iterations are done.
pub(super) fn cosine_rate(tape: &mut Tape, step: Value, steps: u32, [first, last]: [f32; 2]) -> Value {
    let turn = std::f32::consts::PI / steps as f32;
    let half = (first - last) / 2.0;
    tape.map([step], |[step]| (step * turn).cos() * half + (last + half))
}
