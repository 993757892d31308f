//! Ops that gather, scatter and select rows.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::Buffer;

impl Tape {
    /// [`Op::GatherRows`].
    pub fn gather_rows(&mut self, src: Value, index: Value) -> Value {
        let mut dims = self.dims(src).to_vec();
        dims[0] = self.dims(index)[0];
        let out = self.value(&dims, self.dtype(src), None);
        self.push(Op::GatherRows, &[src, index], &[out]);
        out
    }

    /// [`Op::ScatterRows`].
    pub fn scatter_rows(&mut self, dst: &Buffer, src: Value, index: Value) {
        let dst = self.leaf(dst);
        assert_eq!(self.dims(dst)[1..], self.dims(src)[1..], "scatter_rows: dst and src");
        self.push(Op::ScatterRows, &[src, index], &[dst]);
    }

    /// [`Op::SelectNegative`]: writes the indices of the negative values to `selected` and their number to `count`.
    pub fn select_negative(&mut self, values: Value, selected: &Buffer, count: &Buffer) {
        let (selected, count) = (self.leaf(selected), self.leaf(count));
        assert_eq!(self.dims(values), self.dims(selected), "select_negative");
        self.push(Op::SelectNegative, &[values], &[selected, count]);
    }
}
