//! Convolution as a matrix product: each image's windows are laid out as rows (im2col), and a GEMM library
//! multiplies them. One image at a time, so that the rows stay in the core's cache.

use std::cell::RefCell;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::batch_norm::{Norm, batch_norm, batch_norm_backward_input};
use crate::tape::{ConvFusion, ConvGradientFusion, Window};

/// Images whose weight gradients are summed one after another; the sums of such groups are then added in order.
pub(super) const GROUP: usize = 4;

/// Sizes of a convolution, from x `[n, h, w, c]` and weights `[k, kh, kw, c]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub kh: usize,
    pub kw: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub padding: usize,
    pub stride: usize,
}

impl Shape {
    pub(super) fn new(x: &[usize], w: &[usize], window: Window) -> Shape {
        let Window { padding, stride } = window;
        let (&[_, h, wide, c], &[k, kh, kw, _]) = (x, w) else { unreachable!("shapes were checked when recorded") };
        let out = |size: usize, kernel: usize| (size + 2 * padding - kernel) / stride + 1;
        Shape { h, w: wide, c, k, kh, kw, out_h: out(h, kh), out_w: out(wide, kw), padding, stride }
    }

    /// Elements of one input image.
    pub(super) fn image(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Windows of one image.
    pub(super) fn windows(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Elements of one window, and of one filter.
    pub(super) fn window(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// Elements of a row of the image with its padding.
    pub(super) fn pitch(&self) -> usize {
        (self.w + 2 * self.padding) * self.c
    }

    /// Elements of the image with its padding.
    pub(super) fn padded(&self) -> usize {
        (self.h + 2 * self.padding) * self.pitch()
    }

    /// Writes the image with zeros around it, and zeros to what `padded` has beyond it.
    pub(super) fn pad(&self, padded: &mut [f32], image: &[f32]) {
        padded.fill(0.0);
        let rows = padded.chunks_exact_mut(self.pitch()).skip(self.padding);
        for (row, image) in rows.zip(image.chunks_exact(self.w * self.c)) {
            row[self.padding * self.c..][..image.len()].copy_from_slice(image);
        }
    }

    /// Takes the image out of its padding.
    pub(super) fn crop(&self, image: &mut [f32], padded: &[f32]) {
        let rows = padded.chunks_exact(self.pitch()).skip(self.padding);
        for (image, row) in image.chunks_exact_mut(self.w * self.c).zip(rows) {
            image.copy_from_slice(&row[self.padding * self.c..][..image.len()]);
        }
    }

    /// Calls `f(place in the padded image)` for each row of each window, `kw c` elements, window by window.
    fn window_rows(&self, mut f: impl FnMut(usize)) {
        for oy in 0..self.out_h {
            for ox in 0..self.out_w {
                for ky in 0..self.kh {
                    f((oy * self.stride + ky) * self.pitch() + ox * self.stride * self.c);
                }
            }
        }
    }

    /// Lays out an image's windows as rows `[windows, window]`.
    fn im2col(&self, rows: &mut [f32], image: &[f32]) {
        scratch(self.padded(), |padded| {
            self.pad(padded, image);
            let mut rows = rows.chunks_exact_mut(self.kw * self.c);
            self.window_rows(|at| {
                let row = rows.next().expect("a row for each of the windows' rows");
                row.copy_from_slice(&padded[at..at + row.len()]);
            });
        });
    }

    /// Adds rows `[windows, window]` back to the image they were laid out from.
    fn col2im(&self, image: &mut [f32], rows: &[f32]) {
        scratch(self.padded(), |padded| {
            padded.fill(0.0);
            let mut rows = rows.chunks_exact(self.kw * self.c);
            self.window_rows(|at| {
                let row = rows.next().expect("a row for each of the windows' rows");
                padded[at..at + row.len()].iter_mut().zip(row).for_each(|(p, r)| *p += r);
            });
            self.crop(image, padded);
        });
    }

    /// Lays out a one-channel image's windows as columns `[kh kw, windows]`, for stride 1: a row of the output at a
    /// time.
    fn im2col_transposed(&self, columns: &mut [f32], image: &[f32]) {
        scratch(self.padded(), |padded| {
            self.pad(padded, image);
            for (tap, column) in columns.chunks_exact_mut(self.windows()).enumerate() {
                let (ky, kx) = (tap / self.kw, tap % self.kw);
                for (oy, out) in column.chunks_exact_mut(self.out_w).enumerate() {
                    out.copy_from_slice(&padded[(oy + ky) * self.pitch() + kx..][..self.out_w]);
                }
            }
        });
    }

    /// Calls `f` with the filters as columns `[window, k]`: how a product can read them without rearranging them for
    /// each image.
    pub(super) fn with_transposed(&self, w: &[f32], f: impl FnOnce(&[f32])) {
        scratch(w.len(), |columns| {
            transpose(columns, w, self.window());
            f(columns);
        });
    }

    /// One image's convolution: out `[windows, k]`, filters as columns `[window, k]`.
    pub(super) fn forward(&self, out: &mut [f32], image: &[f32], columns: &[f32]) {
        let (m, r) = (self.windows(), self.window());
        let out = MatMut::from_row_major_slice_mut(out, m, self.k);
        let columns = MatRef::from_row_major_slice(columns, r, self.k);
        scratch(m * r, |windows| {
            let windows = if self.c == 1 && self.stride == 1 {
                self.im2col_transposed(windows, image);
                MatRef::from_row_major_slice(windows, r, m).transpose()
            } else {
                self.im2col(windows, image);
                MatRef::from_row_major_slice(windows, m, r)
            };
            matmul(out, Accum::Replace, windows, columns, 1.0, Par::Seq);
        });
    }
}

/// Writes the transpose of `from`, whose rows have `columns` elements, a tile at a time: both sides of a tile stay in
/// the nearest cache.
pub(super) fn transpose(to: &mut [f32], from: &[f32], columns: usize) {
    const TILE: usize = 16;
    let rows = from.len().checked_div(columns).unwrap_or(0);
    for top in (0..rows).step_by(TILE) {
        let bottom = rows.min(top + TILE);
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            for (row, to) in (top..bottom).zip(&mut to[top..bottom]) {
                *to = from[row * columns + column];
            }
        }
    }
}

/// Calls `f` with `len` elements of scratch memory, of any content. A thread keeps its scratch memory, so nothing is
/// allocated once every shape was seen; calls may nest.
pub(super) fn scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });
    let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    let result = f(&mut memory[..len]);
    FREE.with_borrow_mut(|free| free.push(memory));
    result
}

