//! The order in which training visits examples.
//!
//! Owns: which examples step `s` sees, as a function of the seed, the number of examples and the
//! batch size. Nothing is drawn one after the other, so a resumed run needs the step alone.
//!
//! Refuses: to touch images. A batch is a list of indices; the index keys the margin table too.

use crate::rng::{Purpose, philox};

/// The batches of a run. An epoch visits every example once; its last batch holds what remains.
#[derive(Clone, Debug)]
pub struct Batches {
    seed: u64,
    n: u32,
    batch: usize,
    /// The epoch last asked for, and its order.
    cached: Option<(u32, Vec<u32>)>,
}

impl Batches {
    /// Batches of `batch` out of `n` examples. Panics where either is 0, or `n` is 2^32 or more.
    pub fn new(seed: u64, n: usize, batch: usize) -> Self {
        assert!(n > 0 && batch > 0, "{n} examples in batches of {batch}");
        Batches { seed, n: u32::try_from(n).expect("fewer than 2^32 examples"), batch, cached: None }
    }

    /// Steps of an epoch, the last partial batch counted.
    pub fn steps_per_epoch(&self) -> usize {
        (self.n as usize).div_ceil(self.batch)
    }

    /// The epoch, counted from 0, that `step` belongs to.
    pub fn epoch_of(&self, step: u32) -> u32 {
        (step as usize / self.steps_per_epoch()) as u32
    }

    /// Indices, each below `n`, of the examples of `step`, counted from 0.
    pub fn at(&mut self, step: u32) -> &[u32] {
        let epoch = self.epoch_of(step);
        let start = step as usize % self.steps_per_epoch() * self.batch;
        let end = (start + self.batch).min(self.n as usize);
        let (seed, n) = (self.seed, self.n);
        let cached = self.cached.take().filter(|(known, _)| *known == epoch);
        let (_, order) = self.cached.insert(cached.unwrap_or_else(|| (epoch, permutation(seed, epoch, n))));
        &order[start..end]
    }
}

/// Fisher-Yates: position `i` swaps with one of `0..=i`, chosen by 64 random bits, whose bias is below
/// `n` / 2^64.
fn permutation(seed: u64, epoch: u32, n: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    for i in (1..n).rev() {
        let word = philox(seed, Purpose::Order, epoch, i, 0);
        let bits = u64::from(word[1]) << 32 | u64::from(word[0]);
        let j = (u128::from(bits) * u128::from(i + 1)) >> 64;
        order.swap(i as usize, j as usize);
    }
    order
}
