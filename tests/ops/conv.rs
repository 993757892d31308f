//! Convolution and its gradients, as sums over the products in the definition.

use maxmargin::tape::{ConvWindow, DType, Op};

use super::support::{Array, OpCase, Random, Sum};

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvCase {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub kh: usize,
    pub kw: usize,
    pub window: ConvWindow,
}

/// A case from images `n x h x w x c`, filters `k x kh x kw`, padding and stride.
pub const fn conv_case([n, h, w, c]: [usize; 4], [k, kh, kw]: [usize; 3], padding: usize, stride: usize) -> ConvCase {
    ConvCase { n, h, w, c, k, kh, kw, window: ConvWindow { padding, stride } }
}

pub const SHAPES: [ConvCase; 20] = [
    conv_case([1, 1, 1, 1], [1, 1, 1], 0, 1),
    conv_case([5, 4, 4, 1], [1, 1, 1], 0, 1),
    conv_case([2, 28, 28, 1], [32, 5, 5], 2, 1),  // first of LeNet5
    conv_case([2, 14, 14, 32], [64, 5, 5], 2, 1), // second of LeNet5
    conv_case([3, 8, 8, 3], [7, 3, 3], 1, 1),
    conv_case([3, 6, 6, 8], [9, 3, 3], 1, 1),
    conv_case([9, 6, 6, 3], [5, 3, 3], 1, 1), // more than two groups of four images
    conv_case([2, 5, 7, 16], [8, 3, 3], 0, 1),
    conv_case([2, 9, 7, 5], [11, 3, 3], 1, 2),
    conv_case([2, 8, 8, 4], [6, 3, 3], 1, 2), // no window begins at the last column
    conv_case([2, 8, 6, 3], [4, 1, 1], 0, 2),
    conv_case([2, 7, 9, 2], [15, 3, 5], 0, 1),
    conv_case([2, 17, 16, 1], [16, 3, 3], 1, 2), // one channel, but not every column
    conv_case([6, 8, 8, 15], [17, 5, 5], 0, 2),
    conv_case([5, 5, 5, 1], [3, 5, 5], 4, 1), // every overlap of filter and image
    conv_case([2, 3, 3, 2], [2, 1, 1], 3, 1), // windows outside the image
    conv_case([2, 2, 3, 1], [2, 1, 2], 2, 1), // windows outside the image, one channel
    LARGE[0],
    LARGE[1],
    LARGE[2],
];

/// Cases in which a block of a tensor-core kernel loads its pixels once: one of each width, with channels and filters
/// in one and in several groups, and a last block that is not full; and images of a width, but not of a height.
pub const HALO: [ConvCase; 5] = [
    conv_case([1, 16, 32, 64], [64, 3, 3], 1, 1),
    conv_case([2, 16, 16, 64], [64, 3, 3], 1, 1),
    conv_case([1, 16, 16, 128], [64, 3, 3], 1, 1),
    conv_case([3, 8, 8, 128], [128, 3, 3], 1, 1),
    conv_case([1, 16, 8, 64], [64, 3, 3], 1, 1),
];

/// Cases with so many results, in the forward op and in both gradients, that a GPU takes its larger tiles.
pub const LARGE: [ConvCase; 3] = [
    conv_case([6, 26, 26, 4], [256, 1, 1], 0, 1),
    conv_case([6, 26, 26, 256], [4, 1, 1], 0, 1),
    conv_case([1, 6, 6, 64], [512, 5, 5], 0, 1),
];

