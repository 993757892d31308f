//! A step of MMA training (Algorithm 2) on a linear model: the examples that are attacked, the examples that are
//! trained on, and the margins that are stored.

mod support;

use maxmargin::batch::DeviceData;
use maxmargin::config::{Config, OptimizerKind, SearchMode, preset};
use maxmargin::device::Device;
use maxmargin::model::{Mode, Model, OutputLayer, Params};
use maxmargin::tape::{BATCH_NORM_MOMENTUM, BatchNorm, Memory, Metric, Tape, Value};
use maxmargin::train::Mma;
use support::{LinearModel, Random, TestDevice, devices};

/// Number of examples in the data set.
const EXAMPLES: usize = 12;
const CLASSES: usize = 3;
const PIXELS: usize = 16;
/// Stored margin of every example before the step.
const BEFORE: f32 = 0.3;

/// Plain SGD on batches of `batch`, with d_max 0.2. An example is correct if p_y > 1/2, as in the released code.
fn config(batch: usize) -> Config {
    let mut config = preset("quick").unwrap().config;
    config.training_batch_size = batch;
    config.optimizer = OptimizerKind::Sgd;
    config.momentum = 0.0;
    config.weight_decay = 0.0;
    config.learning_rate_schedule = vec![(0, 0.5)];
    config.hinge_maxeps = 0.2;
    config.clean_loss_coeff = 0.0;
    config.nb_iter = 5;
    config
}

/// Data set (bytes and labels) and model (weights `[classes, pixels]` and bias).
struct Given {
    bytes: Vec<u8>,
    labels: Vec<u32>,
    weights: Vec<f64>,
    bias: Vec<f64>,
}

impl Given {
    /// Example `i` has the label that the model predicts if `correct(i)`, else the next one.
    fn new(correct: impl Fn(usize) -> bool, scale: f64) -> Given {
        let mut random = Random(1);
        let bytes: Vec<u8> = (0..EXAMPLES * PIXELS).map(|_| 64 + random.below(128) as u8).collect();
        let weights = random.signed(&[CLASSES * PIXELS]).values.iter().map(|w| f64::from((scale * w) as f32)).collect();
        // The bias makes the classes equally likely at mid-grey.
        let mut given = Given { bytes, labels: vec![0; EXAMPLES], weights, bias: vec![0.0; CLASSES] };
        given.bias = (0..CLASSES)
            .map(|c| -given.weights[c * PIXELS..][..PIXELS].iter().sum::<f64>() * 0.5)
            .map(|b| f64::from(b as f32))
            .collect();
        for i in 0..EXAMPLES {
            let z = given.logits(i);
            let best = (0..CLASSES).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
            given.labels[i] = ((best + usize::from(!correct(i))) % CLASSES) as u32;
        }
        given
    }

    fn x(&self, i: usize) -> Vec<f64> {
        self.bytes[i * PIXELS..][..PIXELS].iter().map(|b| f64::from(*b) / 255.0).collect()
    }

    fn logits(&self, i: usize) -> Vec<f64> {
        let dot = |c: usize| self.x(i).iter().zip(&self.weights[c * PIXELS..]).map(|(x, w)| x * w).sum::<f64>();
        (0..CLASSES).map(|c| dot(c) + self.bias[c]).collect()
    }

    /// True if p_y > 1/2, the released code's condition for a correct example.
    fn is_correct(&self, i: usize) -> bool {
        let z = self.logits(i);
        let y = self.labels[i] as usize;
        2.0 * z[y].exp() > z.iter().map(|z| z.exp()).sum::<f64>()
    }

    fn parameters(&self) -> Vec<f32> {
        self.weights.iter().chain(&self.bias).map(|&v| v as f32).collect()
    }
}

/// State after a step.
struct After {
    table: Vec<f32>,
    eps: Vec<f32>,
    weights: Vec<f32>,
    metrics: Vec<f32>,
    correct: u32,
    parameters: Vec<f32>,
}

