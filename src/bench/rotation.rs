//! Ops of a step, each alone on rotating copies of its operands, so that none of them is in a cache.
//!
//! Within a step many operands are in the L2 cache, because the op before has just written them. The time of an op
//! alone must not depend on what ran before it. So each op runs on copies of its operands in turn, in one arena. The
//! copies together are larger than the cache; otherwise the rest of the arena is written before each measurement.
//!
//! [`StepOps`] runs a step op by op and keeps its values, so that every op is timed on operands of a real step.
//! [`Rotation`] copies them. Neither of them measures time. Scratch memory of kernels (partial sums of a split) is not
//! copied, because it is written and read within one run.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::workload::shape;
use crate::Result;
use crate::device::cuda::TotalCost;
use crate::device::{Device, Schedule};
use crate::tape::{ALIGN_WORDS, Buffer, DType, Memory, Node, Op, Place, Program, Region, Value, ValueInfo};

/// Alignment of every copy in bytes, which is that of the places of every plan. A copy's operands are aligned like
/// those in the step, so the same kernels are launched.
const LINE: usize = 4 * ALIGN_WORDS;

/// An op of the step; all runs of the op on the same shapes are one item.
pub(super) struct StepOp {
    pub name: &'static str,
    pub times_a_step: u32,
    /// Index of its first run in [`StepOps::nodes`].
    at: usize,
}

/// Ops of a step, each shape once, in the order in which they are timed.
pub(super) struct StepOps {
    /// Nodes of the step's programs, each as a program of its own; their values are in one buffer.
    nodes: Vec<Program>,
    pub ops: Vec<StepOp>,
    /// Number of nodes that have run.
    done: usize,
}

impl StepOps {
    /// Collects the ops. Programs with most of the step's arithmetic come first, so that the ops that take most of its
    /// time are timed first.
    pub fn new(memory: &mut Memory, schedule: &Schedule, multiprocessors: usize) -> StepOps {
        let largest = schedule.programs().map(|program| program.workspace).max().unwrap_or(0);
        let home = memory.buffer("values of a program", &[largest], DType::U8);
        let mut stages: Vec<_> = schedule.stages.iter().collect();
        stages.sort_by_key(|(program, times)| {
            Reverse(TotalCost::of(program, multiprocessors).cost.flops * u64::from(*times))
        });
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

    /// Program of the op alone, on the operands that it has within the step.
    pub fn program(&self, op: &StepOp) -> &Program {
        &self.nodes[op.at]
    }

    /// Runs all nodes before op number `at`, so that its operands hold the values of a step. Panics if ops are
    /// requested out of order.
    pub fn run_to(&mut self, at: usize, device: &mut dyn Device) -> Result<()> {
        let end = self.ops[at].at;
        assert!(self.done <= end, "ops are requested in order");
        for node in &self.nodes[self.done..end] {
            device.execute(node)?;
        }
        self.done = end;
        Ok(())
    }
}

/// Program of a single node. The values of the workspace are in a buffer, so they persist when another program runs.
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

/// Arena that holds copies of the operands of one op at a time.
pub(super) struct Rotation {
    arena: Buffer,
    bytes: usize,
}

/// Copies of an op's operands.
pub(super) struct OperandCopies {
    /// Program of the op on each copy.
    pub programs: Vec<Arc<Program>>,
    /// Program that writes the current operands to each copy.
    pub fill: Program,
    /// Program that writes the rest of the arena; `None` if the copies cover the bytes rotated over. It runs before
    /// each measurement, in which every copy is then used once.
    pub evict: Option<Program>,
}

impl Rotation {
    /// Arena of `bytes` plus the operands of one op.
    pub fn new(memory: &mut Memory, bytes: usize, ops: &StepOps) -> Rotation {
        let bytes = bytes.next_multiple_of(LINE);
        let largest = ops.ops.iter().map(|op| stride(&operands(ops.program(op)))).max().unwrap_or(0);
        Rotation { arena: memory.buffer("arena", &[bytes + largest], DType::U8), bytes }
    }

