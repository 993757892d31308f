//! Families `pgd` and `an_pgd`: adversarial examples and margins.
//!
//! A case says which of its examples single precision cannot decide, because a ReLU, a pooling window or a sign is a
//! tie. Every other one is held: its pixels and its margin. Where the search has batch norm in training mode, one
//! example's tie moves all, and three quarters of the stable examples are held.
//!
//! A ReLU of a wide ResNet may be a tie even for a stable example. Such a tie is proved: double precision gives the
//! case's adversarial example, and with the device's decisions of each ReLU, the device's; and each decision that
//! differs is one that rounding decides ([`AttackReplay::ties`]).
//!
//! A case that does not say it has looser tolerances. Single precision reproduces all but one pixel in ten thousand
//! within 1e-4, and every margin far below a search step. One step along the cross-entropy's gradient without a random
//! start has gradients near underflow: 4 % of the pixels differ, and 8 % are allowed. With a wide ResNet three quarters
//! of the examples must satisfy these tolerances.

use std::sync::Arc;

use maxmargin::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use maxmargin::batch::Batch;
use maxmargin::config::Fidelity;
use maxmargin::device::{Device, Schedule};
use maxmargin::model::{Mode, Model, ModelState, image_buffer};
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Norm, PgdRule, Program, Tape};

use super::case::{start_noise, unit};
use super::comparison::{Comparison, exceeds, largest, share_beyond, worst};
use super::decisions::{self, DISTANCE_FROM_A_TIE, Decisions, DoublePgd, TIE};
use super::model::{batch_norm, running_statistics};
use super::numbers::to_nchw;
use super::{ReferenceCase, allocate};

/// Largest difference of two pixels that count as equal.
const PIXEL: f64 = 1e-4;
/// Largest share of a stable example's pixels that may differ.
const STABLE_PIXELS_OFF: f64 = 0.01;
/// Largest difference of any pixel of a stable example. An attack moves a pixel by at most its eps.
const FURTHEST: f64 = 0.45;
/// Largest error of a stable example's margin, in search steps.
pub const STABLE_EPS_OFF: f64 = 0.5;
/// Largest error of any example's margin where one's tie moves all, in search steps.
pub const EPS_ASTRAY: f64 = 64.0;
/// Largest share of pixels that may differ in a case that does not say which examples are stable.
const PIXELS_OFF: f64 = 1e-3;
const PIXELS_OFF_NEAR_UNDERFLOW: f64 = 0.08;
/// Largest error of a margin in such a case, in search steps.
const EPS_OFF: f64 = 0.1;
/// Largest error of running statistics after a search, whose images may differ by 5e-6 themselves; and after a search
/// in which an example was led elsewhere.
const RUNNING_STATISTICS: f64 = 1e-5;
const RUNNING_STATISTICS_ASTRAY: f64 = 1e-2;

/// A case's model and attack, recorded before the device allocates memory.
pub struct AttackReplay {
    memory: Memory,
    model: Box<dyn Model>,
    state: ModelState,
    pub batch: Batch,
    noise: Option<Buffer>,
    settings: PgdSettings,
    pgd: Pgd,
    eps: Vec<f32>,
    step: Vec<f32>,
    x: Vec<f32>,
    /// Random numbers of the start.
    pub start: Vec<f32>,
    /// Forward pass of the current point that keeps all results of ReLU in `relus`. Both are empty for LeNet5.
    decide: Schedule,
    relus: Vec<Buffer>,
}

impl AttackReplay {
    /// Records the case's PGD with the loss that its metadata `loss` names, in balls of radius `eps`.
    fn new(case: &ReferenceCase, loss: &str, eps: Vec<f32>, step: Vec<f32>) -> AttackReplay {
        let (mut model, state) = case.model();
        let (images, n) = case.images("images", &*model);
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let batch = Batch::new(&mut memory, &*model, "attack", n);
        let noise = (case.text("noise") != "none").then(|| image_buffer(&mut memory, &*model, "noise", n));
        let norm = case.choice("norm");
        let Fidelity { l2_order, l2_grad_floor, .. } = Fidelity::RELEASED;
        let settings = PgdSettings {
            loss: rule(case.choice(loss)),
            rule: PgdRule { norm, l2_order, l2_grad_floor },
            iterations: case.number("steps"),
            noise: noise.clone().map_or(StartNoise::None, StartNoise::Given),
        };
        let pgd = Pgd::new(&mut memory, &*model, &batch, &settings);
        let (mut decide, mut relus) = (Schedule::default(), Vec::new());
        if case.has("model", "wide_resnet") {
            let mut tape = batch.tape("decisions");
            let point = tape.leaf(&pgd.adv);
            model.logits(&mut tape, point, Mode::Eval);
            relus = decisions::keep(&mut tape, &mut memory);
            decide.then(&Arc::new(tape.finish()), 1);
        }
        let x = unit(&images);
        let start = start_noise(case.text("noise"), norm, &*model, &x);
        AttackReplay { memory, model, state, batch, noise, settings, pgd, eps, step, x, start, decide, relus }
    }

