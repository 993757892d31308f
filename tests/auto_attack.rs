//! AutoAttack's own attacks. On a linear model the distance of the nearest adversarial image is known: FAB finds it,
//! and APGD finds adversarial images of the examples whose ball is larger. On a small LeNet5, APGD is compared step by
//! step with a plain statement of it.

mod support;

use std::sync::Arc;

use maxmargin::attack::{ApgdLoss, ApgdSettings, ApgdStart, Attack, AutoAttack, FabSettings, apgd, auto_attack, fab};
use maxmargin::batch::Batch;
use maxmargin::device::Schedule;
use maxmargin::model::{LeNet5, Mode, Model, image_buffer};
use maxmargin::tape::{Loss, LossRule, Memory, Norm, Tape, TargetedLoss};
use support::attacked::{AttackProblem, AttackRunner, distance};
use support::{LinearModel, Random, TestDevice, devices};

const NORMS: [Norm; 2] = [Norm::Linf, Norm::L2];
const LOSSES: [ApgdLoss; 3] = [ApgdLoss::Xent, ApgdLoss::Dlr, ApgdLoss::TargetedDlr];

fn settings(loss: ApgdLoss, norm: Norm, iterations: u32) -> ApgdSettings {
    ApgdSettings { iterations, ..ApgdSettings::published(loss, norm, 7) }
}

fn with_apgd(make: TestDevice, given: &AttackProblem, settings: &ApgdSettings) -> AttackRunner {
    AttackRunner::new(make, given, |memory, model, batch| apgd(memory, model, batch, settings).unwrap())
}

fn with_fab(make: TestDevice, given: &AttackProblem, settings: &FabSettings) -> AttackRunner {
    AttackRunner::new(make, given, |memory, model, batch| fab(memory, model, batch, settings).unwrap())
}

/// Images of 9 pixels, some at the ends of the box, which bind there, and a linear model. The radii are the distances
/// times `factors`, in turn.
fn problem(norm: Norm, classes: usize, factors: &[f64]) -> AttackProblem {
    let mut given = AttackProblem::random(5, [3, 3, 1], classes, 12, [-0.2, 1.2]);
    let eps = |i: usize| (given.distance(norm, i) * factors[i % factors.len()]) as f32;
    given.eps = (0..given.x.len()).map(eps).collect();
    given
}

// ---- A linear model, whose margins are known

#[test]
fn apgd_finds_an_adversarial_image_exactly_where_the_margin_is_smaller_than_eps() {
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        for (loss, classes) in [(ApgdLoss::Xent, 2), (ApgdLoss::Dlr, 3), (ApgdLoss::TargetedDlr, 5)] {
            let mut given = problem(norm, classes, &[1.02, 0.99]);
            if loss == ApgdLoss::Dlr {
                // Untargeted losses need not lead to the nearest class, so one class is far away.
                given.bias[2] -= 50.0;
                given.labels = given.x.iter().map(|x| given.prediction(x)).collect();
                let eps = |i: usize| (given.distance(norm, i) * [1.02, 0.99][i % 2]) as f32;
                given.eps = (0..given.x.len()).map(eps).collect();
            }
            let mut runner = with_apgd(make, &given, &settings(loss, norm, 40));
            let mut adversarial = vec![false; given.x.len()];
            for run in 0..runner.attack.runs {
                for (i, adv) in runner.run(run).iter().enumerate() {
                    adversarial[i] |= given.margin(i, adv) >= 0.0;
                }
            }
            let expected: Vec<bool> = (0..given.x.len()).map(|i| i % 2 == 0).collect();
            assert_eq!(adversarial, expected, "{norm} {loss:?}");
        }
    }
}

