//! Minimum-norm attacks: the result is an adversarial image in the box, and nearly as near as the nearest one where
//! that is known; an example's result does not depend on the others of its batch.

mod support;

use maxmargin::attack::{CwSettings, DdnSettings, FmnSettings, cw, ddn, fmn};
use maxmargin::tape::Norm;
use support::attacked::{AttackProblem, AttackRecorder, AttackRunner, ConeModel, DeadModel, distance};
use support::{TestDevice, devices, fast_devices};

/// An attack, the norm that it minimizes, and the fraction by which its distance may exceed the least one.
struct MinimumNormAttack {
    name: &'static str,
    norm: Norm,
    excess: f64,
    record: AttackRecorder,
}

fn attack(name: &'static str, norm: Norm, excess: f64, record: AttackRecorder) -> MinimumNormAttack {
    MinimumNormAttack { name, norm, excess, record }
}

fn ddn_of(settings: DdnSettings) -> AttackRecorder {
    Box::new(move |memory, model, batch| ddn(memory, model, batch, &settings))
}

fn fmn_of(settings: FmnSettings) -> AttackRecorder {
    Box::new(move |memory, model, batch| fmn(memory, model, batch, &settings))
}

fn cw_of(settings: CwSettings) -> AttackRecorder {
    Box::new(move |memory, model, batch| cw(memory, model, batch, &settings))
}

/// Every attack, as long as a small model needs.
fn attacks() -> [MinimumNormAttack; 4] {
    let quick = DdnSettings { iterations: 200, levels: None, ..DdnSettings::default() };
    let fmn = |norm| fmn_of(FmnSettings { iterations: 200, ..FmnSettings::published(norm) });
    let cw = CwSettings { iterations: 1000, initial_const: 0.01, ..CwSettings::default() };
    [
        attack("ddn", Norm::L2, 0.01, ddn_of(quick)),
        attack("fmn l2", Norm::L2, 0.01, fmn(Norm::L2)),
        attack("fmn linf", Norm::Linf, 0.03, fmn(Norm::Linf)),
        attack("cw", Norm::L2, 0.05, cw_of(cw)),
    ]
}

/// Excess of any distance, for least distances that are hardly more than a step.
const SLACK: f64 = 2e-3;

fn is_an_image(adv: &[f32]) -> bool {
    adv.iter().all(|a| (0.0..=1.0).contains(a))
}

/// Every attack on every device that is fast enough for it.
fn each(check: impl Fn(TestDevice, &MinimumNormAttack)) {
    for make in fast_devices() {
        attacks().iter().for_each(|attack| check(make, attack));
    }
}

/// Asserts that the result is an image, no nearer than the nearest adversarial one, and not much further.
fn is_near(attack: &MinimumNormAttack, example: usize, adv: &[f32], x: &[f32], least: f64, excess: f64) {
    let found = distance(attack.norm, adv, x);
    let what = format!("{}, example {example}: {found}, the least is {least}", attack.name);
    println!("{what}, {:+.2} %", 100.0 * (found / least - 1.0));
    assert!(is_an_image(adv), "{what}: left the box");
    assert!(found > least * (1.0 - 1e-3) && found < least * (1.0 + excess) + SLACK, "{what}");
}

/// Asserts that attacks find the least distance on a linear model. `excess` replaces each attack's own.
fn margins_are_met(given: &AttackProblem, excess: Option<f64>) {
    each(|make, attack| {
        let adv = AttackRunner::new(make, given, &attack.record).run(0);
        for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
            let least = given.distance(attack.norm, i);
            is_near(attack, i, adv, x, least, excess.unwrap_or(attack.excess));
            let margin = given.margin(i, adv);
            assert!(margin > -1e-5, "{}, example {i}: not adversarial, by {margin}", attack.name);
        }
    });
}

#[test]
fn attacks_find_the_margins_of_linear_models() {
    margins_are_met(&AttackProblem::random(1, [4, 4, 1], 2, 6, [0.2, 0.8]), None);
    margins_are_met(&AttackProblem::random(2, [3, 2, 3], 2, 6, [0.2, 0.8]), None);
}

