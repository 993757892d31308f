//! Black-box attacks, which see logits alone: results stay exactly inside ball and box, adversarial examples are left
//! alone, and the search does what its definition says.

mod support;

use maxmargin::attack::{SpsaSettings, SquareSettings, spsa, square};
use maxmargin::rng::{Purpose, philox, signed_unit};
use maxmargin::tape::Norm;
use support::attacked::{AttackProblem, AttackRecorder, AttackRunner, distance};
use support::{Random, TestDevice, devices, fast_devices};

fn square_of(norm: Norm, queries: u32) -> AttackRecorder {
    let settings = SquareSettings { queries, restarts: 2, seed: 3, ..SquareSettings::published(norm) };
    Box::new(move |memory, model, batch| square(memory, model, batch, &settings))
}

fn spsa_of(settings: SpsaSettings) -> AttackRecorder {
    Box::new(move |memory, model, batch| spsa(memory, model, batch, &settings))
}

/// Every attack with the norm of its ball, with few iterations.
fn attacks() -> [(Norm, AttackRecorder); 3] {
    let short = SpsaSettings { iterations: 3, samples: 5, at_once: 3, learning_rate: 0.2, ..SpsaSettings::default() };
    [(Norm::Linf, square_of(Norm::Linf, 30)), (Norm::L2, square_of(Norm::L2, 30)), (Norm::Linf, spsa_of(short))]
}

// ---- Ball and box

/// Images that round in every way, each with every radius.
fn awkward_problem(image: [usize; 3], radii: &[f32]) -> AttackProblem {
    let pixels: usize = image.iter().product();
    let mut random = Random(7);
    let mut pictures: Vec<Vec<f32>> = vec![
        (0..pixels).map(|_| random.below(256) as f32 / 255.0).collect(),
        (0..pixels).map(|_| random.unit() as f32).collect(),
        (0..pixels).map(|_| random.below(2) as f32).collect(),
    ];
    pictures.extend([0.5, 0.3, 0.7 + 1e-7].map(|v: f32| vec![v; pixels]));
    let n = pictures.len() * radii.len();
    let mut given = AttackProblem::random(1, image, 3, n, [0.0, 1.0]);
    given.x = pictures.iter().cycle().take(n).cloned().collect();
    given.eps = (0..n).map(|i| radii[i / pictures.len()]).collect();
    // No change makes an example adversarial: so the attack goes on to its end.
    given.bias = vec![100.0, 0.0, 0.0];
    given.labels = vec![0; n];
    given
}

#[test]
fn results_stay_exactly_inside_ball_and_box_and_eps_0_moves_nothing() {
    for ((norm, record), image) in attacks().iter().zip([[8, 8, 1], [9, 7, 3], [5, 4, 3]]) {
        let radii: &[f32] = if *norm == Norm::Linf { &[0.3, 8.0 / 255.0, 1e-7, 0.0] } else { &[2.0, 0.5, 1e-4, 0.0] };
        let given = awkward_problem(image, radii);
        for make in devices() {
            let mut runner = AttackRunner::new(make, &given, record);
            let name = runner.attack.name.clone();
            for (i, (adv, x)) in runner.run(0).iter().zip(&given.x).enumerate() {
                let (found, eps) = (distance(*norm, adv, x), given.eps[i]);
                let what = format!("{name} {norm}, example {i}, eps {eps}");
                assert!(found <= f64::from(eps), "{what}: {found}, by {:.1e}", found / f64::from(eps) - 1.0);
                assert!(adv.iter().all(|a| (0.0..=1.0).contains(a)), "{what}: left the box");
                if eps == 0.0 {
                    assert!(adv.iter().zip(x).all(|(a, x)| a.to_bits() == x.to_bits()), "{what}: moved");
                } else if eps > 1e-3 {
                    assert!(found > 0.3 * f64::from(eps), "{what}: {found}, too timid");
                }
            }
        }
    }
}

