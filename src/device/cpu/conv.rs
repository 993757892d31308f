//! Convolution and its gradients, each as sums of [`microkernel`] over an image with zeros around it, in which a row of
//! a window is a run of consecutive elements: nothing is rearranged but the filters.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::elementwise::add_to;
use super::microkernel::{self, Block, Channels, Pixel, PixelRow, Run, SumPixels, SumTerms, runs};
use crate::tape::ConvWindow;

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
    pub(super) fn new(x: &[usize], w: &[usize], window: ConvWindow) -> Shape {
        let (&[_, h, wide, c], &[k, kh, kw, _]) = (x, w) else { unreachable!("shapes were checked when recorded") };
        let [out_h, out_w] = [window.outputs(h, kh), window.outputs(wide, kw)];
        let ConvWindow { padding, stride } = window;
        Shape { h, w: wide, c, k, kh, kw, out_h, out_w, padding, stride }
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

    /// The image with its padding.
    pub(super) fn frame(&self) -> Frame {
        let [rows, columns] = [self.h, self.w].map(|size| size + 2 * self.padding);
        Frame { top: self.padding, left: self.padding, rows, columns, c: self.c }
    }

    /// A gradient with so many zeros around it that every element of the image, wherever the windows lie, finds there
    /// what its taps reach.
    fn gradient_frame(&self) -> Frame {
        let [top, left] = [self.kh, self.kw].map(|size| size.div_ceil(self.stride) - 1);
        let last = |size: usize| (size - 1 + self.padding) / self.stride + 1;
        let (rows, columns) = (top + self.out_h.max(last(self.h)), left + self.out_w.max(last(self.w)));
        Frame { top, left, rows, columns, c: self.k }
    }
}

/// An image with zeros around it.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    top: usize,
    left: usize,
    rows: usize,
    columns: usize,
    c: usize,
}

impl Frame {
    /// Elements of a row.
    pub(super) fn pitch(&self) -> usize {
        self.columns * self.c
    }

    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.rows * self.pitch()
    }

    /// Writes the image, which is `width` pixels wide, with zeros around it, and zeros to what `framed` has beyond it.
    pub(super) fn surround(&self, framed: &mut [f32], image: &[f32], width: usize) {
        let (left, row) = (self.left * self.c, width * self.c);
        let (above, rest) = framed.split_at_mut(self.top * self.pitch());
        let (rows, below) = rest.split_at_mut(image.len() / row * self.pitch());
        above.fill(0.0);
        below.fill(0.0);
        for (framed, image) in rows.chunks_exact_mut(self.pitch()).zip(image.chunks_exact(row)) {
            framed[..left].fill(0.0);
            framed[left..][..row].copy_from_slice(image);
            framed[left + row..].fill(0.0);
        }
    }

    /// Takes the image, which is `width` pixels wide, out of its frame.
    pub(super) fn cut_out(&self, image: &mut [f32], framed: &[f32], width: usize) {
        let (left, row) = (self.left * self.c, width * self.c);
        let rows = framed.chunks_exact(self.pitch()).skip(self.top);
        for (image, framed) in image.chunks_exact_mut(row).zip(rows) {
            image.copy_from_slice(&framed[left..][..row]);
        }
    }
}

