//! Families `augment`, whose bytes must be equal, and `standardize`: the images and a gradient through them, which
//! single precision reproduces within 2e-7.

use std::sync::Arc;

use maxmargin::device::{Device, Schedule};
use maxmargin::tape::{DType, Memory, Tape};

use super::case::unit;
use super::comparison::{Comparison, relative};
use super::numbers::{hashed_signed, to_nchw, to_nhwc};
use super::{ReferenceCase, allocate};

const STANDARDIZE: f64 = 2e-6;

/// Images of a case as bytes `[n, h, w, c]`, with these dimensions and PyTorch's.
fn images(case: &ReferenceCase) -> (Vec<u8>, [usize; 4], &[usize]) {
    let shape = &case.tensor("images").shape;
    let &[n, c, h, w] = &shape[..] else { panic!("images have shape {shape:?}, expected [n, c, h, w]") };
    let bytes: Vec<u8> = case.u32s("images").iter().map(|&v| v as u8).collect();
    (to_nhwc(&bytes, shape), [n, h, w, c], shape)
}

pub fn augment(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    assert_eq!(case.text("mode"), "reflect", "metadata mode");
    let (bytes, dims, shape) = images(case);
    let n = dims[0];
    let mut memory = Memory::default();
    let source = memory.buffer("images", &dims, DType::U8);
    let index = memory.u32("index", &[n]);
    let choice = memory.u32("choice", &[n, 3]);
    let out = memory.buffer("out", &dims, DType::U8);
    let mut tape = Tape::new("augment");
    let leaves = [&source, &index, &choice].map(|b| tape.leaf(b));
    let cut = tape.gather_augmented(case.number("pad"), leaves[0], leaves[1], leaves[2]);
    tape.keep(cut, &out);
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(tape.finish()), 1);

    allocate(device, &memory, &schedule);
    device.write_u8(&source, &bytes).unwrap();
    device.write_u32(&index, &(0..n as u32).collect::<Vec<_>>()).unwrap();
    let parts = ["dy", "dx", "flip"].map(|part| case.u32s(part));
    let choices: Vec<u32> = (0..n).flat_map(|i| [0, 1, 2].map(|part| parts[part][i])).collect();
    device.write_u32(&choice, &choices).unwrap();
    device.replay(&schedule).unwrap();
    let mut found = vec![0; bytes.len()];
    device.read_bytes(&out, &mut found).unwrap();
    let off = to_nchw(&found, shape).iter().zip(case.values("out")).filter(|&(&f, &e)| f64::from(f) != e).count();
    vec![Comparison::new("out (bytes that differ)", off as f64, 0.0)]
}

pub fn standardize(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    let seed = case.text("cotangent").strip_prefix("hash:").and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| panic!("metadata cotangent = {:?}, expected hash:S", case.text("cotangent")));
    let (bytes, dims, shape) = images(case);
    let mut memory = Memory::default();
    let [x, cotangent, out, dx] = ["x", "cotangent", "out", "dx"].map(|name| memory.f32(name, &dims));
    let mut tape = Tape::new("standardize");
    let (image, weights) = (tape.leaf(&x), tape.leaf(&cotangent));
    let standard = tape.standardize(image);
    tape.keep(standard, &out);
    let by_image = tape.grad(standard, weights, &[image])[0];
    tape.keep(by_image, &dx);
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(tape.finish()), 1);

    allocate(device, &memory, &schedule);
    device.write_f32(&x, &unit(&bytes)).unwrap();
    let torch: Vec<f32> = (0..bytes.len()).map(|i| hashed_signed(seed, i)).collect();
    device.write_f32(&cotangent, &to_nhwc(&torch, shape)).unwrap();
    device.replay(&schedule).unwrap();
    [("out", &out), ("input_grad", &dx)]
        .map(|(name, buffer)| {
            let found = to_nchw(&device.read_f32(buffer).unwrap(), shape);
            Comparison::new(name, relative(&found, case.values(name)), STANDARDIZE)
        })
        .to_vec()
}
