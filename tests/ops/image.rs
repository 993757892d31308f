//! Ops on whole images: standardization, the mean over pixels, augmentation.

use maxmargin::rng::{Purpose, philox};
use maxmargin::tape::{DType, Op};

use super::support::{Array, OpCase, Random, exact, near};

/// Images of one element, of one pixel, of prime sizes, of both data sets, and of around 1,024 elements.
const IMAGES: [[usize; 4]; 8] = [
    [3, 1, 1, 1],
    [3, 1, 1, 2],
    [4, 3, 5, 7],
    [2, 28, 28, 1],
    [5, 32, 32, 3],
    [3, 11, 31, 3], // 1,023
    [3, 32, 32, 1],
    [3, 25, 41, 1], // 1,025
];

/// Least deviation, in single precision.
fn least(row: usize) -> f64 {
    f64::from(1.0 / (row as f32).sqrt())
}

/// Images of four kinds in turn: random, of one colour, almost of one colour (below the least deviation), and black
/// with one white element.
pub fn images(dims: &[usize]) -> Array {
    let mut x = Random(1).image(dims);
    let row = x.row();
    for (i, image) in x.values.chunks_mut(row).enumerate() {
        match i % 4 {
            1 => image.fill(f64::from(0.7f32)),
            2 => image.iter_mut().for_each(|v| *v = f64::from((0.25 + *v * 0.01) as f32)),
            3 => {
                image.fill(0.0);
                image[row / 2] = 1.0;
            }
            _ => {}
        }
    }
    x
}

/// y and deviation of an image in double precision, and the mean of its elements' magnitudes.
pub fn standardized(image: &[f64]) -> (Vec<f64>, f64, f64) {
    let n = image.len() as f64;
    let mean = image.iter().sum::<f64>() / n;
    let squares: f64 = image.iter().map(|x| (x - mean).powi(2)).sum();
    // One element has the deviation 0.
    let deviation = if image.len() == 1 { 0.0 } else { (squares / (n - 1.0)).sqrt() };
    let deviation = deviation.max(1.0 / n.sqrt());
    let y = image.iter().map(|x| (x - mean) / deviation).collect();
    (y, deviation, image.iter().map(|x| x.abs()).sum::<f64>() / n)
}

#[test]
pub fn standardize() {
    for dims in IMAGES {
        let x = images(&dims);
        let case = OpCase::new(Op::Standardize).rows(&x);
        case.gives_rows(&dims, DType::F32).gives_rows(&dims[..1], DType::F32).check(|n| {
            let mut results = vec![Vec::new(), Vec::new()];
            for image in x.values.chunks(x.row()).take(n) {
                let (y, deviation, size) = standardized(image);
                let near_y = |(y, x): (&f64, &f64)| near(*y, (x.abs() + size) / deviation + y.abs());
                results[0].extend(y.iter().zip(image).map(near_y));
                results[1].push(near(deviation, deviation));
            }
            results
        });
    }
}

/// A deviation at its least value is a constant: no gradient passes through it.
#[test]
pub fn standardize_backward() {
    for dims in IMAGES {
        let (x, dy) = (images(&dims), Random(2).signed(&dims));
        let row = x.row();
        let parts: Vec<(Vec<f64>, f64, f64)> = x.values.chunks(row).map(standardized).collect();
        let y = Array::f32(&dims, parts.iter().flat_map(|(y, ..)| y.clone()));
        let floor = |deviation: f64| if deviation <= 1.0 / (row as f64).sqrt() { least(row) } else { deviation };
        let deviation = Array::f32(&dims[..1], parts.iter().map(|&(_, deviation, _)| floor(deviation)));
        let case = OpCase::new(Op::StandardizeBackward).rows(&dy).rows(&y).rows(&deviation);
        case.gives_rows(&dims, DType::F32).check(|n| {
            let mut dx = Vec::new();
            for i in 0..n {
                let (dy, y, s) = (&dy.values[i * row..][..row], &y.values[i * row..][..row], deviation.values[i]);
                let passes = if s > least(row) { 1.0 / (row as f64 - 1.0) } else { 0.0 };
                let mean = dy.iter().sum::<f64>() / row as f64;
                let along = passes * dy.iter().zip(y).map(|(d, y)| d * y).sum::<f64>();
                let sizes = [
                    dy.iter().map(|d| d.abs()).sum::<f64>() / row as f64,
                    passes * dy.iter().zip(y).map(|(d, y)| (d * y).abs()).sum::<f64>(),
                ];
                let one = |(d, y): (&f64, &f64)| {
                    near((d - mean - y * along) / s, (d.abs() + sizes[0] + y.abs() * sizes[1]) / s)
                };
                dx.extend(dy.iter().zip(y).map(one));
            }
            vec![dx]
        });
    }
}

/// Features of one pixel, with around 64 and 256 channels, and of the wide ResNet's last layer.
const FEATURES: [[usize; 4]; 7] =
    [[1, 1, 1, 1], [5, 1, 1, 7], [3, 3, 5, 1], [2, 7, 9, 63], [4, 8, 8, 64], [2, 5, 3, 67], [3, 8, 8, 256]];

