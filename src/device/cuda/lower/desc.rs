//! The view of a node that a lowering has: op, shapes and alignment.

use super::element_types::{ElementTypes, no_kernel};
use crate::device::cuda::launch::{Arg, Cost};
use crate::tape::{DType, Node, Op, Place, Program, Value};

/// A node with its shapes and the alignment of its operands.
pub(super) struct Desc<'a> {
    /// Op of the node.
    pub op: &'a Op,
    /// Number of multiprocessors of the GPU.
    pub multiprocessors: usize,
    /// Element types of the operands and results.
    pub types: ElementTypes,
    program: &'a Program,
    node: &'a Node,
}

impl<'a> Desc<'a> {
    /// # Panics
    /// The op has no kernel for the types of its operands. Programs with such ops are refused before they are lowered.
    pub fn new(program: &'a Program, node: &'a Node, multiprocessors: usize) -> Desc<'a> {
        let types = ElementTypes::of(program, node).unwrap_or_else(|| panic!("{}", no_kernel(program, node)));
        Desc { op: &node.op, multiprocessors, types, program, node }
    }

    /// Dimensions of an input.
    pub fn input(&self, i: usize) -> &'a [usize] {
        &self.program.values[self.node.inputs[i].0].dims
    }

    /// Dimensions of an output.
    pub fn output(&self, i: usize) -> &'a [usize] {
        &self.program.values[self.node.outputs[i].0].dims
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Number of the output that takes a product's results: the last one, but those of batch norm in training mode.
    pub fn result(&self) -> usize {
        match self.op {
            Op::Conv2dFused(fusion) => usize::from(fusion.sum && fusion.norm),
            Op::Conv2dFusedBackwardInput(_) => 0,
            _ => self.outputs() - 1,
        }
    }

    /// Element type of an input.
    pub fn input_dtype(&self, i: usize) -> DType {
        self.program.values[self.node.inputs[i].0].dtype
    }

    /// Element type of an output.
    pub fn output_dtype(&self, i: usize) -> DType {
        self.program.values[self.node.outputs[i].0].dtype
    }

    /// `half` if the results are half, else `single`: kernels of the results' precision.
    pub fn by_result<T>(&self, single: T, half: T) -> T {
        if self.output_dtype(0) == DType::F16 { half } else { single }
    }

    fn place(&self, value: Value) -> Place {
        self.program.places[value.0].expect("every operand has a place")
    }

    /// True if an input's address is a multiple of 16 bytes. A parameter in the middle of a buffer may have another
    /// one.
    pub fn input_aligned(&self, i: usize) -> bool {
        self.place(self.node.inputs[i]).offset.is_multiple_of(16)
    }

    /// True if an output's address is a multiple of 16 bytes.
    pub fn output_aligned(&self, i: usize) -> bool {
        self.place(self.node.outputs[i]).offset.is_multiple_of(16)
    }

    /// True if the address of every operand is a multiple of 16 bytes.
    pub fn aligned(&self) -> bool {
        self.aligned_to(16)
    }

    /// True if the address of every operand is a multiple of `bytes`.
    pub fn aligned_to(&self, bytes: usize) -> bool {
        self.node.inputs.iter().chain(&self.node.outputs).all(|v| self.place(*v).offset.is_multiple_of(bytes))
    }

    /// Size of all operands in bytes, each counted once.
    pub fn bytes(&self) -> u64 {
        self.node.inputs.iter().chain(&self.node.outputs).map(|v| self.place(*v).bytes as u64).sum()
    }

    /// Size of an input in bytes.
    pub fn input_bytes(&self, i: usize) -> u64 {
        self.place(self.node.inputs[i]).bytes as u64
    }

    /// Cost of an op that updates its outputs: it reads them, too.
    pub fn cost_of_update(&self, flops: u64) -> Cost {
        let read: u64 = self.node.outputs.iter().map(|v| self.place(*v).bytes as u64).sum();
        Cost { bytes: self.bytes() + read, flops }
    }

    /// Cost of reading or writing every operand once, with `flops` operations.
    pub fn cost(&self, flops: u64) -> Cost {
        Cost { bytes: self.bytes(), flops }
    }
}

/// Capacity in rows, and number of elements of a row.
pub(super) fn rows_of(dims: &[usize]) -> (usize, usize) {
    (dims[0], dims[1..].iter().product())
}

/// Inputs of an op in their order, of which some are optional.
pub(super) struct InputCursor(pub usize);

impl InputCursor {
    /// The next `N` inputs, or as many null operands.
    pub fn next<const N: usize>(&mut self, present: bool) -> [Arg; N] {
        [(); N].map(|()| {
            self.0 += usize::from(present);
            if present { Arg::Input(self.0 - 1) } else { Arg::Null }
        })
    }
}
