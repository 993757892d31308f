//! Gradients of a wide ResNet in double precision, given a device's decisions of each ReLU. Among millions of inputs of
//! ReLU some are so close to 0 that rounding decides their sign, and one such decision changes a gradient by a
//! thousandth or more. A device whose decisions differ from the case's must give the gradient that follows from its own
//! decisions.

use std::collections::HashMap;

use maxmargin::device::Device;
use maxmargin::model::{Mode, Model, ModelState};
use maxmargin::tape::{Buffer, LossRule, Memory, Op, Tape, Value};

use super::comparison::Comparison;
use crate::support::double::{DoubleValues, run};

/// Largest magnitude of ReLU's input at which rounding decides, relative to the root mean square of its batch.
const TIE: f64 = 2e-5;

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

/// Gradient of the summed loss with respect to the images, and of the mean loss with respect to each parameter, in this
/// project's layouts.
pub type CaseGradients = (Vec<f64>, Vec<Vec<f64>>);

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
        x: &[f32],
        labels: &[u32],
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
        let wanted = [vec![image], model.params().leaves(&mut tape)].concat();
        let mut by_parameter = tape.grad(loss, ones, &wanted);
        let by_image = by_parameter.remove(0);

        let mut known = DoubleValues::new();
        known.insert(image, x.iter().copied().map(f64::from).collect());
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
    pub fn gradients(&self, decisions: Option<&[Vec<f32>]>) -> CaseGradients {
        let passes = |decided: &Vec<f32>| decided.iter().map(|&y| y > 0.0).collect();
        let values = relus(&self.tape).into_iter().map(|[_, y]| y);
        let passes = values.zip(decisions.unwrap_or_default().iter().map(passes)).collect();
        let mut known = self.known.clone();
        run(&self.tape, &self.tape.nodes()[self.forward..], &mut known, self.rows, &passes);
        let mut take = |value: &Value| known.remove(value).expect("a gradient is computed");
        let by_image = take(&self.by_image);
        let mean = |sum: Vec<f64>| sum.iter().map(|v| v / self.rows as f64).collect();
        (by_image, self.by_parameter.iter().map(take).map(mean).collect())
    }

    /// Checks that rounding explains every decision that differs from its own.
    pub fn ties(&self, decisions: &[Vec<f32>]) -> Comparison {
        let mut furthest = 0f64;
        for ([x, _], decided) in relus(&self.tape).into_iter().zip(decisions) {
            let x = &self.known[&x];
            let size = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
            let other = x.iter().zip(decided).filter(|&(&x, &y)| (x > 0.0) != (y > 0.0));
            furthest = other.map(|(x, _)| x.abs() / size).fold(furthest, f64::max);
        }
        Comparison::new("ReLU's decisions (distance from a tie)", furthest, TIE)
    }
}

/// Reads a device's results of ReLU.
pub fn read(device: &dyn Device, relus: &[Buffer]) -> Vec<Vec<f32>> {
    relus.iter().map(|relu| device.read_f32(relu).unwrap()).collect()
}
