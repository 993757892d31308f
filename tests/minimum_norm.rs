//! What minimum-norm attacks promise: an adversarial image of the box, nearly as near as the nearest there is, where that
//! is known; and each example's own result.

mod support;

use maxmargin::attack::{Attack, CwSettings, DdnSettings, FmnSettings, cw, ddn, fmn};
use maxmargin::batch::Batch;
use maxmargin::model::Model;
use maxmargin::tape::{Memory, Norm};
use support::attacked::{Attacked, ConeModel, DeadModel, Given, distance};
use support::{TestDevice, devices, fast_devices};

type Record = Box<dyn Fn(&mut Memory, &dyn Model, &Batch) -> Attack>;

/// An attack, the norm it makes small, and the share by which its distance may exceed the least.
struct Method {
    name: &'static str,
    norm: Norm,
    share: f64,
    record: Record,
}

fn method(name: &'static str, norm: Norm, share: f64, record: Record) -> Method {
    Method { name, norm, share, record }
}

fn ddn_of(settings: DdnSettings) -> Record {
    Box::new(move |memory, model, target| ddn(memory, model, target, &settings))
}

fn fmn_of(settings: FmnSettings) -> Record {
    Box::new(move |memory, model, target| fmn(memory, model, target, &settings))
}

fn cw_of(settings: CwSettings) -> Record {
    Box::new(move |memory, model, target| cw(memory, model, target, &settings))
}

/// Every attack, as long as a small model needs.
fn methods() -> [Method; 4] {
    let quick = DdnSettings { iterations: 200, levels: None, ..DdnSettings::default() };
    let fmn = |norm| fmn_of(FmnSettings { iterations: 200, ..FmnSettings::published(norm) });
    let cw = CwSettings { iterations: 1000, initial_const: 0.01, ..CwSettings::default() };
    [
        method("ddn", Norm::L2, 0.01, ddn_of(quick)),
        method("fmn l2", Norm::L2, 0.01, fmn(Norm::L2)),
        method("fmn linf", Norm::Linf, 0.03, fmn(Norm::Linf)),
        method("cw", Norm::L2, 0.05, cw_of(cw)),
    ]
}

/// The same for all, where the least distance is hardly more than a step.
const SLACK: f64 = 2e-3;

fn is_an_image(adv: &[f32]) -> bool {
    adv.iter().all(|a| (0.0..=1.0).contains(a))
}

/// Every attack on every device that is fast enough for it.
fn each(check: impl Fn(TestDevice, &Method)) {
    for make in fast_devices() {
        methods().iter().for_each(|method| check(make, method));
    }
}

/// Whether what was found is an image, no nearer than the nearest adversarial one, and not much further.
fn is_near(method: &Method, example: usize, adv: &[f32], x: &[f32], least: f64, share: f64) {
    let found = distance(method.norm, adv, x);
    let what = format!("{}, example {example}: {found}, the least is {least}", method.name);
    println!("{what}, {:+.2} %", 100.0 * (found / least - 1.0));
    assert!(is_an_image(adv), "{what}: left the box");
    assert!(found > least * (1.0 - 1e-3) && found < least * (1.0 + share) + SLACK, "{what}");
}

/// What attacks find on linear models, beside the least distance; `share` of it may be added, where it is not the
/// method's own.
fn margins_are_met(given: &Given, share: Option<f64>) {
    each(|make, method| {
        let adv = Attacked::new(make, given, &method.record).run(0);
        for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
            let least = given.distance(method.norm, i);
            is_near(method, i, adv, x, least, share.unwrap_or(method.share));
            let margin = given.margin(i, adv);
            assert!(margin > -1e-5, "{}, example {i}: not adversarial, by {margin}", method.name);
        }
    });
}

#[test]
fn the_margins_of_linear_models_are_found() {
    margins_are_met(&Given::random(1, [4, 4, 1], 2, 6, [0.2, 0.8]), None);
    margins_are_met(&Given::random(2, [3, 2, 3], 2, 6, [0.2, 0.8]), None);
}

/// An attack follows the class that is most likely where it is, which need not be the one whose boundary is nearest.
#[test]
fn with_many_classes_one_of_the_nearest_is_found() {
    margins_are_met(&Given::random(1, [4, 4, 1], 5, 8, [0.2, 0.8]), Some(0.5));
}

/// Some pixels are where the nearest adversarial image would lie beyond the box. Clipping after scaling is no projection
/// onto the sphere in the box: in l2, some end near the nearest image of the box, not at it.
#[test]
fn the_margins_of_linear_models_are_found_where_the_box_binds() {
    margins_are_met(&Given::random(3, [4, 4, 1], 2, 8, [-0.3, 1.3]), Some(0.1));
}

/// The logits of classes that are not the label's are no less than others' for being negative.
#[test]
fn logits_that_are_all_negative_change_nothing() {
    let mut given = Given::random(1, [4, 4, 1], 2, 3, [0.2, 0.8]);
    given.bias.iter_mut().for_each(|b| *b -= 64.0);
    assert!(given.x.iter().all(|x| given.logits(x).iter().all(|z| *z < -32.0)));
    margins_are_met(&given, None);
}

