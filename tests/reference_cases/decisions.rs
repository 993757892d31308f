//! Gradients of a wide ResNet in double precision, given a device's decisions of each ReLU. Among millions of inputs of
//! ReLU some are so close to 0 that rounding decides their sign, and one such decision changes a gradient by a
//! thousandth or more. A device whose decisions differ from the case's must give the gradient that follows from its own
//! decisions, and an attack must go where these gradients lead.

use std::collections::HashMap;

use maxmargin::device::Device;
use maxmargin::model::{Mode, Model, ModelState};
use maxmargin::tape::{Buffer, LossRule, Memory, Op, PgdRule, Tape, Value};

use super::comparison::Comparison;
use crate::support::ball::{pgd_start, pgd_step};
use crate::support::double::{DoubleValues, run};

/// Largest magnitude of ReLU's input at which rounding decides, relative to the root mean square of its batch.
pub const TIE: f64 = 2e-5;
/// Name of the comparison of a decision's distance with [`TIE`].
pub const DISTANCE_FROM_A_TIE: &str = "ReLU's decisions (distance from a tie)";

/// A device's results of each ReLU of a forward pass. Their signs are its decisions.
pub type Decisions = Vec<Vec<f32>>;

/// Keeps all results of ReLU in buffers, from which a device's decisions are read.
pub fn keep(tape: &mut Tape, memory: &mut Memory) -> Vec<Buffer> {
    let mut kept = Vec::new();
    for [_, value] in relus(tape) {
        let buffer = memory.f32(&format!("relu {}", kept.len()), tape.dims(value));
        tape.keep(value, &buffer);
        kept.push(buffer);
    }
    kept
}

/// Input and result of each ReLU of a tape.
fn relus(tape: &Tape) -> Vec<[Value; 2]> {
    let relus = tape.nodes().iter().filter(|node| node.op == Op::Relu);
    relus.map(|node| [node.inputs[0], node.outputs[0]]).collect()
}

/// Gradient of the summed loss with respect to the images, and of the mean loss with respect to each parameter that is
/// wanted, in this project's layouts.
pub type CaseGradients = (Vec<f64>, Vec<Vec<f64>>);

/// Gradients that are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Images,
    ImagesAndParameters,
}

/// A case's forward pass in double precision, and the tape of its gradients.
pub struct DoublePrecision {
    tape: Tape,
    forward: usize,
    known: DoubleValues,
    rows: usize,
    by_image: Value,
    by_parameter: Vec<Value>,
}

impl DoublePrecision {
    /// Computes the loss of the images `x` with their `labels`. The model is declared.
    pub fn new(
        model: &dyn Model,
        state: &ModelState,
        mode: Mode,
        rule: LossRule,
        x: &[f64],
        labels: &[u32],
        wanted: Wanted,
    ) -> DoublePrecision {
        let rows = labels.len();
        let mut memory = Memory::default();
        let mut tape = Tape::new("exact").without_fusion();
        let image = tape.leaf(&maxmargin::model::image_buffer(&mut memory, model, "x", rows));
        let label = tape.leaf(&memory.u32("labels", &[rows]));
        let logits = model.logits(&mut tape, image, mode);
        let loss = tape.loss(rule, logits, label);
        let forward = tape.nodes().len();
        let ones = tape.fill(1.0, &[rows]);
        let mut leaves = vec![image];
        if wanted == Wanted::ImagesAndParameters {
            leaves.extend(model.params().leaves(&mut tape));
        }
        let mut by_parameter = tape.grad(loss, ones, &leaves);
        let by_image = by_parameter.remove(0);

        let mut known = DoubleValues::new();
        known.insert(image, x.to_vec());
        known.insert(label, labels.iter().copied().map(f64::from).collect());
        for (params, values) in model.stored().zip(state) {
            let mut rest = &values[..];
            for leaf in params.leaves(&mut tape) {
                let (own, after) = rest.split_at(tape.dims(leaf).iter().product());
                known.insert(leaf, own.iter().copied().map(f64::from).collect());
                rest = after;
            }
        }
        run(&tape, &tape.nodes()[..forward], &mut known, rows, &HashMap::new());
        DoublePrecision { tape, forward, known, rows, by_image, by_parameter }
    }

