//! PGD and AN-PGD: PGD's points stay exactly inside ball and box, in real numbers; on a linear model the margin is
//! known, and AN-PGD finds it.

mod support;

use maxmargin::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use maxmargin::batch::Batch;
use maxmargin::config::{Direction, L2Order, SearchResult};
use maxmargin::device::Device;
use maxmargin::model::{Mode, Model};
use maxmargin::rng::Purpose;
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Norm, PgdRule, Program, Tape};
use support::{LinearModel, Random, TestDevice, devices};

// ---- PGD on its device

/// Weights of a linear model, a row for each class, and the examples that PGD runs on.
#[derive(Clone)]
struct PgdProblem {
    image: [usize; 3],
    weights: Vec<Vec<f64>>,
    bias: Vec<f64>,
    x: Vec<Vec<f32>>,
    labels: Vec<u32>,
    index: Vec<u32>,
    eps: Vec<f32>,
    step: Vec<f32>,
}

/// Model, batch and memory for one attack.
struct PgdRunner {
    device: Box<dyn Device>,
    memory: Memory,
    model: LinearModel,
    batch: Batch,
    restart: Buffer,
}

impl PgdRunner {
    fn new(make: TestDevice, given: &PgdProblem) -> PgdRunner {
        let mut memory = Memory::default();
        let mut model = LinearModel::new(given.image, given.bias.len());
        model.declare(&mut memory);
        let batch = Batch::new(&mut memory, &model, "images", given.x.len());
        let restart = memory.u32("restart", &[1]);
        PgdRunner { device: make.open(), memory, model, batch, restart }
    }

    /// Allocates memory and writes the inputs of an attack.
    fn fill(&mut self, given: &PgdProblem, pgd: &Pgd, programs: &[&Program]) {
        self.device.allocate(&self.memory, programs).expect("memory");
        let parameters: Vec<f32> = given.weights.concat().iter().chain(&given.bias).map(|&v| v as f32).collect();
        self.model.params().load(&mut *self.device, &parameters).unwrap();
        self.device.write_f32(&self.batch.x, &given.x.concat()).unwrap();
        self.device.write_u32(&self.batch.labels, &given.labels).unwrap();
        self.device.write_u32(&self.batch.index, &given.index).unwrap();
        self.device.write_u32(&self.batch.rows, &[given.x.len() as u32]).unwrap();
        self.device.write_f32(&pgd.eps, &given.eps).unwrap();
        self.device.write_f32(&pgd.step, &given.step).unwrap();
    }

    fn noise(&self, seed: u64) -> StartNoise {
        StartNoise::CounterBased { seed, purpose: Purpose::EvaluateStart, step: self.restart.clone() }
    }

    /// Content of a buffer, row by row.
    fn read(&self, buffer: &Buffer) -> Vec<Vec<f32>> {
        let row = buffer.len() / buffer.dims[0];
        self.device.read_f32(buffer).unwrap().chunks(row).map(<[f32]>::to_vec).collect()
    }
}

fn settings(norm: Norm, l2_order: L2Order, loss: Loss, iterations: u32, noise: StartNoise) -> PgdSettings {
    let rule = PgdRule { norm, l2_order, l2_grad_floor: 1e-6 };
    PgdSettings { loss: LossRule { loss, confidence: 0.0 }, rule, iterations, noise }
}

/// PGD's point after the start and after each iteration.
fn trajectory(
    make: TestDevice,
    given: &PgdProblem,
    restart: u32,
    settings: impl Fn(&PgdRunner) -> PgdSettings,
) -> Vec<Vec<Vec<f32>>> {
    let mut runner = PgdRunner::new(make, given);
    let settings = settings(&runner);
    let pgd = Pgd::new(&mut runner.memory, &runner.model, &runner.batch, &settings);
    runner.fill(given, &pgd, &pgd.schedule.programs().collect::<Vec<_>>());
    let counter = runner.restart.clone();
    runner.device.write_u32(&counter, &[restart]).unwrap();
    let mut points = Vec::new();
    for (program, times) in &pgd.schedule.stages {
        for _ in 0..*times {
            runner.device.execute(program).unwrap();
            points.push(runner.read(&pgd.adv));
        }
    }
    assert_eq!(points.len(), settings.iterations as usize + 1);
    points
}

fn deltas(adv: &[f32], x: &[f32]) -> Vec<f64> {
    adv.iter().zip(x).map(|(&a, &x)| f64::from(a) - f64::from(x)).collect()
}

