//! Order in which training visits examples.
//!
//! Owns: the examples of each step, as a function of the seed, the number of examples and the batch size. No random
//! number depends on the one before it, so a resumed run needs only the number of its step.
//!
//! Refuses: to touch images. A batch is a list of indices, which are also the keys of the margin table.

use crate::rng::{Purpose, philox};

/// Batches of a run. An epoch visits every example once; its last batch holds the remaining ones and may be smaller.
#[derive(Clone, Debug)]
pub struct Batches {
    seed: u64,
    n: u32,
    batch: usize,
    /// Last epoch used and its order of examples.
    cached: Option<(u32, Vec<u32>)>,
}

impl Batches {
    /// Batches of `batch` of `n` examples. Panics if either is 0, or `n` is 2^32 or more.
    pub fn new(seed: u64, n: usize, batch: usize) -> Self {
        assert!(n > 0 && batch > 0, "{n} examples in batches of {batch}");
        Batches { seed, n: u32::try_from(n).expect("fewer than 2^32 examples"), batch, cached: None }
    }

    /// Number of steps of an epoch, including that of a last, partial batch.
    pub fn steps_per_epoch(&self) -> usize {
        (self.n as usize).div_ceil(self.batch)
    }

    /// Epoch, counted from 0, to which `step` belongs.
    pub fn epoch_of(&self, step: u32) -> u32 {
        (step as usize / self.steps_per_epoch()) as u32
    }

    /// Number of examples that the first `steps` steps visit.
    pub fn visited(&self, steps: u32) -> u64 {
        let rest = (steps as usize % self.steps_per_epoch() * self.batch) as u64;
        u64::from(self.epoch_of(steps)) * u64::from(self.n) + rest
    }

    /// Indices of the examples of `step`, counted from 0; each is below `n`.
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