/// Writes the transpose of `from`, whose rows have `columns` elements, as rows of `pitch` elements, which end in zeros;
/// as many as `to` has. A tile at a time: both sides of a tile stay in the nearest cache.
pub(super) fn transpose(to: &mut [f32], from: &[f32], columns: usize, pitch: usize) {
    const TILE: usize = 16;
    if columns == 0 || pitch == 0 {
        return;
    }
    let rows = from.len() / columns;
    for top in (0..pitch).step_by(TILE) {
        let end = pitch.min(top + TILE);
        let bottom = end.min(rows).max(top);
        for (column, to) in to.chunks_exact_mut(pitch).enumerate() {
            for (row, to) in (top..bottom).zip(&mut to[top..]) {
                *to = from[row * columns + column];
            }
            to[bottom..end].fill(0.0);
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

/// A convolution of images of one shape, its filters packed.
pub(super) struct Forward<'a> {
    shape: &'a Shape,
    channels: &'a Channels,
    filters: &'a [f32],
    pixels: Vec<Pixel>,
    runs: Vec<Run>,
}

impl Forward<'_> {
    /// Packs the filters `w` and calls `f` with the convolution.
    pub(super) fn with<R>(shape: &Shape, w: &[f32], f: impl FnOnce(&Forward) -> R) -> R {
        let channels = &Channels::new(shape.k);
        let terms = shape.window();
        let pitch = shape.frame().pitch();
        let at = |oy, ox| (oy * pitch + ox * shape.c) * shape.stride;
        let pixel = |i: usize| Pixel { x: at(i / shape.out_w, i % shape.out_w), out: i * shape.k };
        let pixels = (0..shape.windows()).map(pixel).collect();
        let runs = runs(shape.kh, shape.kw * shape.c, pitch);
        scratch(terms * channels.padded, |filters| {
            let parts: Vec<_> = channels.parts_mut(filters, terms).collect();
            parts.into_par_iter().for_each(|(block, part)| {
                transpose(part, &w[block.channels.start * terms..block.channels.end * terms], terms, block.width);
            });
            f(&Forward { shape, channels, filters, pixels, runs })
        })
    }

    /// out `[windows, k]` of one image, or added to it.
    pub(super) fn image(&self, out: &mut [f32], image: &[f32], add: bool) {
        let frame = self.shape.frame();
        scratch(frame.len(), |x| {
            frame.surround(x, image, self.shape.w);
            let &Forward { channels, filters: w, ref pixels, ref runs, .. } = self;
            pulp::Arch::new().dispatch(SumTerms { out, x, w, channels, pixels, runs, add });
        });
    }
}

/// out `[n, out_h, out_w, k]`.
pub(super) fn conv2d(out: &mut [f32], x: &[f32], w: &[f32], n: usize, shape: &Shape) {
    let images = out.par_chunks_mut(shape.windows() * shape.k).zip(x.par_chunks(shape.image())).take(n);
    Forward::with(shape, w, |conv| images.for_each(|(out, image)| conv.image(out, image, false)));
}

/// A convolution's gradient by its input, for images of one shape.
///
/// An element of dx takes part in the windows that its row and column reach by a kernel's row and column of the same
/// remainder by the stride. So elements are classed by the remainders of both; for each class the gradient is a
/// convolution of dy, with zeros around it, with those taps of the filters, from the last to the first.
pub(super) struct BackwardInput<'a> {
    shape: &'a Shape,
    channels: &'a Channels,
    classes: Vec<Class>,
    filters: &'a [f32],
}

/// Elements of dx that the same taps reach.
struct Class {
    pixels: Vec<Pixel>,
    runs: Vec<Run>,
    /// Where its filters are.
    filters: Range<usize>,
}

impl BackwardInput<'_> {
    /// Packs the filters `w` and calls `f` with the gradient.
    pub(super) fn with<R>(shape: &Shape, w: &[f32], f: impl FnOnce(&BackwardInput) -> R) -> R {
        let channels = &Channels::new(shape.c);
        let &Shape { k, kh, kw, c, stride, .. } = shape;
        scratch(kh * kw * k * channels.padded, |filters| {
            let (mut classes, mut at, mut rest) = (Vec::new(), 0, &mut *filters);
            for (a, b) in (0..stride).flat_map(|a| (0..stride).map(move |b| (a, b))) {
                let [rows, columns] = [kh - a.min(kh), kw - b.min(kw)].map(|size| size.div_ceil(stride));
                let len = rows * columns * k * channels.padded;
                let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
                rest = tail;
                let parts: Vec<_> = channels.parts_mut(part, rows * columns * k).collect();
                parts.into_par_iter().for_each(|(block, part)| {
                    for (i, to) in part.chunks_exact_mut(block.width).enumerate() {
                        let (tap, filter) = (i / k, i % k);
                        let (ky, kx) =
                            (a + (rows - 1 - tap / columns) * stride, b + (columns - 1 - tap % columns) * stride);
                        let (to, spare) = to.split_at_mut(block.channels.len());
                        to.copy_from_slice(&w[((filter * kh + ky) * kw + kx) * c..][block.channels.clone()]);
                        spare.fill(0.0);
                    }
                });
                classes.push(Class::new(shape, [a, b], [rows, columns], at..at + len));
                at += len;
            }
            f(&BackwardInput { shape, channels, classes, filters })
        })
    }

    /// dx `[h, w, c]` of one image, or added to it.
    pub(super) fn image(&self, dx: &mut [f32], dy: &[f32], add: bool) {
        let frame = self.shape.gradient_frame();
        scratch(frame.len(), |x| {
            frame.surround(x, dy, self.shape.out_w);
            for Class { pixels, runs, filters } in &self.classes {
                let (channels, w) = (self.channels, &self.filters[filters.clone()]);
                if runs.is_empty() && !add {
                    pixels.iter().for_each(|pixel| dx[pixel.out..][..self.shape.c].fill(0.0));
                }
                pulp::Arch::new().dispatch(SumTerms { out: dx, x, w, channels, pixels, runs, add });
            }
        });
    }
}

