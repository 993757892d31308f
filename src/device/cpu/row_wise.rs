//! Row-wise ops: the CPU computes their steps one after another, each on all rows.

use crate::tape::Node;

/// Calls `compute` for each step of the op.
pub(super) fn row_wise(node: &Node, compute: impl FnMut(&Node)) {
    node.steps().iter().for_each(compute);
}