fn record(config: &Config) -> (maxmargin::tape::Memory, LinearModel, DeviceData, Mma) {
    let mut memory = maxmargin::tape::Memory::default();
    let mut model = LinearModel::new([4, 4, 1], CLASSES);
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &model, "data", EXAMPLES);
    let mma = Mma::new(&mut memory, &model, &data, config, None);
    (memory, model, data, mma)
}

/// One step on the examples `batch`, from margins that are all [`BEFORE`].
fn step(make: TestDevice, config: &Config, given: &Given, batch: &[u32]) -> After {
    let (memory, model, data, mma) = record(config);
    let mut device: Box<dyn Device> = make.open();
    device.allocate(&memory, &mma.schedule.programs().collect::<Vec<_>>()).expect("memory");
    device.write_u8(&data.images, &given.bytes).unwrap();
    device.write_u32(&data.labels, &given.labels).unwrap();
    model.params().load(&mut *device, &given.parameters()).unwrap();
    device.write_f32(&mma.margins, &[BEFORE; EXAMPLES]).unwrap();
    // Inactive rows hold no valid index.
    device.write_u32(&mma.batch.index, &vec![u32::MAX; config.training_batch_size]).unwrap();
    device.write_u32(&mma.batch.index, batch).unwrap();
    device.write_u32(&mma.batch.rows, &[batch.len() as u32]).unwrap();
    device.replay(&mma.schedule).unwrap();
    assert_eq!(device.read_u32(&mma.step).unwrap(), [1]);
    let active = |values: Vec<f32>| values[..batch.len()].to_vec();
    After {
        table: device.read_f32(&mma.margins).unwrap(),
        eps: active(device.read_f32(&mma.eps).unwrap()),
        weights: active(device.read_f32(&mma.margin_weights).unwrap()),
        metrics: device.read_f32(&mma.metrics).unwrap(),
        correct: device.read_u32(&mma.correct).unwrap()[0],
        parameters: device.read_f32(model.params().buffer()).unwrap(),
    }
}

/// Parameters after one step of SGD on the mean cross-entropy of the clean `examples` of a batch of `n`.
fn trained_on(given: &Given, examples: &[usize], n: usize, rate: f64) -> Vec<f64> {
    let mut parameters: Vec<f64> = given.parameters().into_iter().map(f64::from).collect();
    for &i in examples {
        let z = given.logits(i);
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        for c in 0..CLASSES {
            let dz = (z[c].exp() / sum - f64::from(given.labels[i] as usize == c)) / n as f64;
            given.x(i).iter().enumerate().for_each(|(e, x)| parameters[c * PIXELS + e] -= rate * dz * x);
            parameters[CLASSES * PIXELS + c] -= rate * dz;
        }
    }
    parameters
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() < 1e-5, "element {i}: {f}, not {e}");
    }
}

const BATCH: [u32; 6] = [7, 2, 11, 0, 4, 9];

#[test]
fn the_margin_table_stores_margins_of_correct_examples_and_resets_misclassified_ones_if_forget_wrong() {
    let given = Given::new(|i| i % 3 > 0, 6.0);
    for (make, forget) in devices().into_iter().flat_map(|make| [(make, true), (make, false)]) {
        let mut config = config(BATCH.len());
        config.fidelity.forget_wrong = forget;
        let after = step(make, &config, &given, &BATCH);
        let correct: Vec<bool> = BATCH.iter().map(|&i| given.is_correct(i as usize)).collect();
        assert!(correct.contains(&true) && correct.contains(&false), "the problem has both kinds");
        assert_eq!(after.correct as usize, correct.iter().filter(|c| **c).count());
        for ((&i, correct), &eps) in BATCH.iter().zip(correct).zip(&after.eps) {
            let stored = after.table[i as usize];
            if correct {
                assert!(eps > 0.0 && eps <= config.max_eps() && stored == eps, "example {i}: {eps}, {stored}");
            } else {
                assert_eq!((eps, stored), (0.0, if forget { 0.0 } else { BEFORE }), "example {i}");
            }
        }
        let elsewhere = (0..EXAMPLES as u32).filter(|i| !BATCH.contains(i));
        elsewhere.for_each(|i| assert_eq!(after.table[i as usize], BEFORE, "example {i} is not in the batch"));
    }
}

