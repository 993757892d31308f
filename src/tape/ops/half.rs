//! Half-precision copies of weights.

use crate::tape::Op;
use crate::tape::graph::Tape;
use crate::tape::half::{HalfFilter, PACKED_FILTERS};

impl Tape {
    /// [`Op::PackFilters`], which writes both copies of each weight.
    pub fn pack_filters(&mut self, filters: &[HalfFilter]) {
        for filters in filters.chunks(PACKED_FILTERS) {
            let weights: Vec<_> = filters.iter().map(|filter| self.leaf(&filter.weight)).collect();
            let copies = filters.iter().flat_map(|filter| [&filter.plain, &filter.turned]);
            let copies: Vec<_> = copies.map(|buffer| self.leaf(buffer)).collect();
            self.push(Op::PackFilters, &weights, &copies);
        }
    }
}