/// out `[n, out_h, out_w, k]`.
pub(super) fn conv2d(out: &mut [f32], x: &[f32], w: &[f32], n: usize, shape: &Shape) {
    let out = out.par_chunks_mut(shape.windows() * shape.k).take(n);
    let rows = out.zip(x.par_chunks(shape.image()));
    shape.with_transposed(w, |w| rows.for_each(|(out, image)| shape.forward(out, image, w)));
}

/// dx `[n, h, w, c]` from dy `[n, out_h, out_w, k]`.
pub(super) fn conv2d_backward_input(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, shape: &Shape) {
    let (m, r) = (shape.windows(), shape.window());
    let w = MatRef::from_row_major_slice(w, shape.k, r);
    dx.par_chunks_mut(shape.image()).take(n).zip(dy.par_chunks(m * shape.k)).for_each(|(dx, dy)| {
        scratch(m * r, |cols| {
            let dy = MatRef::from_row_major_slice(dy, m, shape.k);
            matmul(MatMut::from_row_major_slice_mut(cols, m, r), Accum::Replace, dy, w, 1.0, Par::Seq);
            shape.col2im(dx, cols);
        });
    });
}

/// A convolution, then what is fused with it; operands and results in the order of [`Op::Conv2dFused`].
///
/// [`Op::Conv2dFused`]: crate::tape::Op::Conv2dFused
pub(super) fn conv2d_fused(
    mut outputs: Vec<&mut [f32]>,
    inputs: &[&[f32]],
    n: usize,
    fusion: &ConvFusion,
    shape: &Shape,
    shortcut: Option<&Shape>,
) {
    let len = n * shape.windows() * shape.k;
    let mut sum = vec![0.0; len];
    conv2d(&mut sum, inputs[0], inputs[1], n, shape);
    let mut inputs = &inputs[2..];
    if let Some(shape) = shortcut {
        let mut other = vec![0.0; len];
        conv2d(&mut other, inputs[0], inputs[1], n, shape);
        sum.iter_mut().zip(&other).for_each(|(s, o)| *s += o);
        inputs = &inputs[2..];
    }
    if fusion.addend {
        sum.iter_mut().zip(inputs[0]).for_each(|(s, a)| *s += a);
        inputs = &inputs[1..];
    }
    if fusion.norm {
        let norm = Norm { weight: inputs[0], bias: inputs[1], mean: inputs[2], variance: inputs[3] };
        let last = outputs.pop().expect("a result");
        batch_norm(&mut last[..len], &sum, norm, true);
    }
    if fusion.sum {
        outputs[0][..len].copy_from_slice(&sum);
    }
}

