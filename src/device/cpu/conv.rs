//! Convolution and its gradients.
//!
//! All are sums of products, computed by [`microkernel`] over a zero-padded image. There a kernel row (`kw c` elements)
//! of a window is a run of consecutive elements, so no im2col matrix is formed; only the filters are packed.

use std::ops::Range;

use rayon::prelude::*;

use super::elementwise::add_to;
use super::microkernel::{self, ChannelBlock, ChannelBlocks, Pixel, PixelRow, SumPixels, SumTerms, TermRun, term_runs};
use super::padded_image::PaddedImage;
use super::scratch::{scratch, transpose};
use crate::tape::ConvWindow;

/// Images of a group. Weight gradients are summed image by image within a group; the sums of groups are added in order.
pub(super) const GROUP: usize = 4;

/// Sizes of a convolution of x `[n, h, w, c]` with filters `[k, kh, kw, c]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvSizes {
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

impl ConvSizes {
    pub(super) fn new(x: &[usize], w: &[usize], window: ConvWindow) -> ConvSizes {
        let (&[_, h, wide, c], &[k, kh, kw, _]) = (x, w) else { unreachable!("shapes were checked when recorded") };
        let [out_h, out_w] = [window.outputs(h, kh), window.outputs(wide, kw)];
        let ConvWindow { padding, stride } = window;
        ConvSizes { h, w: wide, c, k, kh, kw, out_h, out_w, padding, stride }
    }

    /// Number of elements of an input image.
    pub(super) fn image_len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Number of output pixels of an image: one a window.
    pub(super) fn outputs(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Number of elements of a filter, and of a window.
    pub(super) fn filter_len(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// The input image with the padding of the convolution.
    pub(super) fn padded_image(&self) -> PaddedImage {
        let [h, w] = [self.h, self.w].map(|size| size + 2 * self.padding);
        PaddedImage { top: self.padding, left: self.padding, h, w, c: self.c }
    }

    /// The output gradient of an image, padded so that every tap that reaches an input pixel reads inside it: the
    /// gradient, or 0 where no window is.
    fn padded_gradient(&self) -> PaddedImage {
        let [top, left] = [self.kh, self.kw].map(|size| size.div_ceil(self.stride) - 1);
        let last = |size: usize| (size - 1 + self.padding) / self.stride + 1;
        let (h, w) = (top + self.out_h.max(last(self.h)), left + self.out_w.max(last(self.w)));
        PaddedImage { top, left, h, w, c: self.k }
    }
}

/// A convolution of images of one shape, with packed filters.
pub(super) struct Forward<'a> {
    shape: &'a ConvSizes,
    channels: &'a ChannelBlocks,
    filters: &'a [f32],
    pixels: Vec<Pixel>,
    runs: Vec<TermRun>,
}

impl Forward<'_> {
    /// Packs the filters `w` and calls `f` with the convolution.
    pub(super) fn with<R>(shape: &ConvSizes, w: &[f32], f: impl FnOnce(&Forward) -> R) -> R {
        let channels = &ChannelBlocks::new(shape.k);
        let terms = shape.filter_len();
        let pitch = shape.padded_image().pitch();
        let at = |oy, ox| (oy * pitch + ox * shape.c) * shape.stride;
        let pixel = |i: usize| Pixel { x: at(i / shape.out_w, i % shape.out_w), out: i * shape.k };
        let pixels = (0..shape.outputs()).map(pixel).collect();
        let runs = term_runs(shape.kh, shape.kw * shape.c, pitch);
        scratch(terms * channels.padded, |filters| {
            let parts: Vec<_> = channels.parts_mut(filters, terms).collect();
            parts.into_par_iter().for_each(|(block, part)| {
                transpose(part, &w[block.channels.start * terms..block.channels.end * terms], terms, block.width);
            });
            f(&Forward { shape, channels, filters, pixels, runs })
        })
    }

