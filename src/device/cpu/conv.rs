//! Convolution as a matrix product: each image's windows are laid out as rows (im2col), and a GEMM library
//! multiplies them. One image at a time, so that the rows stay in the core's cache.

use std::cell::RefCell;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::tape::Window;

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

    /// Calls `f(window, tap, pixel)` for each run of a window's row that lies inside the image: `run` elements from
    /// element `tap` of the window are those from element `pixel` of the image.
    fn runs(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        for oy in 0..self.out_h {
            for ky in 0..self.kh {
                let y = oy * self.stride + ky;
                if y < self.padding || y >= self.h + self.padding {
                    continue;
                }
                for ox in 0..self.out_w {
                    let x = ox * self.stride;
                    let first = self.padding.saturating_sub(x);
                    let end = self.kw.min((self.w + self.padding).saturating_sub(x));
                    if first < end {
                        let pixel = ((y - self.padding) * self.w + x + first - self.padding) * self.c;
                        let tap = (ky * self.kw + first) * self.c;
                        f(oy * self.out_w + ox, tap, pixel, (end - first) * self.c);
                    }
                }
            }
        }
    }

    /// Lays out an image's windows as rows `[windows, window]`, zero outside the image.
    fn im2col(&self, rows: &mut [f32], image: &[f32]) {
        let size = self.window();
        if self.padding > 0 {
            rows.fill(0.0);
        }
        self.runs(|window, tap, pixel, run| {
            rows[window * size + tap..][..run].copy_from_slice(&image[pixel..][..run]);
        });
    }

    /// Adds rows `[windows, window]` back to the image they were laid out from.
    fn col2im(&self, image: &mut [f32], rows: &[f32]) {
        let size = self.window();
        image.fill(0.0);
        self.runs(|window, tap, pixel, run| {
            let from = &rows[window * size + tap..][..run];
            image[pixel..][..run].iter_mut().zip(from).for_each(|(i, r)| *i += r);
        });
    }

    /// Lays out a one-channel image's windows as columns `[kh kw, windows]`: whole rows of the image at a time.
    fn im2col_transposed(&self, columns: &mut [f32], image: &[f32]) {
        columns.fill(0.0);
        for (tap, column) in columns.chunks_exact_mut(self.windows()).enumerate() {
            let (ky, kx) = (tap / self.kw, tap % self.kw);
            let first = self.padding.saturating_sub(kx);
            let end = self.out_w.min((self.w + self.padding).saturating_sub(kx));
            for oy in 0..self.out_h {
                let y = oy + ky;
                if first < end && y >= self.padding && y < self.h + self.padding {
                    let from = (y - self.padding) * self.w + first + kx - self.padding;
                    column[oy * self.out_w + first..oy * self.out_w + end]
                        .copy_from_slice(&image[from..][..end - first]);
                }
            }
        }
    }

    /// Calls `f` with the filters as columns `[window, k]`: how a product can read them without rearranging them for
    /// each image.
    pub(super) fn with_transposed(&self, w: &[f32], f: impl FnOnce(&[f32])) {
        scratch(w.len(), |columns| {
            for (k, filter) in w.chunks_exact(self.window()).enumerate() {
                filter.iter().enumerate().for_each(|(r, &value)| columns[r * self.k + k] = value);
            }
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
