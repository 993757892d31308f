//! A network's first layer under attack: the functions of its ops in their order, with scratch memory between them.

use super::attack::{PointAlong, along_direction, pgd_step};
use super::conv::{ConvSizes, conv2d_backward_input};
use super::conv_fused::conv2d_fused;
use super::conv_pool::conv_pool_backward_input;
use super::formula::{BoundFormula, InputNumbers, map};
use super::half;
use super::image::{standardize, standardize_backward};
use super::linear::linear_backward_input;
use super::scratch::scratch;
use crate::tape::gradient_norm::from_norm;
use crate::tape::{ConvFusion, PgdRule};

/// Operands of [`standardize_conv2d`].
pub(super) struct FirstLayerOperands<'a> {
    pub x: &'a [f32],
    pub along: Option<PointAlong<'a>>,
    pub w: &'a [f32],
    /// Weight, bias, mean and variance of batch norm, or nothing.
    pub norm: Vec<&'a [f32]>,
}

/// Writes the results of the first layer; and, if they are given, the standardized images and their deviations.
pub(super) fn standardize_conv2d(
    results: Vec<&mut [f32]>,
    images: Option<[&mut [f32]; 2]>,
    operands: &FirstLayerOperands,
    n: usize,
    layer: &ConvFusion,
    shape: &ConvSizes,
) {
    let FirstLayerOperands { x, along, w, ref norm } = *operands;
    let row = shape.image_len();
    scratch(n * (2 * row + 1), |free| {
        let (points, free) = free.split_at_mut(n * row);
        let (standardized, deviation) = free.split_at_mut(n * row);
        if let Some((rule, [adv, ball, t])) = &along {
            along_direction(points, x, adv, ball, t, n, rule);
        }
        let x = if along.is_some() { points } else { x };
        let [standardized, deviation] = images.unwrap_or([standardized, deviation]);
        standardize(&mut standardized[..n * row], &mut deviation[..n], x, row);
        let inputs: Vec<&[f32]> = [&*standardized, w].into_iter().chain(norm.iter().copied()).collect();
        conv2d_fused(results, &inputs, n, layer, shape, None);
    });
}

/// Layer whose input gradient is left to be computed.
pub(super) struct UnfinishedLayer<'a> {
    pub w: &'a [f32],
    pub shape: ConvSizes,
    /// Choices of max-pooling.
    pub choice: Option<&'a [u8]>,
}

/// Gradient with respect to images, and what is left to be done to it.
pub(super) struct ImageGradient<'a> {
    pub dx: &'a [f32],
    /// Weight `[out, in]` of a linear layer that the gradient passes before the other layers, and its dimensions. The
    /// layer's input gradient is rounded to half precision.
    pub linear: Option<(&'a [f32], &'a [usize])>,
    /// Layers that the gradient passes: `dx` is the gradient of the first one's results.
    pub layers: Vec<UnfinishedLayer<'a>>,
    /// Norms from which the rows are brought back.
    pub norm: Option<&'a [f32]>,
    /// Results and deviations of the standardization that the gradient passes.
    pub standardized: Option<[&'a [f32]; 2]>,
}

/// [`pgd_step`] along a gradient that is not finished.
pub(super) fn pgd_step_fused(
    adv: &mut [f32],
    x: &[f32],
    gradient: &ImageGradient,
    eps: &[f32],
    step: &[f32],
    n: usize,
    rule: &PgdRule,
) {
    let (capacity, row) = (eps.len(), x.len() / eps.len());
    let of_linear = gradient.linear.map_or(0, |(_, dims)| capacity * dims[1]);
    let of_layers: usize = gradient.layers.iter().map(|layer| capacity * layer.shape.image_len()).sum();
    scratch(2 * x.len() + of_linear + of_layers, |free| {
        let (restored, free) = free.split_at_mut(x.len());
        let (finished, mut free) = free.split_at_mut(x.len());
        let mut dx = gradient.dx;
        if let Some((w, dims)) = gradient.linear {
            let of_linear = free.split_off_mut(..of_linear).expect("all were counted");
            linear_backward_input(of_linear, dx, w, None, n, dims);
            half::round(&mut of_linear[..n * dims[1]]);
            dx = of_linear;
        }
        for UnfinishedLayer { w, shape, choice } in &gradient.layers {
            let of_layer = free.split_off_mut(..capacity * shape.image_len()).expect("all were counted");
            match choice {
                Some(choice) => conv_pool_backward_input(of_layer, dx, choice, w, n, shape),
                None => conv2d_backward_input(of_layer, dx, w, n, shape),
            }
            dx = of_layer;
        }
        if let Some(norm) = gradient.norm {
            let (all, each) = ([capacity, row], [capacity]);
            let inputs = vec![(InputNumbers::F32(dx), &all[..]), (InputNumbers::F32(norm), &each[..])];
            map(&mut restored[..n * row], &BoundFormula::new(&from_norm(), inputs, capacity, row));
            dx = restored;
        }
        if let Some([y, deviation]) = gradient.standardized {
            standardize_backward(&mut finished[..n * row], dx, y, &deviation[..n], row);
            dx = finished;
        }
        pgd_step(adv, x, dx, eps, step, n, rule);
    });
}
