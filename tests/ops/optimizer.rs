//! Optimizers, by the formulas of Kingma and Ba (2015) and of PyTorch's SGD.

use maxmargin::tape::{Op, OptimizerRule};

use super::support::{Array, OpCase, Random, Sum, exact, near};

/// Numbers of parameters: one, few, and around the 16,384 of a task.
const LENGTHS: [usize; 5] = [1, 7, 16_383, 16_384, 16_385];

/// Steps before, at and after changes of the learning rate, and a late one.
const STEPS: [u32; 6] = [0, 1, 9, 10, 999, 99_999];

fn rules() -> [OptimizerRule; 3] {
    let rule = |schedule: &[(u32, f32)], clean_coeff, weight_decay, momentum| OptimizerRule {
        schedule: schedule.to_vec(),
        clean_coeff,
        weight_decay,
        momentum,
    };
    [
        rule(&[(0, 1e-4)], 1.0 / 3.0, 0.0, 0.0),
        rule(&[(0, 0.3), (10, 0.09), (1000, 0.03)], 1.0 / 3.0, 2e-4, 0.9),
        rule(&[(0, 0.1), (1, 0.01)], 0.0, 0.01, 0.5),
    ]
}

/// Learning rate of a step: that of the last entry of the schedule that has begun.
fn rate(rule: &OptimizerRule, step: u32) -> f64 {
    let begun = rule.schedule.iter().filter(|(from, _)| *from <= step).max_by_key(|(from, _)| *from);
    f64::from(begun.unwrap().1)
}

/// Gradient `(1 - c) dmargin + c dclean + decay p`; without dclean, `dmargin + decay p`.
fn gradient(rule: &OptimizerRule, dmargin: f64, dclean: Option<f64>, p: f64) -> Sum {
    let c = f64::from(rule.clean_coeff);
    let mut g = Sum::default();
    match dclean {
        Some(dclean) => {
            g += (1.0 - c) * dmargin;
            g += c * dclean;
        }
        None => g += dmargin,
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
            let counter = Array::u32([step]);
            let mut case = OpCase::new(op(rule.clone())).whole(&dmargin);
            if with_clean {
                case = case.whole(&dclean);
            }
            case = case.whole(&counter).updates_whole(&params);
            for state in &states {
                case = case.updates_whole(state);
            }
            case.check(|_| {
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

#[test]
pub fn increment() {
    for count in [0u32, 1, 99_999, 0x7FFF_FFFF, 0xFFFF_FFFE] {
        OpCase::new(Op::Increment)
            .updates_whole(&Array::u32([count]))
            .check(|_| vec![vec![exact(f64::from(count) + 1.0)]]);
    }
}
