//! Shapes of an op's operands, as the function that computes it sees them.

use std::borrow::Cow;

use crate::tape::{DType, Value, ValueInfo};

/// Dimensions and element type of an operand.
#[derive(Clone, Debug)]
pub(super) struct OperandShape<'a> {
    pub dims: Cow<'a, [usize]>,
    pub dtype: DType,
}

impl OperandShape<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Number of elements of a row.
    pub fn row(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// True if the elements are half-precision numbers.
    pub fn is_half(&self) -> bool {
        self.dtype == DType::F16
    }
}

/// Shapes of an op's operands and results, and its number of active rows.
#[derive(Clone, Debug)]
pub(super) struct OpShapes<'a> {
    pub inputs: Vec<OperandShape<'a>>,
    pub outputs: Vec<OperandShape<'a>>,
    /// `None`: all rows are active.
    pub active: Option<usize>,
}

impl<'a> OpShapes<'a> {
    /// Shapes of these values, all rows active.
    pub fn new(values: &'a [ValueInfo], inputs: &[Value], outputs: &[Value]) -> OpShapes<'a> {
        let shape = |value: &Value| {
            let info = &values[value.0];
            OperandShape { dims: Cow::Borrowed(&info.dims[..]), dtype: info.dtype }
        };
        let [inputs, outputs] = [inputs, outputs].map(|values| values.iter().map(shape).collect());
        OpShapes { inputs, outputs, active: None }
    }

    /// Shapes of some of the operands, with the same active rows.
    pub fn of(&self, inputs: &[OperandShape<'a>], outputs: &[OperandShape<'a>]) -> OpShapes<'a> {
        OpShapes { inputs: inputs.to_vec(), outputs: outputs.to_vec(), active: self.active }
    }

    /// Number of active rows, or the capacity: the first dimension of the first operand, or of the result if the op
    /// reads nothing.
    pub fn rows(&self) -> usize {
        let capacity = || self.inputs.first().unwrap_or(&self.outputs[0]).dims.first().copied().unwrap_or(1);
        self.active.unwrap_or_else(capacity)
    }
}
