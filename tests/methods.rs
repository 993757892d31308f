//! A step of each method other than MMA on a linear model, compared with a plain implementation in double precision:
//! the attack as in its paper, and the gradient of the loss by central differences.

mod support;

use std::f64::consts::TAU;

use maxmargin::batch::DeviceData;
use maxmargin::config::{Config, L2Order, Method, OptimizerKind, preset};
use maxmargin::model::{Model, WideResNet};
use maxmargin::rng::{Purpose, philox, unit};
use maxmargin::tape::{Memory, Metric, Norm, Op};
use maxmargin::train::{TrainingStep, record_step, trades};
use support::{LinearModel, Random, TestDevice, devices};

/// Number of examples in the data set.
const EXAMPLES: usize = 12;
const CLASSES: usize = 3;
const PIXELS: usize = 16;
const BATCH: [u32; 6] = [7, 2, 11, 0, 4, 9];
const RATE: f64 = 0.5;

/// Plain SGD on batches of 6, with balls that reach beyond [0, 1].
fn config(method: Method, norm: Norm) -> Config {
    Config {
        method,
        norm,
        optimizer: OptimizerKind::Sgd,
        learning_rate_schedule: vec![(0, RATE as f32)],
        training_batch_size: BATCH.len(),
        nb_iter: 4,
        attack_eps: if norm == Norm::Linf { 0.3 } else { 1.5 },
        eps_ramp_steps: 8,
        trades_beta: 3.0,
        ..preset("quick").unwrap().config
    }
}

/// Data set, and the parameters of the model: weights `[classes, pixels]`, then bias.
struct Given {
    bytes: Vec<u8>,
    labels: Vec<u32>,
    parameters: Vec<f32>,
}

impl Given {
    fn new(scale: f64) -> Given {
        let mut random = Random(1);
        let bytes = (0..EXAMPLES * PIXELS).map(|_| random.below(256) as u8).collect();
        let labels = (0..EXAMPLES).map(|_| random.below(CLASSES) as u32).collect();
        let parameters = random.signed(&[CLASSES * (PIXELS + 1)]).values.iter().map(|w| (scale * w) as f32).collect();
        Given { bytes, labels, parameters }
    }

    fn x(&self, i: usize) -> Vec<f64> {
        self.bytes[i * PIXELS..][..PIXELS].iter().map(|b| f64::from(*b) / 255.0).collect()
    }

    fn y(&self, i: usize) -> usize {
        self.labels[i] as usize
    }

    fn w(&self) -> Vec<f64> {
        self.parameters.iter().map(|w| f64::from(*w)).collect()
    }
}

fn logits(w: &[f64], x: &[f64]) -> Vec<f64> {
    let dot = |c: usize| x.iter().zip(&w[c * PIXELS..]).map(|(x, w)| x * w).sum::<f64>();
    (0..CLASSES).map(|c| dot(c) + w[CLASSES * PIXELS + c]).collect()
}

fn log_softmax(z: &[f64]) -> Vec<f64> {
    let sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
    z.iter().map(|z| z - sum).collect()
}

fn xent(z: &[f64], y: usize) -> f64 {
    -log_softmax(z)[y]
}