#[test]
fn fab_finds_the_nearest_adversarial_image() {
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        let given = problem(norm, 5, &[1.0]);
        for targeted in [false, true] {
            let settings = FabSettings { iterations: 20, ..FabSettings::published(norm, targeted, false, 0) };
            let mut runner = with_fab(make, &given, &settings);
            assert_eq!(runner.attack.runs, if targeted { 4 } else { 1 });
            let mut nearest = vec![f64::INFINITY; given.x.len()];
            for run in 0..runner.attack.runs {
                for (i, adv) in runner.run(run).iter().enumerate() {
                    if given.margin(i, adv) >= 0.0 {
                        nearest[i] = nearest[i].min(distance(norm, adv, &given.x[i]));
                    }
                }
            }
            for (i, found) in nearest.iter().enumerate() {
                let known = given.distance(norm, i);
                println!("{norm} {targeted} {i}: {found} {known} {}", found / known);
                assert!(
                    (known..known + 1e-3).contains(found),
                    "{norm}, targeted {targeted}, {i}: {found}, not {known}"
                );
            }
        }
    }
}

#[test]
fn fab_counts_nothing_outside_the_ball() {
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        let given = problem(norm, 2, &[1.02, 0.99]);
        let settings = FabSettings { iterations: 20, ..FabSettings::published(norm, false, true, 0) };
        for (i, adv) in with_fab(make, &given, &settings).run(0).iter().enumerate() {
            let found = distance(norm, adv, &given.x[i]);
            assert!(found <= f64::from(given.eps[i]), "{norm} {i}: {found} > {}", given.eps[i]);
            assert_eq!(given.margin(i, adv) >= 0.0, i % 2 == 0, "{norm} {i}");
        }
    }
}

// ---- Balls

/// Radii from 0 to 1, images at the ends of the box, and images whose pixels are all equal.
fn awkward() -> AttackProblem {
    let mut given = AttackProblem::random(8, [4, 5, 1], 5, 14, [-0.5, 1.5]);
    for (i, v) in [(0, 0.5), (1, 0.3), (2, 0.7 + 1e-7), (3, 1.0 - 1e-7)] {
        given.x[i].fill(v);
    }
    given.eps = [0.3, 0.1, 1.0, 8.0 / 255.0, 1e-3, 1e-6, 0.0].repeat(2);
    given
}

#[test]
fn points_stay_exactly_inside_ball_and_box_and_eps_0_moves_nothing() {
    let given = awkward();
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        for loss in LOSSES {
            let mut runner = with_apgd(make, &given, &settings(loss, norm, 12));
            let stages = runner.attack.schedule.stages.clone();
            let point = runner.carried(".point");
            for program in stages.iter().flat_map(|(program, times)| (0..*times).map(move |_| program)) {
                runner.device.execute(program).unwrap();
                for (i, at) in runner.read(&point).iter().enumerate() {
                    let (found, eps) = (distance(norm, at, &given.x[i]), given.eps[i]);
                    assert!(found <= f64::from(eps), "{norm} {loss:?} {i}: {found} > {eps}");
                    assert!(at.iter().all(|v| (0.0..=1.0).contains(v)), "{norm} {loss:?} {i}: left the box");
                    assert!(eps > 0.0 || at == &given.x[i], "{norm} {loss:?} {i}: eps 0 moved");
                }
            }
            for (i, adv) in runner.read(&runner.attack.adv).iter().enumerate() {
                assert!(distance(norm, adv, &given.x[i]) <= f64::from(given.eps[i]), "{norm} {loss:?} {i}: the result");
            }
        }
    }
}