    /// Writes the output `[out_h, out_w, k]` of one image, or adds it to `out`.
    pub(super) fn image(&self, out: &mut [f32], image: &[f32], add: bool) {
        let frame = self.shape.padded_image();
        scratch(frame.len(), |x| {
            frame.pad(x, image, self.shape.w);
            let &Forward { channels, filters: w, ref pixels, ref runs, .. } = self;
            pulp::Arch::new().dispatch(SumTerms { out, x, w, channels, pixels, runs, add });
        });
    }
}

/// Writes out `[n, out_h, out_w, k]`.
pub(super) fn conv2d(out: &mut [f32], x: &[f32], w: &[f32], n: usize, shape: &ConvSizes) {
    let images = out.par_chunks_mut(shape.outputs() * shape.k).zip(x.par_chunks(shape.image_len())).take(n);
    Forward::with(shape, w, |conv| images.for_each(|(out, image)| conv.image(out, image, false)));
}

/// Gradient of a convolution with respect to its input, for images of one shape.
///
/// Input pixel (y, x) meets tap (ky, kx) only if `y + padding` and `ky` are equal modulo the stride, and likewise `x`
/// and `kx`. So pixels are divided into classes by these remainders. For each class the gradient is a convolution of
/// the padded dy with the class's taps of the filters, in reverse order.
pub(super) struct BackwardInput<'a> {
    shape: &'a ConvSizes,
    channels: &'a ChannelBlocks,
    classes: Vec<Class>,
    filters: &'a [f32],
}

/// Input pixels that meet the same taps.
struct Class {
    pixels: Vec<Pixel>,
    runs: Vec<TermRun>,
    /// Range of the class's packed filters.
    filters: Range<usize>,
}

