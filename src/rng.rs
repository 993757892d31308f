//! Counter-based random numbers.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a key and a counter to
//! four 32-bit words. The key is the run's seed; the counter identifies the use of the number. So a number does not
//! depend on the numbers drawn before it: resuming a run needs the number of its step, not a generator's state, and
//! every device and thread gets the same bits.

/// Use of a random number. It is part of the counter, so different uses never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights: `example` is the parameter's position in the state dict.
    Init = 0,
    /// Order of the examples: `step` is the epoch.
    Order = 1,
    /// Random start of the attack within a training step.
    TrainStart = 2,
    /// Random start of the attack that measures margins: `step` is the training step, or always 0.
    MarginStart = 3,
    /// Random start of evaluation attacks: `step` is the restart.
    EvaluateStart = 4,
    /// Crop and flip of a training image.
    Augment = 5,
    /// Angle of the normal random start within a training step; the radius is that of [`Purpose::TrainStart`].
    TrainAngle = 6,
    /// Angle of a normal random start of evaluation attacks; the radius is that of [`Purpose::EvaluateStart`].
    EvaluateAngle = 7,
    /// Direction of an attack's step if the gradient is 0: `step` is the iteration.
    AttackDirection = 10,
    /// Signs along which SPSA takes differences: `step` is the pass.
    SpsaSigns = 11,
    /// First point of Square: `step` is the restart.
    SquareStart = 12,
    /// Query of Square: `step` is its number.
    SquareQuery = 13,
}

/// Four random words for `(seed, purpose, step, example, block)`. Element `e` of an example is word `e % 4` of block
/// `e / 4`.
pub fn philox(seed: u64, purpose: Purpose, step: u32, example: u32, block: u32) -> [u32; 4] {
    philox4x32_10([block, example, step, purpose as u32], [seed as u32, (seed >> 32) as u32])
}

/// Rounds of Philox4x32-10.
pub(crate) const PHILOX_ROUNDS: usize = 10;
/// Multipliers of the first and the third word of the counter.
pub(crate) const PHILOX_MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Addends of the words of the key, after each round.
pub(crate) const PHILOX_WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32 with ten rounds.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..PHILOX_ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(PHILOX_WEYL[0]), key[1].wrapping_add(PHILOX_WEYL[1])];
        }
        let a = u64::from(counter[0]) * u64::from(PHILOX_MULTIPLIERS[0]);
        let b = u64::from(counter[2]) * u64::from(PHILOX_MULTIPLIERS[1]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// Converts the upper 24 bits to a number in `[0, 1)`, exact in single precision.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Converts the upper 24 bits to a number in `[-1, 1)`, exact in single precision.
pub fn signed_unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0
}

/// Four independent numbers of the standard normal distribution (Box and Muller, 1958), from four words.
pub fn normal(words: [u32; 4]) -> [f32; 4] {
    let pair = |a: u32, b: u32| {
        // The argument lies in (0, 1], so its logarithm is finite.
        let radius = (-2.0 * ((f64::from(a) + 1.0) / 4_294_967_296.0).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(b) / 4_294_967_296.0;
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    let ([a, b], [c, d]) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
        assert_eq!(
            philox4x32_10([0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344], [0xA409_3822, 0x299F_31D0]),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn purposes_steps_examples_blocks_and_seeds_share_no_numbers() {
        let all = [
            philox(7, Purpose::Init, 1, 2, 3),
            philox(7, Purpose::Order, 1, 2, 3),
            philox(7, Purpose::Init, 2, 2, 3),
            philox(7, Purpose::Init, 1, 3, 3),
            philox(7, Purpose::Init, 1, 2, 4),
            philox(8, Purpose::Init, 1, 2, 3),
            philox(7 + (1 << 32), Purpose::Init, 1, 2, 3),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn units_reach_the_lower_end_of_their_range_and_not_the_upper() {
        assert_eq!((unit(0), signed_unit(0)), (0.0, -1.0));
        assert!(unit(!0) < 1.0 && signed_unit(!0) < 1.0);
    }
}