    fn norm(&self) -> Norm {
        self.settings.rule.norm
    }

    fn run(&self, case: &ReferenceCase, device: &mut dyn Device, schedule: &Schedule) {
        let mut all = schedule.clone();
        all.extend(&self.decide);
        allocate(device, &self.memory, &all);
        self.model.load(device, &self.state).unwrap();
        let n = self.batch.capacity();
        device.write_f32(&self.batch.x, &self.x).unwrap();
        device.write_u32(&self.batch.labels, &case.u32s("labels")).unwrap();
        device.write_u32(&self.batch.index, &(0..n as u32).collect::<Vec<_>>()).unwrap();
        device.write_u32(&self.batch.rows, &[n as u32]).unwrap();
        device.write_f32(&self.pgd.eps, &self.eps).unwrap();
        device.write_f32(&self.pgd.step, &self.step).unwrap();
        if let Some(buffer) = &self.noise {
            device.write_f32(buffer, &self.start).unwrap();
        }
        device.replay(schedule).unwrap();
    }

    /// Runs PGD again, one iteration at a time. Returns the decisions of each.
    fn decisions(&self, device: &mut dyn Device) -> Vec<Decisions> {
        let replay = |device: &mut dyn Device, program: &Arc<Program>| {
            let mut once = Schedule::default();
            once.then(program, 1);
            device.replay(&once).unwrap();
        };
        let [(start, 1), (iteration, iterations)] = &self.pgd.schedule.stages[..] else {
            panic!("PGD has a start and an iteration")
        };
        replay(device, start);
        let each = |_| {
            device.replay(&self.decide).unwrap();
            let decided = decisions::read(device, &self.relus);
            replay(device, iteration);
            decided
        };
        (0..*iterations).map(each).collect()
    }

    /// Adversarial examples of a wide ResNet in double precision with its own decisions, in PyTorch's layout.
    fn in_double_precision(&self, case: &ReferenceCase) -> Vec<f64> {
        let own_decisions = vec![None; self.settings.iterations as usize];
        let (adv, _) = self.double_pgd(case).run(&own_decisions);
        to_nchw(&adv, &case.tensor("images").shape)
    }

    /// The attack on a wide ResNet in double precision.
    fn double_pgd(&self, case: &ReferenceCase) -> DoublePgd<'_> {
        let double = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<f64>>();
        DoublePgd {
            model: &*self.model,
            state: &self.state,
            loss: self.settings.loss,
            rule: self.settings.rule,
            x: double(&self.x),
            labels: case.u32s("labels"),
            noise: self.noise.as_ref().map(|_| double(&self.start)),
            eps: double(&self.eps),
            step: double(&self.step),
        }
    }

    /// Checks that ties of ReLU led PGD's examples `strayed` on a wide ResNet elsewhere. Double precision must give the
    /// examples that are `expected`, in PyTorch's layout, with its own decisions, and the device's with the device's
    /// decisions. Each decision that differs must be one that rounding decides.
    fn ties(
        &self,
        case: &ReferenceCase,
        device: &mut dyn Device,
        expected: &[f64],
        strayed: &[usize],
    ) -> Vec<Comparison> {
        let found = device.read_f32(&self.pgd.adv).unwrap();
        let decisions: Vec<_> = self.decisions(device).into_iter().map(Some).collect();
        let own: Vec<f32> = self.in_double_precision(case).into_iter().map(|v| v as f32).collect();
        let (devices, distances) = self.double_pgd(case).run(&decisions);
        let row = found.len() / self.batch.capacity();
        let pixels = |found: &[f32], expected: &[f64], i: usize| {
            let part = i * row..(i + 1) * row;
            share_beyond(&found[part.clone()], &expected[part], PIXEL)
        };
        let of = |what: &str| format!("adversarial of {what} (share of pixels)");
        let (decided, exact) = (of("ReLU's decisions"), of("double precision"));
        vec![
            worst(&exact, strayed, |i| pixels(&own, expected, i), STABLE_PIXELS_OFF),
            worst(&decided, strayed, |i| pixels(&found, &devices, i), STABLE_PIXELS_OFF),
            worst(DISTANCE_FROM_A_TIE, strayed, |i| distances[i], TIE),
        ]
    }
}