#[test]
fn an_example_s_result_depends_on_its_own_eps_alone() {
    let given = awkward();
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        let attack = |given: &AttackProblem| {
            let apgd = LOSSES.map(|loss| with_apgd(make, given, &settings(loss, norm, 10)).run(1));
            let fab = [false, true].map(|targeted| {
                let published = FabSettings::published(norm, targeted, true, 3);
                with_fab(make, given, &FabSettings { iterations: 6, runs: 2, ..published }).run(1)
            });
            [apgd.to_vec(), fab.to_vec()].concat()
        };
        let together = attack(&given);
        let same_for_all = attack(&AttackProblem { eps: vec![0.1; 14], ..given.clone() });
        // A product of matrices may sum in another order in another row, so the examples stay in their rows.
        let mut among_others = AttackProblem { eps: vec![0.7; 14], ..given.clone() };
        among_others.x.rotate_left(1);
        among_others.labels.rotate_left(1);
        for i in [3, 8] {
            (among_others.x[i], among_others.labels[i]) = (given.x[i].clone(), given.labels[i]);
            among_others.eps[i] = given.eps[i];
        }
        for (all, other) in together.iter().zip(attack(&among_others)) {
            assert_eq!([&all[3], &all[8]], [&other[3], &other[8]], "{norm}");
        }
        for i in (0..14).filter(|&i| given.eps[i] == 0.1) {
            for (mixed, same) in together.iter().zip(&same_for_all) {
                assert_eq!(mixed[i], same[i], "{norm}, example {i}");
            }
        }
    }
}

#[test]
fn a_zero_gradient_moves_nothing() {
    let mut given = awkward();
    given.weights.iter_mut().for_each(|w| w.fill(0.0));
    given.bias = vec![0.0, 1.0, 2.0, 3.0, 4.0];
    given.labels.fill(4);
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        for loss in LOSSES {
            let settings = ApgdSettings { start: ApgdStart::Image, ..settings(loss, norm, 8) };
            assert_eq!(with_apgd(make, &given, &settings).run(0), given.x, "{norm} {loss:?}");
        }
        for (targeted, ball) in [(false, false), (true, false), (true, true)] {
            let settings = FabSettings { iterations: 4, ..FabSettings::published(norm, targeted, ball, 0) };
            assert_eq!(with_fab(make, &given, &settings).run(0), given.x, "{norm}, targeted {targeted}");
        }
    }
}

// ---- Random starts

#[test]
fn apgd_starts_at_distance_eps_at_another_point_for_each_example_run_and_seed() {
    let mut given = AttackProblem::random(8, [5, 5, 1], 4, 6, [0.5, 0.5]);
    given.eps.fill(0.2);
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        let start = |seed: u64, run: u32| {
            let settings = ApgdSettings { start: ApgdStart::Random { seed }, ..settings(ApgdLoss::Xent, norm, 1) };
            let mut runner = with_apgd(make, &given, &settings);
            runner.device.write_u32(&runner.attack.run, &[run]).unwrap();
            let first = runner.attack.schedule.stages[0].0.clone();
            runner.device.execute(&first).unwrap();
            runner.read(&runner.carried(".point"))
        };
        let all = [start(1, 0), start(1, 1), start(2, 0)].concat();
        for (i, point) in all.iter().enumerate() {
            let found = distance(norm, point, &given.x[i % 6]);
            assert!((0.19999..=f64::from(0.2f32)).contains(&found), "{norm}: {found}");
            assert!(all[..i].iter().all(|other| other != point), "{norm}: two equal starts");
        }
        let changes: Vec<f64> = all.concat().iter().map(|v| f64::from(*v) - 0.5).collect();
        let mean = changes.iter().sum::<f64>() / changes.len() as f64;
        assert!(mean.abs() < 0.3 * changes.iter().fold(0.0, |most, c| c.abs().max(most)), "{norm}: {mean}");
    }
}

// ---- A plain statement of APGD

/// Evaluation of a model at given points.
struct PointEvaluator {
    runner: AttackRunner,
    point: maxmargin::tape::Buffer,
}

/// Losses, gradients, and flags: `true` where the label has the largest logit.
struct PointValues {
    losses: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    correct: Vec<bool>,
}

fn lenet5() -> (LeNet5, Vec<f32>) {
    let model = LeNet5::with_sizes([8, 8, 2], [3, 4], 3, 6, 5);
    let values = (&model as &dyn Model).initial(3).remove(0).into_iter().map(|v| 3.0 * v).collect();
    (model, values)
}