#[test]
fn examples_that_reached_d_max_are_not_trained_on_but_count_in_the_mean() {
    // Large margins and small ones: the weight is 1 / 6 for all margins below d_max, whatever their number.
    let given = Given::new(|_| true, 6.0);
    for make in devices() {
        let mut config = config(BATCH.len());
        config.hinge_maxeps = 0.02;
        config.attack_mineps = 0.01;
        let after = step(make, &config, &given, &BATCH);
        let reached = after.eps.iter().filter(|eps| **eps >= config.hinge_maxeps).count();
        assert!(reached > 0 && reached < BATCH.len(), "the problem has both kinds: {:?}", after.eps);
        for (eps, weight) in after.eps.iter().zip(&after.weights) {
            assert_eq!(*weight, if *eps < config.hinge_maxeps { 1.0 / 6.0 } else { 0.0 }, "margin {eps}");
        }
        assert_eq!(after.metrics[Metric::ZeroWeights as usize], reached as f32);
        assert_eq!(after.metrics[Metric::Examples as usize], 6.0);
    }
}

#[test]
fn if_all_examples_reached_d_max_omma_learns_nothing_and_mma_from_the_clean_loss_alone() {
    // The attack cannot reach the boundary: the search's bracket and d_max are smaller than any margin.
    let given = Given::new(|_| true, 30.0);
    for make in devices() {
        let mut config = config(BATCH.len());
        config.hinge_maxeps = 1e-4;
        config.attack_mineps = 5e-5;
        let after = step(make, &config, &given, &BATCH);
        assert!(after.eps.iter().all(|eps| *eps >= config.hinge_maxeps), "{:?}", after.eps);
        assert_eq!(after.parameters, given.parameters());
        config.clean_loss_coeff = 0.25;
        let all = BATCH.map(|i| i as usize);
        assert_near(&step(make, &config, &given, &BATCH).parameters, &trained_on(&given, &all, 6, 0.25 * 0.5));
    }
}

#[test]
fn a_batch_of_misclassified_examples_is_trained_on_as_clean_images() {
    let given = Given::new(|_| false, 6.0);
    let all = BATCH.map(|i| i as usize);
    for (make, share) in devices().into_iter().flat_map(|make| [(make, 0.0), (make, 0.25)]) {
        let mut config = config(BATCH.len());
        config.clean_loss_coeff = share;
        let after = step(make, &config, &given, &BATCH);
        assert_eq!((after.correct, &after.eps[..]), (0, &[0.0; 6][..]));
        assert_eq!(after.metrics[Metric::Correct as usize], 0.0);
        // Both losses are equal here, so the clean loss's coefficient changes nothing.
        assert_near(&after.parameters, &trained_on(&given, &all, 6, 0.5));
    }
}

#[test]
fn a_batch_of_correct_examples_is_attacked_as_a_whole() {
    let given = Given::new(|_| true, 6.0);
    let correct: Vec<u32> = (0..EXAMPLES as u32).filter(|&i| given.is_correct(i as usize)).take(4).collect();
    assert_eq!(correct.len(), 4);
    for make in devices() {
        let after = step(make, &config(4), &given, &correct);
        assert_eq!((after.correct, after.metrics[Metric::Correct as usize]), (4, 4.0));
        assert!(after.eps.iter().all(|eps| *eps > 0.0), "{:?}", after.eps);
        assert!(after.parameters.iter().all(|p| p.is_finite()));
    }
}

#[test]
fn a_partial_batch_gives_the_results_of_a_batch_of_its_size() {
    let given = Given::new(|i| i % 3 > 0, 6.0);
    for (make, share) in devices().into_iter().flat_map(|make| [(make, 0.0), (make, 1.0 / 3.0)]) {
        let [partial, whole] = [9, BATCH.len()].map(|capacity| {
            let mut config = config(capacity);
            config.clean_loss_coeff = share;
            step(make, &config, &given, &BATCH)
        });
        assert_eq!(partial.table, whole.table);
        assert_eq!(partial.parameters, whole.parameters);
        assert_eq!(partial.metrics, whole.metrics);
    }
}

