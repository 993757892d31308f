//! Launches of kernels/formula.cu.

use bytemuck::Zeroable;

use super::desc::{Desc, rows_of};
use crate::device::cuda::abi::{FORMULA_INPUTS, FormulaCode, FormulaInputs, Opcode, TABLE_BY_ROW};
use crate::device::cuda::launch::{Arg, Launch};
use crate::tape::formula::{Formula, Instruction};
use crate::tape::{DType, Reduction};

/// Opcode of an instruction that reads no input by element.
fn opcode(instruction: Instruction) -> Opcode {
    match instruction {
        Instruction::Input(_) => unreachable!("an input has an opcode for each way of reading it"),
        Instruction::Old => Opcode::Old,
        Instruction::Element => Opcode::Element,
        Instruction::Number(_) => Opcode::Number,
        Instruction::At(_) => Opcode::At,
        Instruction::Add => Opcode::Add,
        Instruction::Sub => Opcode::Sub,
        Instruction::Mul => Opcode::Mul,
        Instruction::Div => Opcode::Div,
        Instruction::Min => Opcode::Min,
        Instruction::Max => Opcode::Max,
        Instruction::Less => Opcode::Less,
        Instruction::Neg => Opcode::Neg,
        Instruction::Abs => Opcode::Abs,
        Instruction::Sign => Opcode::Sign,
        Instruction::Sqrt => Opcode::Sqrt,
        Instruction::Exp => Opcode::Exp,
        Instruction::Ln => Opcode::Ln,
        Instruction::Tanh => Opcode::Tanh,
        Instruction::Cos => Opcode::Cos,
        Instruction::Floor => Opcode::Floor,
        Instruction::Round => Opcode::Round,
        Instruction::Select => Opcode::Select,
    }
}

/// Code of a formula on `n` rows of `width` elements.
fn code(desc: &Desc, formula: &Formula, n: usize, width: usize) -> FormulaCode {
    let elements = |i: u8| desc.input(usize::from(i)).iter().product::<usize>();
    let reading = |i: u8| {
        let integers = desc.input_dtype(usize::from(i)) == DType::U32;
        match elements(i) {
            all if all == n * width => {
                if integers {
                    Opcode::ReadElementU32
                } else {
                    Opcode::ReadElement
                }
            }
            rows if rows == n => {
                if integers {
                    Opcode::ReadRowU32
                } else {
                    Opcode::ReadRow
                }
            }
            _ => {
                if integers {
                    Opcode::ReadOneU32
                } else {
                    Opcode::ReadOne
                }
            }
        }
    };
    let mut code: FormulaCode = Zeroable::zeroed();
    code.count = u32::try_from(formula.code().len()).expect("checked when recorded");
    for (at, &instruction) in formula.code().iter().enumerate() {
        let opcode = match instruction {
            Instruction::Input(i) => reading(i),
            other => opcode(other),
        };
        code.opcode[at] = opcode as u32;
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
    FormulaInputs { of: Arg::Members("pointers", (0..FORMULA_INPUTS).map(input).collect()) }.into()
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