impl ConvCase {
    /// ConvCase of x.
    pub fn x(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c]
    }

    /// ConvCase of w.
    pub fn filters(&self) -> [usize; 4] {
        [self.k, self.kh, self.kw, self.c]
    }

    /// ConvCase of y.
    pub fn y(&self) -> [usize; 4] {
        let ConvWindow { padding, stride } = self.window;
        let out = |size: usize, kernel: usize| (size + 2 * padding - kernel) / stride + 1;
        [self.n, out(self.h, self.kh), out(self.w, self.kw), self.k]
    }

    /// Calls `f` with the indices in y, w and x of every product of the convolution of `n` images.
    pub fn products(&self, n: usize, mut f: impl FnMut(usize, usize, usize)) {
        let ConvWindow { padding, stride } = self.window;
        let [_, out_h, out_w, _] = self.y();
        let inside =
            |out: usize, tap: usize, size: usize| (out * stride + tap).checked_sub(padding).filter(|&i| i < size);
        for image in 0..n {
            for (oy, ox) in (0..out_h).flat_map(|oy| (0..out_w).map(move |ox| (oy, ox))) {
                for (ky, kx) in (0..self.kh).flat_map(|ky| (0..self.kw).map(move |kx| (ky, kx))) {
                    let (Some(iy), Some(ix)) = (inside(oy, ky, self.h), inside(ox, kx, self.w)) else { continue };
                    let y = ((image * out_h + oy) * out_w + ox) * self.k;
                    let x = ((image * self.h + iy) * self.w + ix) * self.c;
                    for k in 0..self.k {
                        let w = ((k * self.kh + ky) * self.kw + kx) * self.c;
                        for c in 0..self.c {
                            f(y + k, w + c, x + c);
                        }
                    }
                }
            }
        }
    }

    /// y of `n` images.
    pub fn forward(&self, n: usize, x: &Array, w: &Array) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.y()[1..].iter().product::<usize>() * n];
        self.products(n, |y_at, w_at, x_at| sums[y_at] += x.values[x_at] * w.values[w_at]);
        sums
    }

    /// dx of `n` images.
    pub fn backward_input(&self, n: usize, dy: &Array, w: &Array) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.x()[1..].iter().product::<usize>() * n];
        self.products(n, |y_at, w_at, x_at| sums[x_at] += dy.values[y_at] * w.values[w_at]);
        sums
    }

    /// dw of `n` images.
    pub fn backward_weight(&self, n: usize, dy: &Array, x: &Array) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.filters().iter().product()];
        self.products(n, |y_at, w_at, x_at| sums[w_at] += dy.values[y_at] * x.values[x_at]);
        sums
    }
}

#[test]
pub fn conv2d() {
    for s in SHAPES {
        let (x, w) = (Random(1).signed(&s.x()), Random(2).signed(&s.filters()));
        OpCase::new(Op::Conv2d(s.window))
            .rows(&x)
            .whole(&w)
            .gives_rows(&s.y(), DType::F32)
            .check(|n| vec![s.forward(n, &x, &w)]);
    }
}

#[test]
pub fn conv2d_backward_input() {
    for s in SHAPES {
        let (dy, w) = (Random(1).signed(&s.y()), Random(2).signed(&s.filters()));
        OpCase::new(Op::Conv2dBackwardInput(s.window))
            .rows(&dy)
            .whole(&w)
            .gives_rows(&s.x(), DType::F32)
            .check(|n| vec![s.backward_input(n, &dy, &w)]);
    }
}

#[test]
pub fn conv2d_backward_weight() {
    SHAPES.iter().for_each(check_backward_weight);
}

/// Checks the gradient with respect to the filters of a layer.
pub fn check_backward_weight(s: &ConvCase) {
    let (dy, x) = (Random(1).signed(&s.y()), Random(2).signed(&s.x()));
    OpCase::new(Op::Conv2dBackwardWeight(s.window))
        .rows(&dy)
        .rows(&x)
        .gives_whole(&s.filters(), DType::F32)
        .check(|n| vec![s.backward_weight(n, &dy, &x)]);
}

/// Rounding errors accumulate in a sum of thousands of terms of one sign, unless it is divided into short sums.
#[test]
fn conv2d_backward_weight_sums_many_terms_of_one_sign() {
    let s = conv_case([50, 14, 14, 32], [4, 5, 5], 2, 1);
    let (x, dy) = (Random(1).image(&s.x()), Random(2).image(&s.y()));
    let case = OpCase::new(Op::Conv2dBackwardWeight(s.window)).rows(&dy).rows(&x);
    case.gives_whole(&s.filters(), DType::F32).check(|n| vec![s.backward_weight(n, &dy, &x)]);
}
