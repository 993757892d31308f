//! An attack run on a model of given weights, and the margins of such models.

use maxmargin::attack::Attack;
use maxmargin::batch::Batch;
use maxmargin::device::Device;
use maxmargin::model::{Mode, Model, OutputLayer, Params};
use maxmargin::tape::{Buffer, ConvWindow, Memory, Norm, Tape, Value};

use super::{LinearModel, Random, TestDevice};

/// Weights of a linear model, a row for each class, and the examples that an attack runs on.
#[derive(Clone)]
pub struct AttackProblem {
    pub image: [usize; 3],
    pub weights: Vec<Vec<f64>>,
    pub bias: Vec<f64>,
    pub x: Vec<Vec<f32>>,
    pub labels: Vec<u32>,
    pub index: Vec<u32>,
    pub eps: Vec<f32>,
}

impl AttackProblem {
    /// `n` images of random pixels between `low` and `high`, clamped to the box, and a linear model of `classes` whose
    /// logits are 0 in the middle of the box. Labels are the model's own predictions; eps is 0.
    pub fn random(seed: u64, image: [usize; 3], classes: usize, n: usize, [low, high]: [f64; 2]) -> AttackProblem {
        let mut random = Random(seed);
        let pixels = image.iter().product();
        let weights: Vec<Vec<f64>> = (0..classes).map(|_| random.signed(&[pixels]).values).collect();
        let bias = weights.iter().map(|w| f64::from((-0.5 * w.iter().sum::<f64>()) as f32)).collect();
        let mut pixel = |_| (low + (high - low) * random.unit()).clamp(0.0, 1.0) as f32;
        let x = (0..n).map(|_| (0..pixels).map(&mut pixel).collect()).collect();
        let index = (0..n as u32).map(|i| 3 * i + 1).collect();
        let mut problem = AttackProblem { image, weights, bias, x, labels: vec![0; n], index, eps: vec![0.0; n] };
        problem.labels = problem.x.iter().map(|x| problem.prediction(x)).collect();
        problem
    }

    /// Logits of an image.
    pub fn logits(&self, x: &[f32]) -> Vec<f64> {
        let logit = |w: &Vec<f64>| w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum::<f64>();
        self.weights.iter().zip(&self.bias).map(|(w, b)| logit(w) + b).collect()
    }

    /// Class with the largest logit.
    pub fn prediction(&self, x: &[f32]) -> u32 {
        let z = self.logits(x);
        (0..z.len()).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap() as u32
    }

    /// Logit margin: the largest of the other logits less the label's. Positive where `x` is adversarial.
    pub fn margin(&self, example: usize, x: &[f32]) -> f64 {
        let (z, y) = (self.logits(x), self.labels[example] as usize);
        let others = (0..z.len()).filter(|&j| j != y).map(|j| z[j]);
        others.fold(f64::NEG_INFINITY, f64::max) - z[y]
    }

    /// Distance of the nearest adversarial image in the box. The nearest change to each other class is parallel to the
    /// difference of weights (l2) or equally large in all pixels (linf), but for pixels that the box stops.
    pub fn distance(&self, norm: Norm, example: usize) -> f64 {
        let (x, y) = (&self.x[example], self.labels[example] as usize);
        let z = self.logits(x);
        let to_class = |j: usize| {
            let w: Vec<f64> = self.weights[j].iter().zip(&self.weights[y]).map(|(a, b)| a - b).collect();
            let needed = z[y] - z[j];
            let change = |t: f64| {
                let pixel = |(&x, &w): (&f32, &f64)| {
                    let wanted = if norm == Norm::L2 { t * w } else { t * w.signum() };
                    wanted.clamp(-f64::from(x), 1.0 - f64::from(x))
                };
                x.iter().zip(&w).map(pixel).collect::<Vec<f64>>()
            };
            let gained = |t: f64| change(t).iter().zip(&w).map(|(d, w)| d * w).sum::<f64>();
            let (mut low, mut high) = (0.0, 1e4);
            if gained(high) < needed {
                return f64::INFINITY;
            }
            for _ in 0..200 {
                let middle = (low + high) / 2.0;
                *(if gained(middle) < needed { &mut low } else { &mut high }) = middle;
            }
            length(norm, &change(high))
        };
        (0..z.len()).filter(|&j| j != y).map(to_class).fold(f64::INFINITY, f64::min)
    }