/// An attack follows the class that is most likely at its point, which need not be the one whose boundary is nearest.
#[test]
fn with_many_classes_attacks_find_one_of_the_nearest_boundaries() {
    margins_are_met(&AttackProblem::random(1, [4, 4, 1], 5, 8, [0.2, 0.8]), Some(0.5));
}

/// Without the box, the nearest adversarial image would lie outside it. Scaling and then clipping is not the projection
/// onto the sphere inside the box: in l2, some results lie near the nearest image of the box, not at it.
#[test]
fn attacks_find_the_margins_of_linear_models_where_the_box_binds() {
    margins_are_met(&AttackProblem::random(3, [4, 4, 1], 2, 8, [-0.3, 1.3]), Some(0.1));
}

/// Only differences of logits count.
#[test]
fn attacks_find_the_margins_of_linear_models_whose_logits_are_all_negative() {
    let mut given = AttackProblem::random(1, [4, 4, 1], 2, 3, [0.2, 0.8]);
    given.bias.iter_mut().for_each(|b| *b -= 64.0);
    assert!(given.x.iter().all(|x| given.logits(x).iter().all(|z| *z < -32.0)));
    margins_are_met(&given, None);
}

/// Half the opening angle of the cone, in radians.
const HALF_ANGLE: f64 = 0.6;

/// Images within a cone, and its model's parameters. Standardized images have a fixed norm, so `u . x - b` is positive
/// within an angle of `u`.
fn cone() -> (AttackProblem, Vec<f32>) {
    let mut given = AttackProblem::random(4, [8, 8, 1], 2, 4, [0.3, 0.7]);
    let mean = given.weights[0].iter().sum::<f64>() / 64.0;
    let u: Vec<f64> = given.weights[0].iter().map(|w| f64::from((w - mean) as f32)).collect();
    let b = 63f64.sqrt() * l2_norm(&u) * HALF_ANGLE.cos();
    given.weights = vec![u.clone(), u.iter().map(|w| -w).collect()];
    given.bias = vec![-b, b];
    given.labels = vec![0; 4];
    for (i, x) in given.x.iter_mut().enumerate() {
        let away = 0.1 * (i + 1) as f64;
        x.iter_mut().zip(&u).for_each(|(x, u)| *x = (0.5 + 0.35 * u + away * (f64::from(*x) - 0.5)) as f32);
    }
    let values = given.weights.concat().iter().chain(&given.bias).map(|&v| v as f32).collect();
    (given, values)
}

fn l2_norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// An image's distance from the cone is the norm (of the part with mean 0) times the sine of the angle between them.
#[test]
fn attacks_find_the_margins_of_a_cone() {
    let (given, values) = cone();
    each(|make, attack| {
        if attack.norm != Norm::L2 {
            return;
        }
        let adv = AttackRunner::of(make, &given, &mut ConeModel::new(given.image), &values, &attack.record).run(0);
        for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / 64.0;
            let centred: Vec<f64> = x.iter().map(|&x| f64::from(x) - mean).collect();
            let u = &given.weights[0];
            let along = centred.iter().zip(u).map(|(x, u)| x * u).sum::<f64>() / l2_norm(u);
            let angle = (along / l2_norm(&centred)).acos();
            // Standardization divides by the deviation, not by its least value, both at the image and at the
            // boundary.
            assert!(angle < HALF_ANGLE && l2_norm(&centred) * (HALF_ANGLE - angle).cos() > 63f64.sqrt() / 8.0);
            is_near(attack, i, adv, x, l2_norm(&centred) * (HALF_ANGLE - angle).sin(), attack.excess);
        }
    });
}

/// The gradient of a network whose units are all dead is 0: only a random direction reaches the boundary.
#[test]
fn a_random_direction_leaves_the_region_where_all_units_are_dead() {
    let mut given = AttackProblem::random(5, [2, 2, 1], 2, 4, [0.2, 0.4]);
    given.labels = vec![0; 4];
    each(|make, attack| {
        if attack.name == "cw" {
            return;
        }
        let mut model = DeadModel::new(given.image);
        let values = model.values(2.0);
        let adv = AttackRunner::of(make, &given, &mut model, &values, &attack.record).run(0);
        for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
            let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
            let dual = if attack.norm == Norm::Linf { 4.0 } else { 2.0 };
            assert!(sum(x) < 1.9, "example {i}: the unit is alive");
            assert!(sum(adv) > 2.499_99, "{}, example {i}: {adv:?} is not adversarial", attack.name);
            is_near(attack, i, adv, x, (2.5 - sum(x)) / dual, 0.1);
        }
    });
}