fn length(norm: Norm, delta: &[f64]) -> f64 {
    match norm {
        Norm::Linf => delta.iter().fold(0.0, |m, d| d.abs().max(m)),
        Norm::L2 => delta.iter().map(|d| d * d).sum::<f64>().sqrt(),
    }
}

// ---- Ball and box

/// Images that round in every way: bytes, any numbers, the ends of the box, and equal pixels, which all round alike.
fn awkward_images(random: &mut Random, pixels: usize) -> Vec<Vec<f32>> {
    let mut all = vec![
        (0..pixels).map(|_| random.below(256) as f32 / 255.0).collect(),
        (0..pixels).map(|_| random.unit() as f32).collect(),
        (0..pixels).map(|_| random.below(2) as f32).collect(),
    ];
    all.extend([0.5, 0.3, 0.7 + 1e-7, 1.0 - 1e-7].map(|v: f32| vec![v; pixels]));
    all
}

/// Every image with every eps.
fn awkward_problem(image: [usize; 3], radii: &[f32]) -> PgdProblem {
    let mut random = Random(7);
    let pixels = image.iter().product();
    let images = awkward_images(&mut random, pixels);
    let n = images.len() * radii.len();
    let eps: Vec<f32> = (0..n).map(|i| radii[i / images.len()]).collect();
    PgdProblem {
        image,
        // One pair of classes has equal weights but for the sign: all pixels move alike.
        weights: vec![vec![0.01; pixels], vec![-0.01; pixels], random.signed(&[pixels]).values],
        bias: vec![0.0, 0.1, -0.2],
        x: images.iter().cycle().take(n).cloned().collect(),
        labels: (0..n as u32).map(|i| i % 3).collect(),
        index: (0..n as u32).collect(),
        step: eps.iter().map(|eps| eps * 0.7).collect(),
        eps,
    }
}

fn assert_points_stay_inside_ball_and_box(norm: Norm, l2_order: L2Order, image: [usize; 3], radii: &[f32]) {
    let given = awkward_problem(image, radii);
    for (make, with_noise) in devices().into_iter().flat_map(|make| [(make, true), (make, false)]) {
        let points = trajectory(make, &given, 3, |runner| {
            let noise = if with_noise { runner.noise(5) } else { StartNoise::None };
            settings(norm, l2_order, Loss::Slm, 5, noise)
        });
        for (iteration, adv) in points.iter().enumerate() {
            for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
                let what = format!("{norm:?} {l2_order:?}, image {}, after {iteration} iterations", i % 7);
                let (found, eps) = (length(norm, &deltas(adv, x)), given.eps[i]);
                assert!(found <= f64::from(eps), "{what}: {found} > {eps}, by {:.1e}", found / f64::from(eps) - 1.0);
                assert!(adv.iter().all(|a| (0.0..=1.0).contains(a)), "{what}: left the box");
                if eps == 0.0 {
                    assert!(adv.iter().zip(x).all(|(a, x)| a.to_bits() == x.to_bits()), "{what}: eps 0 moved");
                } else if iteration == 5 && eps > 1e-4 {
                    assert!(found > 0.5 * f64::from(eps) || x[0] == x[1], "{what}: {found} of {eps}, too little");
                }
            }
        }
    }
}

#[test]
fn linf_points_stay_exactly_inside_ball_and_box_and_eps_0_moves_nothing() {
    let radii = [0.1, 0.3, 8.0 / 255.0, 0.45, 1e-3, 1e-7, 0.0];
    assert_points_stay_inside_ball_and_box(Norm::Linf, L2Order::BoxBall, [28, 28, 1], &radii);
}

#[test]
fn l2_points_stay_exactly_inside_ball_and_box_and_eps_0_moves_nothing() {
    let radii = [2.0, 0.5, 128.0 / 255.0, 0.1, 1e-2, 1e-4, 1e-6, 0.0];
    for (order, image) in
        [(L2Order::BoxBall, [28, 28, 1]), (L2Order::BallBox, [32, 32, 3]), (L2Order::BoxBall, [1, 3, 1])]
    {
        assert_points_stay_inside_ball_and_box(Norm::L2, order, image, &radii);
    }
}

// ---- Independence of examples