/// A convolution's gradient by its input, then what is fused with it; operands in the order of
/// [`Op::Conv2dFusedBackwardInput`].
///
/// [`Op::Conv2dFusedBackwardInput`]: crate::tape::Op::Conv2dFusedBackwardInput
pub(super) fn conv2d_fused_backward_input(
    dx: &mut [f32],
    inputs: &[&[f32]],
    n: usize,
    fusion: &ConvGradientFusion,
    shape: &Shape,
    shortcut: Option<&Shape>,
) {
    let len = n * shape.image();
    let dx = &mut dx[..len];
    let mut sum = vec![0.0; len];
    conv2d_backward_input(&mut sum, inputs[0], inputs[1], n, shape);
    let mut inputs = &inputs[2..];
    if let Some(shape) = shortcut {
        let mut other = vec![0.0; len];
        conv2d_backward_input(&mut other, inputs[0], inputs[1], n, shape);
        sum.iter_mut().zip(&other).for_each(|(s, o)| *s += o);
        inputs = &inputs[2..];
    }
    if fusion.norm {
        batch_norm_backward_input(dx, &sum, inputs[0], inputs[1], Some(inputs[2]));
        inputs = &inputs[3..];
    } else {
        dx.copy_from_slice(&sum);
    }
    if fusion.addend {
        dx.iter_mut().zip(inputs[0]).for_each(|(d, a)| *d += a);
    }
}

/// dw `[k, kh, kw, c]` from dy and x, over n images.
pub(super) fn conv2d_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, shape: &Shape) {
    let (m, r) = (shape.windows(), shape.window());
    sum_groups(dw, n, |dw, images| {
        dw.fill(0.0);
        for i in images {
            scratch(m * r, |cols| {
                shape.im2col(cols, &x[i * shape.image()..][..shape.image()]);
                let dy = MatRef::from_row_major_slice(&dy[i * m * shape.k..][..m * shape.k], m, shape.k);
                let cols = MatRef::from_row_major_slice(cols, m, r);
                let dw = MatMut::from_row_major_slice_mut(dw, shape.k, r);
                matmul(dw, Accum::Add, dy.transpose(), cols, 1.0, Par::Seq);
            });
        }
    });
}

/// A sum over images in a fixed order: `f` writes the sum of a group of [`GROUP`] images; groups are added in order.
pub(super) fn sum_groups(sum: &mut [f32], n: usize, f: impl Fn(&mut [f32], std::ops::Range<usize>) + Sync) {
    scratch(sum.len() * n.div_ceil(GROUP), |parts| {
        parts.par_chunks_mut(sum.len()).enumerate().for_each(|(group, part)| {
            f(part, group * GROUP..((group + 1) * GROUP).min(n));
        });
        sum.fill(0.0);
        for part in parts.chunks_exact(sum.len()) {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    });
}