/// Half the angle between the cone's sides.
const HALF_ANGLE: f64 = 0.6;

/// Images within a cone, and its model's parameters. Standardized images have a fixed length, so `u . x - b` is positive
/// within an angle of `u`.
fn cone() -> (Given, Vec<f32>) {
    let mut given = Given::random(4, [8, 8, 1], 2, 4, [0.3, 0.7]);
    let mean = given.weights[0].iter().sum::<f64>() / 64.0;
    let u: Vec<f64> = given.weights[0].iter().map(|w| f64::from((w - mean) as f32)).collect();
    let b = 63f64.sqrt() * long(&u) * HALF_ANGLE.cos();
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

fn long(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The distance from the cone is the length (of the part with mean 0) times the sine of the angle that is left.
#[test]
fn the_margins_of_a_cone_are_found() {
    let (given, values) = cone();
    each(|make, method| {
        if method.norm != Norm::L2 {
            return;
        }
        let adv = Attacked::of(make, &given, &mut ConeModel::new(given.image), &values, &method.record).run(0);
        for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / 64.0;
            let centred: Vec<f64> = x.iter().map(|&x| f64::from(x) - mean).collect();
            let u = &given.weights[0];
            let along = centred.iter().zip(u).map(|(x, u)| x * u).sum::<f64>() / long(u);
            let angle = (along / long(&centred)).acos();
            // The deviation is above its least value there, and at the boundary.
            assert!(angle < HALF_ANGLE && long(&centred) * (HALF_ANGLE - angle).cos() > 63f64.sqrt() / 8.0);
            is_near(method, i, adv, x, long(&centred) * (HALF_ANGLE - angle).sin(), method.share);
        }
    });
}

/// Where the network's units are all dead the gradient is 0, and only a random direction leads out.
#[test]
fn a_random_direction_leads_out_of_where_the_network_is_dead() {
    let mut given = Given::random(5, [2, 2, 1], 2, 4, [0.2, 0.4]);
    given.labels = vec![0; 4];
    each(|make, method| {
        if method.name == "cw" {
            return;
        }
        let mut model = DeadModel::new(given.image);
        let values = model.values(2.0);
        let adv = Attacked::of(make, &given, &mut model, &values, &method.record).run(0);
        for (i, (adv, x)) in adv.iter().zip(&given.x).enumerate() {
            let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
            let dual = if method.norm == Norm::Linf { 4.0 } else { 2.0 };
            assert!(sum(x) < 1.9, "example {i}: the unit is alive");
            assert!(sum(adv) > 2.499_99, "{}, example {i}: {adv:?} is not adversarial", method.name);
            is_near(method, i, adv, x, (2.5 - sum(x)) / dual, 0.1);
        }
    });
}

#[test]
fn where_nothing_is_adversarial_the_result_is_the_image_and_everything_a_number() {
    let mut given = Given::random(6, [4, 4, 1], 3, 3, [0.0, 1.0]);
    given.weights = vec![vec![0.0; 16]; 3];
    given.bias = vec![1.0, 0.0, 0.0];
    given.labels = vec![0; 3];
    for (make, method) in devices().into_iter().flat_map(|make| shorter().map(|method| (make, method))) {
        let mut attacked = Attacked::new(make, &given, &method.record);
        assert_eq!(attacked.run(0), given.x, "{}", method.name);
        for buffer in &attacked.attack.carried {
            assert!(attacked.rows(buffer).concat().iter().all(|v| !v.is_nan()), "{}: {}", method.name, buffer.name);
        }
    }
}

#[test]
fn an_image_that_is_wrong_is_its_own_adversarial_example() {
    let mut given = Given::random(7, [4, 4, 1], 3, 3, [0.0, 1.0]);
    given.labels.iter_mut().for_each(|y| *y = (*y + 1) % 3);
    for (make, method) in devices().into_iter().flat_map(|make| shorter().map(|method| (make, method))) {
        let adv = Attacked::new(make, &given, &method.record).run(0);
        for (adv, x) in adv.iter().zip(&given.x) {
            // CW keeps a millionth from the ends of the box.
            let most = if method.name == "cw" { 3e-6 } else { 0.0 };
            assert!(distance(method.norm, adv, x) <= most, "{}", method.name);
        }
    }
}

/// advertorch's `DDNL2Attack.perturb` in double precision, on a linear model: the point after `iterations` of them.
fn ddn_by_its_words(given: &Given, example: usize, iterations: u32) -> Vec<f64> {
    let (x, y) = (&given.x[example], given.labels[example] as usize);
    let (mut change, mut norm) = (vec![0.0; x.len()], 1.0);
    for i in 0..iterations {
        let point: Vec<f64> = x.iter().zip(&change).map(|(&x, d)| f64::from(x) + d).collect();
        let logit = |j: usize| given.bias[j] + given.weights[j].iter().zip(&point).map(|(w, p)| w * p).sum::<f64>();
        let z: Vec<f64> = (0..given.bias.len()).map(logit).collect();
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        let adversarial = (0..z.len()).any(|j| j != y && z[j] > z[y]);
        // Of the cross-entropy.
        let gradient = |k: usize| {
            (0..z.len()).map(|j| (z[j].exp() / sum - f64::from(u8::from(j == y))) * given.weights[j][k]).sum::<f64>()
        };
        let gradient: Vec<f64> = (0..x.len()).map(gradient).collect();
        let turn = std::f64::consts::PI * f64::from(i + 1) / f64::from(iterations);
        let rate = 0.01 + 0.99 * (1.0 + turn.cos()) / 2.0;
        let steep = long(&gradient);
        change.iter_mut().zip(&gradient).for_each(|(d, g)| *d += rate * g / steep);
        norm *= if adversarial { 0.95 } else { 1.05 };
        let scale = norm / long(&change);
        for (d, &x) in change.iter_mut().zip(x) {
            *d = (f64::from(x) + *d * scale).clamp(0.0, 1.0) - f64::from(x);
        }
    }
    x.iter().zip(&change).map(|(&x, d)| f64::from(x) + d).collect()
}

#[test]
fn ddn_goes_where_its_words_say() {
    let given = Given::random(17, [4, 4, 1], 3, 4, [0.0, 1.0]);
    for (make, iterations) in devices().into_iter().flat_map(|make| [(make, 1), (make, 2), (make, 15)]) {
        let settings = DdnSettings { iterations, levels: None, ..DdnSettings::default() };
        let mut attacked = Attacked::new(make, &given, ddn_of(settings));
        attacked.run(0);
        for (i, point) in attacked.rows(&attacked.carried("point")).iter().enumerate() {
            for (got, expected) in point.iter().zip(ddn_by_its_words(&given, i, iterations)) {
                assert!((f64::from(*got) - expected).abs() < 1e-4, "example {i}: {got}, not {expected}");
            }
        }
    }
}

#[test]
fn ddn_gives_images_of_bytes() {
    let given = Given::random(8, [4, 4, 1], 3, 3, [-0.2, 1.2]);
    for make in devices() {
        let settings = DdnSettings { iterations: 50, ..DdnSettings::default() };
        let adv = Attacked::new(make, &given, ddn_of(settings)).run(0);
        assert!(adv.concat().iter().all(|a| *a == (a * 255.0).round() / 255.0));
        assert!(adv.iter().enumerate().all(|(i, adv)| given.margin(i, adv) >= -1e-5));
    }
}

/// In another place, beside others. (Alone it would have the same result but for roundings: the CPU's products of few
/// rows add in another order.)
#[test]
fn an_example_has_its_own_result_whatever_else_is_in_the_batch() {
    let given = Given::random(9, [4, 4, 1], 3, 3, [0.0, 1.0]);
    let mut other = given.clone();
    let strange = Given::random(10, [4, 4, 1], 3, 3, [0.4, 0.6]);
    // Example 0 is in place 2; the others are new, and one is wrong.
    (other.x, other.labels, other.index) = (strange.x, vec![1, 1, given.labels[0]], vec![8, 9, given.index[0]]);
    other.x[2].clone_from(&given.x[0]);
    for (make, method) in devices().into_iter().flat_map(|make| shorter().map(|method| (make, method))) {
        let result = |given| Attacked::new(make, given, &method.record).run(0);
        assert_eq!(result(&given)[0], result(&other)[2], "{}", method.name);
    }
}

/// A second time the attack does what it did the first time.
#[test]
fn an_attack_can_be_run_again() {
    let given = Given::random(9, [4, 4, 1], 3, 3, [0.0, 1.0]);
    for (make, method) in devices().into_iter().flat_map(|make| shorter().map(|method| (make, method))) {
        let mut attacked = Attacked::new(make, &given, &method.record);
        assert_eq!(attacked.run(0), attacked.run(0), "{}", method.name);
    }
}

/// On a curved boundary: on a flat one FMN's first step ends at the boundary itself, and roundings say on which side.
#[test]
fn both_devices_find_the_same() {
    let (given, values) = cone();
    for method in shorter() {
        let result =
            |make| Attacked::of(make, &given, &mut ConeModel::new(given.image), &values, &method.record).run(0);
        let results: Vec<_> = devices().into_iter().map(result).collect();
        for other in &results[1..] {
            for (a, b) in results[0].concat().iter().zip(other.concat()) {
                assert!((a - b).abs() < 1e-4, "{}: {a} and {b}", method.name);
            }
        }
    }
}

/// Every attack, so short that roundings do not grow.
fn shorter() -> [Method; 4] {
    let fmn = |norm| fmn_of(FmnSettings { iterations: 12, ..FmnSettings::published(norm) });
    let cw =
        CwSettings { search_steps: 10, iterations: 4, learning_rate: 0.1, initial_const: 0.1, ..CwSettings::default() };
    [
        method("ddn", Norm::L2, 0.0, ddn_of(DdnSettings { iterations: 12, levels: None, ..DdnSettings::default() })),
        method("fmn l2", Norm::L2, 0.0, fmn(Norm::L2)),
        method("fmn linf", Norm::Linf, 0.0, fmn(Norm::Linf)),
        method("cw", Norm::L2, 0.0, cw_of(cw)),
    ]
}
