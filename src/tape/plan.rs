//! A place for every value: the memory plan.
//!
//! A value lives from the op that computes it to the last op that reads it. Values whose lives do not
//! overlap share places in one workspace, which all programs of a device share too: nothing in it lives
//! longer than its program runs.

use super::graph::{Node, Tape, ValueInfo};
use super::memory::ALIGN_WORDS;

/// Which memory a place is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// Buffers: what lives from program to program.
    Persistent,
    /// Values of the program that runs.
    Workspace,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which memory.
    pub region: Region,
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

/// A finished tape: every value has its place. What a device runs.
#[derive(Clone, Debug)]
pub struct Program {
    /// The tape's name.
    pub name: String,
    /// What is run, in order.
    pub nodes: Vec<Node>,
    /// What is known of each value.
    pub values: Vec<ValueInfo>,
    /// Where each value is; a value that no op computes or reads has no place.
    pub places: Vec<Option<Place>>,
    /// Bytes of workspace that it needs.
    pub workspace: usize,
}

impl Tape {
    /// Fuses, drops what nobody reads, and plans.
    pub fn finish(mut self) -> Program {
        self.fuse();
        self.drop_unread();
        self.fuse_convolutions();
        let mut life: Vec<Option<(usize, usize)>> = vec![None; self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for v in node.inputs.iter().chain(&node.outputs).chain(&node.rows) {
                let born = life[v.0].map_or(at, |(born, _)| born);
                life[v.0] = Some((born, at));
                let computed = node.outputs.contains(v) || born < at || self.values[v.0].home.is_some();
                assert!(computed, "{}: {} reads {v:?} before it is computed", self.name, node.op.name());
            }
        }
        let mut places: Vec<Option<Place>> = vec![None; self.values.len()];
        let mut workspace = 0;
        let mut order: Vec<usize> = (0..self.values.len()).filter(|&v| life[v].is_some()).collect();
        order.sort_by_key(|&v| life[v]);
        let mut alive: Vec<(Place, usize)> = Vec::new();
        for v in order {
            let (info, (born, dies)) = (&self.values[v], life[v].expect("filtered"));
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

    /// Drops every op whose results no buffer keeps and no later op reads: an attack's loss, say, of which only the
    /// gradient is used.
    fn drop_unread(&mut self) {
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
    use super::super::{Memory, Tape};

    /// Values alive at the same time never overlap, and a chain needs no more than two places.
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
    fn what_nobody_reads_is_not_computed() {
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