#[test]
fn omma_has_no_clean_backward_pass_and_an_attack_computes_no_gradient_of_weights() {
    for (share, expected) in [(0.0, false), (1.0 / 3.0, true)] {
        let mut config = config(4);
        config.clean_loss_coeff = share;
        let (.., mma) = record(&config);
        let ops = |program: &str| -> Vec<&str> {
            let mut stages = mma.schedule.stages.iter().map(|(p, _)| p);
            let found = stages.find(|p| p.name == program).unwrap_or_else(|| panic!("no program {program}"));
            found.nodes.iter().map(|node| node.op.name()).collect()
        };
        let backward = ops("clean_pass").iter().any(|op| op.contains("backward"));
        assert_eq!(backward, expected, "clean share {share}");
        assert!(ops("pgd_iteration").contains(&"head_backward"));
        assert!(!ops("pgd_iteration").iter().any(|op| op.contains("weight") || op.contains("bias_backward")));
        assert!(ops("margin_pass").contains(&"linear_backward_weight"));
        assert!(!ops("margin_pass").contains(&"linear_backward_input"));
    }
}

#[test]
fn a_step_is_reproducible_and_its_attack_depends_on_the_seed() {
    let given = Given::new(|_| true, 6.0);
    for make in devices() {
        let first = config(BATCH.len());
        let mut other = first.clone();
        other.seed += 1;
        other.nb_iter = 1; // so that the result depends on the random start
        let same_but_seed = Config { seed: first.seed, ..other.clone() };
        let [a, b] = [(); 2].map(|()| step(make, &first, &given, &BATCH).parameters);
        assert_eq!(a, b);
        let [c, d] = [&other, &same_but_seed].map(|config| step(make, config, &given, &BATCH).parameters);
        assert_ne!(c, d);
    }
}

// ---- Batch norm's running statistics

/// Model of `logits = W batch_norm(x) + b`, whose running statistics are those of the images of its passes.
struct NormalizedModel {
    params: Params,
    statistics: Params,
}

impl NormalizedModel {
    fn new() -> NormalizedModel {
        let (mut params, mut statistics) = (Params::default(), Params::default());
        params.vector("bn.weight", 1, 1.0);
        params.vector("bn.bias", 1, 0.0);
        params.weight("weight", &[CLASSES, PIXELS], &[CLASSES, PIXELS], 0);
        params.bias("bias");
        statistics.vector("bn.running_mean", 1, RUNNING[0] as f32);
        statistics.vector("bn.running_var", 1, RUNNING[1] as f32);
        NormalizedModel { params, statistics }
    }
}

/// Running mean and variance before a step, far from those of every image.
const RUNNING: [f64; 2] = [5.0, 3.0];

impl Model for NormalizedModel {
    fn describe(&self) -> String {
        "a linear model of normalized images".into()
    }

