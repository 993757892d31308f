//! Optimizers, by the formulas of Kingma and Ba (2015) and of PyTorch's SGD.

use maxmargin::tape::{Metric, Op, OptimizerRule};

use super::support::{Array, OpCase, Random, Sum, exact, near};

/// Numbers of parameters: one, few, and around the 16,384 of a task.
const LENGTHS: [usize; 5] = [1, 7, 16_383, 16_384, 16_385];

/// Steps before, at and after changes of the learning rate, and a late one.
const STEPS: [u32; 6] = [0, 1, 9, 10, 999, 99_999];

fn rules() -> [OptimizerRule; 4] {
    let rule = |schedule: &[(u32, f32)], clean_coeff, weight_decay, momentum| OptimizerRule {
        schedule: schedule.to_vec(),
        clean_coeff,
        weight_decay,
        momentum,
        loss_scale: None,
    };
    [
        rule(&[(0, 1e-4)], 1.0 / 3.0, 0.0, 0.0),
        rule(&[(0, 0.3), (10, 0.09), (1000, 0.03)], 1.0 / 3.0, 2e-4, 0.9),
        rule(&[(0, 0.1), (1, 0.01)], 0.0, 0.01, 0.5),
        OptimizerRule { loss_scale: Some(1024.0), ..rule(&[(0, 0.1)], 1.0 / 3.0, 2e-4, 0.9) },
    ]
}

/// Learning rate of a step: that of the last entry of the schedule that has begun.
fn rate(rule: &OptimizerRule, step: u32) -> f64 {
    let begun = rule.schedule.iter().filter(|(from, _)| *from <= step).max_by_key(|(from, _)| *from);
    f64::from(begun.unwrap().1)
}

/// Gradient `((1 - c) dmargin + c dclean) / loss scale + decay p`; without dclean, `dmargin / loss scale + decay p`.
fn gradient(rule: &OptimizerRule, dmargin: f64, dclean: Option<f64>, p: f64) -> Sum {
    let (c, scale) = (f64::from(rule.clean_coeff), f64::from(rule.loss_scale.unwrap_or(1.0)));
    let mut g = Sum::default();
    match dclean {
        Some(dclean) => {
            g += (1.0 - c) * dmargin / scale;
            g += c * dclean / scale;
        }
        None => g += dmargin / scale,
    }
    g += f64::from(rule.weight_decay) * p;
    g
}

/// Checks an optimizer on every length, rule and step, with and without dclean.
/// `f(rule, step, parameter, states, gradient)` gives the new parameter and states.
fn check(
    op: impl Fn(OptimizerRule) -> Op,
    states: &[&dyn Fn(usize) -> Array],
    f: impl Fn(&OptimizerRule, u32, f64, &[f64], Sum) -> Vec<Sum>,
) {
    for (len, rule) in LENGTHS.into_iter().flat_map(|len| rules().map(|rule| (len, rule))) {
        let (dmargin, dclean) = (Random(1).signed(&[len]), Random(2).signed(&[len]));
        let params = Random(3).signed(&[len]);
        let states: Vec<Array> = states.iter().map(|state| state(len)).collect();
        for (step, with_clean) in STEPS.into_iter().flat_map(|step| [(step, true), (step, false)]) {
            let case = |overflow: u32| {
                let mut case = OpCase::new(op(rule.clone())).whole(&dmargin);
                if with_clean {
                    case = case.whole(&dclean);
                }
                case = case.whole(&Array::u32([step]));
                if rule.loss_scale.is_some() {
                    case = case.whole(&Array::u32([overflow]));
                }
                states.iter().fold(case.updates_whole(&params), |case, state| case.updates_whole(state))
            };
            if rule.loss_scale.is_some() {
                let unchanged = |a: &Array| a.values.iter().map(|&v| exact(v)).collect();
                case(step + 1).check(|_| [&params].into_iter().chain(&states).map(unchanged).collect());
            }
            // The last overflow was that of the step before.
            case(step).check(|_| {
                let mut results = vec![Vec::new(); 1 + states.len()];
                for i in 0..len {
                    let clean = with_clean.then(|| dclean.values[i]);
                    let g = gradient(&rule, dmargin.values[i], clean, params.values[i]);
                    let before: Vec<f64> = states.iter().map(|s| s.values[i]).collect();
                    for (all, one) in results.iter_mut().zip(f(&rule, step, params.values[i], &before, g)) {
                        all.push(one);
                    }
                }
                results
            });
        }
    }
}

