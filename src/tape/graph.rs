//! The tape: values, and the ops that compute them.

use super::half::{HalfFilter, HalfGradients};
use super::memory::{Buffer, DType};
use super::op::{Op, RowWiseStep};

/// A value on a tape: what a buffer holds, or what an op computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) usize);

/// Shape, type and storage of a value.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// Dimensions, the slowest first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// Buffer that holds the value; `None`: the memory plan gives it a place in the workspace.
    pub home: Option<Buffer>,
}

/// One op with its operands.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Values read.
    pub inputs: Vec<Value>,
    /// Values written. A buffer among them is updated.
    pub outputs: Vec<Value>,
    /// Number of active rows, u32 `[1]`; `None`: all rows are active.
    pub rows: Option<Value>,
}

impl Node {
    /// Steps of an [`Op::RowWise`], each as a node of its own; of another op, none.
    pub fn steps(&self) -> Vec<Node> {
        let Op::RowWise(steps) = &self.op else { return Vec::new() };
        let value = |number: &usize| self.inputs.iter().chain(&self.outputs).nth(*number).copied();
        let values = |numbers: &[usize]| numbers.iter().filter_map(value).collect();
        let node = |step: &RowWiseStep| Node {
            op: step.op.clone(),
            inputs: values(&step.inputs),
            outputs: values(&step.outputs),
            rows: self.rows,
        };
        steps.iter().map(node).collect()
    }
}

/// A computation, recorded op by op in the order in which it will run.
#[derive(Clone, Debug)]
pub struct Tape {
    pub(crate) name: String,
    pub(crate) values: Vec<ValueInfo>,
    pub(crate) nodes: Vec<Node>,
    pub(super) rows: Option<Value>,
    pub(super) fusing: bool,
    /// Half-precision copies of weights, and the scale of gradients, of a tape that stores values in half precision.
    pub(super) half: Option<(Vec<HalfFilter>, HalfGradients)>,
}

impl Tape {
    /// An empty tape, called `name` in printed programs.
    pub fn new(name: &str) -> Tape {
        Tape { name: name.into(), values: Vec::new(), nodes: Vec::new(), rows: None, fusing: true, half: None }
    }

    /// Sets the number of active rows of the ops recorded from here on: the content of `rows`, u32 `[1]`, when they
    /// run.
    pub fn set_rows(&mut self, rows: &Buffer) {
        let rows = self.leaf(rows);
        assert_eq!((self.dims(rows), self.dtype(rows)), (&[1][..], DType::U32), "the number of active rows is u32 [1]");
        self.rows = Some(rows);
    }

    /// Turns fusion off: the program has every op as it was recorded. Tests compare fused programs with such a program.
    pub fn without_fusion(mut self) -> Tape {
        self.fusing = false;
        self
    }

    /// The value that a buffer holds.
    pub fn leaf(&mut self, buffer: &Buffer) -> Value {
        let known = self.values.iter().position(|v| v.home.as_ref() == Some(buffer));
        known.map_or_else(|| self.value(&buffer.dims, buffer.dtype, Some(buffer.clone())), Value)
    }

    /// Stores `value` in `buffer`: the op that computes it writes there.
    ///
    /// # Panics
    /// If the shapes or types differ, or if the value has a buffer.
    pub fn keep(&mut self, value: Value, buffer: &Buffer) {
        let info = &mut self.values[value.0];
        assert_eq!((&info.dims, info.dtype), (&buffer.dims, buffer.dtype), "{} keeps a value", buffer.name);
        assert!(info.home.is_none(), "{} keeps a value that has a buffer", buffer.name);
        info.home = Some(buffer.clone());
    }

    /// Dimensions of a value.
    pub fn dims(&self, value: Value) -> &[usize] {
        &self.values[value.0].dims
    }

    /// Element type of a value.
    pub fn dtype(&self, value: Value) -> DType {
        self.values[value.0].dtype
    }

    /// The recorded ops.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a value.
    pub(crate) fn value(&mut self, dims: &[usize], dtype: DType, home: Option<Buffer>) -> Value {
        self.values.push(ValueInfo { dims: dims.to_vec(), dtype, home });
        Value(self.values.len() - 1)
    }

    /// Records `op` with the current number of active rows.
    pub(crate) fn push(&mut self, op: Op, inputs: &[Value], outputs: &[Value]) {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.to_vec(), rows: self.rows });
    }

    /// Records an op whose result is f32 of shape `dims`.
    pub(super) fn op(&mut self, op: Op, inputs: &[Value], dims: &[usize]) -> Value {
        let out = self.value(dims, DType::F32, None);
        self.push(op, inputs, &[out]);
        out
    }

    /// Records an op whose result has the shape of its first input.
    pub(super) fn same(&mut self, op: Op, inputs: &[Value]) -> Value {
        let dims = self.dims(inputs[0]).to_vec();
        self.op(op, inputs, &dims)
    }

    /// Checks that `value` is `[n]`; `what` is the op that a panic names.
    pub(super) fn per_row(&self, value: Value, n: usize, what: &str) {
        assert_eq!(self.dims(value), [n], "{what}: one value a row");
    }
}
