//! 2x2 max-pooling. In a tie the first maximum in row-major order is chosen.

use maxmargin::tape::{DType, Op};

use super::support::{Array, OpCase, Random, exact};

/// Images `n x h x w x c` to pool.
const POOLED: [[usize; 4]; 6] =
    [[1, 2, 2, 1], [3, 2, 4, 7], [2, 28, 28, 32], [5, 6, 2, 8], [2, 4, 4, 17], [4, 4, 6, 16]];

/// Index in an image batch `[n, h, w, c]` of the element at place 0 to 3 (row-major) of the window of output `at`.
pub fn window([_, h, w, c]: [usize; 4], at: usize, place: usize) -> usize {
    let (image, pixel, channel) = (at / (h / 2 * (w / 2) * c), at / c % (h / 2 * (w / 2)), at % c);
    let (y, x) = (pixel / (w / 2) * 2 + place / 2, pixel % (w / 2) * 2 + place % 2);
    ((image * h + y) * w + x) * c + channel
}

/// Shape of the pooled batch.
pub fn halved([n, h, w, c]: [usize; 4]) -> [usize; 4] {
    [n, h / 2, w / 2, c]
}

/// Value and place of the first maximum of a window.
pub fn first_maximum(values: [f64; 4]) -> (f64, usize) {
    let most = values.into_iter().fold(f64::NEG_INFINITY, f64::max);
    (most, values.iter().position(|&v| v == most).unwrap())
}

#[test]
pub fn max_pool2d() {
    for dims in POOLED {
        let flat = Array::f32(&dims, vec![0.0; dims.iter().product()]);
        for x in [Random(1).signed(&dims), Random(2).coarse(&dims), flat] {
            let out = halved(dims);
            OpCase::new(Op::MaxPool2d).rows(&x).gives_rows(&out, DType::F32).gives_rows(&out, DType::U8).check(|n| {
                let windows = (0..n * out[1..].iter().product::<usize>())
                    .map(|at| first_maximum([0, 1, 2, 3].map(|place| x.values[window(dims, at, place)])));
                let (out, choice) = windows.map(|(most, place)| (exact(most), exact(place as f64))).unzip();
                vec![out, choice]
            });
        }
    }
}

#[test]
pub fn max_pool2d_backward() {
    for dims in POOLED {
        let out = halved(dims);
        let (dy, mut random) = (Random(1).signed(&out), Random(2));
        let choice = Array::u8(&out, (0..dy.values.len()).map(|_| random.below(4) as u8));
        OpCase::new(Op::MaxPool2dBackward).rows(&dy).rows(&choice).gives_rows(&dims, DType::F32).check(|n| {
            let mut dx = vec![exact(0.0); n * dims[1..].iter().product::<usize>()];
            for at in 0..n * dy.row() {
                dx[window(dims, at, choice.values[at] as usize)] = exact(dy.values[at]);
            }
            vec![dx]
        });
    }
}
