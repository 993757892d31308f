//! 2x2 max-pooling.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::DType;

/// Shape of the 2x2 max-pool of x.
fn halved(x: &[usize]) -> [usize; 4] {
    let &[n, h, w, c] = x else { panic!("max_pool2d: x {x:?}") };
    assert!(h % 2 == 0 && w % 2 == 0, "max_pool2d: {h} x {w} is not even");
    [n, h / 2, w / 2, c]
}

impl Tape {
    /// [`Op::MaxPool2d`]; returns the maxima.
    pub fn max_pool2d(&mut self, x: Value) -> Value {
        let dims = halved(self.dims(x));
        let (out, choice) = (self.value(&dims, DType::F32, None), self.value(&dims, DType::U8, None));
        self.push(Op::MaxPool2d, &[x], &[out, choice]);
        out
    }
}