/// In linf each pixel ends at one end of its range in ball and box.
#[test]
fn square_reaches_the_corners_of_the_ball() {
    let mut given = awkward_problem([8, 8, 3], &[0.3]);
    given.x.truncate(2);
    for make in devices() {
        let given = AttackProblem {
            x: given.x.clone(),
            labels: vec![0; 2],
            index: vec![0, 1],
            eps: vec![0.3; 2],
            ..given.clone()
        };
        let adv = AttackRunner::new(make, &given, square_of(Norm::Linf, 20)).run(0);
        for (&a, &x) in adv.concat().iter().zip(&given.x.concat()) {
            let moved = (a - x).abs();
            assert!(a == 0.0 || a == 1.0 || (moved - 0.3).abs() < 1e-6, "{x} moved by {moved}");
        }
    }
}

// ---- Examples by themselves

#[test]
fn an_example_s_result_does_not_depend_on_the_others_of_its_batch() {
    let mut given = AttackProblem::random(9, [6, 5, 2], 3, 3, [0.0, 1.0]);
    given.eps = vec![0.2, 0.1, 0.3];
    let mut other = given.clone();
    let strange = AttackProblem::random(10, [6, 5, 2], 3, 3, [0.4, 0.6]);
    (other.x, other.labels, other.index) = (strange.x, vec![1, 1, given.labels[0]], vec![8, 9, given.index[0]]);
    other.x[2].clone_from(&given.x[0]);
    other.eps = vec![0.5, 0.1, given.eps[0]];
    for (make, (norm, record)) in devices().into_iter().flat_map(|make| attacks().map(|attack| (make, attack))) {
        let result = |given| AttackRunner::new(make, given, &record).run(1);
        assert_eq!(result(&given)[0], result(&other)[2], "{norm}");
    }
}

#[test]
fn restarts_and_examples_differ_and_a_repeated_run_does_not() {
    let mut given = awkward_problem([6, 5, 1], &[0.3]);
    given.x.truncate(2);
    given.x[1] = given.x[0].clone();
    let given = AttackProblem { labels: vec![0; 2], index: vec![4, 5], eps: vec![0.3; 2], ..given };
    for (make, (norm, record)) in devices().into_iter().flat_map(|make| attacks().map(|attack| (make, attack))) {
        let mut runner = AttackRunner::new(make, &given, &record);
        let [first, second, again] = [0, 1, 0].map(|run| runner.run(run));
        assert_eq!(first, again, "{norm}");
        assert!(first[0] != first[1] && first[0] != second[0], "{norm}");
    }
}

#[test]
fn both_devices_give_the_same_results() {
    let mut given = AttackProblem::random(11, [6, 5, 2], 3, 3, [0.0, 1.0]);
    given.eps = vec![0.2, 0.1, 0.3];
    for (norm, record) in attacks() {
        let results: Vec<_> =
            devices().into_iter().map(|make| AttackRunner::new(make, &given, &record).run(0)).collect();
        for other in &results[1..] {
            for (a, b) in results[0].concat().iter().zip(other.concat()) {
                assert!((a - b).abs() < 1e-4, "{norm}: {a} and {b}");
            }
        }
    }
}

// ---- Square