    /// The problem with one of its examples.
    pub fn only(&self, example: usize) -> AttackProblem {
        AttackProblem {
            x: vec![self.x[example].clone()],
            labels: vec![self.labels[example]],
            index: vec![self.index[example]],
            eps: vec![self.eps[example]],
            ..self.clone()
        }
    }

    fn parameters(&self) -> Vec<f32> {
        self.weights.concat().iter().chain(&self.bias).map(|&v| v as f32).collect()
    }
}

/// Norm of a change.
pub fn length(norm: Norm, change: &[f64]) -> f64 {
    match norm {
        Norm::Linf => change.iter().fold(0.0, |m, d| d.abs().max(m)),
        Norm::L2 => change.iter().map(|d| d * d).sum::<f64>().sqrt(),
    }
}

/// Distance of `adv` from `x`.
pub fn distance(norm: Norm, adv: &[f32], x: &[f32]) -> f64 {
    let change: Vec<f64> = adv.iter().zip(x).map(|(&a, &x)| f64::from(a) - f64::from(x)).collect();
    length(norm, &change)
}

/// Recording of an attack on a batch.
pub type AttackRecorder = Box<dyn Fn(&mut Memory, &dyn Model, &Batch) -> Attack>;

/// An attack, recorded and loaded on a device.
pub struct AttackRunner {
    pub device: Box<dyn Device>,
    pub attack: Attack,
}

impl AttackRunner {
    /// Records an attack on the linear model and writes its inputs.
    pub fn new(
        make: TestDevice,
        problem: &AttackProblem,
        record: impl Fn(&mut Memory, &dyn Model, &Batch) -> Attack,
    ) -> AttackRunner {
        let mut model = LinearModel::new(problem.image, problem.bias.len());
        AttackRunner::of(make, problem, &mut model, &problem.parameters(), record)
    }

    /// Records an attack on `model`, whose parameters are `values`.
    pub fn of(
        make: TestDevice,
        problem: &AttackProblem,
        model: &mut dyn Model,
        values: &[f32],
        record: impl Fn(&mut Memory, &dyn Model, &Batch) -> Attack,
    ) -> AttackRunner {
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let batch = Batch::new(&mut memory, model, "images", problem.x.len());
        let attack = record(&mut memory, model, &batch);
        let mut device = make.open();
        device.allocate(&memory, &attack.schedule.programs().collect::<Vec<_>>()).expect("memory");
        model.params().load(&mut *device, values).unwrap();
        device.write_f32(&batch.x, &problem.x.concat()).unwrap();
        device.write_u32(&batch.labels, &problem.labels).unwrap();
        device.write_u32(&batch.index, &problem.index).unwrap();
        device.write_u32(&batch.rows, &[problem.x.len() as u32]).unwrap();
        device.write_u32(&attack.run, &[0]).unwrap();
        if let Some(eps) = &attack.eps {
            device.write_f32(eps, &problem.eps).unwrap();
        }
        AttackRunner { device, attack }
    }

    /// Results of the run of this number.
    pub fn run(&mut self, number: u32) -> Vec<Vec<f32>> {
        self.device.write_u32(&self.attack.run, &[number]).unwrap();
        self.device.replay(&self.attack.schedule).unwrap();
        self.read(&self.attack.adv)
    }

    /// Content of a buffer, row by row.
    pub fn read(&self, buffer: &Buffer) -> Vec<Vec<f32>> {
        let row = buffer.len() / buffer.dims[0];
        self.device.read_f32(buffer).unwrap().chunks(row).map(<[f32]>::to_vec).collect()
    }

    /// The carried buffer whose name ends with `part`.
    pub fn carried(&self, part: &str) -> Buffer {
        let found = self.attack.carried.iter().find(|buffer| buffer.name.ends_with(part));
        found.unwrap_or_else(|| panic!("{} carries no {part}", self.attack.name)).clone()
    }
}

