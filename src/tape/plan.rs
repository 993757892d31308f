//! Memory plan: a place for every value.
//!
//! A value lives from the op that computes it to the last op that reads it. Values whose lifetimes do not overlap share
//! places in one workspace. All programs of a device share that workspace, so its content is lost when a program ends.

use super::graph::{Node, Tape, ValueInfo};
use super::memory::{ALIGN_WORDS, DType};
use super::op::Op;

/// Region of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// Buffers, which live from program to program.
    Persistent,
    /// Values of the running program.
    Workspace,
}

/// Location of a value in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Region.
    pub region: Region,
    /// First byte, counted from the start of the region.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// A finished tape, which a device runs. Every value has a place.
#[derive(Clone, Debug)]
pub struct Program {
    /// The tape's name.
    pub name: String,
    /// The ops, in the order in which they run.
    pub nodes: Vec<Node>,
    /// Shape, type and storage of each value.
    pub values: Vec<ValueInfo>,
    /// Place of each value; `None`: no op computes or reads it.
    pub places: Vec<Option<Place>>,
    /// Size of the workspace in bytes.
    pub workspace: usize,
}

impl Program {
    /// Nodes of the program, with the steps of row-wise ops in place of these.
    #[must_use]
    pub fn ops(&self) -> Vec<Node> {
        let ops = |node: &Node| match node.op {
            Op::RowWise(_) => node.steps(),
            _ => vec![node.clone()],
        };
        self.nodes.iter().flat_map(ops).collect()
    }

    /// True if an op reads or writes half-precision numbers.
    pub fn stores_half(&self) -> bool {
        self.values.iter().zip(&self.places).any(|(info, place)| info.dtype == DType::F16 && place.is_some())
    }
}

impl Tape {
    /// Fuses ops, drops ops whose results are unused, chooses what is stored in half precision, and plans memory.
    ///
    /// # Panics
    /// If an op reads a value before it is computed.
    pub fn finish(mut self) -> Program {
        self.fuse();
        self.drop_unused();
        self.fuse_convolutions();
        self.fuse_residual_gradients();
        self.lower_precision();
        self.fuse_conv_pools();
        self.fuse_heads();
        self.fuse_pgd_steps();
        self.fuse_first_layers();
        self.fuse_batch_norms();
        self.fuse_row_wise();
        let mut lifetimes: Vec<Option<(usize, usize)>> = vec![None; self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for v in node.inputs.iter().chain(&node.outputs).chain(&node.rows) {
                let born = lifetimes[v.0].map_or(at, |(born, _)| born);
                lifetimes[v.0] = Some((born, at));
                let computed = node.outputs.contains(v) || born < at || self.values[v.0].home.is_some();
                assert!(computed, "{}: {} reads {v:?} before it is computed", self.name, node.op.name());
            }
        }
        let mut places: Vec<Option<Place>> = vec![None; self.values.len()];
        let mut workspace = 0;
        let mut order: Vec<usize> = (0..self.values.len()).filter(|&v| lifetimes[v].is_some()).collect();
        order.sort_by_key(|&v| lifetimes[v]);
        let mut alive: Vec<(Place, usize)> = Vec::new();
        for v in order {
            let (info, (born, dies)) = (&self.values[v], lifetimes[v].expect("filtered"));
            let bytes = info.dims.iter().product::<usize>() * info.dtype.size();
            places[v] = Some(match &info.home {
                Some(buffer) => Place { region: Region::Persistent, offset: buffer.offset, bytes },
                None => {
                    alive.retain(|(_, until)| *until >= born);
                    alive.sort();
                    let reserved = bytes.next_multiple_of(4 * ALIGN_WORDS);
                    let mut offset = 0;
                    for (other, _) in &alive {
                        if offset + reserved <= other.offset {
                            break;
                        }
                        offset = offset.max((other.offset + other.bytes).next_multiple_of(4 * ALIGN_WORDS));
                    }
                    let place = Place { region: Region::Workspace, offset, bytes };
                    alive.push((place, dies));
                    workspace = workspace.max(offset + reserved);
                    place
                }
            });
        }
        Program { name: self.name, nodes: self.nodes, values: self.values, places, workspace }
    }

    /// Drops every op whose results no buffer holds and no later op reads, such as the loss of an attack that uses only
    /// its gradient.
    fn drop_unused(&mut self) {
        let mut read: Vec<bool> = self.values.iter().map(|v| v.home.is_some()).collect();
        for at in (0..self.nodes.len()).rev() {
            if self.nodes[at].outputs.iter().any(|v| read[v.0]) {
                self.nodes[at].inputs.iter().for_each(|v| read[v.0] = true);
            } else {
                self.nodes.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tape::graph::Tape;
    use crate::tape::memory::Memory;

    /// Values alive at the same time never overlap. The chain needs two places, and its first value a third.
    #[test]
    fn values_that_live_together_have_places_of_their_own() {
        let mut memory = Memory::default();
        let buffer = memory.f32("x", &[100]);
        let result = memory.f32("y", &[100]);
        let mut tape = Tape::new("chain");
        let x = tape.leaf(&buffer);
        let first = tape.scale(x, 2.0);
        let mut last = first;
        for _ in 0..5 {
            last = tape.scale(last, 2.0);
        }
        let sum = tape.add(first, last);
        tape.keep(sum, &result);
        let program = tape.finish();
        for (at, node) in program.nodes.iter().enumerate() {
            let alive = |v: usize| {
                let uses = |n: &super::Node| n.inputs.iter().chain(&n.outputs).any(|u| u.0 == v);
                program.nodes[..=at].iter().any(uses) && program.nodes[at..].iter().any(uses)
            };
            let here: Vec<_> =
                (0..program.values.len()).filter(|&v| alive(v)).map(|v| program.places[v].unwrap()).collect();
            for (i, a) in here.iter().enumerate() {
                for b in &here[..i] {
                    let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                    assert!(a.region != b.region || apart, "{}: {a:?} and {b:?}", node.op.name());
                }
            }
        }
        assert_eq!(program.workspace, 3 * 448, "three values of 400 bytes live at once, each on a 64-byte line");
    }

    #[test]
    fn an_op_whose_result_is_unused_is_dropped() {
        let mut memory = Memory::default();
        let (from, to) = (memory.f32("x", &[4]), memory.f32("y", &[4]));
        let mut tape = Tape::new("two ends");
        let x = tape.leaf(&from);
        let kept = tape.scale(x, 2.0);
        let unread = tape.scale(kept, 3.0);
        tape.scale(unread, 4.0);
        tape.keep(kept, &to);
        assert_eq!(tape.finish().nodes.len(), 1);
    }
}
