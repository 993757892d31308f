//! Linear layers.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};

impl Tape {
    /// [`Op::Linear`].
    pub fn linear(&mut self, x: Value, w: Value) -> Value {
        let (n, out) = (self.dims(x)[0], self.dims(w)[0]);
        let row: usize = self.dims(x)[1..].iter().product();
        assert_eq!(row, self.dims(w)[1], "linear: elements of a row of x {:?} and w {:?}", self.dims(x), self.dims(w));
        self.op(Op::Linear, &[x, w], &[n, out])
    }
}
