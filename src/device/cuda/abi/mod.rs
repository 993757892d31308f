//! The interface between Rust and the kernels: constants, numberings and layouts of arguments that both sides use.
//!
//! `declarations.rs` declares each of them once. This file makes Rust items of the declarations; `build.rs` makes the
//! header `abi.cuh` of them through `header.rs`. The header asserts the size of every struct and the offset of every
//! member, so a difference between the two compilers' layouts ends the build.

use bytemuck::{Pod, Zeroable};

use super::arg::{Arg, KernelStruct};
use crate::rng;
use crate::tape::{self, Metric, formula, gradient_norm};

macro_rules! abi {
    () => {};
    ($(#[doc = $doc:literal])* const $name:ident: $type:ty = $value:expr; $($rest:tt)*) => {
        $(#[doc = $doc])*
        pub const $name: $type = $value;
        abi! { $($rest)* }
    };
    ($(#[doc = $doc:literal])* enum $name:ident { $($variant:ident,)* } $($rest:tt)*) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(super) enum $name { $($variant,)* }
        abi! { $($rest)* }
    };
    ($(#[doc = $doc:literal])* struct $name:ident {
        $($(#[doc = $member_doc:literal])* $member:ident: $type:ty,)*
    } $($rest:tt)*) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
        #[repr(C)]
        pub(super) struct $name { $($(#[doc = $member_doc])* pub $member: $type,)* }
        impl KernelStruct for $name {
            const NAME: &'static str = stringify!($name);
        }
        abi! { $($rest)* }
    };
    ($(#[doc = $doc:literal])* operands $name:ident {
        $($(#[doc = $member_doc:literal])* $member:ident: $type:ty,)*
    } $($rest:tt)*) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct $name { $($(#[doc = $member_doc])* pub $member: Arg,)* }
        impl Default for $name {
            fn default() -> $name {
                $name { $($member: <$type as OperandMember>::absent(),)* }
            }
        }
        impl From<$name> for Arg {
            fn from(operands: $name) -> Arg {
                Arg::Members(stringify!($name), vec![$(operands.$member,)*])
            }
        }
        abi! { $($rest)* }
    };
}

include!("declarations.rs");

/// A type of a member of `operands`, as C++ declares it.
trait OperandMember {
    /// The argument that stands for a missing operand.
    fn absent() -> Arg;
}

impl<T> OperandMember for *const T {
    fn absent() -> Arg {
        Arg::Null
    }
}

impl<T> OperandMember for *mut T {
    fn absent() -> Arg {
        Arg::Null
    }
}

impl<T, const N: usize> OperandMember for [*const T; N] {
    fn absent() -> Arg {
        Arg::Members("pointers", vec![Arg::Null; N])
    }
}

impl<T, const N: usize> OperandMember for [*mut T; N] {
    fn absent() -> Arg {
        Arg::Members("pointers", vec![Arg::Null; N])
    }
}

impl OperandMember for i32 {
    fn absent() -> Arg {
        Arg::Int(0)
    }
}

impl<T: KernelStruct> OperandMember for T {
    fn absent() -> Arg {
        Arg::of(T::zeroed())
    }
}

// Numbers that the tape and the random numbers define for every device.
const _: () = {
    assert!(BATCH_NORM_EPS == tape::BATCH_NORM_EPS && BATCH_NORM_MOMENTUM == tape::BATCH_NORM_MOMENTUM);
    assert!(MOST_STEP_CHANNELS == tape::MOST_STEP_CHANNELS);
    assert!(FIRST_LAYER_FILTERS == tape::FIRST_LAYER_FILTERS);
    assert!(PAIR_SIDE == tape::PAIR_SIDE && PAIR_WIDTH == tape::PAIR_WIDTH);
    assert!(PAIR_FIRST == tape::PAIR_FILTERS[0] && PAIR_SECOND == tape::PAIR_FILTERS[1]);
    assert!(GRADIENT_NORM == tape::GRADIENT_NORM);
    assert!(LEAST_GRADIENT_NORM == gradient_norm::LEAST_GRADIENT_NORM);
    assert!(NO_CHOICE == tape::NO_CHOICE && MAX_LEARNING_RATES == tape::MAX_LEARNING_RATES);
    assert!(FORMULA_LENGTH == formula::FORMULA_LENGTH && FORMULA_DEPTH == formula::FORMULA_DEPTH);
    assert!(FORMULA_INPUTS == formula::FORMULA_INPUTS && FORMULA_INPUTS < TABLE_BY_ROW as usize);
    assert!(PACKED_FILTERS == tape::PACKED_FILTERS);
    assert!(ROW_WISE_STEPS == tape::ROW_WISE_STEPS && ROW_WISE_OPERANDS == tape::ROW_WISE_OPERANDS);
    assert!(PHILOX_ROUNDS == rng::PHILOX_ROUNDS);
    assert!(PHILOX_MULTIPLIER_0 == rng::PHILOX_MULTIPLIERS[0] && PHILOX_MULTIPLIER_1 == rng::PHILOX_MULTIPLIERS[1]);
    assert!(PHILOX_WEYL_0 == rng::PHILOX_WEYL[0] && PHILOX_WEYL_1 == rng::PHILOX_WEYL[1]);
    assert!(MetricPlace::Steps as usize == Metric::Steps as usize);
    assert!(MetricPlace::Examples as usize == Metric::Examples as usize);
    assert!(MetricPlace::MeanLoss as usize == Metric::MeanLoss as usize);
    assert!(MetricPlace::WeightedLoss as usize == Metric::WeightedLoss as usize);
    assert!(MetricPlace::Correct as usize == Metric::Correct as usize);
    assert!(MetricPlace::Eps as usize == Metric::Eps as usize);
    assert!(MetricPlace::ZeroWeights as usize == Metric::ZeroWeights as usize);
    assert!(MetricPlace::SkippedSteps as usize == Metric::SkippedSteps as usize);
    assert!(cfg!(target_endian = "little"), "arguments are passed to the driver as little-endian words");
};
