//! Ops of a step, each alone on copies of its operands, so that none of them is found in a cache.
//!
//! Within a step many operands are in the L2 cache, as the op before has just written them; a figure of an op alone
//! shall not depend on what ran before it. So each op runs on copies of its operands in turn, in one arena. The copies
//! together are larger than the cache, or else the rest of the arena is written before each measurement.
//!
//! [`StepOps`] runs a step op by op and keeps its values, so that every op is timed on operands of a real step.
//! [`Rotation`] copies them. Neither of them times anything. Scratch memory of kernels (partial sums of a split) is not
//! copied: it is written and read again within one run.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::workload::shape;
use crate::Result;
use crate::device::{Device, Schedule};
use crate::tape::{ALIGN_WORDS, Buffer, DType, Memory, Node, Op, Place, Program, Region, Value, ValueInfo};

/// Bytes that every copy begins on a multiple of, as the places of every plan do: a copy's operands are aligned as the
/// operands in the step, so the same kernels are launched.
const LINE: usize = 4 * ALIGN_WORDS;

/// An op of the step, with every run of the same op on the same shapes.
pub(super) struct StepOp {
    pub name: &'static str,
    pub times_a_step: u32,
    /// Index into [`StepOps::nodes`] of its first run.
    at: usize,
}

/// Every op of a step, each shape once, in the order in which they are timed.
pub(super) struct StepOps {
    /// Every node of the step's programs as a program of its own, whose values are in one buffer.
    nodes: Vec<Program>,
    pub ops: Vec<StepOp>,
    /// Nodes that ran so far.
    done: usize,
}

impl StepOps {
    /// Programs that a step runs most often come first: what is timed first are the ops that take most of its time.
    pub fn new(memory: &mut Memory, schedule: &Schedule) -> StepOps {
        let largest = schedule.programs().map(|program| program.workspace).max().unwrap_or(0);
        let home = memory.buffer("values of a program", &[largest], DType::U8);
        let mut stages: Vec<_> = schedule.stages.iter().collect();
        stages.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        let (mut nodes, mut ops) = (Vec::new(), Vec::new());
        let mut known = BTreeMap::new();
        for (program, times) in stages {
            for node in &program.nodes {
                let alone = alone(program, node, &home);
                let at = *known.entry(format!("{:?} {}", node.op, shape(&alone))).or_insert_with(|| {
                    ops.push(StepOp { name: node.op.name(), times_a_step: 0, at: nodes.len() });
                    ops.len() - 1
                });
                ops[at].times_a_step += times;
                nodes.push(alone);
            }
        }
        StepOps { nodes, ops, done: 0 }
    }

    /// The op alone, on the operands that it has within its program.
    pub fn program(&self, op: &StepOp) -> &Program {
        &self.nodes[op.at]
    }

    /// Runs what comes before the op: then its operands hold what they hold in a step. Ops are asked for in order.
    pub fn run_to(&mut self, at: usize, device: &mut dyn Device) -> Result<()> {
        let end = self.ops[at].at;
        assert!(self.done <= end, "ops are asked for in order");
        for node in &self.nodes[self.done..end] {
            device.execute(node)?;
        }
        self.done = end;
        Ok(())
    }
}

/// A node as a program of its own, with the values of the workspace in a buffer: they stay when another program runs.
fn alone(program: &Program, node: &Node, home: &Buffer) -> Program {
    let mut old: Vec<Value> = Vec::new();
    let mut renamed = |value: &Value| {
        let at = old.iter().position(|known| known == value).unwrap_or_else(|| {
            old.push(*value);
            old.len() - 1
        });
        Value(at)
    };
    let node = Node {
        op: node.op.clone(),
        inputs: node.inputs.iter().map(&mut renamed).collect(),
        outputs: node.outputs.iter().map(&mut renamed).collect(),
        rows: node.rows.as_ref().map(&mut renamed),
    };
    let place = |value: &Value| {
        let place = program.places[value.0].expect("every operand has a place");
        Some(match place.region {
            Region::Persistent => place,
            Region::Workspace => Place { region: Region::Persistent, offset: home.offset + place.offset, ..place },
        })
    };
    let places = old.iter().map(place).collect();
    let values = old.iter().map(|value| program.values[value.0].clone()).collect();
    Program { name: program.name.clone(), nodes: vec![node], values, places, workspace: 0 }
}