impl PointEvaluator {
    /// Evaluation of the small LeNet5; `classes` are target classes.
    fn new(make: TestDevice, given: &AttackProblem, loss: ApgdLoss, classes: &[u32]) -> PointEvaluator {
        let (mut model, values) = lenet5();
        let mut runner = AttackRunner::of(make, given, &mut model, &values, |memory, model, batch| {
            let n = batch.capacity();
            let point = image_buffer(memory, model, "oracle.point", n);
            let gradient = image_buffer(memory, model, "oracle.gradient", n);
            let [value, margin, ones] =
                ["value", "margin", "ones"].map(|name| memory.f32(&format!("oracle.{name}"), &[n]));
            let class = memory.u32("oracle.class", &[n]);
            let mut tape = Tape::new("oracle");
            let [at, labels, target, weights] = [&point, &batch.labels, &class, &ones].map(|b| tape.leaf(b));
            let logits = model.logits(&mut tape, at, Mode::Eval);
            let rule = |loss| LossRule { loss, confidence: 0.0 };
            let losses = match loss {
                ApgdLoss::Xent => tape.loss(rule(Loss::Xent), logits, labels),
                ApgdLoss::Dlr => tape.loss(rule(Loss::Dlr), logits, labels),
                ApgdLoss::TargetedDlr => tape.targeted_loss(TargetedLoss::Dlr, logits, labels, target),
            };
            let dx = tape.grad(losses, weights, &[at])[0];
            let lm = tape.loss(rule(Loss::Lm), logits, labels);
            for (computed, buffer) in [(losses, &value), (dx, &gradient), (lm, &margin)] {
                tape.keep(computed, buffer);
            }
            let mut schedule = Schedule::default();
            schedule.then(&Arc::new(tape.finish()), 1);
            let run = memory.u32("oracle.run", &[1]);
            let carried = vec![point.clone(), value, gradient, margin, ones, class];
            Attack { name: "oracle".into(), eps: None, run, runs: 1, adv: point, carried, schedule }
        });
        let [ones, class, point] = [".ones", ".class", ".point"].map(|part| runner.carried(part));
        runner.device.write_f32(&ones, &vec![1.0; given.x.len()]).unwrap();
        runner.device.write_u32(&class, classes).unwrap();
        PointEvaluator { runner, point }
    }

    fn at(&mut self, points: &[Vec<f32>]) -> PointValues {
        self.runner.device.write_f32(&self.point, &points.concat()).unwrap();
        self.runner.run(0);
        let values = |part: &str| -> Vec<Vec<f64>> {
            let read = self.runner.read(&self.runner.carried(part));
            read.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
        };
        PointValues {
            losses: values(".value").concat(),
            gradients: values(".gradient"),
            correct: values(".margin").concat().iter().map(|m| *m < 0.0).collect(),
        }
    }
}

/// APGD of one example, from the paper's Algorithm 1 and the released program. Losses and gradients are given.
struct PlainApgd {
    norm: Norm,
    x: Vec<f64>,
    eps: f64,
    step: f64,
    best: (Vec<f64>, Vec<f64>, f64),
    losses: Vec<f64>,
    best_at_checkpoint: f64,
    halved: bool,
    before: Vec<f64>,
    iterations: usize,
    period: usize,
    since: usize,
}

impl PlainApgd {
    fn project(&self, v: &[f64]) -> Vec<f64> {
        let change: Vec<f64> = v.iter().zip(&self.x).map(|(v, x)| v - x).collect();
        let scale = match self.norm {
            Norm::Linf => 1.0,
            Norm::L2 => {
                let norm = change.iter().map(|d| d * d).sum::<f64>().sqrt();
                if norm > self.eps { self.eps / norm } else { 1.0 }
            }
        };
        let most = if self.norm == Norm::Linf { self.eps } else { f64::INFINITY };
        change.iter().zip(&self.x).map(|(d, x)| (x + (d * scale).clamp(-most, most)).clamp(0.0, 1.0)).collect()
    }

