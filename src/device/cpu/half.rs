//! Half-precision operands: any op on half operands is the same op on single-precision copies of them, whose half
//! results are rounded when it is done. Sums stay single precision. Within an op that stands for several, what one of
//! them passes on to the next is rounded as memory would round it.

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

use super::scratch::scratch;
use super::shapes::{OpShapes, OperandShape};
use crate::tape::{DType, FilterCopy, Op};

/// Numbers of one task. It never depends on the number of threads.
const NUMBERS: usize = 1 << 14;

/// Filters of one task that turns weights, and the side of the tiles in which it does.
const TILE: usize = 16;

/// Writes `from`, rounded to nearest, ties to even.
fn narrow(to: &mut [f16], from: &[f32]) {
    let pieces = to.par_chunks_mut(NUMBERS).zip(from.par_chunks(NUMBERS));
    pieces.for_each(|(to, from)| to.convert_from_f32_slice(from));
}

/// Rounds to the nearest half-precision numbers, ties to even.
pub(super) fn round(numbers: &mut [f32]) {
    numbers.par_chunks_mut(NUMBERS).for_each(|numbers| {
        let mut halves = [f16::ZERO; NUMBERS];
        let halves = &mut halves[..numbers.len()];
        halves.convert_from_f32_slice(numbers);
        halves.convert_to_f32_slice(numbers);
    });
}

/// Writes `from` exactly.
fn widen(to: &mut [f32], from: &[f16]) {
    let pieces = to.par_chunks_mut(NUMBERS).zip(from.par_chunks(NUMBERS));
    pieces.for_each(|(to, from)| from.convert_to_f32_slice(to));
}

/// Writes filters turned: `to[c][t][k] = from[k][taps - 1 - t][c]`, where `from` is `[k, taps, c]`, `sizes`. A filter
/// that is turned twice is as before. `convert` writes up to a tile's numbers.
fn turn<A: Copy + Default + Sync, B: Copy + Default + Send>(
    to: &mut [B],
    from: &[A],
    sizes: [usize; 3],
    convert: impl Fn(&mut [B], &[A]) + Sync,
) {
    let [filters, taps, channels] = sizes;
    to.par_chunks_mut(TILE * taps * filters).enumerate().for_each(|(task, to)| {
        let mut tile = [B::default(); TILE];
        let tile = &mut tile[..to.len() / (taps * filters)];
        for k in 0..filters {
            for t in 0..taps {
                convert(tile, &from[(k * taps + taps - 1 - t) * channels + task * TILE..][..tile.len()]);
                for (c, number) in tile.iter().enumerate() {
                    to[(c * taps + t) * filters + k] = *number;
                }
            }
        }
    });
}

/// Sizes `[filters, taps, channels]` of a weight `[k, kh, kw, c]` or `[out, in]`.
fn filter_sizes(dims: &[usize]) -> [usize; 3] {
    let [first, taps @ .., last] = dims else { panic!("a weight of {dims:?}") };
    [*first, taps.iter().product(), *last]
}

/// Writes both copies of a weight of dimensions `dims`.
pub(super) fn pack_filters(plain: &mut [u8], turned: &mut [u8], weight: &[f32], dims: &[usize]) {
    narrow(bytemuck::cast_slice_mut(plain), weight);
    let turned: &mut [f16] = bytemuck::cast_slice_mut(turned);
    turn(turned, weight, filter_sizes(dims), |to, from| to.convert_from_f32_slice(from));
}

/// Calls `f` with the first `len` elements of an operand, in single precision.
pub(super) fn with_single<R>(bytes: &[u8], operand: &OperandShape, len: usize, f: impl FnOnce(&[f32]) -> R) -> R {
    if !operand.is_half() {
        return f(&bytemuck::cast_slice(bytes)[..len]);
    }
    scratch(len, |single| {
        widen(single, &bytemuck::cast_slice(bytes)[..len]);
        f(single)
    })
}

/// Calls `compute` on single-precision copies of the half operands among inputs `x` of `op`, then rounds the half results
/// among outputs `y`.
pub(super) fn in_single_precision(
    op: &Op,
    shapes: &OpShapes,
    x: &[&[u8]],
    y: &mut [&mut [u8]],
    compute: impl FnOnce(&OpShapes, &[&[u8]], &mut [&mut [u8]]),
) {
    let mut single = shapes.clone();
    let numbers = shapes.inputs.iter().chain(&shapes.outputs).filter(|operand| operand.is_half());
    scratch(numbers.map(OperandShape::len).sum(), |mut free| {
        let mut take = |operand: &OperandShape| free.split_off_mut(..operand.len()).expect("all were counted");
        let mut inputs = x.to_vec();
        for (i, operand) in single.inputs.iter_mut().enumerate().filter(|(_, operand)| operand.is_half()) {
            let (from, copy): (&[f16], _) = (bytemuck::cast_slice(x[i]), take(operand));
            match op.filter_copy(i) {
                Some(FilterCopy::Turned) => {
                    turn(copy, from, filter_sizes(&operand.dims), |to, from| from.convert_to_f32_slice(to));
                    let last = operand.dims.len() - 1;
                    operand.dims.to_mut().swap(0, last);
                }
                Some(FilterCopy::Plain) => widen(copy, from),
                None => {
                    let active = shapes.rows() * operand.row();
                    widen(&mut copy[..active], &from[..active]);
                }
            }
            operand.dtype = DType::F32;
            inputs[i] = bytemuck::cast_slice(copy);
        }
        let mut results: Vec<Option<&mut [f32]>> = Vec::with_capacity(y.len());
        for operand in &mut single.outputs {
            results.push(operand.is_half().then(|| take(operand)));
            operand.dtype = if operand.is_half() { DType::F32 } else { operand.dtype };
        }
        let mut outputs: Vec<&mut [u8]> = (results.iter_mut().zip(&mut *y))
            .map(|(result, y)| result.as_mut().map_or(&mut **y, |result| bytemuck::cast_slice_mut(result)))
            .collect();
        compute(&single, &inputs, &mut outputs);
        for ((result, y), operand) in results.iter().zip(y).zip(&shapes.outputs) {
            if let Some(result) = result {
                let active = shapes.rows() * operand.row();
                narrow(&mut bytemuck::cast_slice_mut(y)[..active], &result[..active]);
            }
        }
    });
}
