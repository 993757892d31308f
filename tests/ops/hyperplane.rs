//! Projection of FAB onto a hyperplane inside the box.

use maxmargin::tape::{DType, Norm, Op};

use super::support::{Array, OpCase, Random, Sum, exact, near};

/// Points of 1, 7, 16, 17, 784, 1,031 (a prime) and 3,072 coordinates.
const SHAPES: [&[usize]; 7] = [&[9, 1], &[9, 7], &[9, 2, 2, 4], &[9, 17], &[9, 28, 28, 1], &[9, 1031], &[9, 32, 32, 3]];

/// Distance of each point to its hyperplane, as a fraction of the largest that the box allows.
const FRACTIONS: [f64; 9] = [0.3, -0.05, 0.0, 0.7, -0.99, 2.0, -1.5, 0.5, 0.2];

/// Point, anchor, gradient and value. Some coordinates have gradient 0, in row 7 all; some are at the box, in row 8
/// all. Row 2 is on its hyperplane; the hyperplanes of rows 5 and 6 are outside the box.
fn problems(dims: &[usize], far: bool) -> [Array; 4] {
    let mut random = Random(dims.iter().product::<usize>() as u64);
    let mut z = random.image(dims);
    let mut w = random.signed(dims);
    let row = z.row();
    for i in 0..z.values.len() {
        match random.below(6) {
            0 => z.values[i] = 0.0,
            1 => z.values[i] = 1.0,
            2 => w.values[i] = 0.0,
            3 => w.values[i] = f64::from((w.values[i] * 1e-4) as f32),
            _ => {}
        }
        match i / row {
            7 => w.values[i] = 0.0,
            8 => z.values[i] = f64::from(random.below(2) as u32),
            _ => {}
        }
    }
    let anchor = if far { random.image(dims) } else { z.clone() };
    let value = (0..dims[0]).map(|i| {
        let at = i * row..(i + 1) * row;
        let (z, a, w) = (&z.values[at.clone()], &anchor.values[at.clone()], &w.values[at]);
        let most: f64 =
            z.iter().zip(w).map(|(z, w)| if w * FRACTIONS[i] > 0.0 { w * z } else { -w * (1.0 - z) }.abs()).sum();
        let between: f64 = (0..row).map(|e| w[e] * (z[e] - a[e])).sum();
        if most == 0.0 { FRACTIONS[i] - between } else { FRACTIONS[i] * most - between }
    });
    let value = Array::f32(&dims[..1], value.collect::<Vec<_>>());
    [z, anchor, w, value]
}

/// Move of one point, found by bisection for the multiplier.
fn moves(z: &[f64], a: &[f64], w: &[f64], value: f64, norm: Norm) -> Vec<f64> {
    let here = value + (0..z.len()).map(|e| w[e] * (z[e] - a[e])).sum::<f64>();
    let at = |lambda: f64| -> Vec<f64> {
        let one = |(z, w): (&f64, &f64)| {
            let towards = -here.signum() * w.signum() * f64::from(*w != 0.0);
            let speed = if norm == Norm::L2 { w.abs() } else { 1.0 };
            (z + towards * lambda * speed).clamp(0.0, 1.0) - z
        };
        z.iter().zip(w).map(one).collect()
    };
    let left = |d: &[f64]| here.abs() + here.signum() * d.iter().zip(w).map(|(d, w)| d * w).sum::<f64>();
    let (mut low, mut high) = (0.0, 1e9);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if left(&at(middle)) > 0.0 { low = middle } else { high = middle }
    }
    at(if here == 0.0 { 0.0 } else { high })
}

#[test]
pub fn project_hyperplane() {
    for (dims, norm) in SHAPES.into_iter().flat_map(|dims| [(dims, Norm::Linf), (dims, Norm::L2)]) {
        for far in [false, true] {
            let [z, anchor, w, value] = problems(dims, far);
            let case = OpCase::new(Op::ProjectHyperplane(norm)).rows(&z).rows(&anchor).rows(&w).rows(&value);
            case.gives_rows(dims, DType::F32).check(|n| {
                let row = |i: usize| {
                    let at = i * z.row()..(i + 1) * z.row();
                    let [z, a, w] = [&z, &anchor, &w].map(|array| &array.values[at.clone()]);
                    let d = moves(z, a, w, value.values[i], norm);
                    // The error of the multiplier is that of sums in double precision, not relative to the smallest
                    // move.
                    let one = |(d, w): (f64, f64)| if w == 0.0 { exact(0.0) } else { near(d, d.abs() + 1e-3) };
                    d.into_iter().zip(w.to_vec()).map(one).collect::<Vec<Sum>>()
                };
                vec![(0..n).flat_map(row).collect()]
            });
        }
    }
}
