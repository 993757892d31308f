//! What attacks have in common: their buffers by name, lengths along rows, the nearest example found so far.

use crate::batch::Batch;
use crate::model::{Model, image_buffer};
use crate::rng::Purpose;
use crate::tape::{Buffer, Formula, Memory, Norm, Reduction, Tape, Value};

/// Makes the buffers of an attack on `target`, each named after both.
pub(super) struct Workspace<'a> {
    pub memory: &'a mut Memory,
    pub model: &'a dyn Model,
    pub target: &'a Batch,
    pub attack: &'static str,
}

impl Workspace<'_> {
    /// The buffer's name.
    pub fn name(&self, part: &str) -> String {
        format!("{}.{}.{part}", self.target.name, self.attack)
    }

    /// A number of each pixel `[n, h, w, c]`.
    pub fn images(&mut self, part: &str) -> Buffer {
        let name = self.name(part);
        image_buffer(self.memory, self.model, &name, self.target.capacity())
    }

    /// A number a row `[n]`.
    pub fn by_row(&mut self, part: &str) -> Buffer {
        self.f32(part, &[self.target.capacity()])
    }

    /// Single-precision numbers of any shape.
    pub fn f32(&mut self, part: &str, dims: &[usize]) -> Buffer {
        let name = self.name(part);
        self.memory.f32(&name, dims)
    }

    /// A counter, u32 `[1]`.
    pub fn count(&mut self, part: &str) -> Buffer {
        self.u32(part, &[1])
    }

    /// Unsigned integers of any shape.
    pub fn u32(&mut self, part: &str, dims: &[usize]) -> Buffer {
        let name = self.name(part);
        self.memory.u32(&name, dims)
    }
}

/// A formula that is a number.
pub(super) fn number(value: f32) -> Formula {
    Formula::from(value)
}

/// How long the formula's numbers are along each row `[n]`.
pub(super) fn length<const N: usize>(
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

/// The length of the longest change that the box allows each row's image `[n]`.
pub(super) fn worst_length(tape: &mut Tape, norm: Norm, x: Value) -> Value {
    length(tape, norm, [x], |[x]| x.max(1.0 - &x))
}

/// 1 where an example of logit margin `margin` `[n]` is adversarial, else 0.
pub(super) fn broken(tape: &mut Tape, margin: Value) -> Value {
    tape.map([margin], |[margin]| 1.0 - margin.less(0.0))
}

/// Takes `point`, `distance` `[n]` away, as the result `adv` where it is adversarial and nearer than `nearest`.
pub(super) fn keep_nearest(
    tape: &mut Tape,
    broken: Value,
    point: Value,
    distance: Value,
    adv: &Buffer,
    nearest: &Buffer,
) {
    let before = tape.leaf(nearest);
    let better = tape.map([broken, distance, before], |[broken, distance, before]| broken * distance.less(before));
    tape.map_into(adv, [better, point], |old, [better, point]| better.select(point, old));
    tape.map_into(nearest, [better, distance], |old, [better, distance]| better.select(distance, old));
}

/// A direction of length 1: that of the gradient `dx`; or, where that is 0 (a network whose units are all dead there),
/// a random one, about as long, counted by `step` and each example's index.
pub(super) fn direction(tape: &mut Tape, target: &Batch, dx: Value, step: &Buffer, seed: u64) -> Value {
    let [step, index] = [step, &target.index].map(|b| tape.leaf(b));
    let noise = tape.uniform(dx, step, index, seed, Purpose::AttackDirection, true);
    let elements: usize = tape.dims(dx)[1..].iter().product();
    // The mean square of a number in [-1, 1) is 1/3.
    let scale = (3.0 / elements as f32).sqrt();
    let long = length(tape, Norm::L2, [dx], |[dx]| dx);
    tape.map([dx, long, noise], |[dx, long, noise]| number(0.0).less(&long).select(dx / &long, noise * scale))
}

/// How many of `steps` iterations are done, as a share of half a turn, makes a rate fall from `first` to `last`: `last +
/// (first - last) (1 + cos(pi step / steps)) / 2`. `step` is `[1]`, and so is the rate.
pub(super) fn cosine_rate(tape: &mut Tape, step: Value, steps: u32, [first, last]: [f32; 2]) -> Value {
    let turn = std::f32::consts::PI / steps as f32;
    let half = (first - last) / 2.0;
    tape.map([step], |[step]| (step * turn).cos() * half + (last + half))
}