fn kl(p: &[f64], q: &[f64]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Gradient with respect to the image of a loss whose gradient with respect to the logits is `softmax - target`.
fn image_gradient(w: &[f64], x: &[f64], target: &[f64]) -> Vec<f64> {
    let dz: Vec<f64> = log_softmax(&logits(w, x)).iter().zip(target).map(|(q, t)| q.exp() - t).collect();
    (0..PIXELS).map(|e| (0..CLASSES).map(|c| dz[c] * w[c * PIXELS + e]).sum()).collect()
}

fn length(delta: &[f64]) -> f64 {
    delta.iter().map(|d| d * d).sum::<f64>().sqrt()
}

/// Projects `point` into [0, 1], then into the ball of radius `eps` around `x`. The order does not matter in linf.
fn project(point: &[f64], x: &[f64], eps: f64, norm: Norm) -> Vec<f64> {
    let point: Vec<f64> = point.iter().map(|p| p.clamp(0.0, 1.0)).collect();
    let delta: Vec<f64> = point.iter().zip(x).map(|(p, x)| p - x).collect();
    let factor = (eps / length(&delta)).min(1.0);
    let into = |(d, x): (&f64, &f64)| match norm {
        Norm::Linf => x + d.clamp(-eps, eps),
        Norm::L2 => x + d * factor,
    };
    delta.iter().zip(x).map(into).collect()
}

/// Random numbers in [0, 1) of example `i` at step 0.
fn numbers(config: &Config, purpose: Purpose, i: u32) -> Vec<f64> {
    let word = |e: usize| philox(config.seed, purpose, 0, i, e as u32 / 4)[e % 4];
    (0..PIXELS).map(|e| f64::from(unit(word(e)))).collect()
}

/// Result of the attack on example `i`; `target` is the distribution that the attacked loss compares the softmax with.
fn attacked(config: &Config, given: &Given, i: u32, start: &[f64], target: &[f64]) -> Vec<f64> {
    let (x, eps) = (given.x(i as usize), f64::from(config.attack_eps));
    let step = f64::from(config.eps_iter_scale) * eps / f64::from(config.nb_iter);
    let mut adv = start.to_vec();
    for _ in 0..config.nb_iter {
        let g = image_gradient(&given.w(), &adv, target);
        let moved = |(a, gradient): (&f64, &f64)| match config.norm {
            Norm::Linf => a + step * gradient.signum(),
            Norm::L2 => a + step * gradient / length(&g),
        };
        adv = project(&adv.iter().zip(&g).map(moved).collect::<Vec<_>>(), &x, eps, config.norm);
    }
    adv
}

/// Result of PGD on the cross-entropy, from a random start.
fn pgd(config: &Config, given: &Given, i: u32) -> Vec<f64> {
    let (x, eps, u) = (given.x(i as usize), f64::from(config.attack_eps), numbers(config, Purpose::TrainStart, i));
    let start: Vec<f64> = match config.norm {
        Norm::Linf => x.iter().zip(&u).map(|(x, u)| x + eps * (2.0 * u - 1.0)).collect(),
        Norm::L2 => u,
    };
    let target: Vec<f64> = (0..CLASSES).map(|c| f64::from(c == given.y(i as usize))).collect();
    attacked(config, given, i, &project(&start, &x, eps, config.norm), &target)
}

/// Result of TRADES' attack on the KL divergence from the clean softmax, from a little normal noise.
fn trades_attack(config: &Config, given: &Given, i: u32) -> Vec<f64> {
    let x = given.x(i as usize);
    let [radius, angle] = [Purpose::TrainStart, Purpose::TrainAngle].map(|purpose| numbers(config, purpose, i));
    let normal = radius.iter().zip(&angle).map(|(r, a)| (-2.0 * (1.0 - r).ln()).sqrt() * (TAU * a).cos());
    let start: Vec<f64> = x.iter().zip(normal).map(|(x, n)| x + f64::from(trades::START_DEVIATION) * n).collect();
    let target: Vec<f64> = log_softmax(&logits(&given.w(), &x)).iter().map(|p| p.exp()).collect();
    attacked(config, given, i, &start, &target)
}

/// State after a step.
struct After {
    parameters: Vec<f32>,
    metrics: Vec<f32>,
    /// Radius and result of the attack on each example of the batch; empty without an attack.
    eps: Vec<f32>,
    adv: Vec<f32>,
}

/// Runs step number `number` on [`BATCH`].
fn step(make: TestDevice, config: &Config, given: &Given, number: u32) -> After {
    let mut memory = Memory::default();
    let mut model = LinearModel::new([4, 4, 1], CLASSES);
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &model, "data", EXAMPLES);
    let step: TrainingStep = record_step(&mut memory, &model, &data, config);
    assert!(step.margins.is_none() && step.correct.is_none(), "{} keeps no margins", config.method);
    let mut device = make.open();
    device.allocate(&memory, &step.schedule.programs().collect::<Vec<_>>()).expect("memory");
    device.write_u8(&data.images, &given.bytes).unwrap();
    device.write_u32(&data.labels, &given.labels).unwrap();
    model.params().load(&mut *device, &given.parameters).unwrap();
    device.write_u32(&step.step, &[number]).unwrap();
    // Inactive rows hold no valid index.
    device.write_u32(&step.batch.index, &vec![u32::MAX; config.training_batch_size]).unwrap();
    device.write_u32(&step.batch.index, &BATCH).unwrap();
    device.write_u32(&step.batch.rows, &[BATCH.len() as u32]).unwrap();
    device.replay(&step.schedule).unwrap();
    assert_eq!(device.read_u32(&step.step).unwrap(), [number + 1]);
    let named = |name: &str, len: usize| {
        let buffer = memory.buffers.iter().find(|buffer| buffer.name == name);
        buffer.map_or_else(Vec::new, |buffer| device.read_f32(buffer).unwrap()[..len].to_vec())
    };
    After {
        parameters: device.read_f32(model.params().buffer()).unwrap(),
        metrics: device.read_f32(&step.metrics).unwrap(),
        eps: named("batch.pgd.eps", BATCH.len()),
        adv: named("batch.pgd.adv", BATCH.len() * PIXELS),
    }
}

