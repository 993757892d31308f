//! Ranges of the numbers in settings and flags. Every range stands here.
//!
//! The largest numbers are far above those of any experiment, and far below those that a machine cannot hold or a day
//! cannot compute: a number beyond them is a slip of the keyboard. Memory is checked apart, when a device allocates it.

use crate::tape::{Loss, MAX_LEARNING_RATES};

/// A range of a number's, or another value's, values.
#[derive(Clone, Copy, Debug)]
pub struct Range<T: 'static> {
    /// Tells if a value is in the range.
    pub contains: fn(&T) -> bool,
    /// The range in words, after "expected".
    pub expected: &'static str,
}

/// Declares ranges of whole numbers.
macro_rules! whole_numbers {
    ($($(#[doc = $doc:literal])+ $NAME:ident: $Type:ty = $least:literal to $most:literal;)+) => {$(
        $(#[doc = $doc])+
        pub const $NAME: Range<$Type> = Range {
            contains: |number| ($least..=$most).contains(number),
            expected: concat!("a whole number from ", $least, " to ", $most),
        };
    )+};
}

whole_numbers! {
    /// CPU threads.
    THREADS: usize = 1 to 1024;
    /// Images of a part of a data set.
    IMAGES: usize = 1 to 1_000_000;
    /// Images of a batch.
    BATCH: usize = 1 to 65_536;
    /// Training steps.
    STEPS: u32 = 1 to 100_000_000;
    /// Training steps, or none.
    STEPS_OR_NONE: u32 = 0 to 100_000_000;
    /// Iterations of PGD in training.
    ITERATIONS: u32 = 1 to 100_000;
    /// Steps of a bisection. Single precision tells no points apart after some 30.
    BISECTIONS: u32 = 1 to 100;
    /// Iterations of an attack in an evaluation, and queries of Square.
    QUERIES: u32 = 1 to 1_000_000;
    /// Random starts of an attack.
    RESTARTS: u32 = 1 to 10_000;
    /// Samples of SPSA for a gradient.
    SAMPLES: u32 = 1 to 1_000_000;
    /// Millions of bytes of a tensor that a bench copies: elements are counted in 32 bits.
    MEGABYTES: usize = 1 to 4096;
    /// Rows of a matrix product that a bench times.
    PRODUCT: usize = 1 to 32_768;
    /// Measurements of an item of a bench.
    ROUNDS: usize = 1 to 10_000;
    /// Multiprocessors of a GPU.
    MULTIPROCESSORS: usize = 1 to 1024;
}

/// Lengths, steps and rates.
pub const POSITIVE: Range<f32> = Range { contains: is_positive, expected: "a positive number" };

/// Lengths that may be 0.
pub const NOT_NEGATIVE: Range<f32> =
    Range { contains: |value| value.is_finite() && *value >= 0.0, expected: "a number that is not negative" };

/// Multiples of a length.
pub const SCALE: Range<f32> =
    Range { contains: |value| is_positive(value) && *value <= 1e3, expected: "a positive number up to 1000" };

/// Weights of a loss, and confidences.
pub const WEIGHT: Range<f32> =
    Range { contains: |value| (0.0..=1e6).contains(value), expected: "a number from 0 to 1000000" };

/// Factors of a loss that change no digit of its gradient.
pub const LOSS_SCALE: Range<f32> = Range {
    contains: |scale| (1.0..=16_777_216.0).contains(scale) && scale.log2().fract() == 0.0,
    expected: "a power of two from 1 to 16777216",
};

/// Weight decays.
pub const DECAY: Range<f32> = Range { contains: |value| (0.0..=1.0).contains(value), expected: "a number from 0 to 1" };

/// Fractions below 1.
pub const FRACTION: Range<f32> =
    Range { contains: |value| (0.0..1.0).contains(value), expected: "a number from 0 up to, not including, 1" };

/// Numbers of images, where there may be no limit.
pub const SIZE: Range<Option<usize>> =
    Range { contains: |size| size.is_none_or(|size| (IMAGES.contains)(&size)), expected: IMAGES.expected };

/// Losses to train with. dlr's denominator changes with the weights: to descend it may raise what the other losses
/// measure.
pub const TRAINING_LOSS: Range<Loss> =
    Range { contains: |loss| *loss != Loss::Dlr, expected: "xent, slm, lm or cw: dlr is a loss to attack with" };

/// Losses whose zero is the decision boundary.
pub const SIGNED_LOSS: Range<Loss> = Range {
    contains: |loss| matches!(loss, Loss::Slm | Loss::Lm),
    expected: "slm or lm, whose sign says on which side of the boundary an image is",
};

/// Range of a schedule of learning rates.
pub type LearningRates = Range<Vec<(u32, f32)>>;

/// Schedules whose first rate is that of the first step.
pub const FROM_STEP_0: LearningRates = Range {
    contains: |rates| rates.first().is_some_and(|first| first.0 == 0),
    expected: "a first rate from step 0, such as 0:0.3,20000:0.09",
};

/// Schedules in the order of the steps.
pub const ASCENDING_STEPS: LearningRates = Range {
    contains: |rates| rates.windows(2).all(|pair| pair[0].0 < pair[1].0),
    expected: "steps that ascend, each once",
};

/// Schedules of rates that descend.
pub const POSITIVE_RATES: LearningRates =
    Range { contains: |rates| rates.iter().all(|(_, rate)| is_positive(rate)), expected: "positive rates" };

/// Schedules that the optimizer's kernels take.
pub const FEW_RATES: LearningRates = Range {
    contains: |rates| rates.len() <= MAX_LEARNING_RATES,
    expected: "at most 32 rates, as many as the optimizer's kernels take",
};
const _: () = assert!(MAX_LEARNING_RATES == 32, "FEW_RATES names the number");

fn is_positive(value: &f32) -> bool {
    value.is_finite() && *value > 0.0
}