    fn image(&self) -> [usize; 3] {
        [4, 4, 1]
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn statistics(&self) -> Option<&Params> {
        Some(&self.statistics)
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "weight", bias: "bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, mode: Mode) -> Value {
        let [weight, bias, last, last_bias] = self.params.leaves(tape)[..] else { unreachable!("four parameters") };
        let [running_mean, running_variance] =
            ["bn.running_mean", "bn.running_var"].map(|name| self.statistics.part(name));
        let norm = BatchNorm { weight, bias, running_mean, running_variance };
        let normalized = match mode {
            Mode::Train => tape.batch_norm_training(x, &norm),
            Mode::Eval => tape.batch_norm(x, &norm),
        };
        let product = tape.linear(normalized, last);
        tape.add_bias(product, last_bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
        self.statistics.declare(memory, "statistics");
    }
}

/// Pixels of a data set whose examples differ in brightness.
fn bright() -> Vec<u8> {
    let mut random = Random(2);
    (0..EXAMPLES * PIXELS).map(|i| (19 * (i / PIXELS) + random.below(40)) as u8).collect()
}

/// Runs one step of a normalized model on [`BATCH`]. Returns the number of correct examples, the clean logits, and the
/// running statistics after the step.
fn normalized_step(make: TestDevice, config: &Config, labels: &[u32]) -> (u32, Vec<f32>, Vec<f32>) {
    let mut memory = Memory::default();
    let model: &mut dyn Model = &mut NormalizedModel::new();
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, model, "data", EXAMPLES);
    let mma = Mma::new(&mut memory, model, &data, config, None);
    let mut device = make.open();
    device.allocate(&memory, &mma.schedule.programs().collect::<Vec<_>>()).expect("memory");
    let mut state = model.initial(1);
    state[0].iter_mut().skip(2).for_each(|w| *w *= 20.0);
    model.load(&mut *device, &state).unwrap();
    device.write_u8(&data.images, &bright()).unwrap();
    device.write_u32(&data.labels, labels).unwrap();
    device.write_u32(&mma.batch.index, &vec![u32::MAX; config.training_batch_size]).unwrap();
    device.write_u32(&mma.batch.index, &BATCH).unwrap();
    device.write_u32(&mma.batch.rows, &[BATCH.len() as u32]).unwrap();
    device.replay(&mma.schedule).unwrap();
    let logits = device.read_f32(&mma.logits).unwrap()[..BATCH.len() * CLASSES].to_vec();
    let statistics = model.read(&*device).unwrap().remove(1);
    (device.read_u32(&mma.correct).unwrap()[0], logits, statistics)
}

/// Running statistics after one more batch of these examples.
fn moved([mean, variance]: [f64; 2], examples: &[u32]) -> [f64; 2] {
    let bytes = bright();
    let image = |&i: &u32| bytes[i as usize * PIXELS..][..PIXELS].to_vec();
    let pixels: Vec<f64> = examples.iter().flat_map(image).map(|b| f64::from(b) / 255.0).collect();
    let n = pixels.len() as f64;
    let own = pixels.iter().sum::<f64>() / n;
    let unbiased = pixels.iter().map(|x| (x - own).powi(2)).sum::<f64>() / (n - 1.0);
    let share = f64::from(BATCH_NORM_MOMENTUM);
    [(1.0 - share) * mean + share * own, (1.0 - share) * variance + share * unbiased]
}

/// The released code passes 13 batches forward in training mode in a step: the clean batch, the correct examples 11
/// times (PGD's result and the ten probes of the search), and the mixed batch. With tiny margins all of them are nearly
/// the clean images.
#[test]
fn a_step_updates_the_running_statistics_with_the_batches_of_the_released_code() {
    for (make, capacity) in devices().into_iter().flat_map(|make| [(make, BATCH.len()), (make, 9)]) {
        let mut config = config(capacity);
        (config.hinge_maxeps, config.attack_mineps, config.num_search_steps) = (1e-6, 1e-7, 10);
        let (_, logits, _) = normalized_step(make, &config, &[0; EXAMPLES]);
        let one_and_more = [0, 1, 3, BATCH.len()];
        for (correct, mode) in one_and_more.into_iter().flat_map(|n| [(n, SearchMode::Train), (n, SearchMode::Eval)]) {
            config.fidelity.search_mode = mode;
            // The last examples of the batch are correct, so their rows are not the first.
            let chosen = &BATCH[BATCH.len() - correct..];
            let mut labels = [0; EXAMPLES];
            for (&i, z) in BATCH.iter().zip(logits.chunks(CLASSES)) {
                let best = (0..CLASSES).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
                labels[i as usize] = ((best + usize::from(!chosen.contains(&i))) % CLASSES) as u32;
            }
            let (found, _, statistics) = normalized_step(make, &config, &labels);
            assert_eq!(found as usize, correct, "as the labels are set");
            let searched = if mode == SearchMode::Train && correct > 0 { 11 } else { 0 };
            let clean = moved(RUNNING, &BATCH);
            let after = moved((0..searched).fold(clean, |running, _| moved(running, chosen)), &BATCH);
            assert_near(&statistics, &after);
        }
    }
}