#[test]
fn an_example_s_result_depends_on_its_own_eps_alone() {
    for (make, norm) in devices().into_iter().flat_map(|make| [(make, Norm::Linf), (make, Norm::L2)]) {
        let radii = [0.3, 0.1, 1.0];
        let mixed = awkward_problem([4, 5, 1], &radii);
        let attack = |given: &PgdProblem| {
            trajectory(make, given, 0, |b| settings(norm, L2Order::BoxBall, Loss::Xent, 4, b.noise(5))).pop().unwrap()
        };
        let together = attack(&mixed);
        for eps in radii {
            let mut alone = mixed.clone();
            alone.eps.fill(eps);
            alone.step.fill(eps * 0.7);
            let alone = attack(&alone);
            let same = (0..together.len()).filter(|&i| mixed.eps[i] == eps);
            same.for_each(|i| assert_eq!(together[i], alone[i], "example {i}, eps {eps}"));
        }
    }
}

#[test]
fn a_zero_gradient_moves_nothing() {
    for (make, norm) in devices().into_iter().flat_map(|make| [(make, Norm::Linf), (make, Norm::L2)]) {
        let mut given = awkward_problem([4, 4, 1], &[0.3, 0.0, 2.0]);
        given.weights = vec![vec![0.0; 16]; 3];
        let points = trajectory(make, &given, 0, |_| settings(norm, L2Order::BallBox, Loss::Slm, 3, StartNoise::None));
        points.iter().for_each(|adv| assert_eq!(adv, &given.x));
    }
}

// ---- Random starts

/// Random starts of the examples `index`.
fn starts(make: TestDevice, norm: Norm, seed: u64, restart: u32, index: &[u32]) -> Vec<Vec<f32>> {
    let n = index.len();
    let given = PgdProblem {
        image: [4, 4, 1],
        weights: vec![vec![0.0; 16]; 2],
        bias: vec![0.0; 2],
        x: vec![vec![0.5; 16]; n],
        labels: vec![0; n],
        index: index.to_vec(),
        eps: vec![0.25; n],
        step: vec![0.1; n],
    };
    trajectory(make, &given, restart, |b| settings(norm, L2Order::BoxBall, Loss::Xent, 0, b.noise(seed))).remove(0)
}

#[test]
fn random_starts_differ_by_example_restart_and_seed_and_by_nothing_else() {
    for (make, norm) in devices().into_iter().flat_map(|make| [(make, Norm::Linf), (make, Norm::L2)]) {
        let first = starts(make, norm, 1, 0, &[0, 1, 7]);
        let others = [starts(make, norm, 1, 1, &[0, 1, 7]), starts(make, norm, 2, 0, &[0, 1, 7])].concat();
        let all: Vec<_> = first.iter().chain(&others).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{norm:?}: two equal starts");
        }
        // An example starts at its own point in any row.
        assert_eq!(starts(make, norm, 1, 0, &[7, 0]), [first[2].clone(), first[0].clone()]);
    }
}

#[test]
fn linf_starts_fill_the_ball_and_l2_starts_lie_on_its_surface() {
    for make in devices() {
        let index: Vec<u32> = (0..200).collect();
        let linf: Vec<f64> =
            starts(make, Norm::Linf, 1, 0, &index).concat().iter().map(|a| f64::from(*a) - 0.5).collect();
        let mean = linf.iter().sum::<f64>() / linf.len() as f64;
        let variance = linf.iter().map(|d| d * d).sum::<f64>() / linf.len() as f64;
        // Uniform in [-1/4, 1/4): the mean of 3,200 numbers has a standard deviation of 0.0026.
        assert!(mean.abs() < 0.01 && (variance - 0.25f64.powi(2) / 3.0).abs() < 0.002, "{mean} {variance}");
        for point in starts(make, Norm::L2, 1, 0, &index) {
            let found = length(Norm::L2, &deltas(&point, &[0.5; 16]));
            assert!((0.2499..=0.25).contains(&found), "{found}");
        }
    }
}

// ---- AN-PGD on a linear model, whose margin is |f| over the dual norm of w

