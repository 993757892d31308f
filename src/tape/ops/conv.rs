//! Convolution.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::params::ConvWindow;

/// Shape `[n, h', w', k]` of the convolution of x `[n, h, w, c]` with filters `[k, kh, kw, c]`.
fn conv_dims(x: &[usize], w: &[usize], window: ConvWindow) -> [usize; 4] {
    let (&[n, h, wide, c], &[k, kh, kw, wc]) = (x, w) else { panic!("conv2d: x {x:?}, w {w:?}") };
    assert_eq!(c, wc, "conv2d: channels of x {x:?} and w {w:?}");
    [n, window.outputs(h, kh), window.outputs(wide, kw), k]
}

impl Tape {
    /// [`Op::Conv2d`].
    pub fn conv2d(&mut self, x: Value, w: Value, window: ConvWindow) -> Value {
        let dims = conv_dims(self.dims(x), self.dims(w), window);
        self.op(Op::Conv2d(window), &[x, w], &dims)
    }
}
