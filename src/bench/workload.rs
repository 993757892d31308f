//! Programs that are timed, and contents of their buffers with which each program does its usual work.

use std::sync::Arc;

use super::settings::BenchSettings;
use crate::batch::DeviceData;
use crate::config::{Method, preset};
use crate::device::Device;
use crate::model::{self, Model};
use crate::tape::{Buffer, DType, Memory, Norm, PgdRule, Precision, Program, Tape, Value, ValueInfo};
use crate::{Error, Result, train};

/// Size of the images of the attacks' steps, `[h, w, c]`.
const IMAGE: [usize; 3] = [28, 28, 1];
/// Radius of the attacks' balls, with which neither [0, 1] nor the ball clips every pixel.
const EPS: f32 = 0.3;
/// Step size of the attacks.
const STEP: f32 = 0.01;
/// Size of the smallest matrix product.
const LEAST_PRODUCT: usize = 256;
/// Added to the bias of label 0, which every example has, so that all examples are correct and attacked.
const BIAS: f32 = 5.0;

/// Pseudo-random number in [0, 1) of element `i`.
fn number(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32
}

/// Steps of attacks on a large batch in both norms, PGD's fused step and FAB's projection; and a copy of the same size.
pub(super) struct AttackSteps {
    adv: Buffer,
    x: Buffer,
    dx: Buffer,
    eps: Buffer,
    step: Buffer,
    steps: Vec<Arc<Program>>,
    copy: Arc<Program>,
}

impl AttackSteps {
    pub fn new(memory: &mut Memory, megabytes: usize) -> AttackSteps {
        let n = (megabytes * 1_000_000 / (4 * IMAGE.iter().product::<usize>())).max(1);
        let mut images = |name: &str| memory.f32(name, &[&[n][..], &IMAGE].concat());
        let [adv, x, dx, moved] = ["adv", "x", "dx", "moved"].map(&mut images);
        let [eps, step] = ["eps", "step"].map(|name| memory.f32(name, &[n]));
        let released = preset("mnist-linf").expect("a published preset").config.pgd_rule();
        let pgd_step = |norm: Norm| {
            let mut tape = Tape::new(&format!("pgd_step {norm}"));
            let [x, dx, eps, step] = [&x, &dx, &eps, &step].map(|buffer| tape.leaf(buffer));
            tape.pgd_step(PgdRule { norm, ..released }, &adv, x, dx, eps, step);
            Arc::new(tape.finish())
        };
        let project_hyperplane = |norm: Norm| {
            let mut tape = Tape::new(&format!("project_hyperplane {norm}"));
            let [x, anchor, dx, value] = [&x, &adv, &dx, &eps].map(|buffer| tape.leaf(buffer));
            let d = tape.project_hyperplane(norm, x, anchor, dx, value);
            tape.keep(d, &moved);
            Arc::new(tape.finish())
        };
        let norms = [Norm::Linf, Norm::L2];
        let steps = [norms.map(pgd_step), norms.map(project_hyperplane)].concat();
        let mut tape = Tape::new("copy");
        let from = tape.leaf(&x);
        let to = tape.copy(from);
        tape.keep(to, &adv);
        let copy = Arc::new(tape.finish());
        AttackSteps { adv, x, dx, eps, step, steps, copy }
    }

    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.steps.iter().chain([&self.copy]).map(|program| &**program)
    }

    pub fn steps(&self) -> &[Arc<Program>] {
        &self.steps
    }

    pub fn copy(&self) -> &Arc<Program> {
        &self.copy
    }

    pub fn fill(&self, device: &mut dyn Device) -> Result<()> {
        let image: Vec<f32> = (0..self.x.len()).map(number).collect();
        device.write_f32(&self.x, &image)?;
        device.write_f32(&self.adv, &image)?;
        let gradient: Vec<f32> = image.iter().rev().map(|value| value - 0.5).collect();
        device.write_f32(&self.dx, &gradient)?;
        device.write_f32(&self.eps, &vec![EPS; self.eps.len()])?;
        device.write_f32(&self.step, &vec![STEP; self.step.len()])
    }
}

/// Matrix products of growing size.
pub(super) struct Products {
    operands: [Buffer; 2],
    /// Size and program.
    pub by_size: Vec<(usize, Arc<Program>)>,
}