/// Parameters after a step of SGD on the mean over the batch of `loss(parameters, example)`.
fn descended(given: &Given, loss: impl Fn(&[f64], u32) -> f64) -> Vec<f64> {
    const H: f64 = 1e-6;
    let mean = |w: &[f64]| BATCH.iter().map(|&i| loss(w, i)).sum::<f64>() / BATCH.len() as f64;
    let moved = |at: usize| {
        let mut w = given.w();
        let [above, below] = [H, -2.0 * H].map(|change| {
            w[at] += change;
            mean(&w)
        });
        given.w()[at] - RATE * (above - below) / (2.0 * H)
    };
    (0..given.parameters.len()).map(moved).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() < 1e-5, "element {i}: {f}, not {e}");
    }
}

fn mean(value: impl Fn(u32) -> f64) -> f64 {
    BATCH.iter().map(|&i| value(i)).sum::<f64>() / BATCH.len() as f64
}

#[test]
fn std_descends_the_cross_entropy_of_clean_images() {
    let given = Given::new(1.0);
    for make in devices() {
        let after = step(make, &config(Method::Std, Norm::Linf), &given, 0);
        let loss = |w: &[f64], i: u32| xent(&logits(w, &given.x(i as usize)), given.y(i as usize));
        assert_near(&after.parameters, &descended(&given, loss));
        assert_near(&after.metrics[Metric::MeanLoss as usize..][..1], &[mean(|i| loss(&given.w(), i))]);
        assert!(after.adv.is_empty(), "nothing is attacked");
    }
}

#[test]
fn pgd_descends_the_cross_entropy_of_attacked_images() {
    let given = Given::new(1.0);
    for (make, norm) in devices().into_iter().flat_map(|make| [(make, Norm::Linf), (make, Norm::L2)]) {
        let config = config(Method::Pgd, norm);
        assert_eq!(config.fidelity.l2_order, L2Order::BoxBall);
        let after = step(make, &config, &given, 0);
        let points: Vec<Vec<f64>> = BATCH.iter().map(|&i| pgd(&config, &given, i)).collect();
        assert_near(&after.adv, &points.concat());
        let point = |i: u32| &points[BATCH.iter().position(|&b| b == i).unwrap()];
        let loss = |w: &[f64], i: u32| xent(&logits(w, point(i)), given.y(i as usize));
        assert_near(&after.parameters, &descended(&given, loss));
        assert_eq!(after.eps, [config.attack_eps; 6]);
        assert_near(&after.metrics[Metric::WeightedLoss as usize..][..1], &[mean(|i| loss(&given.w(), i))]);
        assert_near(&after.metrics[Metric::Eps as usize..][..1], &[6.0 * f64::from(config.attack_eps)]);
    }
}

#[test]
fn trades_descends_the_cross_entropy_plus_beta_times_the_divergence_through_both_passes() {
    let given = Given::new(1.0);
    for make in devices() {
        let config = config(Method::Trades, Norm::Linf);
        let after = step(make, &config, &given, 0);
        let points: Vec<Vec<f64>> = BATCH.iter().map(|&i| trades_attack(&config, &given, i)).collect();
        assert_near(&after.adv, &points.concat());
        let point = |i: u32| &points[BATCH.iter().position(|&b| b == i).unwrap()];
        let clean = |w: &[f64], i: u32| xent(&logits(w, &given.x(i as usize)), given.y(i as usize));
        let divergence = |w: &[f64], i: u32| kl(&logits(w, &given.x(i as usize)), &logits(w, point(i)));
        assert_near(&after.parameters, &descended(&given, |w, i| clean(w, i) + 3.0 * divergence(w, i)));
        let sums = [mean(|i| clean(&given.w(), i)), mean(|i| divergence(&given.w(), i))];
        assert_near(&after.metrics[Metric::MeanLoss as usize..][..2], &sums);
    }
}

/// Logits that are equal for all images have no divergence, and its gradient is 0.
#[test]
fn trades_without_a_divergence_is_standard_training() {
    let mut given = Given::new(1.0);
    given.parameters[..CLASSES * PIXELS].fill(0.0);
    for make in devices() {
        let after = step(make, &config(Method::Trades, Norm::Linf), &given, 0);
        assert_eq!(after.metrics[Metric::WeightedLoss as usize], 0.0);
        assert_eq!(after.parameters, step(make, &config(Method::Std, Norm::Linf), &given, 0).parameters);
    }
}