/// Two classes, and a third that is far away. Example `i` has the margin `margins[i]`. The images lie in the middle of
/// the box, which does not bind.
fn linear_problem(norm: Norm, margins: &[f64], eps: f32, iterations: u32) -> PgdProblem {
    let image = [5, 5, 1];
    let w = Random(11).signed(&[25]).values;
    let dual = match norm {
        Norm::Linf => w.iter().map(|w| w.abs()).sum::<f64>(),
        Norm::L2 => length(Norm::L2, &w),
    };
    // f = w x + b is negative where the label is predicted; x moves along w until f is as wanted.
    let along = |f: f64| -> Vec<f32> {
        let square: f64 = w.iter().map(|w| w * w).sum();
        w.iter().map(|w| (0.5 + f / square * w) as f32).collect()
    };
    let middle: f64 = w.iter().map(|w| 0.5 * w).sum();
    let n = margins.len();
    PgdProblem {
        image,
        weights: vec![vec![0.0; 25], w.clone(), vec![0.0; 25]],
        bias: vec![0.0, -middle, -100.0],
        x: margins.iter().map(|margin| along(-margin * dual)).collect(),
        labels: vec![0; n],
        index: (0..n as u32).collect(),
        eps: vec![eps; n],
        step: vec![2.5 * eps / iterations as f32; n],
    }
}

fn search(norm: Norm, max_eps: f32) -> Search {
    Search {
        loss: LossRule { loss: Loss::Lm, confidence: 0.0 },
        steps: 10,
        max_eps,
        start: SearchStart::Eps,
        norm,
        direction: Direction::Eps,
        result: SearchResult::Midpoint,
        mode: Mode::Eval,
    }
}

/// Results of a search: margins, boundary points and the search's loss at them.
struct SearchResults {
    margins: Vec<f64>,
    boundary: Vec<Vec<f32>>,
    losses: Vec<f32>,
}

fn an_pgd(make: TestDevice, given: &PgdProblem, search: Search, iterations: u32) -> SearchResults {
    let mut runner = PgdRunner::new(make, given);
    let settings = settings(search.norm, L2Order::BoxBall, Loss::Slm, iterations, StartNoise::None);
    let pgd = Pgd::new(&mut runner.memory, &runner.model, &runner.batch, &settings);
    let found = AnPgd::new(&mut runner.memory, &runner.model, &runner.batch, pgd.clone(), search);
    let n = given.x.len();
    let (point, loss) = (runner.memory.f32("boundary", &runner.batch.x.dims), runner.memory.f32("loss", &[n]));
    let mut tape = Tape::new("boundary");
    let boundary = found.boundary_point(&mut tape, true);
    tape.keep(boundary, &point);
    let logits = runner.model.logits(&mut tape, boundary, Mode::Eval);
    let labels = tape.leaf(&runner.batch.labels);
    let value = tape.loss(search.loss, logits, labels);
    tape.keep(value, &loss);
    let last = tape.finish();
    runner.fill(given, &pgd, &found.schedule.programs().chain([&last]).collect::<Vec<_>>());
    runner.device.replay(&found.schedule).unwrap();
    runner.device.execute(&last).unwrap();
    SearchResults {
        margins: runner.device.read_f32(&found.margin).unwrap().into_iter().map(f64::from).collect(),
        boundary: runner.read(&point),
        losses: runner.device.read_f32(&loss).unwrap(),
    }
}