    /// Next point, from a point with its loss and gradient; `number` iterations are done.
    fn next(&mut self, number: usize, point: &[f64], loss: f64, gradient: &[f64]) -> Vec<f64> {
        let (mut from, mut gradient) = (point.to_vec(), gradient.to_vec());
        if number == 0 {
            self.best = (from.clone(), gradient.clone(), loss);
            self.best_at_checkpoint = loss;
            self.before = from.clone();
        } else {
            // Losses of iterations; the loss before the first counts as 0.
            self.losses.push(loss);
            if loss > self.best.2 {
                self.best = (from.clone(), gradient.clone(), loss);
            }
            self.since += 1;
            if self.since == self.period {
                let n = self.losses.len();
                let loss_at = |i: usize| if i == 0 { 0.0 } else { self.losses[i - 1] };
                let rises = (n - self.period + 1..=n).filter(|&i| loss_at(i) > loss_at(i - 1)).count();
                let seldom = rises as f64 <= 0.75 * self.period as f64;
                let stuck = !self.halved && self.best_at_checkpoint >= self.best.2;
                self.halved = seldom || stuck;
                self.best_at_checkpoint = self.best.2;
                if self.halved {
                    self.step /= 2.0;
                    (from, gradient) = (self.best.0.clone(), self.best.1.clone());
                }
                let fraction = |fraction: f64| ((fraction * self.iterations as f64) as usize).max(1);
                self.period = (self.period.max(fraction(0.03)) - fraction(0.03)).max(fraction(0.06));
                self.since = 0;
            }
        }
        let a = if number == 0 { 1.0 } else { 0.75 };
        let steepness = gradient.iter().map(|g| g * g).sum::<f64>().sqrt() + 1e-12;
        let direction = |g: &f64| match self.norm {
            Norm::Linf if *g == 0.0 => 0.0,
            Norm::Linf => g.signum(),
            Norm::L2 => g / steepness,
        };
        let stepped: Vec<f64> = from.iter().zip(&gradient).map(|(v, g)| v + self.step * direction(g)).collect();
        let z = self.project(&stepped);
        let mixed: Vec<f64> =
            (0..z.len()).map(|e| from[e] + a * (z[e] - from[e]) + (1.0 - a) * (from[e] - self.before[e])).collect();
        self.before = from;
        self.project(&mixed)
    }
}

