//! Tests of ops on half-precision operands: the tests in single precision, on numbers that half precision holds.

use std::cell::Cell;

use half::f16;
use maxmargin::tape::{DType, FilterCopy, Op, PgdFusion, StepLayer};

use super::{Array, Sum};

thread_local!(static IN_HALF: Cell<bool> = const { Cell::new(false) });

/// Runs the test of an op with half-precision operands and results.
pub fn in_half(test: fn()) {
    IN_HALF.set(true);
    test();
    IN_HALF.set(false);
}

/// True within [`in_half`].
pub fn is_on() -> bool {
    IN_HALF.get()
}

/// The half-precision number nearest to `value`, ties to even. (`f16::from_f64` rounds once, `value as f32` before it
/// would round twice.)
pub fn rounded(value: f64) -> f16 {
    f16::from_f64(value)
}

/// Value of an element of an array: single precision, or half.
pub fn stored(value: f64) -> f64 {
    if is_on() { rounded(value).to_f64() } else { f64::from(value as f32) }
}

/// The least positive number of the precision.
pub fn least() -> f64 {
    if is_on() { f16::from_bits(1).to_f64() } else { f64::from(f32::from_bits(1)) }
}

/// Operands and results of an op that are half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfOperands {
    /// All that may be.
    All,
    /// The results, and the operands of an epilogue, which have the results' shape: as in the first layer.
    Results,
    /// All but the results and the filters, as in the last layer.
    Operands,
    /// The first operand, a gradient: as in the first layer's gradient with respect to its weight.
    First,
    /// The second operand: as in the last layer's gradient with respect to its weight.
    Second,
}

impl HalfOperands {
    /// The combinations that an op may have.
    pub fn of(op: &Op) -> &'static [HalfOperands] {
        match op {
            Op::Conv2dFused(fusion) if fusion.shortcut.is_none() && !fusion.keeps_operand => {
                &[HalfOperands::All, HalfOperands::Results]
            }
            Op::PgdStepFused(PgdFusion { layer: Some(StepLayer::TwoConvPools { .. }), .. }) => &[HalfOperands::All],
            Op::TwoConvPools { .. } => &[HalfOperands::All],
            Op::Conv2dBackwardWeight(_) | Op::ConvPoolBackwardWeight(_) => &[HalfOperands::All, HalfOperands::First],
            Op::LinearBackwardWeight => &[HalfOperands::All, HalfOperands::Second],
            Op::AddBiasBackwardBias | Op::ConvPoolBackwardBias | Op::BatchNormBackwardWeight { .. } => {
                &[HalfOperands::All]
            }
            _ if op.is_half_as_a_whole() => &[HalfOperands::All],
            _ => &[HalfOperands::All, HalfOperands::Results, HalfOperands::Operands],
        }
    }

    /// True if a GPU has kernels for this combination; it refuses others.
    pub fn is_on_gpu(self, op: &Op) -> bool {
        match op {
            Op::Conv2d(_) | Op::ConvPool(_) | Op::Conv2dFused(_) | Op::LinearBackwardInput => {
                self != HalfOperands::Operands
            }
            Op::Conv2dBackwardInput(_) | Op::ConvPoolBackwardInput(_) | Op::Linear | Op::LinearBias { .. } => {
                self != HalfOperands::Results
            }
            Op::Conv2dFusedBackwardInput(_) => self == HalfOperands::All,
            _ => true,
        }
    }

    /// Type of an operand.
    pub fn input(self, op: &Op, place: usize) -> DType {
        let half = match self {
            HalfOperands::All => op.reads_half(place),
            // An epilogue's operands follow two factors.
            HalfOperands::Results => op.reads_half(place) && op.filter_copy(place).is_none() && place >= 2,
            HalfOperands::Operands => op.reads_half(place) && op.filter_copy(place).is_none(),
            HalfOperands::First => place == 0,
            HalfOperands::Second => place == 1,
        };
        if half { DType::F16 } else { DType::F32 }
    }

    /// Type of a result.
    pub fn output(self, op: &Op, place: usize) -> DType {
        let single = matches!(self, HalfOperands::Operands | HalfOperands::First | HalfOperands::Second);
        if !single && op.writes_half(place) { DType::F16 } else { DType::F32 }
    }
}

/// An operand in half precision: as it is, or the copy of a weight that the op reads.
pub fn operand(a: &Array, copy: Option<FilterCopy>) -> Array {
    let same = Array { dtype: DType::F16, ..a.clone() };
    if copy == Some(FilterCopy::Turned) { turned(&same) } else { same }
}

/// The turned copy of a weight `[k, kh, kw, c]` or `[out, in]`.
pub fn turned(w: &Array) -> Array {
    let [k, kh, kw, c] = match w.dims[..] {
        [k, kh, kw, c] => [k, kh, kw, c],
        [out, from] => [out, 1, 1, from],
        _ => panic!("a weight of {:?}", w.dims),
    };
    let mut dims = w.dims.clone();
    (dims[0], *dims.last_mut().unwrap()) = (c, k);
    let mut values = Vec::new();
    for channel in 0..c {
        for (row, column) in (0..kh).flat_map(|row| (0..kw).map(move |column| (row, column))) {
            let from = |filter: usize| ((filter * kh + kh - 1 - row) * kw + kw - 1 - column) * c + channel;
            values.extend((0..k).map(|filter| w.values[from(filter)]));
        }
    }
    Array { dims, values, ..w.clone() }
}

/// An expected result that is stored in half precision: `got` may be off by one rounding more.
pub fn off(expected: Sum, got: f64) -> f64 {
    let nearest = rounded(expected.value).to_f64();
    if got == nearest || got.is_nan() && nearest.is_nan() {
        return 0.0;
    }
    // Half the distance between neighbours: 2^-11 of the number, and 2^-25 of those that are subnormal.
    let rounding = (expected.value.abs() / 2048.0).max(0.5f64.powi(25));
    let error = (got - expected.value).abs();
    match expected.size {
        0.0 => f64::INFINITY,
        size => ((error - rounding) / size).max(0.0),
    }
}
