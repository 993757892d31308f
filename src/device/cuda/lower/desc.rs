//! A node with its shapes: what a lowering looks at.

use crate::device::cuda::launch::Cost;
use crate::tape::{DType, Node, Op, Place, Program, Value};

/// A node with its shapes: what a lowering looks at.
pub(super) struct Desc<'a> {
    /// The op.
    pub op: &'a Op,
    /// Multiprocessors that work is spread over.
    pub multiprocessors: usize,
    program: &'a Program,
    node: &'a Node,
}

impl<'a> Desc<'a> {
    pub fn new(program: &'a Program, node: &'a Node, multiprocessors: usize) -> Desc<'a> {
        Desc { op: &node.op, multiprocessors, program, node }
    }

    /// Dimensions of an input.
    pub fn input(&self, i: usize) -> &'a [usize] {
        &self.program.values[self.node.inputs[i].0].dims
    }

    /// Dimensions of an output.
    pub fn output(&self, i: usize) -> &'a [usize] {
        &self.program.values[self.node.outputs[i].0].dims
    }

    /// How many inputs there are.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Element type of an input.
    pub fn input_dtype(&self, i: usize) -> DType {
        self.program.values[self.node.inputs[i].0].dtype
    }

    /// Element type of an output.
    pub fn output_dtype(&self, i: usize) -> DType {
        self.program.values[self.node.outputs[i].0].dtype
    }

    fn place(&self, value: Value) -> Place {
        self.program.places[value.0].expect("every operand has a place")
    }

    /// Whether an input's address is a multiple of 16 bytes, as a parameter's in the middle of a buffer may not be.
    pub fn input_aligned(&self, i: usize) -> bool {
        self.place(self.node.inputs[i]).offset.is_multiple_of(16)
    }

    /// Whether an output's address is a multiple of 16 bytes.
    pub fn output_aligned(&self, i: usize) -> bool {
        self.place(self.node.outputs[i]).offset.is_multiple_of(16)
    }

    /// Whether the address of every operand is a multiple of 16 bytes.
    pub fn aligned(&self) -> bool {
        self.aligned_to(16)
    }

    /// Whether the address of every operand is a multiple of `bytes`.
    pub fn aligned_to(&self, bytes: usize) -> bool {
        self.node.inputs.iter().chain(&self.node.outputs).all(|v| self.place(*v).offset.is_multiple_of(bytes))
    }

    /// Bytes of all operands, each once.
    pub fn bytes(&self) -> u64 {
        self.node.inputs.iter().chain(&self.node.outputs).map(|v| self.place(*v).bytes as u64).sum()
    }

    /// As [`Desc::cost`], where outputs are updated: they are read, too.
    pub fn cost_of_update(&self, flops: u64) -> Cost {
        let read: u64 = self.node.outputs.iter().map(|v| self.place(*v).bytes as u64).sum();
        Cost { bytes: self.bytes() + read, flops }
    }

    /// The cost of touching every operand once, with `flops` operations.
    pub fn cost(&self, flops: u64) -> Cost {
        Cost { bytes: self.bytes(), flops }
    }
}

/// Rows there is room for, and elements of each.
pub(super) fn rows_of(dims: &[usize]) -> (usize, usize) {
    (dims[0], dims[1..].iter().product())
}