/// Linear model of standardized images, with two classes whose weights differ in sign alone. The boundary is a cone
/// around the weights, in the space of images of mean 0.
#[derive(Clone)]
pub struct ConeModel {
    image: [usize; 3],
    params: Params,
}

impl ConeModel {
    pub fn new(image: [usize; 3]) -> ConeModel {
        let dims = [2, image.iter().product()];
        let mut params = Params::default();
        params.weight("weight", &dims, &dims, 0);
        params.bias("bias");
        ConeModel { image, params }
    }
}

impl Model for ConeModel {
    fn describe(&self) -> String {
        "a cone".into()
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "weight", bias: "bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, _: Mode) -> Value {
        let [weight, bias] = self.params.leaves(tape)[..] else { unreachable!("a weight and a bias") };
        let x = tape.standardize(x);
        let product = tape.linear(x, weight);
        tape.add_bias(product, bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
    }
}

/// Network with one unit that is dead for most images. The first class's logit is 1/2, the second's `max(sum of pixels
/// - bar, 0)`.
#[derive(Clone)]
pub struct DeadModel {
    image: [usize; 3],
    params: Params,
}

impl DeadModel {
    pub fn new(image: [usize; 3]) -> DeadModel {
        let pixels = image.iter().product();
        let mut params = Params::default();
        params.weight("linear1.weight", &[1, pixels], &[1, pixels], 0);
        params.bias("linear1.bias");
        params.weight("linear2.weight", &[2, 1], &[2, 1], 0);
        params.bias("linear2.bias");
        DeadModel { image, params }
    }

    /// Parameters of a network whose unit is alive where the pixels' sum is more than `bar`.
    pub fn values(&self, bar: f32) -> Vec<f32> {
        let pixels: usize = self.image.iter().product();
        [vec![1.0; pixels], vec![-bar, 0.0, 1.0, 0.5, 0.0]].concat()
    }
}

impl Model for DeadModel {
    fn describe(&self) -> String {
        "one unit".into()
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "linear2.weight", bias: "linear2.bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, _: Mode) -> Value {
        let [w1, b1, w2, b2] = self.params.leaves(tape)[..] else { unreachable!("two layers") };
        let hidden = tape.linear(x, w1);
        let hidden = tape.add_bias(hidden, b1);
        let hidden = tape.relu(hidden);
        let logits = tape.linear(hidden, w2);
        tape.add_bias(logits, b2)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
    }
}

/// Network of two convolutions whose logits are computed image by image, so that an example's bits do not depend on the
/// others of its batch. (A linear layer is a product of matrices, which sums in another order for few rows.)
#[derive(Clone)]
pub struct ConvolutionModel {
    image: [usize; 3],
    params: Params,
}

impl ConvolutionModel {
    pub fn new(image: [usize; 3], classes: usize) -> ConvolutionModel {
        const HIDDEN: usize = 3;
        let [h, w, c] = image;
        let mut params = Params::default();
        params.weight("conv1.weight", &[HIDDEN, c, 3, 3], &[HIDDEN, 3, 3, c], 0);
        params.weight("conv2.weight", &[classes, HIDDEN, h, w], &[classes, h, w, HIDDEN], 0);
        params.bias("conv2.bias");
        ConvolutionModel { image, params }
    }
}

impl Model for ConvolutionModel {
    fn describe(&self) -> String {
        "two convolutions".into()
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "conv2.weight", bias: "conv2.bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, _: Mode) -> Value {
        let [w1, w2, bias] = self.params.leaves(tape)[..] else { unreachable!("two layers, one bias") };
        let hidden = tape.conv2d(x, w1, ConvWindow { stride: 1, padding: 1 });
        let hidden = tape.relu(hidden);
        let logits = tape.conv2d(hidden, w2, ConvWindow { stride: 1, padding: 0 });
        let logits = tape.global_mean(logits);
        tape.add_bias(logits, bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
    }
}