#[test]
fn apgd_follows_a_plain_statement_of_it_step_by_step() {
    const ITERATIONS: u32 = 30;
    for (make, norm) in devices().into_iter().flat_map(|make| NORMS.map(|norm| (make, norm))) {
        for loss in LOSSES {
            let mut random = Random(4);
            let mut given = AttackProblem::random(6, [8, 8, 2], 5, 4, [-0.1, 1.1]);
            given.eps = if norm == Norm::Linf { vec![0.1, 0.3, 0.05, 0.02] } else { vec![0.5, 2.0, 1.0, 0.1] };
            given.labels = vec![0, 3, 1, 4];
            let starts: Vec<f32> = given.x.concat().iter().map(|x| x + (random.unit() as f32 - 0.5) * 0.01).collect();
            let (mut model, values) = lenet5();
            let mut runner = AttackRunner::of(make, &given, &mut model, &values, |memory, model, batch| {
                let points = image_buffer(memory, model, "starts.given", batch.capacity());
                let start = ApgdStart::Given(points.clone());
                let mut attack =
                    apgd(memory, model, batch, &ApgdSettings { start, ..settings(loss, norm, ITERATIONS) }).unwrap();
                attack.carried.push(points);
                attack
            });
            let given_starts = runner.carried(".given");
            runner.device.write_f32(&given_starts, &starts).unwrap();
            runner.device.write_u32(&runner.attack.run, &[1]).unwrap();
            let stages = runner.attack.schedule.stages.clone();
            let point = runner.carried(".point");
            let mut points = Vec::new();
            for program in stages.iter().flat_map(|(program, times)| (0..*times).map(move |_| program)) {
                runner.device.execute(program).unwrap();
                points.push(runner.read(&point));
            }
            // The last program evaluates its point and moves no more.
            assert_eq!(points.len(), ITERATIONS as usize + 2);
            let classes = match loss {
                ApgdLoss::TargetedDlr => runner.device.read_u32(&runner.carried(".target")).unwrap(),
                _ => vec![0; 4],
            };
            let mut evaluator = PointEvaluator::new(make, &given, loss, &classes);
            let found: Vec<PointValues> = points.iter().map(|points| evaluator.at(points)).collect();
            let mut halvings = 0;
            for i in 0..given.x.len() {
                let double = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
                let eps = f64::from(given.eps[i]);
                let mut plain = PlainApgd {
                    norm,
                    x: double(&given.x[i]),
                    eps,
                    step: 2.0 * eps,
                    best: Default::default(),
                    losses: Vec::new(),
                    best_at_checkpoint: 0.0,
                    halved: true,
                    before: Vec::new(),
                    iterations: ITERATIONS as usize,
                    period: (0.22 * f64::from(ITERATIONS)) as usize,
                    since: 0,
                };
                let first = plain.project(&double(&starts[i * 128..(i + 1) * 128]));
                let close = |a: &[f64], b: &[f32], what: &str| {
                    let off = a.iter().zip(b).map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
                    assert!(off < 2e-6, "{norm} {loss:?}, example {i}, {what}: {off:e}");
                };
                close(&first, &points[0][i], "the start");
                for number in 0..ITERATIONS as usize {
                    let at = &found[number];
                    let next = plain.next(number, &double(&points[number][i]), at.losses[i], &at.gradients[i]);
                    close(&next, &points[number + 1][i], &format!("iteration {number}"));
                }
                halvings += (2.0 * eps / plain.step).log2() as u32;
                // The result is the last adversarial point, or else the point with the largest loss.
                let adversarial = found.iter().rposition(|at| !at.correct[i]);
                let most = (0..found.len()).fold(0, |m, k| if found[k].losses[i] > found[m].losses[i] { k } else { m });
                let adv = &runner.read(&runner.attack.adv)[i];
                assert_eq!(adv, &points[adversarial.unwrap_or(most)][i], "{norm} {loss:?}, example {i}");
            }
            assert!(halvings > 4, "{norm} {loss:?}: steps were halved {halvings} times");
        }
    }
}

// ---- All of AutoAttack

fn names(version: AutoAttack, classes: usize) -> Result<Vec<(String, u32)>, String> {
    let mut memory = Memory::default();
    let mut model = LinearModel::new([4, 4, 1], classes);
    model.declare(&mut memory);
    let batch = Batch::new(&mut memory, &model, "images", 3);
    let attacks = auto_attack(&mut memory, &model, &batch, version, Norm::Linf, 0).map_err(|e| e.to_string())?;
    Ok(attacks.into_iter().map(|attack| (attack.name, attack.runs)).collect())
}

#[test]
fn autoattack_is_four_attacks_and_plus_is_six() {
    let listed = |list: &[(&str, u32)]| list.iter().map(|(name, runs)| (name.to_string(), *runs)).collect();
    let standard = [("apgd-ce", 1), ("apgd-t", 9), ("fab-t", 9), ("square", 1)];
    let plus = [("apgd-ce", 5), ("apgd-dlr", 5), ("fab", 5), ("square", 1), ("apgd-t", 9), ("fab-t", 9)];
    assert_eq!(names(AutoAttack::Standard, 10), Ok(listed(&standard)));
    assert_eq!(names(AutoAttack::Plus, 10), Ok(listed(&plus)));
    let few = names(AutoAttack::Standard, 5).unwrap();
    assert_eq!(few[1].1, 4, "as many targets as there are other classes");
    let refused = names(AutoAttack::Standard, 3).unwrap_err();
    assert_eq!(refused, "apgd-t: expected a network of 4 classes or more; found 3");
}
