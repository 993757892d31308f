//! Elementwise ops, and biases.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::DType;

impl Tape {
    /// [`Op::BytesToUnit`].
    pub fn bytes_to_unit(&mut self, bytes: Value) -> Value {
        assert_eq!(self.dtype(bytes), DType::U8, "bytes_to_unit");
        self.same(Op::BytesToUnit, &[bytes])
    }

    /// [`Op::Copy`].
    pub fn copy(&mut self, a: Value) -> Value {
        self.same(Op::Copy, &[a])
    }

    /// [`Op::Fill`].
    pub fn fill(&mut self, value: f32, dims: &[usize]) -> Value {
        self.op(Op::Fill { value }, &[], dims)
    }

    /// [`Op::Add`].
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        assert_eq!(self.dims(a), self.dims(b), "add: a and b");
        self.same(Op::Add, &[a, b])
    }

    /// [`Op::Scale`].
    pub fn scale(&mut self, a: Value, factor: f32) -> Value {
        self.same(Op::Scale { factor }, &[a])
    }

    /// [`Op::ClampMin`].
    pub fn clamp_min(&mut self, a: Value, least: f32) -> Value {
        self.same(Op::ClampMin { least }, &[a])
    }

    /// [`Op::AddBias`].
    pub fn add_bias(&mut self, x: Value, bias: Value) -> Value {
        assert_eq!(self.dims(x).last(), Some(&self.dims(bias)[0]), "add_bias: last dimension of x and bias");
        self.same(Op::AddBias, &[x, bias])
    }

    /// [`Op::Relu`].
    pub fn relu(&mut self, x: Value) -> Value {
        self.same(Op::Relu, &[x])
    }
}
