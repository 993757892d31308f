//! Half precision under attack, on the CPU: input gradients beside those of single precision.

use maxmargin::device::Device;
use maxmargin::device::cpu::Cpu;
use maxmargin::model::{AttackedModel, LeNet5, Mode, Model, WideResNet, image_buffer};
use maxmargin::rng::{Purpose, philox, unit};
use maxmargin::tape::{Loss, LossRule, Memory, Precision, Tape};

/// Number of images.
const N: usize = 8;

/// Gradients of a loss with respect to random images, in single and in half precision. `certain` is the factor of the
/// last layer's weights.
fn gradients(model: &mut dyn Model, loss: Loss, certain: f32) -> [Vec<f32>; 2] {
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let model = &*model;
    let x = image_buffer(&mut memory, model, "x", N);
    let labels = memory.u32("labels", &[N]);
    let ones = memory.f32("ones", &[N]);
    let recorded = [Precision::Fp32, Precision::Fp16].map(|precision| {
        let attacked = AttackedModel::new(&mut memory, model, precision);
        let gradient = image_buffer(&mut memory, model, "gradient", N);
        let mut tape = Tape::new("gradient");
        let [at, labels, ones] = [&x, &labels, &ones].map(|buffer| tape.leaf(buffer));
        let logits = attacked.logits(&mut tape, at, Mode::Eval);
        let values = tape.loss(LossRule { loss, confidence: 50.0 }, logits, labels);
        let dx = tape.grad(values, ones, &[at])[0];
        tape.keep(dx, &gradient);
        (attacked.preparation(), tape.finish(), gradient)
    });
    let device: &mut dyn Device = &mut Cpu::new();
    let programs = recorded.iter().flat_map(|(preparation, program, _)| preparation.programs().chain([program]));
    device.allocate(&memory, &programs.collect::<Vec<_>>()).unwrap();
    let mut state = model.initial(1);
    state[0][model.params().range(model.output_layer().weight)].iter_mut().for_each(|w| *w *= certain);
    model.load(device, &state).unwrap();
    let pixel = |i: usize| unit(philox(7, Purpose::Init, 1, 0, i as u32)[0]);
    device.write_f32(&x, &(0..x.len()).map(pixel).collect::<Vec<_>>()).unwrap();
    device.write_u32(&labels, &(0..N as u32).collect::<Vec<_>>()).unwrap();
    device.write_f32(&ones, &[1.0; N]).unwrap();
    recorded.map(|(preparation, program, gradient)| {
        assert_eq!(preparation.stages.is_empty(), !program.stores_half());
        device.replay(&preparation).unwrap();
        device.execute(&program).unwrap();
        device.read_f32(&gradient).unwrap()
    })
}

/// Part of the gradients' absolute sum whose signs are equal, and numbers of zeros.
fn compare([single, half]: &[Vec<f32>; 2]) -> (f64, [usize; 2]) {
    let size = |equal: bool| {
        let terms = single.iter().zip(half).filter(|(a, b)| !equal || (**a > 0.0) == (**b > 0.0));
        terms.map(|(a, _)| f64::from(a.abs())).sum::<f64>()
    };
    let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count();
    (size(true) / size(false), [zeros(single), zeros(half)])
}

#[test]
fn signs_of_input_gradients_are_those_of_single_precision() {
    let networks: [(&str, fn() -> Box<dyn Model>); 2] =
        [("LeNet5", || Box::new(LeNet5::new(0.5))), ("wide ResNet", || Box::new(WideResNet::new(10, 1)))];
    for (name, network) in networks {
        for (loss, certain) in [(Loss::Slm, 1.0), (Loss::Xent, 1.0), (Loss::Xent, 100.0), (Loss::Dlr, 1e-3)] {
            let found = gradients(&mut *network(), loss, certain);
            let (equal, zeros) = compare(&found);
            println!("{name}, {loss}, {certain}: {equal:.6} {zeros:?}");
            assert!(equal > 0.998, "{name}, {loss}, {certain}: {equal}");
            assert!(zeros[1] <= zeros[0] + zeros[0] / 100, "{name}, {loss}, {certain}: {zeros:?}");
        }
    }
}