/// Constants are in double precision: 0.999 in single precision would make the first steps wrong by 5e-5.
#[test]
pub fn adam() {
    let m = |len: usize| Random(4).signed(&[len]);
    // Squares: never negative, some exactly 0.
    let v = |len: usize| Array::f32(&[len], Random(5).coarse(&[len]).values.iter().map(|v| v * v));
    check(Op::Adam, &[&m, &v], |rule, step, p, before, g| {
        let t = f64::from(step) + 1.0;
        let (mut m, mut v) = (Sum::default(), Sum::default());
        m += 0.9 * before[0];
        m += 0.1 * g.value;
        m.size += 0.1 * g.size;
        v += 0.999 * before[1];
        v += 0.001 * g.value * g.value;
        v.size += 0.002 * g.size * g.value.abs();
        let rate = rate(rule, step) / (1.0 - 0.9f64.powf(t));
        let root = (v.value / (1.0 - 0.999f64.powf(t))).sqrt() + 1e-8;
        let size = p.abs() + rate / root * (m.size + m.value.abs() * v.size / v.value.max(1e-300));
        vec![near(p - rate * m.value / root, size), m, v]
    });
}

#[test]
pub fn sgd() {
    check(Op::Sgd, &[&|len| Random(4).signed(&[len])], |rule, step, p, before, g| {
        let mut b = Sum::default();
        b += f64::from(rule.momentum) * before[0];
        b += g.value;
        b.size += g.size;
        let rate = rate(rule, step);
        vec![near(p - rate * b.value, p.abs() + rate * b.size), b]
    });
}

/// Infinity or NaN anywhere in either gradient; the largest number is none.
#[test]
pub fn find_overflow() {
    let overflowed = [None, Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(f64::NAN), Some(f64::from(f32::MAX))];
    for (len, value) in LENGTHS.into_iter().flat_map(|len| overflowed.map(|value| (len, value))) {
        for (step, at, which) in [(0, 0, 0), (7, len / 2, 1), (99_999, len - 1, 0), (99_999, len - 1, 1)] {
            let mut gradients = [1, 2].map(|seed| Random(seed).signed(&[len]));
            if let Some(value) = value {
                gradients[which].values[at] = value;
            }
            let mut sums = Random(3).signed(&[Metric::COUNT]);
            sums.values[Metric::SkippedSteps as usize] = 5.0;
            let found = value.is_some_and(|value| !(value as f32).is_finite());
            let case = |overflow: u32| {
                let [dmargin, dclean] = &gradients;
                let case = OpCase::new(Op::FindOverflow).whole(dmargin).whole(dclean).whole(&Array::u32([step]));
                case.updates_whole(&Array::u32([overflow])).updates_whole(&sums)
            };
            case(step / 2).check(|_| {
                let mut after: Vec<Sum> = sums.values.iter().map(|&v| exact(v)).collect();
                after[Metric::SkippedSteps as usize] = exact(if found { 6.0 } else { 5.0 });
                vec![vec![exact(f64::from(if found { step + 1 } else { step / 2 }))], after]
            });
        }
    }
}

/// Without a clean gradient.
#[test]
fn an_overflow_of_the_only_gradient_is_found() {
    let mut gradient = Random(1).signed(&[9]);
    gradient.values[8] = f64::NAN;
    let sums = Array::f32(&[Metric::COUNT], [0.0; Metric::COUNT]);
    let case = OpCase::new(Op::FindOverflow).whole(&gradient).whole(&Array::u32([3]));
    case.updates_whole(&Array::u32([0])).updates_whole(&sums).check(|_| {
        let skipped = |i| exact(if i == Metric::SkippedSteps as usize { 1.0 } else { 0.0 });
        vec![vec![exact(4.0)], (0..Metric::COUNT).map(skipped).collect()]
    });
}

#[test]
pub fn increment() {
    for count in [0u32, 1, 99_999, 0x7FFF_FFFF, 0xFFFF_FFFE] {
        OpCase::new(Op::Increment)
            .updates_whole(&Array::u32([count]))
            .check(|_| vec![vec![exact(f64::from(count) + 1.0)]]);
    }
}
