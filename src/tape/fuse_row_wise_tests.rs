//! Fusion of row-wise ops when a tape is finished: which neighbours are fused, and which must not be.

use crate::tape::graph::{Tape, Value};
use crate::tape::memory::{Buffer, Memory};
use crate::tape::op::Op;
use crate::tape::plan::Program;

/// Buffers of a batch of four of ten examples.
struct Buffers {
    memory: Memory,
    rows: Buffer,
    index: Buffer,
    table: Buffer,
    batch: Buffer,
}

impl Buffers {
    fn new() -> Buffers {
        let mut memory = Memory::default();
        let [rows, index] = [("rows", 1), ("index", 4)].map(|(name, n)| memory.u32(name, &[n]));
        let [table, batch] = [("table", 10), ("batch", 4)].map(|(name, n)| memory.f32(name, &[n]));
        Buffers { memory, rows, index, table, batch }
    }

    /// Ops of the program that `record` records; the names of the steps of a row-wise op are joined by `+`.
    fn ops(&mut self, record: impl FnOnce(&mut Tape, &mut Keep, &Buffers)) -> Vec<String> {
        let mut tape = Tape::new("rows");
        tape.set_rows(&self.rows);
        let mut keep = Keep(std::mem::take(&mut self.memory));
        record(&mut tape, &mut keep, self);
        self.memory = keep.0;
        ops(&tape.finish())
    }
}

fn ops(program: &Program) -> Vec<String> {
    let name = |op: &Op| match op {
        Op::RowWise(steps) => steps.iter().map(|step| step.op.name()).collect::<Vec<_>>().join("+"),
        op => op.name().to_owned(),
    };
    program.nodes.iter().map(|node| name(&node.op)).collect()
}

/// Keeps values in buffers of their own, so that they are not dropped.
struct Keep(Memory);

impl Keep {
    fn keep(&mut self, tape: &mut Tape, value: Value) -> Buffer {
        let buffer = self.0.f32("kept", tape.dims(value));
        tape.keep(value, &buffer);
        buffer
    }
}

#[test]
fn neighbours_on_rows_are_one_op_and_a_step_reads_its_row_of_an_earlier_one() {
    let mut buffers = Buffers::new();
    let names = buffers.ops(|tape, keep, buffers| {
        let [table, index] = [&buffers.table, &buffers.index].map(|buffer| tape.leaf(buffer));
        let gathered = tape.gather_rows(table, index);
        let clamped = tape.clamp_min(gathered, 0.5);
        let scaled = tape.scale(clamped, 2.0);
        keep.keep(tape, scaled);
        tape.scatter_rows(&buffers.batch, scaled, index);
    });
    assert_eq!(names, ["gather_rows+clamp_min+scale+scatter_rows"]);
}

#[test]
fn operands_are_what_no_step_writes_and_results_what_one_writes() {
    let (mut memory, mut tape) = (Memory::default(), Tape::new("rows"));
    tape.set_rows(&memory.u32("rows", &[1]));
    let [a, b] = ["a", "b"].map(|name| memory.f32(name, &[4]));
    let from = tape.leaf(&a);
    let twice = tape.scale(from, 2.0);
    let four = tape.scale(twice, 2.0);
    tape.keep(four, &b);
    let program = tape.finish();
    let [node] = &program.nodes[..] else { panic!("{program}") };
    assert_eq!((&node.inputs[..], &node.outputs[..]), (&[from][..], &[twice, four][..]));
    let steps: Vec<_> = node.steps().into_iter().map(|step| (step.inputs, step.outputs)).collect();
    assert_eq!(steps, [(vec![from], vec![twice]), (vec![twice], vec![four])]);
    assert!(program.to_string().contains("row_wise(a) of scale, scale for rows rows"), "{program}");
}

/// A block that is ahead would write what another one has not read, or read what is not written.
#[test]
fn an_op_on_other_rows_of_what_a_step_accesses_starts_a_launch_of_its_own() {
    let mut buffers = Buffers::new();
    let read_after_write = buffers.ops(|tape, keep, buffers| {
        let [batch, index] = [&buffers.batch, &buffers.index].map(|buffer| tape.leaf(buffer));
        let filled = tape.fill(1.0, &[4]);
        let own = keep.keep(tape, filled);
        let gathered = tape.leaf(&own);
        let gathered = tape.gather_rows(gathered, index);
        keep.keep(tape, gathered);
        let scaled = tape.scale(batch, 2.0);
        keep.keep(tape, scaled);
    });
    assert_eq!(read_after_write, ["fill", "gather_rows+scale"]);

    let write_after_read = buffers.ops(|tape, keep, buffers| {
        let [table, index, batch] = [&buffers.table, &buffers.index, &buffers.batch].map(|buffer| tape.leaf(buffer));
        let gathered = tape.gather_rows(table, index);
        keep.keep(tape, gathered);
        tape.scatter_rows(&buffers.table, batch, index);
    });
    assert_eq!(write_after_read, ["gather_rows", "scatter_rows"]);

    let write_after_write = buffers.ops(|tape, _, buffers| {
        let [index, batch] = [&buffers.index, &buffers.batch].map(|buffer| tape.leaf(buffer));
        let filled = tape.fill(0.0, &[10]);
        tape.keep(filled, &buffers.table);
        tape.scatter_rows(&buffers.table, batch, index);
    });
    assert_eq!(write_after_write, ["fill", "scatter_rows"]);
}

#[test]
fn parts_of_a_buffer_that_overlap_are_one_memory() {
    let mut buffers = Buffers::new();
    let part = buffers.table.part("part", 2, &[4]);
    let names = buffers.ops(|tape, keep, buffers| {
        let [table, index] = [&buffers.table, &buffers.index].map(|buffer| tape.leaf(buffer));
        let gathered = tape.gather_rows(table, index);
        keep.keep(tape, gathered);
        let scaled = tape.scale(gathered, 2.0);
        tape.keep(scaled, &part);
    });
    assert_eq!(names, ["gather_rows", "scale"]);
}

#[test]
fn ops_with_other_counts_or_without_one_and_other_capacities_are_not_fused() {
    let mut buffers = Buffers::new();
    let others = buffers.memory.u32("others", &[1]);
    let names = buffers.ops(|tape, keep, buffers| {
        for (n, rows) in [(4, &buffers.rows), (4, &buffers.rows), (4, &others), (10, &others)] {
            tape.set_rows(rows);
            let filled = tape.fill(0.0, &[n]);
            keep.keep(tape, filled);
        }
    });
    assert_eq!(names, ["fill+fill", "fill", "fill"]);

    let (mut memory, mut tape) = (Memory::default(), Tape::new("all rows"));
    for _ in 0..2 {
        let filled = tape.fill(0.0, &[4]);
        tape.keep(filled, &memory.f32("kept", &[4]));
    }
    assert_eq!(ops(&tape.finish()), ["fill", "fill"]);
}

#[test]
fn an_op_has_at_most_eight_steps() {
    let names = Buffers::new().ops(|tape, keep, _| {
        for _ in 0..11 {
            let filled = tape.fill(0.0, &[4]);
            keep.keep(tape, filled);
        }
    });
    assert_eq!(names, [["fill"; 8].join("+"), ["fill"; 3].join("+")]);
}
