//! Half precision on the CPU: gradients with respect to images and to weights beside those of single precision.

use maxmargin::batch::DeviceData;
use maxmargin::config::Config;
use maxmargin::device::cpu::Cpu;
use maxmargin::device::cuda::{TYPICAL_MULTIPROCESSORS, launches};
use maxmargin::device::{Device, Schedule};
use maxmargin::model::{LeNet5, Mode, Model, ModelInPrecision, StepModels, WideResNet, image_buffer};
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

/// Gradients of the mean cross-entropy with respect to the weights, as a training pass records them: in single
/// precision, in half precision with a scale of the loss, which is divided out, and with operands in TF32.
fn weight_gradients(model: &mut dyn Model, loss_scale: f32) -> [Vec<f32>; 3] {
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let model = &*model;
    let Operands([x, labels, _]) = Operands::declare(&mut memory, model);
    let recorded =
        [(Precision::Fp32, 1.0), (Precision::Fp16, loss_scale), (Precision::Fp32, 1.0)].map(|(precision, scale)| {
            let StepModels { trained, preparation, .. } = StepModels::new(&mut memory, model, precision);
            let gradient = memory.f32("gradient", &[model.params().len()]);
            let mut tape = Tape::new("training");
            let [at, label] = [&x, &labels].map(|buffer| tape.leaf(buffer));
            let logits = trained.logits(&mut tape, at, Mode::Train);
            let losses = tape.loss(LossRule { loss: Loss::Xent, confidence: 0.0 }, logits, label);
            let mean = tape.mean_weights(N);
            let weights = tape.scale(mean, scale);
            let wanted = model.params().leaves(&mut tape);
            for (value, part) in tape.grad(losses, weights, &wanted).into_iter().zip(model.params().parts(&gradient)) {
                tape.keep(value, &part);
            }
            (Recorded { preparation, program: tape.finish(), gradient }, scale)
        });
    let [single, half, (tf32, _)] = recorded;
    let tf32 = (Recorded { program: tf32.program.with_rounded_operands(TF32), ..tf32 }, 1.0);
    let recorded = [single, half, tf32];
    let device: &mut dyn Device = &mut Cpu::new();
    let programs = recorded.iter().flat_map(|(of, _)| of.preparation.programs().chain([&of.program]));
    device.allocate(&memory, &programs.collect::<Vec<_>>()).unwrap();
    model.load(device, &model.initial(1)).unwrap();
    let pixel = |i: usize| unit(philox(7, Purpose::Init, 1, 0, i as u32)[0]);
    device.write_f32(&x, &(0..x.len()).map(pixel).collect::<Vec<_>>()).unwrap();
    device.write_u32(&labels, &(0..N as u32).collect::<Vec<_>>()).unwrap();
    recorded.map(|(Recorded { preparation, program, gradient }, scale)| {
        device.replay(&preparation).unwrap();
        device.execute(&program).unwrap();
        device.read_f32(&gradient).unwrap().iter().map(|value| value / scale).collect()
    })
}

/// Length of a difference over the length of `single`.
fn relative_error(single: &[f32], other: &[f32]) -> f64 {
    let length = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    length(&mut single.iter().zip(other).map(|(a, b)| a - b)) / length(&mut single.iter().copied())
}

/// A scale loses no digit but those that vanish: gradients of all scales are as near to single precision's.
#[test]
fn gradients_of_weights_are_as_near_to_single_precision_as_those_of_tf32() {
    for (name, network) in NETWORKS {
        for scale in [64.0, 1024.0, 16384.0] {
            let [single, half, tf32] = weight_gradients(&mut *network(), scale);
            let [error, error_in_tf32] = [&half, &tf32].map(|other| relative_error(&single, other));
            println!("{name}, loss scale {scale}: {error:.2e}, {error_in_tf32:.2e} in TF32");
            assert!(error > 0.0 && error < 0.05, "{name}, loss scale {scale}: {error}");
            assert!(error < 2.0 * error_in_tf32, "{name}, loss scale {scale}: {error}, {error_in_tf32} in TF32");
        }
    }
}

/// A combination of operands' types without a kernel would be refused when memory is allocated.
#[test]
fn a_gpu_has_a_kernel_for_every_op_of_a_training_step_in_half_precision() {
    for preset in ["mnist-linf", "cifar10-linf", "cifar10-quick"] {
        for method in ["", "-std", "-pgd", "-trades"] {
            let Some(found) = maxmargin::config::preset(&format!("{preset}{method}")) else { continue };
            let config = Config { precision: Precision::Fp16, training_batch_size: 2, ..found.config };
            let (mut memory, mut model) = (Memory::default(), maxmargin::model::build(&config.architecture()));
            model.declare(&mut memory);
            let data = DeviceData::new(&mut memory, &*model, "train", 2);
            let step = maxmargin::train::record_step(&mut memory, &*model, &data, &config);
            let nodes =
                step.schedule.programs().flat_map(|program| program.nodes.iter().map(move |node| (program, node)));
            let kernels: Vec<_> = nodes
                .map(|(program, node)| launches(program, node, TYPICAL_MULTIPROCESSORS)[0].kernel)
                .filter(|kernel| kernel.contains("backward_weight") && !kernel.contains("norm"))
                .collect();
            // The first layer's images and the last layer's gradient are single precision, as are pooled features.
            let mut single = kernels.iter().filter(|kernel| !kernel.contains("half"));
            assert!(single.all(|kernel| *kernel == "linear_backward_weight_scalar"), "{preset}{method}: {kernels:?}");
            let on_tensor_cores = kernels.iter().filter(|kernel| kernel.ends_with("half_wide")).count();
            assert!(2 * on_tensor_cores >= kernels.len(), "{preset}{method}: {kernels:?}");
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