#[test]
fn without_adversarial_images_the_result_is_the_image_and_no_state_is_nan() {
    let mut given = AttackProblem::random(6, [4, 4, 1], 3, 3, [0.0, 1.0]);
    given.weights = vec![vec![0.0; 16]; 3];
    given.bias = vec![1.0, 0.0, 0.0];
    given.labels = vec![0; 3];
    for (make, attack) in devices().into_iter().flat_map(|make| short_attacks().map(|attack| (make, attack))) {
        let mut runner = AttackRunner::new(make, &given, &attack.record);
        assert_eq!(runner.run(0), given.x, "{}", attack.name);
        for buffer in &runner.attack.carried {
            assert!(runner.read(buffer).concat().iter().all(|v| !v.is_nan()), "{}: {}", attack.name, buffer.name);
        }
    }
}

#[test]
fn a_misclassified_image_is_its_own_adversarial_example() {
    let mut given = AttackProblem::random(7, [4, 4, 1], 3, 3, [0.0, 1.0]);
    given.labels.iter_mut().for_each(|y| *y = (*y + 1) % 3);
    for (make, attack) in devices().into_iter().flat_map(|make| short_attacks().map(|attack| (make, attack))) {
        let adv = AttackRunner::new(make, &given, &attack.record).run(0);
        for (adv, x) in adv.iter().zip(&given.x) {
            // CW keeps a millionth from the ends of the box.
            let most = if attack.name == "cw" { 3e-6 } else { 0.0 };
            assert!(distance(attack.norm, adv, x) <= most, "{}", attack.name);
        }
    }
}

/// Point of advertorch's `DDNL2Attack.perturb` after `iterations`, on a linear model, in double precision.
fn plain_ddn(given: &AttackProblem, example: usize, iterations: u32) -> Vec<f64> {
    let (x, y) = (&given.x[example], given.labels[example] as usize);
    let (mut change, mut norm) = (vec![0.0; x.len()], 1.0);
    for i in 0..iterations {
        let point: Vec<f64> = x.iter().zip(&change).map(|(&x, d)| f64::from(x) + d).collect();
        let logit = |j: usize| given.bias[j] + given.weights[j].iter().zip(&point).map(|(w, p)| w * p).sum::<f64>();
        let z: Vec<f64> = (0..given.bias.len()).map(logit).collect();
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        let adversarial = (0..z.len()).any(|j| j != y && z[j] > z[y]);
        // Gradient of the cross-entropy.
        let gradient = |k: usize| {
            (0..z.len()).map(|j| (z[j].exp() / sum - f64::from(u8::from(j == y))) * given.weights[j][k]).sum::<f64>()
        };
        let gradient: Vec<f64> = (0..x.len()).map(gradient).collect();
        let turn = std::f64::consts::PI * f64::from(i + 1) / f64::from(iterations);
        let rate = 0.01 + 0.99 * (1.0 + turn.cos()) / 2.0;
        let steepness = l2_norm(&gradient);
        change.iter_mut().zip(&gradient).for_each(|(d, g)| *d += rate * g / steepness);
        norm *= if adversarial { 0.95 } else { 1.05 };
        let scale = norm / l2_norm(&change);
        for (d, &x) in change.iter_mut().zip(x) {
            *d = (f64::from(x) + *d * scale).clamp(0.0, 1.0) - f64::from(x);
        }
    }
    x.iter().zip(&change).map(|(&x, d)| f64::from(x) + d).collect()
}

