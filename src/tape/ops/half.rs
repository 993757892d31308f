//! Half-precision copies of weights.

use crate::tape::Op;
use crate::tape::graph::Tape;
use crate::tape::half::HalfFilter;

impl Tape {
    /// [`Op::PackFilters`], which writes both copies of a weight.
    pub fn pack_filters(&mut self, filter: &HalfFilter) {
        let [weight, plain, turned] = [&filter.weight, &filter.plain, &filter.turned].map(|buffer| self.leaf(buffer));
        self.push(Op::PackFilters, &[weight], &[plain, turned]);
    }
}
