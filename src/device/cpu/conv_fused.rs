//! Convolutions and their input gradients, fused with the ops that follow them. The following ops are applied to the
//! result of one image while it is in the core's cache.

use rayon::prelude::*;

use super::batch_norm::{BatchNormOperands, scale, scale_passed};
use super::conv::{BackwardInput, ConvSizes, Forward};
use super::elementwise::add_to;
use crate::tape::{ConvFusion, ConvGradientFusion};

/// Removes the first `count` operands and returns them.
fn take<'a>(operands: &mut &[&'a [f32]], count: usize) -> Vec<&'a [f32]> {
    let (taken, left) = operands.split_at(count);
    *operands = left;
    taken.to_vec()
}

/// Image number `i` of `values`, which holds images of `len` elements.
fn image(values: &[f32], i: usize, len: usize) -> &[f32] {
    &values[i * len..][..len]
}

/// Convolution, shortcut, sum and batch norm with ReLU; operands and results in the order of [`Op::Conv2dFused`].
///
/// [`Op::Conv2dFused`]: crate::tape::Op::Conv2dFused
pub(super) fn conv2d_fused(
    outputs: Vec<&mut [f32]>,
    mut inputs: &[&[f32]],
    n: usize,
    fusion: &ConvFusion,
    shape: &ConvSizes,
    shortcut: Option<&ConvSizes>,
) {
    let len = shape.outputs() * shape.k;
    let main = take(&mut inputs, 2);
    let shortcut = shortcut.map(|shape| (shape, take(&mut inputs, 2)));
    let addend = fusion.addend.then(|| take(&mut inputs, 1)[0]);
    let affine = fusion.norm.then(|| {
        BatchNormOperands { weight: inputs[0], bias: inputs[1], mean: inputs[2], variance: inputs[3] }.affine()
    });

    let mut outputs: Vec<_> = outputs.into_iter().map(|output| output.par_chunks_mut(len).take(n)).collect();
    let normalized = (outputs.len() > 1).then(|| outputs.pop()).flatten();
    let sums = outputs.pop().expect("a result");
    let run = |conv: &Forward, shortcut: Option<(&Forward, &ConvSizes, &[f32])>| {
        let image_result = |i: usize, sum: &mut [f32], normalized: Option<&mut [f32]>| {
            conv.image(sum, image(main[0], i, shape.image_len()), false);
            if let Some((shortcut, shape, x)) = shortcut {
                shortcut.image(sum, image(x, i, shape.image_len()), true);
            }
            if let Some(addend) = addend {
                add_to(sum, image(addend, i, len));
            }
            match (&affine, normalized) {
                (Some(affine), Some(normalized)) => affine.apply(normalized, sum, true),
                (Some(affine), None) => affine.apply_in_place(sum, true),
                (None, _) => {}
            }
        };
        match normalized {
            Some(normalized) => {
                sums.zip(normalized)
                    .enumerate()
                    .for_each(|(i, (sum, normalized))| image_result(i, sum, Some(normalized)));
            }
            None => sums.enumerate().for_each(|(i, sum)| image_result(i, sum, None)),
        }
    };
    Forward::with(shape, main[1], |conv| match &shortcut {
        Some((shape, operands)) => {
            Forward::with(shape, operands[1], |shortcut| run(conv, Some((shortcut, shape, operands[0]))));
        }
        None => run(conv, None),
    });
}

/// Input gradient of a convolution and what is added to it; operands in the order of [`Op::Conv2dFusedBackwardInput`].
///
/// [`Op::Conv2dFusedBackwardInput`]: crate::tape::Op::Conv2dFusedBackwardInput
pub(super) fn conv2d_fused_backward_input(
    dx: &mut [f32],
    mut inputs: &[&[f32]],
    n: usize,
    fusion: &ConvGradientFusion,
    shape: &ConvSizes,
    shortcut: Option<&ConvSizes>,
) {
    let len = shape.image_len();
    let main = take(&mut inputs, 2);
    let shortcut = shortcut.map(|shape| (shape, take(&mut inputs, 2)));
    let norm = fusion.norm.then(|| take(&mut inputs, 3)).map(|norm| (scale(norm[0], norm[1]), norm[2]));
    let addend = fusion.addend.then(|| inputs[0]);

    let images = dx.par_chunks_mut(len).take(n).enumerate();
    let run = |gradient: &BackwardInput, shortcut: Option<(&BackwardInput, &ConvSizes, &[f32])>| {
        images.for_each(|(i, dx)| {
            gradient.image(dx, image(main[0], i, shape.outputs() * shape.k), false);
            if let Some((shortcut, shape, dy)) = shortcut {
                shortcut.image(dx, image(dy, i, shape.outputs() * shape.k), true);
            }
            if let Some((scale, y)) = &norm {
                scale_passed(dx, scale, image(y, i, len));
            }
            if let Some(addend) = addend {
                add_to(dx, image(addend, i, len));
            }
        });
    };
    BackwardInput::with(shape, main[1], |gradient| match &shortcut {
        Some((shape, operands)) => {
            BackwardInput::with(shape, operands[1], |shortcut| run(gradient, Some((shortcut, shape, operands[0]))));
        }
        None => run(gradient, None),
    });
}