/// Runs Square query by query. The margin loss (the label's logit less the largest other) never rises and is that of
/// the best point; an adversarial example is left alone.
fn assert_square_never_raises_its_loss(make: TestDevice, norm: Norm, eps: f32) {
    let mut given = AttackProblem::random(12, [8, 8, 1], 3, 6, [0.2, 0.8]);
    given.eps = vec![eps; 6];
    let mut runner = AttackRunner::new(make, &given, square_of(norm, 60));
    let best = runner.carried("best");
    let (stages, adv) = (runner.attack.schedule.stages.clone(), runner.attack.adv.clone());
    let mut before: Option<(Vec<Vec<f32>>, Vec<f32>)> = None;
    for (program, times) in &stages {
        for _ in 0..*times {
            runner.device.execute(program).unwrap();
            if program.name == "square_heights" {
                continue;
            }
            let (points, margins) = (runner.read(&adv), runner.read(&best).concat());
            for (i, margin) in margins.iter().enumerate() {
                let expected = given.margin(i, &points[i]);
                assert!((f64::from(*margin) - expected).abs() < 1e-4, "{norm}, example {i}: {margin}, not {expected}");
                if let Some((points_before, margins_before)) = &before {
                    assert!(*margin >= margins_before[i], "{norm}, example {i}: {} -> {margin}", margins_before[i]);
                    let left_alone = points[i] == points_before[i];
                    assert!(left_alone || margins_before[i] < 0.0, "{norm}, example {i}: was adversarial, and moved");
                }
            }
            before = Some((points, margins));
        }
    }
    let adversarial = before.unwrap().1.iter().filter(|margin| **margin >= 0.0).count();
    assert!(0 < adversarial && adversarial < 6, "{norm}: {adversarial} of 6 adversarial: the test shows too little");
}

#[test]
fn square_never_raises_its_loss_and_leaves_adversarial_examples_alone() {
    for make in devices() {
        assert_square_never_raises_its_loss(make, Norm::Linf, 0.05);
        assert_square_never_raises_its_loss(make, Norm::L2, 0.25);
    }
}

/// The radius is two and a half times the least distance.
#[test]
fn square_finds_an_adversarial_image_of_every_example_of_a_small_margin() {
    for (make, norm) in fast_devices().into_iter().flat_map(|make| [(make, Norm::Linf), (make, Norm::L2)]) {
        let mut given = AttackProblem::random(13, [8, 8, 1], 2, 20, [0.3, 0.7]);
        given.eps = (0..20).map(|i| 2.5 * given.distance(norm, i) as f32).collect();
        let adv = AttackRunner::new(make, &given, square_of(norm, 1000)).run(0);
        for (i, adv) in adv.iter().enumerate() {
            assert!(given.margin(i, adv) > -1e-5, "{norm}, example {i}: {} left", given.margin(i, adv));
        }
    }
}

/// AutoAttack's `eta_rectangles` as it is written there: boxes around the middle, each one pixel larger on all sides
/// than the one before and adding one over the square of its number.
fn hill(height: usize, width: usize) -> Vec<Vec<f64>> {
    let mut hill = vec![vec![0.0; width]; height];
    for k in 0..(height / 2 + 1).max(width / 2 + 1) {
        for (i, row) in hill.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                if i.abs_diff(height / 2) <= k && j.abs_diff(width / 2) <= k {
                    *value += 1.0 / ((k + 1) * (k + 1)) as f64;
                }
            }
        }
    }
    let norm = hill.iter().flatten().map(|h| h * h).sum::<f64>().sqrt();
    hill.iter().map(|row| row.iter().map(|h| h / norm).collect()).collect()
}

/// The l2 form's first point has two hills in each channel of each of 25 tiles, one positive and one negative.
#[test]
fn square_starts_in_l2_with_tiles_of_hills() {
    let image = [16, 16, 2];
    let mut given = AttackProblem::random(14, image, 2, 2, [0.5, 0.5]);
    given.eps = vec![0.5; 2];
    let side = 3;
    let (above, below) = (hill(1, 3), hill(2, 3));
    let eta = |i: usize, j: usize| if i < 1 { above[i][j] } else { -below[i - 1][j] } / 2f64.sqrt();
    // 25 tiles in 2 channels, each of norm 1, together of norm 0.5.
    let scale = 0.5 / 50f64.sqrt();
    for make in devices() {
        let adv = AttackRunner::new(make, &given, square_of(Norm::L2, 0)).run(0);
        let mut kinds = std::collections::BTreeSet::new();
        for (adv, x) in adv.iter().zip(&given.x) {
            let at = |r: usize, c: usize, channel: usize| {
                let element = (r * 16 + c) * 2 + channel;
                f64::from(adv[element] - x[element]) / scale
            };
            assert!((0..16).all(|i| at(15, i, 0) == 0.0 && at(i, 15, 1) == 0.0), "nothing beyond the tiles");
            for tile in 0..50 {
                let (top, left, channel) = (tile / 10 * side, tile / 2 % 5 * side, tile % 2);
                let fits = |sign: f64, transposed: bool| {
                    (0..9).all(|k| {
                        let (i, j) = (k / 3, k % 3);
                        let expected = sign * if transposed { eta(j, i) } else { eta(i, j) };
                        (at(top + i, left + j, channel) - expected).abs() < 1e-4
                    })
                };
                let kind = (0..4).find(|kind| fits([1.0, -1.0][kind % 2], kind / 2 == 1));
                kinds.insert(kind.unwrap_or_else(|| panic!("tile {tile} has another pattern")));
            }
        }
        assert_eq!(kinds.len(), 4, "both signs, upright and transposed");
    }
}

