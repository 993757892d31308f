//! kernels/formula.cu.

use bytemuck::{Pod, Zeroable};

use super::{Arg, Desc, rows_of};
use crate::device::cuda::launch::{KernelStruct, Launch};
use crate::tape::formula::{FORMULA_INPUTS, FORMULA_LENGTH, Formula, Instruction};
use crate::tape::{DType, Reduction};

/// What is added to the number of an input that is a table a row.
const TABLE_BY_ROW: u32 = 256;

/// A formula's instructions as the kernels take them: `FormulaCode` in kernels/formula.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct FormulaCode {
    count: u32,
    instruction: [u32; FORMULA_LENGTH],
    input: [u32; FORMULA_LENGTH],
    number: [f32; FORMULA_LENGTH],
}

impl KernelStruct for FormulaCode {
    const NAME: &'static str = "FormulaCode";
}

/// As kernels/formula.cu numbers them; what reads an input has its own numbers, by how it is read.
fn number(instruction: Instruction) -> u32 {
    match instruction {
        Instruction::Input(_) => unreachable!("it has a number for each way of reading"),
        Instruction::Old => 6,
        Instruction::Element => 7,
        Instruction::Number(_) => 8,
        Instruction::At(_) => 9,
        Instruction::Add => 10,
        Instruction::Sub => 11,
        Instruction::Mul => 12,
        Instruction::Div => 13,
        Instruction::Min => 14,
        Instruction::Max => 15,
        Instruction::Less => 16,
        Instruction::Neg => 17,
        Instruction::Abs => 18,
        Instruction::Sign => 19,
        Instruction::Sqrt => 20,
        Instruction::Exp => 21,
        Instruction::Ln => 22,
        Instruction::Tanh => 23,
        Instruction::Cos => 24,
        Instruction::Floor => 25,
        Instruction::Round => 26,
        Instruction::Select => 27,
    }
}

/// The formula for rows of `width` elements, of which there is room for `n`.
fn code(desc: &Desc, formula: &Formula, n: usize, width: usize) -> FormulaCode {
    let elements = |i: u8| desc.input(usize::from(i)).iter().product::<usize>();
    // By element, by row, one for all; integers the same, three later.
    let reading = |i: u8| {
        let how = match elements(i) {
            all if all == n * width => 0,
            rows if rows == n => 1,
            _ => 2,
        };
        if desc.input_dtype(usize::from(i)) == DType::U32 { how + 3 } else { how }
    };
    let mut code: FormulaCode = Zeroable::zeroed();
    code.count = u32::try_from(formula.code().len()).expect("checked when recorded");
    for (at, &instruction) in formula.code().iter().enumerate() {
        code.instruction[at] = match instruction {
            Instruction::Input(i) => reading(i),
            other => number(other),
        };
        match instruction {
            Instruction::Input(i) => code.input[at] = u32::from(i),
            Instruction::At(i) => {
                let table = desc.input(usize::from(i));
                let by_row = table.len() > 1;
                let length = if by_row { rows_of(table).1 } else { table[0] };
                code.input[at] = u32::from(i) + if by_row { TABLE_BY_ROW } else { 0 };
                code.number[at] = length as f32;
            }
            Instruction::Number(number) => code.number[at] = number,
            _ => {}
        }
    }
    code
}

fn inputs(desc: &Desc) -> Arg {
    let input = |i| if i < desc.inputs() { Arg::Input(i) } else { Arg::Null };
    Arg::Members("FormulaInputs", (0..FORMULA_INPUTS).map(input).collect())
}

pub(super) fn map(desc: &Desc, formula: &Formula) -> Launch {
    let (n, width) = rows_of(desc.output(0));
    let args = vec![
        Arg::Output(0),
        inputs(desc),
        Arg::of(code(desc, formula, n, width)),
        Arg::Rows,
        Arg::size(n),
        Arg::size(width),
    ];
    let flops = (formula.flops() * n * width) as u64;
    let cost = if formula.reads_old() { desc.cost_of_update(flops) } else { desc.cost(flops) };
    let kernel = if desc.output_dtype(0) == DType::U32 { "map_u32" } else { "map" };
    Launch::each(kernel, n * width, args, cost)
}

pub(super) fn reduce(desc: &Desc, reduction: Reduction, formula: &Formula) -> Launch {
    let n = desc.output(0)[0];
    let rowed = (0..desc.inputs()).filter(|&i| !formula.is_table(i)).map(|i| desc.input(i));
    let longest = rowed.max_by_key(|dims| dims.iter().product::<usize>()).expect("a formula has an input with rows");
    let width = rows_of(longest).1;
    let mut args = vec![Arg::Output(0), inputs(desc), Arg::of(code(desc, formula, n, width))];
    let kernel = match reduction {
        Reduction::Sum => "reduce_sum",
        Reduction::Max | Reduction::Min => {
            args.push(Arg::Float(if reduction == Reduction::Max { 1.0 } else { -1.0 }));
            "reduce_extreme"
        }
    };
    args.extend([Arg::Rows, Arg::size(n), Arg::size(width)]);
    Launch::new(kernel, n, args, desc.cost(((formula.flops() + 1) * n * width) as u64))
}