    /// Gradients with the decisions of these results of ReLU, or with its own decisions.
    pub fn gradients(&self, decisions: Option<&Decisions>) -> CaseGradients {
        let passes = |decided: &Vec<f32>| decided.iter().map(|&y| y > 0.0).collect();
        let values = relus(&self.tape).into_iter().map(|[_, y]| y);
        let passes = values.zip(decisions.into_iter().flatten().map(passes)).collect();
        let mut known = self.known.clone();
        run(&self.tape, &self.tape.nodes()[self.forward..], &mut known, self.rows, &passes);
        let mut take = |value: &Value| known.remove(value).expect("a gradient is computed");
        let by_image = take(&self.by_image);
        let mean = |sum: Vec<f64>| sum.iter().map(|v| v / self.rows as f64).collect();
        (by_image, self.by_parameter.iter().map(take).map(mean).collect())
    }

    /// Checks that rounding explains every decision that differs from its own.
    pub fn ties(&self, decisions: &Decisions) -> Comparison {
        let furthest = self.distances(decisions).into_iter().fold(0.0, f64::max);
        Comparison::new(DISTANCE_FROM_A_TIE, furthest, TIE)
    }

    /// Largest distance from a tie of each example's decisions that differ from its own, relative to the root mean
    /// square of the batch.
    fn distances(&self, decisions: &Decisions) -> Vec<f64> {
        let mut furthest = vec![0f64; self.rows];
        for ([x, _], decided) in relus(&self.tape).into_iter().zip(decisions) {
            let x = &self.known[&x];
            let size = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
            let row = x.len() / self.rows;
            let other = x.iter().zip(decided).enumerate().filter(|&(_, (&x, &y))| (x > 0.0) != (y > 0.0));
            for (i, (x, _)) in other {
                furthest[i / row] = furthest[i / row].max(x.abs() / size);
            }
        }
        furthest
    }
}

/// PGD in double precision, given a device's decisions in each iteration.
pub struct DoublePgd<'a> {
    pub model: &'a dyn Model,
    pub state: &'a ModelState,
    pub loss: LossRule,
    pub rule: PgdRule,
    /// Images `[n, h, w, c]`, pixels in [0, 1].
    pub x: Vec<f64>,
    pub labels: Vec<u32>,
    /// Random numbers of the start, of the images' shape; `None`: PGD begins at the images.
    pub noise: Option<Vec<f64>>,
    /// Radius of each example's ball `[n]`.
    pub eps: Vec<f64>,
    /// Step size of each example `[n]`.
    pub step: Vec<f64>,
}

impl DoublePgd<'_> {
    /// Runs an iteration for each of `decisions`, with its own decisions where there are none. Returns the adversarial
    /// examples, and the largest distance from a tie of each example's decisions that differ from its own.
    pub fn run(&self, decisions: &[Option<Decisions>]) -> (Vec<f64>, Vec<f64>) {
        let rows = self.labels.len();
        let row = self.x.len() / rows;
        let of = |values: &[f64], i: usize| values[i * row..][..row].to_vec();
        let mut adv: Vec<f64> = match &self.noise {
            None => self.x.clone(),
            Some(noise) => {
                (0..rows).flat_map(|i| pgd_start(self.rule.norm, &of(&self.x, i), &of(noise, i), self.eps[i])).collect()
            }
        };
        let mut furthest = vec![0f64; rows];
        for decided in decisions {
            let (loss, labels) = (self.loss, &self.labels);
            let exact = DoublePrecision::new(self.model, self.state, Mode::Eval, loss, &adv, labels, Wanted::Images);
            if let Some(decided) = decided {
                furthest.iter_mut().zip(exact.distances(decided)).for_each(|(most, d)| *most = most.max(d));
            }
            let (g, _) = exact.gradients(decided.as_ref());
            let moved = |i: usize| {
                let [adv, x, g] = [&adv, &self.x, &g].map(|values| of(values, i));
                pgd_step(&self.rule, &adv, &x, &g, self.eps[i], self.step[i])
            };
            adv = (0..rows).flat_map(moved).collect();
        }
        (adv, furthest)
    }
}

/// Reads a device's results of ReLU.
pub fn read(device: &dyn Device, relus: &[Buffer]) -> Decisions {
    relus.iter().map(|relu| device.read_f32(relu).unwrap()).collect()
}