// ---- SPSA

/// The estimate is that of SPSA's definition for the counter-based random signs. On a linear model it is the gradient,
/// but for the products of different signs, which are as large as chance makes them.
#[test]
fn spsa_estimates_the_gradient() {
    let image = [4, 3, 2];
    let given = AttackProblem { eps: vec![0.1; 2], ..AttackProblem::random(15, image, 2, 2, [0.2, 0.8]) };
    let settings = SpsaSettings { samples: 400, at_once: 100, seed: 9, ..SpsaSettings::default() };
    for make in devices() {
        let mut runner = AttackRunner::new(make, &given, spsa_of(settings.clone()));
        let gradient = runner.carried("gradient");
        for (program, times) in &runner.attack.schedule.stages.clone()[..2] {
            (0..*times).for_each(|_| runner.device.execute(program).unwrap());
        }
        for (i, estimate) in runner.read(&gradient).iter().enumerate() {
            let y = given.labels[i] as usize;
            let truth: Vec<f64> = given.weights[1 - y].iter().zip(&given.weights[y]).map(|(a, b)| a - b).collect();
            let mut expected = [0.0; 24];
            for sample in 0..400 {
                // Samples are numbered pass by pass; those of one pass share a row of random numbers.
                let (pass, first) = (sample / 100 + 1, sample % 100 * 24);
                let sign = |k: usize| {
                    let words = philox(9, Purpose::SpsaSigns, pass as u32, given.index[i], ((first + k) / 4) as u32);
                    if signed_unit(words[(first + k) % 4]) < 0.0 { -1.0 } else { 1.0 }
                };
                let slope: f64 = (0..24).map(|k| truth[k] * sign(k)).sum();
                (0..24).for_each(|k| expected[k] += slope * sign(k) / 400.0);
            }
            let size = truth.iter().map(|t| t * t).sum::<f64>().sqrt();
            for k in 0..24 {
                let got = f64::from(estimate[k]);
                assert!((got - expected[k]).abs() < 1e-3 * size, "{got}, not {}", expected[k]);
                assert!((got - truth[k]).abs() < 5.0 * size / 20.0, "{got}, far from {}", truth[k]);
            }
        }
    }
}

#[test]
fn spsa_finds_an_adversarial_image_of_every_example_of_a_small_margin() {
    let settings = SpsaSettings { iterations: 40, samples: 64, at_once: 32, ..SpsaSettings::default() };
    for make in fast_devices() {
        let mut given = AttackProblem::random(16, [6, 6, 1], 3, 10, [0.3, 0.7]);
        given.eps = (0..10).map(|i| 1.5 * given.distance(Norm::Linf, i) as f32).collect();
        let adv = AttackRunner::new(make, &given, spsa_of(settings.clone())).run(0);
        for (i, adv) in adv.iter().enumerate() {
            assert!(given.margin(i, adv) > -1e-5, "example {i}: {} left", given.margin(i, adv));
        }
    }
}