    /// Copies of an op's operands: enough to exceed the bytes rotated over, but at most `most`, the number that one
    /// measurement uses.
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

/// Distance in bytes from one copy of operands to the next.
fn stride(operands: &[Place]) -> usize {
    operands.iter().map(reserved).sum()
}

/// Bytes reserved for a copy of an operand: whole lines, with the operand at its offset in the first one.
fn reserved(place: &Place) -> usize {
    (place.offset % LINE + place.bytes).next_multiple_of(LINE)
}

/// Place of the words that hold these bytes, which extends to a multiple of 4 bytes.
fn words(offset: usize, bytes: usize) -> Place {
    Place { region: Region::Persistent, offset, bytes: bytes.next_multiple_of(4) }
}

/// Program of ops on words; each op writes its last operand.
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

#[cfg(test)]
mod tests {
    use super::super::settings::{BenchSettings, ROTATED_MEGABYTES};
    use super::super::timer::MOST_RUNS;
    use super::super::workload::BenchStep;
    use super::*;
    use crate::device::cpu::Cpu;
    use crate::device::cuda::TYPICAL_MULTIPROCESSORS;
    use crate::tape::Precision;

    /// Number of measurements: the default rounds of a bench, and the run before them.
    const MEASUREMENTS: usize = 6;

    fn settings(preset: &str, batch_size: usize, width: Option<f64>) -> BenchSettings {
        BenchSettings {
            preset: preset.into(),
            width,
            precision: Precision::Fp32,
            batch_size: Some(batch_size),
            megabytes: 1,
            rotated_megabytes: ROTATED_MEGABYTES,
            product: 64,
            rounds: 1,
            only: None,
            ceilings: None,
            budget_s: None,
        }
    }

    /// Ops of a step, an arena of `bytes` for them, and the memory layout of both.
    fn ops(settings: &BenchSettings, bytes: usize) -> (Memory, BenchStep, StepOps, Rotation) {
        let mut memory = Memory::default();
        let step = BenchStep::new(&mut memory, settings).expect("a published preset");
        let ops = StepOps::new(&mut memory, &step.training.schedule, TYPICAL_MULTIPROCESSORS);
        let rotation = Rotation::new(&mut memory, bytes, &ops);
        (memory, step, ops, rotation)
    }

    /// A step's ops and their rotation on a CPU, after a step.
    fn on_cpu(settings: &BenchSettings, bytes: usize) -> (Cpu, StepOps, Rotation) {
        let (memory, step, ops, rotation) = ops(settings, bytes);
        let mut device = Cpu::new();
        device.allocate(&memory, &step.training.schedule.programs().collect::<Vec<_>>()).expect("memory");
        step.fill(&mut device).expect("weights and images");
        device.replay(&step.training.schedule).expect("a step");
        (device, ops, rotation)
    }

    /// Content of a place of persistent memory.
    fn content(device: &Cpu, place: &Place) -> Vec<u8> {
        let buffer = Buffer { name: String::new(), offset: place.offset, dims: vec![place.bytes], dtype: DType::U8 };
        let mut bytes = vec![0; place.bytes];
        device.read_bytes(&buffer, &mut bytes).expect("the CPU reads");
        bytes
    }

    /// Plans of a step of the published sizes, without memory: each op's copies cover the bytes that are rotated over,
    /// or are as many as a measurement uses and the rest is written between measurements.
    #[test]
    fn more_than_the_cache_is_touched_between_two_uses_of_an_operand() {
        const ROTATED: usize = ROTATED_MEGABYTES * 1_000_000;
        for (preset, batch) in [("mnist-linf", 50), ("mnist-l2", 50), ("cifar10-linf", 128)] {
            let (_, _, ops, rotation) = ops(&settings(preset, batch, None), ROTATED);
            let (mut covered, mut evicted) = (0, 0);
            for op in &ops.ops {
                for most in [1, 7, MOST_RUNS] {
                    let alone = ops.program(op);
                    let copies = rotation.copies(alone, most);
                    let mut places: Vec<Place> = copies.programs.iter().flat_map(|copy| operands(copy)).collect();
                    assert_eq!(places.len(), copies.programs.len() * operands(alone).len());
                    let evict = copies.evict.iter().flat_map(|evict| evict.places.iter().flatten().copied());
                    places.extend(evict);
                    places.sort();
                    for pair in places.windows(2) {
                        assert!(pair[0].offset + pair[0].bytes <= pair[1].offset, "{}: {pair:?}", op.name);
                    }
                    let (first, last) = (places[0], places[places.len() - 1]);
                    assert!(first.offset >= rotation.arena.offset, "{}", op.name);
                    let end = last.offset + last.bytes;
                    assert!(end <= rotation.arena.offset + rotation.arena.bytes(), "{}", op.name);
                    // Up to the end of a line.
                    assert!(end - rotation.arena.offset + LINE > ROTATED, "{}", op.name);
                    match &copies.evict {
                        None => covered += 1,
                        Some(_) => evicted += 1,
                    }
                    assert!(copies.evict.is_none() || copies.programs.len() == most, "{}", op.name);
                }
            }
            assert!(covered > 0 && evicted > 0, "{preset} has large ops and small ones");
        }
    }