impl Products {
    pub fn new(memory: &mut Memory, largest: usize) -> Products {
        let [x, weight, out] =
            ["product.x", "product.weight", "product"].map(|name| memory.f32(name, &[largest, largest]));
        let sizes = std::iter::successors(Some(largest.min(LEAST_PRODUCT)), |size| Some(2 * size));
        let program = |size: usize| {
            let square = |whole: &Buffer| whole.part(&whole.name, 0, &[size, size]);
            let mut tape = Tape::new("linear");
            let [x, weight] = [&x, &weight].map(|whole| tape.leaf(&square(whole)));
            let product = tape.linear(x, weight);
            tape.keep(product, &square(&out));
            (size, Arc::new(tape.finish()))
        };
        let by_size = sizes.take_while(|&size| size <= largest).map(program).collect();
        Products { operands: [x, weight], by_size }
    }

    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.by_size.iter().map(|(_, program)| &**program)
    }

    pub fn fill(&self, device: &mut dyn Device) -> Result<()> {
        self.operands.iter().try_for_each(|buffer| {
            let values: Vec<f32> = (0..buffer.len()).map(|i| number(i) - 0.5).collect();
            device.write_f32(buffer, &values)
        })
    }
}

/// Training step in which every example is correct.
pub(super) struct BenchStep {
    model: Box<dyn Model>,
    data: DeviceData,
    batch: usize,
    precision: Precision,
    pub name: String,
    pub training: train::TrainingStep,
}

impl BenchStep {
    pub fn new(memory: &mut Memory, settings: &BenchSettings) -> Result<BenchStep> {
        let name = &settings.preset;
        let found = preset(name).ok_or_else(|| Error::usage(format!("--preset: no preset is called {name}")))?;
        let mut config = found.config;
        config.precision = settings.precision;
        config.width = settings.width.unwrap_or(config.width);
        config.training_batch_size = settings.batch_size.unwrap_or(config.training_batch_size);
        config.validate()?;
        // With learning rate 0 the optimizer does its usual work, and every step is the same.
        config.learning_rate_schedule = vec![(0, 0.0)];
        let batch = config.training_batch_size;
        let mut model = model::build(&config.architecture());
        model.declare(memory);
        let data = DeviceData::new(memory, &*model, "train", batch);
        let training = train::record_step(memory, &*model, &data, &config);
        let name = format!("{}_step", if config.method.is_mma() { Method::Mma } else { config.method });
        Ok(BenchStep { model, data, batch, precision: config.precision, name, training })
    }

    pub fn describe(&self) -> String {
        let precision = match self.precision {
            Precision::Fp32 => String::new(),
            half => format!("; {half}"),
        };
        format!("{}; batch {}{precision}", self.model.describe(), self.batch)
    }

    pub fn fill(&self, device: &mut dyn Device) -> Result<()> {
        let mut state = self.model.initial(0);
        let weights = &mut state[0];
        weights[self.model.params().range(self.model.output_layer().bias).start] += BIAS;
        self.model.load(device, &state)?;
        let pixels: Vec<u8> = (0..self.data.images.len()).map(|i| (256.0 * number(i)) as u8).collect();
        device.write_u8(&self.data.images, &pixels)?;
        device.write_u32(&self.training.batch.index, &(0..self.batch as u32).collect::<Vec<_>>())?;
        device.write_u32(&self.training.batch.rows, &[self.batch as u32])
    }

    /// Refuses the times of a step that did not attack every example.
    pub fn check(&self, device: &dyn Device) -> Result<()> {
        let Some(correct) = &self.training.correct else { return Ok(()) };
        match device.read_u32(correct)?[0] {
            correct if correct as usize == self.batch => Ok(()),
            correct => Err(Error::failed(format!(
                "bench: expected all {} examples to be predicted correctly and attacked; found {correct}: the device \
                 computes something else, and its figures mean nothing",
                self.batch
            ))),
        }
    }
}

/// Shapes of the first op's operands: `u8:50x28x28x1 u32:50 -> u8:50x28x28x1`. Single precision is the type without a
/// name.
pub(super) fn shape(program: &Program) -> String {
    let node = &program.nodes[0];
    let one = |value: &Value| {
        let ValueInfo { dims, dtype, .. } = &program.values[value.0];
        let dims = dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        if *dtype == DType::F32 { dims } else { format!("{}:{dims}", dtype.name()) }
    };
    let all = |values: &[Value]| values.iter().map(one).collect::<Vec<_>>().join(" ");
    format!("{} -> {}", all(&node.inputs), all(&node.outputs[..1])).trim_start().to_owned()
}