/// The arena that holds copies of one op's operands at a time.
pub(super) struct Rotation {
    arena: Buffer,
    bytes: usize,
}

/// Copies of an op's operands.
pub(super) struct OperandCopies {
    /// The op on each copy.
    pub programs: Vec<Arc<Program>>,
    /// Writes the operands, as they are now, to each copy.
    pub fill: Program,
    /// Writes the rest of the arena, where the copies are less than the bytes rotated over. Run before each
    /// measurement, in which every copy is then used once.
    pub evict: Option<Program>,
}

impl Rotation {
    /// An arena of `bytes`, and one op's operands more.
    pub fn new(memory: &mut Memory, bytes: usize, ops: &StepOps) -> Rotation {
        let bytes = bytes.next_multiple_of(LINE);
        let largest = ops.ops.iter().map(|op| stride(&operands(ops.program(op)))).max().unwrap_or(0);
        Rotation { arena: memory.buffer("arena", &[bytes + largest], DType::U8), bytes }
    }

    /// As many copies as exceed the bytes rotated over, but at most `most`: more are not used in one measurement.
    pub fn copies(&self, op: &Program, most: usize) -> OperandCopies {
        let operands = operands(op);
        let stride = stride(&operands).max(LINE);
        let count = self.bytes.div_ceil(stride).clamp(1, most);
        let start = self.arena.offset;
        let mut offset = 0;
        let mut first = BTreeMap::new();
        for place in operands {
            first.insert(place, Place { offset: start + offset + place.offset % LINE, ..place });
            offset += reserved(&place);
        }
        let copy = |at: usize| {
            let moved = |place: Place| Place { offset: first[&place].offset + at * stride, ..first[&place] };
            Arc::new(Program { places: op.places.iter().map(|place| place.map(moved)).collect(), ..op.clone() })
        };
        let mut moves: Vec<(Op, Vec<Place>)> = first
            .iter()
            .map(|(from, to)| (Op::Copy, vec![words(from.offset, from.bytes), words(to.offset, to.bytes)]))
            .collect();
        let mut done = 1;
        while done < count {
            let bytes = done.min(count - done) * stride;
            moves.push((Op::Copy, vec![words(start, bytes), words(start + done * stride, bytes)]));
            done *= 2;
        }
        let used = count * stride;
        let evict = (used < self.bytes)
            .then(|| program("evict", vec![(Op::Fill { value: 0.0 }, vec![words(start + used, self.bytes - used)])]));
        OperandCopies { programs: (0..count).map(copy).collect(), fill: program("fill", moves), evict }
    }
}

/// Places of an op's operands, each once.
fn operands(op: &Program) -> Vec<Place> {
    let mut places: Vec<Place> = op.places.iter().flatten().copied().collect();
    places.sort();
    places.dedup();
    places
}

/// Bytes from one copy of operands to the next.
fn stride(operands: &[Place]) -> usize {
    operands.iter().map(reserved).sum()
}

/// Bytes of a copy of an operand: whole lines, in which it begins where it begins in its line.
fn reserved(place: &Place) -> usize {
    (place.offset % LINE + place.bytes).next_multiple_of(LINE)
}

/// The words that hold these bytes: a place of bytes ends with its line.
fn words(offset: usize, bytes: usize) -> Place {
    Place { region: Region::Persistent, offset, bytes: bytes.next_multiple_of(4) }
}

/// A program of ops on words, the last operand of each of which is written.
fn program(name: &str, ops: Vec<(Op, Vec<Place>)>) -> Program {
    let (mut nodes, mut values, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (op, operands) in ops {
        let first = values.len();
        for place in operands {
            values.push(ValueInfo { dims: vec![place.bytes / 4], dtype: DType::F32, home: None });
            places.push(Some(place));
        }
        let last = values.len() - 1;
        nodes.push(Node { op, inputs: (first..last).map(Value).collect(), outputs: vec![Value(last)], rows: None });
    }
    Program { name: name.to_owned(), nodes, values, places, workspace: 0 }
}