#[test]
fn pgdls_s_eps_grows_with_the_number_of_the_step() {
    let given = Given::new(1.0);
    for (make, norm) in devices().into_iter().flat_map(|make| [(make, Norm::Linf), (make, Norm::L2)]) {
        let config = config(Method::Pgdls, norm);
        for (number, share) in [(0, 0.0), (1, 0.125), (4, 0.5), (7, 0.875), (8, 1.0), (9, 1.0), (4_000_000, 1.0)] {
            let after = step(make, &config, &given, number);
            assert_eq!(after.eps, [config.attack_eps * share; 6], "step {number}");
            if number == 0 {
                let standard = Config { method: Method::Std, ..config.clone() };
                assert_eq!(after.parameters, step(make, &standard, &given, 0).parameters, "a ball without extent");
            }
            if share == 1.0 {
                let fixed = Config { method: Method::Pgd, ..config.clone() };
                assert_eq!(after.parameters, step(make, &fixed, &given, number).parameters, "step {number}");
            }
        }
    }
}

#[test]
fn a_partial_batch_gives_the_results_of_a_batch_of_its_size() {
    let given = Given::new(1.0);
    for make in devices() {
        for method in [Method::Std, Method::Pgd, Method::Pgdls, Method::Trades] {
            let whole = config(method, Norm::Linf);
            let partial = Config { training_batch_size: 9, ..whole.clone() };
            let [whole, partial] = [whole, partial].map(|config| step(make, &config, &given, 3));
            assert_eq!(partial.parameters, whole.parameters, "{method}");
            assert_eq!(partial.metrics, whole.metrics, "{method}");
        }
    }
}

#[test]
fn the_attack_changes_with_the_step_and_the_seed() {
    let given = Given::new(1.0);
    for make in devices() {
        for method in [Method::Pgd, Method::Trades] {
            // One short step, so that the result depends on the start.
            let first = Config { nb_iter: 1, eps_iter_scale: 0.01, ..config(method, Norm::Linf) };
            let other = Config { seed: 1, ..first.clone() };
            let [a, b, c] =
                [(&first, 0), (&first, 1), (&other, 0)].map(|(config, n)| step(make, config, &given, n).adv);
            assert!(a != b && a != c, "{method}");
            assert_eq!(step(make, &first, &given, 0).adv, a);
        }
    }
}

/// Numbers of batch norms in training mode and in evaluation mode, for each program of a wide ResNet's step.
fn batch_norms(method: Method) -> Vec<(String, usize, usize)> {
    let mut memory = Memory::default();
    let mut model = WideResNet::new(10, 1);
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &model, "data", EXAMPLES);
    let step = record_step(&mut memory, &model, &data, &config(method, Norm::Linf));
    let count = |program: &maxmargin::tape::Program| {
        let training = program.nodes.iter().filter(|node| matches!(node.op, Op::BatchNormTraining { .. })).count();
        let fused = |op: &Op| match op {
            Op::Conv2dFused(fusion) => fusion.norm,
            Op::StandardizeConv2d(fusion) => fusion.layer.norm,
            _ => false,
        };
        let evaluation = program.nodes.iter().filter(|n| matches!(n.op, Op::BatchNorm { .. }) || fused(&n.op)).count();
        (program.name.clone(), training, evaluation)
    };
    step.schedule.programs().map(count).collect()
}

/// A wide ResNet 10-1 has 7 batch norms.
#[test]
fn attacks_run_in_evaluation_mode_and_training_in_training_mode() {
    let name = |(name, training, evaluation): (&str, usize, usize)| (name.to_owned(), training, evaluation);
    let expected = [("clean_pass", 7, 0), ("update", 0, 0)];
    assert_eq!(batch_norms(Method::Std), expected.map(name));
    let attack = [("pgd_start", 0, 0), ("pgd_iteration", 0, 7)];
    let expected = [&[("gather", 0, 0)], &attack[..], &[("adversarial_pass", 7, 0), ("update", 0, 0)]].concat();
    assert_eq!(batch_norms(Method::Pgd), expected.into_iter().map(name).collect::<Vec<_>>());
    // The clean logits of the attack are computed once.
    let expected = [&[("natural_pass", 0, 7)], &attack[..], &[("trades_pass", 14, 0), ("update", 0, 0)]].concat();
    assert_eq!(batch_norms(Method::Trades), expected.into_iter().map(name).collect::<Vec<_>>());
}