pub fn pgd(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    let attacked = AttackReplay::new(case, "loss", case.f32s("eps"), case.f32s("step"));
    attacked.run(case, device, &attacked.pgd.schedule);
    let near_underflow = case.has("loss", "xent") && case.number::<u32>("steps") == 1;
    let allowed = if near_underflow { PIXELS_OFF_NEAR_UNDERFLOW } else { PIXELS_OFF };
    let adv = device.read_f32(&attacked.pgd.adv).unwrap();
    let ties = |strayed: &[usize]| attacked.ties(case, device, case.values("adversarial"), strayed);
    compare(case, &adv, allowed, None, Mode::Eval, ties)
}

/// Adversarial examples of a `pgd` case of a wide ResNet in double precision, in PyTorch's layout.
pub fn in_double_precision(case: &ReferenceCase) -> Vec<f64> {
    AttackReplay::new(case, "loss", case.f32s("eps"), case.f32s("step")).in_double_precision(case)
}

/// A case's AN-PGD, recorded before the device allocates memory.
pub struct SearchReplay {
    pub attacked: AttackReplay,
    an_pgd: AnPgd,
    pub search: Search,
    /// The adversarial example of the case: PGD's in form `test`, the boundary point in form `train`.
    point: Buffer,
    schedule: Schedule,
}

impl SearchReplay {
    pub fn new(case: &ReferenceCase) -> SearchReplay {
        let n = case.tensor("images").shape[0];
        let (start, eps, step) = match case.text("form") {
            "train" => {
                let eps = case.f32s("prev_eps");
                let scale = (case.number::<f64>("step_scale") / case.number::<f64>("steps")) as f32;
                let step = eps.iter().map(|eps| eps * scale).collect();
                (SearchStart::Eps, eps, step)
            }
            "test" => {
                let [eps, step] = ["pgd_eps", "pgd_step"].map(|key| vec![case.number::<f64>(key) as f32; n]);
                (SearchStart::HalfMaxEps, eps, step)
            }
            other => panic!("form {other:?} is not known"),
        };
        let mut attacked = AttackReplay::new(case, "attack_loss", eps, step);
        let search = Search {
            loss: rule(case.choice("search_loss")),
            steps: case.number("search_steps"),
            max_eps: case.number::<f64>("max_eps") as f32,
            start,
            norm: attacked.norm(),
            direction: Fidelity::RELEASED.direction,
            result: Fidelity::RELEASED.search_result,
            mode: batch_norm(case.choice("search_mode")),
        };
        let AttackReplay { memory, model, batch, pgd, .. } = &mut attacked;
        let an_pgd = AnPgd::new(memory, &**model, batch, pgd.clone(), search);
        let point = image_buffer(memory, &**model, "point", n);
        let mut schedule = an_pgd.schedule.clone();
        let mut tape = Tape::new("point");
        let found = match start {
            SearchStart::Eps => an_pgd.boundary_point(&mut tape, Fidelity::RELEASED.clamp_boundary),
            SearchStart::HalfMaxEps => {
                let adv = tape.leaf(&pgd.adv);
                tape.copy(adv)
            }
        };
        tape.keep(found, &point);
        schedule.then(&Arc::new(tape.finish()), 1);
        SearchReplay { attacked, an_pgd, search, point, schedule }
    }

    /// Runs the attack and the search. Returns the margins.
    pub fn run(&self, case: &ReferenceCase, device: &mut dyn Device) -> Vec<f32> {
        self.attacked.run(case, device, &self.schedule);
        device.read_f32(&self.an_pgd.margin).unwrap()
    }

    /// Checks that double precision gives PGD's adversarial examples of the case.
    pub fn pgd_in_double_precision(&self, case: &ReferenceCase) -> Comparison {
        let found: Vec<f32> = self.attacked.in_double_precision(case).into_iter().map(|v| v as f32).collect();
        Comparison::new("PGD in double precision", largest(&found, &self.expected_of_pgd(case)), 1e-5)
    }

    /// Adversarial examples of PGD that the case expects, in PyTorch's layout. In form `train` it has the boundary
    /// points, which lie along the same direction.
    fn expected_of_pgd(&self, case: &ReferenceCase) -> Vec<f64> {
        let point = case.values("adversarial");
        if self.search.start == SearchStart::HalfMaxEps {
            return point.to_vec();
        }
        let x = to_nchw(&self.attacked.x, &case.tensor("images").shape);
        let (eps, margins, row) = (&self.attacked.eps, case.values("eps"), x.len() / self.attacked.eps.len());
        let adv = |(i, (&x, point)): (usize, (&f32, &f64))| {
            f64::from(x) + (point - f64::from(x)) * f64::from(eps[i / row]) / margins[i / row]
        };
        x.iter().zip(point).enumerate().map(adv).collect()
    }

    /// Length of a step of the bisection.
    pub fn step(&self) -> f64 {
        f64::from(self.search.max_eps) * 0.5f64.powi(self.search.steps as i32)
    }
}