    /// Kernels are chosen by the alignment of operands, so copies have the alignment and the content of the operands.
    #[test]
    fn copies_have_the_content_and_the_alignment_of_the_operands() {
        for (preset, width) in [("quick", Some(0.125)), ("mnist-l2", Some(0.125)), ("cifar10-quick", None)] {
            let (mut device, mut ops, rotation) = on_cpu(&settings(preset, 2, width), 100_000);
            for at in 0..ops.ops.len() {
                ops.run_to(at, &mut device).expect("the CPU runs");
                let op = ops.program(&ops.ops[at]);
                let copies = rotation.copies(op, 5);
                device.execute(&copies.fill).expect("the CPU copies");
                for copy in &copies.programs {
                    for (from, to) in op.places.iter().flatten().zip(copy.places.iter().flatten()) {
                        assert_eq!(from.offset % LINE, to.offset % LINE, "{}", ops.ops[at].name);
                        assert!(content(&device, from) == content(&device, to), "{}", ops.ops[at].name);
                    }
                }
            }
        }
    }

    /// Runs each op on one copy as often as a bench of the published sizes runs it at most.
    #[test]
    fn values_that_are_updated_repeatedly_stay_finite_and_do_not_become_subnormal() {
        let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
        for (preset, batch) in [("mnist-linf", 50), ("mnist-l2", 50), ("cifar10-linf", 128)] {
            let (_, _, ops, rotation) = ops(&settings(preset, batch, None), ROTATED_MEGABYTES * 1_000_000);
            for op in &ops.ops {
                let count = rotation.copies(ops.program(op), MOST_RUNS).programs.len();
                let most = uses.entry(op.name).or_default();
                *most = (*most).max(MEASUREMENTS * MOST_RUNS.div_ceil(count));
            }
        }
        let updating =
            ["pgd_step", "pgd_step_fused", "row_wise", "adam", "sgd", "accumulate_metrics", "batch_norm_relu_training"];
        let mut seen = Vec::new();
        for (preset, width) in [("quick", Some(0.125)), ("mnist-l2", Some(0.125)), ("cifar10-quick", None)] {
            let (mut device, mut ops, rotation) = on_cpu(&settings(preset, 2, width), LINE);
            for at in 0..ops.ops.len() {
                ops.run_to(at, &mut device).expect("the CPU runs");
                let StepOp { name, .. } = ops.ops[at];
                if !updating.contains(&name) {
                    continue;
                }
                seen.push(name);
                let op = ops.program(&ops.ops[at]);
                let copies = rotation.copies(op, 1);
                device.execute(&copies.fill).expect("the CPU copies");
                let copy = &copies.programs[0];
                let mut subnormal = Vec::new();
                for run in 0..uses[name] {
                    device.execute(copy).expect("the CPU runs");
                    if run != 0 && run + 1 != uses[name] {
                        continue;
                    }
                    let mut found = 0;
                    for output in &copy.nodes[0].outputs {
                        if copy.values[output.0].dtype != DType::F32 {
                            continue;
                        }
                        let bytes = content(&device, &copy.places[output.0].expect("a place"));
                        for word in bytes.chunks_exact(4) {
                            let value = f32::from_ne_bytes(word.try_into().expect("four bytes"));
                            assert!(value.is_finite(), "{name}: {value} after {run} runs");
                            found += usize::from(value.is_subnormal());
                        }
                    }
                    subnormal.push(found);
                }
                assert!(subnormal.last() <= subnormal.first(), "{name}: {subnormal:?}");
            }
        }
        seen.sort_unstable();
        seen.dedup();
        let mut all = updating.to_vec();
        all.sort_unstable();
        assert_eq!(seen, all);
    }
}
