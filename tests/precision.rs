//! Half precision under attack, on the CPU: input gradients beside those of single precision.

use maxmargin::device::cpu::Cpu;
use maxmargin::device::cuda::{TYPICAL_MULTIPROCESSORS, launches};
use maxmargin::device::{Device, Schedule};
use maxmargin::model::{LeNet5, Mode, Model, ModelInPrecision, WideResNet, image_buffer};
use maxmargin::rng::{Purpose, philox, unit};
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Precision, Program, Tape};

/// Number of images.
const N: usize = 8;

/// Function that builds a network.
type Build = fn() -> Box<dyn Model>;

/// Networks that the attacks know.
const NETWORKS: [(&str, Build); 2] =
    [("LeNet5", || Box::new(LeNet5::new(0.5))), ("wide ResNet", || Box::new(WideResNet::new(10, 1)))];

/// A program that computes the gradient of a loss with respect to images.
struct Recorded {
    preparation: Schedule,
    program: Program,
    gradient: Buffer,
}

/// Operands of the programs: images, labels, ones.
struct Operands([Buffer; 3]);

impl Operands {
    fn declare(memory: &mut Memory, model: &dyn Model) -> Operands {
        Operands([image_buffer(memory, model, "x", N), memory.u32("labels", &[N]), memory.f32("ones", &[N])])
    }

    fn record(&self, memory: &mut Memory, model: &dyn Model, precision: Precision, loss: Loss, mode: Mode) -> Recorded {
        let attacked = ModelInPrecision::attacked(memory, model, precision);
        let gradient = image_buffer(memory, model, "gradient", N);
        let mut tape = Tape::new("gradient");
        let [at, labels, ones] = self.0.each_ref().map(|buffer| tape.leaf(buffer));
        let logits = attacked.logits(&mut tape, at, mode);
        let values = tape.loss(LossRule { loss, confidence: 50.0 }, logits, labels);
        let dx = tape.grad(values, ones, &[at])[0];
        tape.keep(dx, &gradient);
        Recorded { preparation: attacked.preparation(), program: tape.finish(), gradient }
    }
}

/// Bits of TF32, to which GPUs round the operands of single-precision products if they are allowed to.
const TF32: u32 = 11;

/// Gradients of a loss with respect to random images, in single precision, in half precision, and with operands in
/// TF32. `certain` is the factor of the last layer's weights.
fn gradients(model: &mut dyn Model, loss: Loss, certain: f32) -> [Vec<f32>; 3] {
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let model = &*model;
    let operands = Operands::declare(&mut memory, model);
    let [single, half, tf32] = [Precision::Fp32, Precision::Fp16, Precision::Fp32]
        .map(|precision| operands.record(&mut memory, model, precision, loss, Mode::Eval));
    let tf32 = Recorded { program: tf32.program.with_rounded_operands(TF32), ..tf32 };
    let recorded = [single, half, tf32];
    let Operands([x, labels, ones]) = operands;
    let device: &mut dyn Device = &mut Cpu::new();
    let programs = recorded.iter().flat_map(|of| of.preparation.programs().chain([&of.program]));
    device.allocate(&memory, &programs.collect::<Vec<_>>()).unwrap();
    let mut state = model.initial(1);
    state[0][model.params().range(model.output_layer().weight)].iter_mut().for_each(|w| *w *= certain);
    model.load(device, &state).unwrap();
    let pixel = |i: usize| unit(philox(7, Purpose::Init, 1, 0, i as u32)[0]);
    device.write_f32(&x, &(0..x.len()).map(pixel).collect::<Vec<_>>()).unwrap();
    device.write_u32(&labels, &(0..N as u32).collect::<Vec<_>>()).unwrap();
    device.write_f32(&ones, &[1.0; N]).unwrap();
    recorded.map(|Recorded { preparation, program, gradient }| {
        assert_eq!(preparation.stages.is_empty(), !program.stores_half());
        device.replay(&preparation).unwrap();
        device.execute(&program).unwrap();
        device.read_f32(&gradient).unwrap()
    })
}

/// Part of the gradients' absolute sum whose signs are equal, and numbers of zeros.
fn compare(single: &[f32], half: &[f32]) -> (f64, [usize; 2]) {
    let size = |equal: bool| {
        let terms = single.iter().zip(half).filter(|(a, b)| !equal || (**a > 0.0) == (**b > 0.0));
        terms.map(|(a, _)| f64::from(a.abs())).sum::<f64>()
    };
    let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count();
    (size(true) / size(false), [zeros(single), zeros(half)])
}

#[test]
fn signs_of_input_gradients_are_those_of_single_precision() {
    for (name, network) in NETWORKS {
        for (loss, certain) in [(Loss::Slm, 1.0), (Loss::Xent, 1.0), (Loss::Xent, 100.0), (Loss::Dlr, 1e-3)] {
            let [single, half, tf32] = gradients(&mut *network(), loss, certain);
            let (equal, zeros) = compare(&single, &half);
            let (equal_in_tf32, _) = compare(&single, &tf32);
            println!("{name}, {loss}, {certain}: {equal:.6}, {equal_in_tf32:.6} in TF32, {zeros:?}");
            assert!(equal > 0.998, "{name}, {loss}, {certain}: {equal}");
            // No worse than TF32, but for chance in gradients of eight images.
            assert!(1.0 - equal < 2.0 * (1.0 - equal_in_tf32), "{name}, {loss}: {equal}, {equal_in_tf32} in TF32");
            assert!(zeros[1] <= zeros[0] + zeros[0] / 100, "{name}, {loss}, {certain}: {zeros:?}");
        }
    }
}

/// A combination of operands' types without a kernel would be refused when memory is allocated.
#[test]
fn a_gpu_has_a_kernel_for_every_op_of_a_network_in_half_precision() {
    for ((name, network), mode) in
        NETWORKS.into_iter().flat_map(|network| [Mode::Eval, Mode::Train].map(|mode| (network, mode)))
    {
        let (mut memory, mut model) = (Memory::default(), network());
        model.declare(&mut memory);
        let operands = Operands::declare(&mut memory, &*model);
        let recorded = operands.record(&mut memory, &*model, Precision::Fp16, Loss::Xent, mode);
        let programs: Vec<&Program> = recorded.preparation.programs().chain([&recorded.program]).collect();
        let nodes = programs.iter().flat_map(|program| program.nodes.iter().map(move |node| (program, node)));
        let kernels: Vec<_> = nodes
            .flat_map(|(program, node)| launches(program, node, TYPICAL_MULTIPROCESSORS))
            .map(|launch| launch.kernel)
            .collect();
        // In training mode the gradients of batch norm are single precision, and so is all that they read.
        let half = kernels.iter().any(|kernel| kernel.contains("half"));
        assert!(half || (name, mode) == ("wide ResNet", Mode::Train), "{name}, {mode:?}: {kernels:?}");
    }
}
