//! Family `loss`: values of four losses, and their gradients with respect to the logits, which single precision
//! reproduces within 1e-7.

use std::sync::Arc;

use maxmargin::config::Fidelity;
use maxmargin::device::{Device, Schedule};
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Tape};

use super::comparison::{Comparison, relative};
use super::{ReferenceCase, allocate};

const ALLOWED: f64 = 1e-6;

pub fn replay(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    let dims = &case.tensor("logits").shape;
    let mut memory = Memory::default();
    let (logits, labels) = (memory.f32("logits", dims), memory.u32("labels", &dims[..1]));
    let mut schedule = Schedule::default();
    let mut outputs = Vec::new();
    for (name, loss) in [("xent", Loss::Xent), ("slm", Loss::Slm), ("lm", Loss::Lm), ("cw", Loss::Cw)] {
        let (value, grad) = (memory.f32("value", &dims[..1]), memory.f32("grad", dims));
        let mut tape = Tape::new(name);
        let (z, y) = (tape.leaf(&logits), tape.leaf(&labels));
        let rule = LossRule { loss, confidence: Fidelity::RELEASED.cw_confidence };
        let found = tape.loss(rule, z, y);
        tape.keep(found, &value);
        let ones = tape.fill(1.0, &dims[..1]);
        let dz = tape.grad(found, ones, &[z])[0];
        tape.keep(dz, &grad);
        schedule.then(&Arc::new(tape.finish()), 1);
        outputs.push((format!("{name}.value"), value));
        outputs.push((format!("{name}.grad"), grad));
    }
    allocate(device, &memory, &schedule);
    device.write_f32(&logits, &case.f32s("logits")).unwrap();
    device.write_u32(&labels, &case.u32s("labels")).unwrap();
    device.replay(&schedule).unwrap();
    let compare = |(name, buffer): (String, Buffer)| {
        let error = relative(&device.read_f32(&buffer).unwrap(), case.values(&name));
        Comparison::new(name, error, ALLOWED)
    };
    outputs.into_iter().map(compare).collect()
}
