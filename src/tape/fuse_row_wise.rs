//! Fusion of small ops on the rows of a batch: neighbours on the tape become one [`Op::RowWise`], which is one launch.
//! Alone, each of them takes a GPU the time of a launch and hardly any work.
//!
//! On a GPU a block computes one row, all steps in turn, and blocks do not wait for each other. So a step may read or
//! write row `i` of what another step of the op writes, but no other rows of it.

use super::graph::{Node, Tape, Value};
use super::memory::DType;
use super::op::{Op, RowWiseStep};
use super::params::Direction;

/// Steps of an [`Op::RowWise`], at most.
pub const ROW_WISE_STEPS: usize = 8;
/// Operands and results of an [`Op::RowWise`], at most.
pub const ROW_WISE_OPERANDS: usize = 24;
/// Outputs of a linear layer, at most, for which it is a row-wise op: a block is enough for a row.
pub const ROW_WISE_OUTPUTS: usize = 16;

/// An access of a node to a value.
struct Access {
    value: Value,
    /// True if block `i` accesses row `i` alone.
    by_row: bool,
    writes: bool,
}

impl Op {
    /// True if the op may be a step of [`Op::RowWise`]: row `i` of its results depends on row `i` of its operands,
    /// except those that [`Op::accesses_by_row`] names.
    fn is_row_wise(&self) -> bool {
        match self {
            Op::GatherRows
            | Op::ScatterRows
            | Op::BytesToUnit
            | Op::Copy
            | Op::Fill { .. }
            | Op::Scale { .. }
            | Op::ClampMin { .. }
            | Op::Loss(_)
            | Op::LossBackward(_)
            | Op::MeanWeights
            | Op::HingeWeights { .. }
            | Op::Uniform { .. }
            | Op::PgdStart(_)
            | Op::Bisect { .. }
            | Op::GlobalMean
            | Op::LinearBias { relu: false } => true,
            Op::AlongDirection(rule) => rule.direction == Direction::Eps,
            _ => false,
        }
    }

    /// True if a row-wise op accesses row `i` alone of operand or result number `place` when it computes row `i`.
    fn accesses_by_row(&self, place: usize, writes: bool) -> bool {
        let whole = match self {
            Op::GatherRows | Op::Uniform { .. } => !writes && place == 0,
            Op::LinearBias { .. } => !writes && place > 0,
            Op::ScatterRows => writes,
            _ => false,
        };
        !whole
    }
}

impl Tape {
    /// Fuses neighbours on the tape, up to [`ROW_WISE_STEPS`]. Called last: it changes neither values nor their types.
    pub(super) fn fuse_row_wise(&mut self) {
        if !self.fusing {
            return;
        }
        let mut steps: Vec<Node> = Vec::new();
        for node in std::mem::take(&mut self.nodes) {
            if !self.joins(&steps, &node) {
                self.push_row_wise(std::mem::take(&mut steps));
            }
            if self.is_row_wise(&node) {
                steps.push(node);
            } else {
                self.nodes.push(node);
            }
        }
        self.push_row_wise(steps);
    }

    /// Adds the steps to the tape as one node.
    fn push_row_wise(&mut self, mut steps: Vec<Node>) {
        if steps.len() < 2 {
            return self.nodes.append(&mut steps);
        }
        let (inputs, outputs) = operands(&steps);
        let number = |value: &Value| {
            let place = inputs.iter().chain(&outputs).position(|other| other == value);
            place.expect("it is an operand of a step")
        };
        let rows = steps[0].rows;
        let steps = steps.iter().map(|step| RowWiseStep {
            op: step.op.clone(),
            inputs: step.inputs.iter().map(number).collect(),
            outputs: step.outputs.iter().map(number).collect(),
        });
        self.nodes.push(Node { op: Op::RowWise(steps.collect()), inputs, outputs, rows });
    }

    /// True if the node may be a step: it is row-wise and small, has a count of active rows, and no operand is half but
    /// the features that a network's head reads.
    fn is_row_wise(&self, node: &Node) -> bool {
        let is_layer = matches!(node.op, Op::LinearBias { .. });
        let features = usize::from(is_layer || node.op == Op::GlobalMean);
        let single = |value: &Value| self.dtype(*value) != DType::F16;
        node.op.is_row_wise()
            && node.rows.is_some()
            && node.inputs[features..].iter().chain(&node.outputs).all(single)
            && (!is_layer || self.dims(node.outputs[0])[1] <= ROW_WISE_OUTPUTS)
    }

    /// True if the node may follow `steps` in their op.
    fn joins(&self, steps: &[Node], node: &Node) -> bool {
        let Some(first) = steps.first() else { return true };
        let all = [steps, std::slice::from_ref(node)].concat();
        let (inputs, outputs) = operands(&all);
        let conflicts = |a: &Access, b: &Access| {
            let one_row = a.value == b.value && a.by_row && b.by_row;
            (a.writes || b.writes) && !one_row && self.overlap(a.value, b.value)
        };
        self.is_row_wise(node)
            && node.rows == first.rows
            && self.capacity(node) == self.capacity(first)
            && steps.len() < ROW_WISE_STEPS
            && inputs.len() + outputs.len() <= ROW_WISE_OPERANDS
            && steps.iter().flat_map(accesses).all(|a| accesses(node).all(|b| !conflicts(&a, &b)))
    }

    /// Number of rows of a row-wise node.
    fn capacity(&self, node: &Node) -> usize {
        let of_row = accesses(node).find(|access| access.by_row).expect("a row-wise op accesses rows");
        self.dims(of_row.value)[0]
    }

    /// True if two values share memory: they are one, or parts of buffers that overlap.
    fn overlap(&self, a: Value, b: Value) -> bool {
        let bytes =
            |value: Value| self.values[value.0].home.as_ref().map(|home| home.offset..home.offset + home.bytes());
        a == b || matches!((bytes(a), bytes(b)), (Some(a), Some(b)) if a.start < b.end && b.start < a.end)
    }
}

/// Accesses of a node.
fn accesses(node: &Node) -> impl Iterator<Item = Access> + '_ {
    let access = |writes: bool| {
        move |(place, value): (usize, &Value)| Access {
            value: *value,
            by_row: node.op.accesses_by_row(place, writes),
            writes,
        }
    };
    node.inputs.iter().enumerate().map(access(false)).chain(node.outputs.iter().enumerate().map(access(true)))
}

/// Values that no step writes, and values that a step writes, in the order of the steps.
fn operands(steps: &[Node]) -> (Vec<Value>, Vec<Value>) {
    let (mut inputs, mut outputs): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for value in steps.iter().flat_map(|step| &step.outputs) {
        if !outputs.contains(value) {
            outputs.push(*value);
        }
    }
    for value in steps.iter().flat_map(|step| &step.inputs) {
        if !outputs.contains(value) && !inputs.contains(value) {
            inputs.push(*value);
        }
    }
    (inputs, outputs)
}

#[cfg(test)]
#[path = "fuse_row_wise_tests.rs"]
mod tests;