#[test]
fn ddn_follows_a_plain_statement_of_it() {
    let given = AttackProblem::random(17, [4, 4, 1], 3, 4, [0.0, 1.0]);
    for (make, iterations) in devices().into_iter().flat_map(|make| [(make, 1), (make, 2), (make, 15)]) {
        let settings = DdnSettings { iterations, levels: None, ..DdnSettings::default() };
        let mut runner = AttackRunner::new(make, &given, ddn_of(settings));
        runner.run(0);
        for (i, point) in runner.read(&runner.carried("point")).iter().enumerate() {
            for (got, expected) in point.iter().zip(plain_ddn(&given, i, iterations)) {
                assert!((f64::from(*got) - expected).abs() < 1e-4, "example {i}: {got}, not {expected}");
            }
        }
    }
}

#[test]
fn ddn_rounds_its_results_to_the_pixel_values_of_bytes() {
    let given = AttackProblem::random(8, [4, 4, 1], 3, 3, [-0.2, 1.2]);
    for make in devices() {
        let settings = DdnSettings { iterations: 50, ..DdnSettings::default() };
        let adv = AttackRunner::new(make, &given, ddn_of(settings)).run(0);
        assert!(adv.concat().iter().all(|a| *a == (a * 255.0).round() / 255.0));
        assert!(adv.iter().enumerate().all(|(i, adv)| given.margin(i, adv) >= -1e-5));
    }
}

/// The example stands in another row, among others. (Alone it would have the same result but for rounding: the CPU's
/// products of matrices with few rows sum in another order.)
#[test]
fn an_example_s_result_does_not_depend_on_the_others_of_its_batch() {
    let given = AttackProblem::random(9, [4, 4, 1], 3, 3, [0.0, 1.0]);
    let mut other = given.clone();
    let strange = AttackProblem::random(10, [4, 4, 1], 3, 3, [0.4, 0.6]);
    // Example 0 is in row 2; the others are new, and one is misclassified.
    (other.x, other.labels, other.index) = (strange.x, vec![1, 1, given.labels[0]], vec![8, 9, given.index[0]]);
    other.x[2].clone_from(&given.x[0]);
    for (make, attack) in devices().into_iter().flat_map(|make| short_attacks().map(|attack| (make, attack))) {
        let result = |given| AttackRunner::new(make, given, &attack.record).run(0);
        assert_eq!(result(&given)[0], result(&other)[2], "{}", attack.name);
    }
}

#[test]
fn a_second_run_gives_the_results_of_the_first() {
    let given = AttackProblem::random(9, [4, 4, 1], 3, 3, [0.0, 1.0]);
    for (make, attack) in devices().into_iter().flat_map(|make| short_attacks().map(|attack| (make, attack))) {
        let mut runner = AttackRunner::new(make, &given, &attack.record);
        assert_eq!(runner.run(0), runner.run(0), "{}", attack.name);
    }
}

/// The boundary is curved: on a flat one FMN's first step ends at the boundary itself, and rounding decides on which
/// side.
#[test]
fn both_devices_give_the_same_results() {
    let (given, values) = cone();
    for attack in short_attacks() {
        let result =
            |make| AttackRunner::of(make, &given, &mut ConeModel::new(given.image), &values, &attack.record).run(0);
        let results: Vec<_> = devices().into_iter().map(result).collect();
        for other in &results[1..] {
            for (a, b) in results[0].concat().iter().zip(other.concat()) {
                assert!((a - b).abs() < 1e-4, "{}: {a} and {b}", attack.name);
            }
        }
    }
}

/// Every attack, so short that rounding errors do not grow.
fn short_attacks() -> [MinimumNormAttack; 4] {
    let fmn = |norm| fmn_of(FmnSettings { iterations: 12, ..FmnSettings::published(norm) });
    let cw =
        CwSettings { search_steps: 10, iterations: 4, learning_rate: 0.1, initial_const: 0.1, ..CwSettings::default() };
    [
        attack("ddn", Norm::L2, 0.0, ddn_of(DdnSettings { iterations: 12, levels: None, ..DdnSettings::default() })),
        attack("fmn l2", Norm::L2, 0.0, fmn(Norm::L2)),
        attack("fmn linf", Norm::Linf, 0.0, fmn(Norm::Linf)),
        attack("cw", Norm::L2, 0.0, cw_of(cw)),
    ]
}
