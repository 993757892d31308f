//! Ops on whole images: augmentation, standardization, the mean over pixels.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::DType;

impl Tape {
    /// [`Op::DrawAugmentation`].
    pub fn draw_augmentation(&mut self, seed: u64, reach: u32, step: Value, index: Value) -> Value {
        let n = self.dims(index)[0];
        let choice = self.value(&[n, 3], DType::U32, None);
        self.push(Op::DrawAugmentation { seed, reach }, &[step, index], &[choice]);
        choice
    }

    /// [`Op::GatherAugmented`].
    pub fn gather_augmented(&mut self, reach: u32, src: Value, index: Value, choice: Value) -> Value {
        let n = self.dims(index)[0];
        assert_eq!(self.dims(choice), [n, 3], "gather_augmented: three choices a row");
        let &[_, h, w, c] = self.dims(src) else { panic!("gather_augmented: src {:?}", self.dims(src)) };
        assert!((reach as usize) < h.min(w), "gather_augmented: {reach} pixels around an image of {h} x {w}");
        assert_eq!(self.dtype(src), DType::U8, "gather_augmented: images are bytes");
        let out = self.value(&[n, h, w, c], DType::U8, None);
        self.push(Op::GatherAugmented { reach }, &[src, index, choice], &[out]);
        out
    }

    /// [`Op::Standardize`]; returns the standardized images.
    pub fn standardize(&mut self, x: Value) -> Value {
        let dims = self.dims(x).to_vec();
        let (out, deviation) = (self.value(&dims, DType::F32, None), self.value(&dims[..1], DType::F32, None));
        self.push(Op::Standardize, &[x], &[out, deviation]);
        out
    }

    /// [`Op::GlobalMean`].
    pub fn global_mean(&mut self, x: Value) -> Value {
        let &[n, _, _, c] = self.dims(x) else { panic!("global_mean: x {:?}", self.dims(x)) };
        self.op(Op::GlobalMean, &[x], &[n, c])
    }
}