pub fn an_pgd(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    let replay = SearchReplay::new(case);
    let SearchReplay { attacked, search: Search { mode, .. }, .. } = &replay;
    let margins = replay.run(case, device);
    let point = device.read_f32(&replay.point).unwrap();
    let ties = |strayed: &[usize]| attacked.ties(case, device, &replay.expected_of_pgd(case), strayed);
    let mut checks = compare(case, &point, PIXELS_OFF, Some((&margins, replay.step())), *mode, ties);
    if *mode == Mode::Train {
        let astray = checks[0].error > 0.0;
        let allowed = if astray { RUNNING_STATISTICS_ASTRAY } else { RUNNING_STATISTICS };
        checks.extend(running_statistics(case, &*attacked.model, device, allowed));
    }
    checks
}

fn rule(loss: Loss) -> LossRule {
    LossRule { loss, confidence: Fidelity::RELEASED.cw_confidence }
}

/// Errors of an example.
struct ExampleErrors {
    /// Share of the pixels that differ by more than [`PIXEL`].
    pixels: f64,
    /// Largest difference of a pixel.
    furthest: f64,
    /// Error of the margin in search steps.
    eps: f64,
}

/// Compares adversarial examples, and margins if they are given together with the size of a search step, after a search
/// with batch norm in `mode`. `ties` checks that ties led the stable examples of a wide ResNet that stray elsewhere.
fn compare(
    case: &ReferenceCase,
    found: &[f32],
    pixels_off: f64,
    margins: Option<(&[f32], f64)>,
    mode: Mode,
    ties: impl FnOnce(&[usize]) -> Vec<Comparison>,
) -> Vec<Comparison> {
    let found = to_nchw(found, &case.tensor("images").shape);
    let expected = case.values("adversarial");
    let expected_eps = margins.map(|_| case.values("eps"));
    let n = case.tensor("images").shape[0];
    let row = found.len() / n;
    let of_example = |i: usize| {
        let (found, expected) = (&found[i * row..][..row], &expected[i * row..][..row]);
        let eps = margins.zip(expected_eps).map(|((margins, step), e)| largest(&margins[i..=i], &e[i..=i]) / step);
        ExampleErrors {
            pixels: share_beyond(found, expected, PIXEL),
            furthest: largest(found, expected),
            eps: eps.unwrap_or(0.0),
        }
    };
    let examples: Vec<ExampleErrors> = (0..n).map(of_example).collect();
    let stable = case.stable("stable");
    let held: Vec<usize> = (0..n).filter(|&i| stable.as_ref().is_none_or(|stable| stable[i])).collect();
    let wide = case.has("model", "wide_resnet");
    match (stable, mode) {
        (Some(_), Mode::Eval) => {
            let strays = |&i: &usize| wide && exceeds(examples[i].pixels, STABLE_PIXELS_OFF);
            let (strayed, near): (Vec<usize>, Vec<usize>) = held.iter().partition(|i| strays(i));
            let mut checks = vec![
                worst("adversarial (share of pixels)", &near, |i| examples[i].pixels, STABLE_PIXELS_OFF),
                worst("adversarial (furthest pixel)", &held, |i| examples[i].furthest, FURTHEST),
                worst("eps (in search steps)", &held, |i| examples[i].eps, STABLE_EPS_OFF),
            ];
            if !strayed.is_empty() {
                checks.extend(ties(&strayed));
            }
            checks
        }
        (Some(_), Mode::Train) => {
            let strays = |&&i: &&usize| {
                let ExampleErrors { pixels, eps, .. } = examples[i];
                exceeds(pixels, STABLE_PIXELS_OFF) || exceeds(eps, STABLE_EPS_OFF)
            };
            let strayed = held.iter().filter(strays).count();
            vec![
                Comparison::new("adversarial and eps (stable examples)", strayed as f64, (held.len() / 4) as f64),
                worst("adversarial (furthest pixel)", &held, |i| examples[i].furthest, FURTHEST),
                worst("eps (in search steps)", &held, |i| examples[i].eps, EPS_ASTRAY),
            ]
        }
        (None, _) if wide => {
            let strayed = examples.iter().filter(|e| exceeds(e.pixels, pixels_off) || exceeds(e.eps, 1.0)).count();
            vec![Comparison::new("adversarial and eps (examples)", strayed as f64, (n / 4) as f64)]
        }
        (None, _) => {
            let off = examples.iter().map(|example| example.pixels).sum::<f64>() / n as f64;
            vec![
                Comparison::new("adversarial (share of pixels)", off, pixels_off),
                worst("eps (in search steps)", &held, |i| examples[i].eps, EPS_OFF),
            ]
        }
    }
}