impl BackwardInput<'_> {
    /// Packs the filters `w` and calls `f` with the gradient.
    pub(super) fn with<R>(shape: &ConvSizes, w: &[f32], f: impl FnOnce(&BackwardInput) -> R) -> R {
        let channels = &ChannelBlocks::new(shape.c);
        let &ConvSizes { k, kh, kw, c, stride, .. } = shape;
        scratch(kh * kw * k * channels.padded, |filters| {
            let (mut classes, mut at, mut rest) = (Vec::new(), 0, &mut *filters);
            for (a, b) in (0..stride).flat_map(|a| (0..stride).map(move |b| (a, b))) {
                let [taps_y, taps_x] = [kh - a.min(kh), kw - b.min(kw)].map(|size| size.div_ceil(stride));
                let len = taps_y * taps_x * k * channels.padded;
                let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
                rest = tail;
                let parts: Vec<_> = channels.parts_mut(part, taps_y * taps_x * k).collect();
                parts.into_par_iter().for_each(|(block, part)| {
                    for (i, to) in part.chunks_exact_mut(block.width).enumerate() {
                        let (tap, filter) = (i / k, i % k);
                        let (ky, kx) =
                            (a + (taps_y - 1 - tap / taps_x) * stride, b + (taps_x - 1 - tap % taps_x) * stride);
                        let (to, spare) = to.split_at_mut(block.channels.len());
                        to.copy_from_slice(&w[((filter * kh + ky) * kw + kx) * c..][block.channels.clone()]);
                        spare.fill(0.0);
                    }
                });
                classes.push(Class::new(shape, [a, b], [taps_y, taps_x], at..at + len));
                at += len;
            }
            f(&BackwardInput { shape, channels, classes, filters })
        })
    }

    /// Writes dx `[h, w, c]` of one image, or adds it to `dx`.
    pub(super) fn image(&self, dx: &mut [f32], dy: &[f32], add: bool) {
        let frame = self.shape.padded_gradient();
        scratch(frame.len(), |x| {
            frame.pad(x, dy, self.shape.out_w);
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
    /// The class of pixels whose padded row and column leave `remainders`; it meets `taps` rows and columns of the
    /// kernel.
    fn new(shape: &ConvSizes, remainders: [usize; 2], taps: [usize; 2], filters: Range<usize>) -> Class {
        let &ConvSizes { h, w, c, k, padding, stride, .. } = shape;
        let frame = shape.padded_gradient();
        // Along one axis: a pixel's index, and the index in the padded gradient of the first output that reaches it.
        let axis = |size: usize, axis: usize, before: usize| {
            let inside = (0..size).filter(move |i| (i + padding) % stride == remainders[axis]);
            inside.map(move |i| (i, (i + padding) / stride + before + 1 - taps[axis]))
        };
        let pixels = axis(h, 0, frame.top).flat_map(|(y, row)| {
            axis(w, 1, frame.left)
                .map(move |(x, column)| Pixel { x: row * frame.pitch() + column * k, out: (y * w + x) * c })
        });
        let runs = if taps.contains(&0) { Vec::new() } else { term_runs(taps[0], taps[1] * k, frame.pitch()) };
        Class { pixels: pixels.collect(), runs, filters }
    }
}

/// Writes dx `[n, h, w, c]`, computed from dy `[n, out_h, out_w, k]`.
pub(super) fn conv2d_backward_input(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, shape: &ConvSizes) {
    let images = dx.par_chunks_mut(shape.image_len()).zip(dy.par_chunks(shape.outputs() * shape.k)).take(n);
    BackwardInput::with(shape, w, |gradient| images.for_each(|(dx, dy)| gradient.image(dx, dy, false)));
}

/// Output pixels that are enough for one pass over a weight gradient. Images with fewer are summed together.
const WINDOWS: usize = 256;

/// Writes dw `[k, kh, kw, c]`, summed over n images of dy and x.
pub(super) fn conv2d_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, shape: &ConvSizes) {
    let channels = &ChannelBlocks::new(shape.k);
    let (frame, m, terms) = (shape.padded_image(), shape.outputs(), shape.filter_len());
    let runs = &term_runs(shape.kh, shape.kw * shape.c, frame.pitch());
    let step = shape.stride * shape.c;
    let together = (WINDOWS / m).clamp(1, GROUP);
    let row =
        |i: usize, oy: usize| PixelRow { x: i * frame.len() + oy * shape.stride * frame.pitch(), len: shape.out_w };
    let pixel_rows: Vec<_> = (0..together).flat_map(|i| (0..shape.out_h).map(move |oy| row(i, oy))).collect();
    scratch(terms * channels.padded, |total| {
        sum_groups(total, n, |out, images| {
            let first = images.start;
            for i in images.clone().step_by(together) {
                let count = together.min(images.end - i);
                let (x, dy) = (&x[i * shape.image_len()..], &dy[i * m * shape.k..][..count * m * shape.k]);
                scratch(count * frame.len() + microkernel::ROWS, |padded| {
                    for (padded, x) in padded.chunks_exact_mut(frame.len()).zip(x.chunks_exact(shape.image_len())) {
                        frame.pad(padded, x, shape.w);
                    }
                    scratch(count * m * channels.padded, |packed| {
                        channels.pack_rows(packed, dy, shape.k);
                        let (x, dy, pixel_rows, add) =
                            (&*padded, &*packed, &pixel_rows[..count * shape.out_h], i > first);
                        pulp::Arch::new().dispatch(SumPixels { out, x, dy, channels, pixel_rows, step, runs, add });
                    });
                });
            }
        });
        // Transposes packed rows of channels into filters.
        let mut rest = dw;
        let part = |(block, part): (&ChannelBlock, _)| {
            let (dw, tail) = std::mem::take(&mut rest).split_at_mut(block.channels.len() * terms);
            rest = tail;
            (dw, part, block.width)
        };
        let parts: Vec<_> = channels.parts_mut(total, terms).map(part).collect();
        parts.into_par_iter().for_each(|(dw, part, width)| transpose(dw, part, width, terms));
    });
}

/// Groups whose sums are held at a time.
const SUMS: usize = 16;
/// Elements that one task sums.
const ELEMENTS: usize = 1 << 14;

/// Sums over n images in a fixed order. `f` writes the sum over a group of [`GROUP`] images; groups are added in order.
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