#[test]
pub fn global_mean() {
    for dims @ [n, h, w, c] in FEATURES {
        let x = Random(1).signed(&dims);
        let pixels = (h * w) as f64;
        OpCase::new(Op::GlobalMean).rows(&x).gives_rows(&[n, c], DType::F32).check(|n| {
            let mut means = vec![near(0.0, 0.0); n * c];
            for (i, &x) in x.values[..n * h * w * c].iter().enumerate() {
                means[i / (h * w * c) * c + i % c] += x / pixels;
            }
            vec![means]
        });
    }
}

#[test]
pub fn global_mean_backward() {
    for dims @ [n, h, w, c] in FEATURES {
        let dy = Random(1).signed(&[n, c]);
        OpCase::new(Op::GlobalMeanBackward).rows(&dy).gives_rows(&dims, DType::F32).check(|n| {
            let one = |i: usize| dy.values[i / (h * w * c) * c + i % c] / (h * w) as f64;
            vec![(0..n * h * w * c).map(one).map(|v| near(v, v.abs())).collect()]
        });
    }
}

/// The choices of an image depend on the seed, the step and its index in the data set alone. They are words 0 to 2 of
/// the first block of random numbers, each scaled to its range.
#[test]
pub fn draw_augmentation() {
    for (seed, step, reach) in [(0, 0, 4), (7 + (3 << 32), 49_999, 4), (u64::MAX, u32::MAX, 0), (1, 2, 1)] {
        let counter = Array::u32([step]);
        let index = Array::u32((0..300).map(|i| [i, 49_999 - i, u32::MAX - i][i as usize % 3]));
        let op = Op::DrawAugmentation { seed, reach };
        let range = [2 * reach + 1, 2 * reach + 1, 2].map(u64::from);
        let mut seen = [false; 9 * 9 * 2];
        let choices: Vec<f64> = (index.values.iter())
            .flat_map(|&example| {
                let words = philox(seed, Purpose::Augment, step, example as u32, 0);
                let [top, left, mirrored] = [0, 1, 2].map(|i| (u64::from(words[i]) * range[i]) >> 32);
                seen[((top * range[1] + left) * 2 + mirrored) as usize] = true;
                [top, left, mirrored].map(|choice| choice as f64)
            })
            .collect();
        let kinds = seen.iter().filter(|s| **s).count() as u64;
        let possible = range.iter().product::<u64>();
        assert!(kinds == possible || reach == 4 && kinds > 100, "{kinds} of {possible} augmentations occur");
        let case = OpCase::new(op).whole(&counter).rows(&index).gives_rows(&[300, 3], DType::U32);
        case.check(|n| vec![choices[..3 * n].iter().copied().map(exact).collect()]);
    }
}

/// Index along an axis of the element at `at` of a crop that starts at `start`, in a line padded by `reach` reflected
/// elements on each side. The reflection does not repeat the edge.
fn reflected(at: usize, start: usize, reach: usize, size: usize) -> usize {
    let line: Vec<usize> = (1..=reach).rev().chain(0..size).chain((size - 1 - reach..size - 1).rev()).collect();
    line[start + at]
}

#[test]
pub fn gather_augmented() {
    for (h, w, c, reach) in [(32, 32, 3, 4), (5, 7, 1, 4), (6, 5, 3, 4), (2, 2, 1, 1), (7, 3, 2, 0), (9, 11, 4, 2)] {
        let mut random = Random(3);
        let src = Array::u8(&[5, h, w, c], (0..5 * h * w * c).map(|_| random.word() as u8));
        // Offsets at the ends, in the middle, and next to these.
        let mut places = vec![0, 1, reach, reach + 1, 2 * reach];
        places.retain(|&place| place <= 2 * reach);
        places.dedup();
        let choices: Vec<[usize; 3]> = (places.iter())
            .flat_map(|&top| places.iter().flat_map(move |&left| [[top, left, 0], [top, left, 1]]))
            .collect();
        let n = choices.len();
        let index = Array::u32((0..n as u32).map(|i| [4, 0, 3, 3, 1, 2][i as usize % 6]));
        let values = choices.iter().flatten().map(|&choice| choice as f64).collect();
        let choice = Array { dims: vec![n, 3], dtype: DType::U32, values };
        let case = OpCase::new(Op::GatherAugmented { reach: reach as u32 }).whole(&src).rows(&index).rows(&choice);
        case.gives_rows(&[n, h, w, c], DType::U8).check(|n| {
            let mut out = Vec::new();
            for (&[top, left, mirrored], &from) in choices.iter().zip(&index.values).take(n) {
                for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                    let x = if mirrored == 1 { w - 1 - x } else { x };
                    let at = (from as usize * h + reflected(y, top, reach, h)) * w + reflected(x, left, reach, w);
                    out.extend(src.values[at * c..][..c].iter().copied().map(exact));
                }
            }
            vec![out]
        });
    }
}