impl Class {
    /// The elements whose row and column, with the padding, leave `remainders`, and which `taps` reach.
    fn new(shape: &Shape, remainders: [usize; 2], taps: [usize; 2], filters: Range<usize>) -> Class {
        let &Shape { h, w, c, k, padding, stride, .. } = shape;
        let frame = shape.gradient_frame();
        // An element's place along one axis, and that of the first result in the frame that reaches it.
        let axis = |size: usize, axis: usize, before: usize| {
            let inside = (0..size).filter(move |i| (i + padding) % stride == remainders[axis]);
            inside.map(move |i| (i, (i + padding) / stride + before + 1 - taps[axis]))
        };
        let pixels = axis(h, 0, frame.top).flat_map(|(y, row)| {
            axis(w, 1, frame.left)
                .map(move |(x, column)| Pixel { x: row * frame.pitch() + column * k, out: (y * w + x) * c })
        });
        let runs = if taps.contains(&0) { Vec::new() } else { runs(taps[0], taps[1] * k, frame.pitch()) };
        Class { pixels: pixels.collect(), runs, filters }
    }
}

/// dx `[n, h, w, c]` from dy `[n, out_h, out_w, k]`.
pub(super) fn conv2d_backward_input(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, shape: &Shape) {
    let images = dx.par_chunks_mut(shape.image()).zip(dy.par_chunks(shape.windows() * shape.k)).take(n);
    BackwardInput::with(shape, w, |gradient| images.for_each(|(dx, dy)| gradient.image(dx, dy, false)));
}

/// Windows that are enough for one pass over a weight's gradient; images of fewer are taken together.
const WINDOWS: usize = 256;

/// dw `[k, kh, kw, c]` from dy and x, over n images.
pub(super) fn conv2d_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, shape: &Shape) {
    let channels = &Channels::new(shape.k);
    let (frame, m, terms) = (shape.frame(), shape.windows(), shape.window());
    let runs = &runs(shape.kh, shape.kw * shape.c, frame.pitch());
    let step = shape.stride * shape.c;
    let together = (WINDOWS / m).clamp(1, GROUP);
    let row =
        |i: usize, oy: usize| PixelRow { x: i * frame.len() + oy * shape.stride * frame.pitch(), len: shape.out_w };
    let rows: Vec<_> = (0..together).flat_map(|i| (0..shape.out_h).map(move |oy| row(i, oy))).collect();
    scratch(terms * channels.padded, |total| {
        sum_groups(total, n, |out, images| {
            let first = images.start;
            for i in images.clone().step_by(together) {
                let count = together.min(images.end - i);
                let (x, dy) = (&x[i * shape.image()..], &dy[i * m * shape.k..][..count * m * shape.k]);
                scratch(count * frame.len() + microkernel::ROWS, |framed| {
                    for (framed, x) in framed.chunks_exact_mut(frame.len()).zip(x.chunks_exact(shape.image())) {
                        frame.surround(framed, x, shape.w);
                    }
                    scratch(count * m * channels.padded, |packed| {
                        channels.pack_rows(packed, dy, shape.k);
                        let (x, dy, rows, add) = (&*framed, &*packed, &rows[..count * shape.out_h], i > first);
                        pulp::Arch::new().dispatch(SumPixels { out, x, dy, channels, rows, step, runs, add });
                    });
                });
            }
        });
        // Back from rows of channels to filters.
        let mut rest = dw;
        let part = |(block, part): (&Block, _)| {
            let (dw, tail) = std::mem::take(&mut rest).split_at_mut(block.channels.len() * terms);
            rest = tail;
            (dw, part, block.width)
        };
        let parts: Vec<_> = channels.parts_mut(total, terms).map(part).collect();
        parts.into_par_iter().for_each(|(dw, part, width)| transpose(dw, part, width, terms));
    });
}

/// Groups whose sums are kept at a time.
const SUMS: usize = 16;
/// Elements that one task adds up.
const ELEMENTS: usize = 1 << 14;

/// A sum over images in a fixed order: `f` writes the sum of a group of [`GROUP`] images; groups are added in order.
pub(super) fn sum_groups(sum: &mut [f32], n: usize, f: impl Fn(&mut [f32], Range<usize>) + Sync) {
    let len = sum.len();
    sum.fill(0.0);
    for first in (0..n).step_by(SUMS * GROUP) {
        scratch(len * SUMS.min((n - first).div_ceil(GROUP)), |parts| {
            parts.par_chunks_mut(len).enumerate().for_each(|(group, part)| {
                let start = first + group * GROUP;
                f(part, start..(start + GROUP).min(n));
            });
            sum.par_chunks_mut(ELEMENTS).enumerate().for_each(|(chunk, sum)| {
                for part in parts.chunks_exact(len) {
                    add_to(sum, &part[chunk * ELEMENTS..][..sum.len()]);
                }
            });
        });
    }
}