#[test]
fn an_pgd_finds_the_analytic_margin_of_a_linear_model() {
    for (norm, eps, max_eps, margins) in [
        (Norm::Linf, 0.15f32, 0.2f32, [0.001, 0.02, 0.1, 0.149, 0.17, 0.199]),
        (Norm::L2, 0.5, 0.8, [0.01, 0.2, 0.4, 0.49, 0.6, 0.79]),
    ] {
        let given = linear_problem(norm, &margins, eps, 20);
        for (make, start) in devices().into_iter().flat_map(|m| [(m, SearchStart::Eps), (m, SearchStart::HalfMaxEps)]) {
            for direction in [Direction::Eps, Direction::Unit] {
                let found = an_pgd(make, &given, Search { start, direction, ..search(norm, max_eps) }, 20);
                for ((&margin, &found), x) in margins.iter().zip(&found.margins).zip(&given.x) {
                    // At half the upper bound the sign is that of PGD's own point, so the search may begin in the
                    // wrong half (as the released code's does). A margin between that half and eps is then found at
                    // the half.
                    let half = f64::from(max_eps) / 2.0;
                    let misled = start == SearchStart::HalfMaxEps && margin > half && margin < f64::from(eps);
                    let expected = if misled { half } else { margin };
                    let step = f64::from(max_eps) / 1024.0;
                    assert!(
                        (found - expected).abs() <= step * 1.001,
                        "{norm:?} {start:?} {direction:?}: {found}, not {expected}, from {x:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn ten_halvings_leave_a_1024th_of_the_bracket() {
    let (eps, max_eps) = (0.1f32, 0.2f32);
    // One example is out of reach, the other misclassified from the start.
    let given = linear_problem(Norm::Linf, &[0.25, -0.05], eps, 5);
    for make in devices() {
        let found = an_pgd(make, &given, search(Norm::Linf, max_eps), 5).margins;
        let step = f64::from(max_eps) / 1024.0;
        let off = [f64::from(max_eps) - found[0], found[1]];
        off.iter().for_each(|off| assert!(*off > 0.0 && *off <= step, "{found:?}"));
        let search = Search { result: SearchResult::Adversarial, ..search(Norm::Linf, max_eps) };
        let found = an_pgd(make, &given, search, 5).margins;
        assert_eq!(found[0], f64::from(max_eps), "an example without an adversarial point has the upper bound");
    }
}

#[test]
fn the_adversarial_end_of_the_bracket_is_misclassified() {
    for (norm, eps, max_eps) in [(Norm::Linf, 0.15f32, 0.2f32), (Norm::L2, 0.5, 0.8)] {
        let margins: Vec<f64> = (1..40).map(|i| f64::from(max_eps) * f64::from(i) / 40.0).collect();
        let given = linear_problem(norm, &margins, eps, 20);
        for (make, direction) in devices().into_iter().flat_map(|m| [(m, Direction::Eps), (m, Direction::Unit)]) {
            let search = Search { result: SearchResult::Adversarial, direction, ..search(norm, max_eps) };
            let found = an_pgd(make, &given, search, 20);
            for ((margin, loss), analytic) in found.margins.iter().zip(&found.losses).zip(&margins) {
                assert!(*loss >= 0.0, "{norm:?} {direction:?}: loss {loss} at {margin}");
                assert!((margin - analytic).abs() <= 2.001 * f64::from(max_eps) / 1024.0, "{margin}, not {analytic}");
            }
        }
    }
}

/// Two pixels, the first already white: the box cuts off the first's part of PGD's change in l2, which ends inside its
/// ball; the boundary is 0.09 away along the second.
fn clipped(iterations: u32, eps: f32) -> PgdProblem {
    PgdProblem {
        image: [1, 2, 1],
        weights: vec![vec![0.0; 2], vec![3.0, 4.0]],
        bias: vec![0.0, -(3.0 + 4.0 * 0.59)],
        x: vec![vec![1.0, 0.5]],
        labels: vec![0],
        index: vec![0],
        eps: vec![eps],
        step: vec![eps],
    }
    .steps(iterations)
}

impl PgdProblem {
    fn steps(mut self, iterations: u32) -> PgdProblem {
        self.step.iter_mut().for_each(|step| *step /= iterations as f32);
        self
    }
}

#[test]
fn the_unit_direction_gives_the_true_distance_where_the_box_cut_the_perturbation() {
    // The perturbation ends at 0.12, beyond the boundary, in a ball of 0.15.
    for make in devices() {
        let given = clipped(1, 0.15);
        let distance = |found: &SearchResults| length(Norm::L2, &deltas(&found.boundary[0], &given.x[0]));
        let unit = an_pgd(make, &given, Search { direction: Direction::Unit, ..search(Norm::L2, 0.2) }, 1);
        assert!((unit.margins[0] - 0.09).abs() <= 0.2 / 1024.0, "{}", unit.margins[0]);
        assert!((distance(&unit) - unit.margins[0]).abs() < 1e-6);
        // The released code's margin is a multiple of eps, of which the perturbation had 4 / 5.
        let multiple = an_pgd(make, &given, search(Norm::L2, 0.2), 1);
        assert!((multiple.margins[0] - 0.09 / 0.8).abs() <= 0.2 / 1024.0, "{}", multiple.margins[0]);
        assert!((distance(&multiple) - 0.8 * multiple.margins[0]).abs() < 1e-6);
    }
}

#[test]
fn the_unit_direction_takes_the_first_sign_at_its_start() {
    // The perturbation ends at 0.08, before the boundary, in a ball of 0.1, beyond it.
    for make in devices() {
        let unit = Search { direction: Direction::Unit, ..search(Norm::L2, 0.2) };
        let margin = an_pgd(make, &clipped(1, 0.1), unit, 1).margins[0];
        assert!((margin - 0.09).abs() <= 0.2 / 1024.0, "{margin}");
    }
}
