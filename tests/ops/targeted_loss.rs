//! Losses that lead towards a target class, and the classes that are targets.

use maxmargin::tape::{DType, Op, TargetedLoss};

use super::loss::{batches, gradient, ratio, rules, times, value};
use super::support::{Array, Case, Random, Sum, exact, near, rounded};

/// Every targeted loss that so many classes have.
fn losses(classes: usize) -> Vec<TargetedLoss> {
    let minus = rules(classes).into_iter().map(TargetedLoss::Minus);
    let all = minus.chain([TargetedLoss::Dlr, TargetedLoss::Difference]);
    all.filter(|targeted| classes >= targeted.least_classes()).collect()
}

/// Logits, labels and targets; some targets are the label.
fn targeted() -> Vec<[Array; 3]> {
    let with_targets = |(logits, labels): (Array, Array)| {
        let mut random = Random(5);
        let targets = Array::u32(labels.values.iter().map(|_| random.below(logits.row()) as u32));
        [logits, labels, targets]
    };
    batches().into_iter().map(with_targets).collect()
}

#[test]
pub fn targeted_loss() {
    for [logits, labels, targets] in targeted() {
        for targeted in losses(logits.row()) {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                let (y, t) = (labels.values[i] as usize, targets.values[i] as usize);
                match targeted {
                    TargetedLoss::Minus(rule) => times(-1.0, value(z, t, rule)),
                    TargetedLoss::Dlr => ratio(z, t, y, 4).0,
                    TargetedLoss::Difference => rounded(z[t] - z[y]),
                }
            };
            Case::new(Op::TargetedLoss(targeted))
                .rows(&logits)
                .rows(&labels)
                .rows(&targets)
                .gives_rows(&labels.dims, DType::F32)
                .check(|n| vec![(0..n).map(row).collect()]);
        }
    }
}

#[test]
pub fn targeted_loss_backward() {
    for [logits, labels, targets] in targeted() {
        let dvalue = Random(9).signed(&labels.dims);
        for targeted in losses(logits.row()) {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                let (y, t, dv) = (labels.values[i] as usize, targets.values[i] as usize, dvalue.values[i]);
                let plain = |j: usize| exact(dv * (f64::from(j == t) - f64::from(j == y)));
                match targeted {
                    TargetedLoss::Minus(rule) => gradient(z, t, -dv, rule),
                    TargetedLoss::Dlr => ratio(z, t, y, 4).1.into_iter().map(|d| times(dv, d)).collect::<Vec<Sum>>(),
                    TargetedLoss::Difference => (0..z.len()).map(plain).collect(),
                }
            };
            Case::new(Op::TargetedLossBackward(targeted))
                .rows(&logits)
                .rows(&labels)
                .rows(&targets)
                .rows(&dvalue)
                .gives_rows(&logits.dims, DType::F32)
                .check(|n| vec![(0..n).flat_map(row).collect()]);
        }
    }
}

/// Equal logits come in the order of their classes, 0 and -0 among them; after the last class there is none.
#[test]
pub fn rank_class() {
    let zeros = (Array::f32(&[2, 4], [0.0, -0.0, 0.0, -0.0, -0.0, 0.0, 1.0, -0.0]), Array::u32([0, 2]));
    for (logits, labels) in batches().into_iter().chain([zeros]) {
        for (rank, run) in [(0, None), (1, None), (0, Some(0)), (0, Some(3)), (1, Some(8)), (200, None)] {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                let mut others: Vec<usize> = (0..z.len()).filter(|&j| j != labels.values[i] as usize).collect();
                others.sort_by(|&a, &b| z[b].partial_cmp(&z[a]).unwrap());
                exact(others[(rank + run.unwrap_or(0)).min(others.len() - 1)] as f64)
            };
            let case = Case::new(Op::RankClass { rank: rank as u32 }).rows(&logits).rows(&labels);
            let case = if let Some(run) = run { case.whole(&Array::u32([run as u32])) } else { case };
            case.gives_rows(&labels.dims, DType::U32).check(|n| vec![(0..n).map(row).collect()]);
        }
    }
}

/// What is no number has a place among the classes, too: whichever it is, a target is a class.
#[test]
fn targets_are_classes_whatever_the_logits_are() {
    let logits = Array::f32(&[3, 4], [[f64::NAN; 4], [0.0, f64::NAN, 1.0, 2.0], [f64::INFINITY; 4]].concat());
    let labels = Array::u32([3, 0, 1]);
    for rank in 0..4 {
        let case = Case::new(Op::RankClass { rank }).rows(&logits).rows(&labels);
        // Any of 0 to 3: 1.5 and no more than 1.5 from it.
        case.gives_rows(&[3], DType::U32).check(|n| vec![vec![near(1.5, 1.5e6); n]]);
    }
}
