//! Launches of kernels/row_wise.cu.

use bytemuck::Zeroable;

use super::desc::Desc;
use crate::device::cuda::abi::{
    ROW_WISE_NUMBERS, ROW_WISE_OPERANDS, ROW_WISE_STEP_OPERANDS, RowWiseCode, RowWiseKernel, RowWiseOperands,
    RowWiseStepCode,
};
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered};
use crate::tape::RowWiseStep;

/// Kernels that compute a step alone, and the part of `row_wise` that computes the same numbers.
const KERNELS: [(&str, RowWiseKernel); 33] = [
    ("gather_rows_by1", RowWiseKernel::GatherRowsBy1),
    ("gather_rows_by4", RowWiseKernel::GatherRowsBy4),
    ("gather_rows_by16", RowWiseKernel::GatherRowsBy16),
    ("scatter_rows_by1", RowWiseKernel::ScatterRowsBy1),
    ("scatter_rows_by4", RowWiseKernel::ScatterRowsBy4),
    ("scatter_rows_by16", RowWiseKernel::ScatterRowsBy16),
    ("bytes_to_unit", RowWiseKernel::BytesToUnit),
    ("bytes_to_unit_x4", RowWiseKernel::BytesToUnitX4),
    ("copy", RowWiseKernel::Copy),
    ("copy_x4", RowWiseKernel::CopyX4),
    ("fill", RowWiseKernel::Fill),
    ("fill_x4", RowWiseKernel::FillX4),
    ("scale", RowWiseKernel::Scale),
    ("scale_x4", RowWiseKernel::ScaleX4),
    ("clamp_min", RowWiseKernel::ClampMin),
    ("clamp_min_x4", RowWiseKernel::ClampMinX4),
    ("global_mean", RowWiseKernel::GlobalMean),
    ("global_mean_from_half", RowWiseKernel::GlobalMeanFromHalf),
    ("linear_warp", RowWiseKernel::LinearWarp),
    ("linear_warp_from_half", RowWiseKernel::LinearWarpFromHalf),
    ("loss", RowWiseKernel::Loss),
    ("loss_backward", RowWiseKernel::LossBackward),
    ("mean_weights", RowWiseKernel::MeanWeights),
    ("hinge_weights", RowWiseKernel::HingeWeights),
    ("uniform", RowWiseKernel::Uniform),
    ("uniform_x4", RowWiseKernel::UniformX4),
    ("pgd_start_linf", RowWiseKernel::PgdStartLinf),
    ("pgd_start_linf_x4", RowWiseKernel::PgdStartLinfX4),
    ("pgd_start_l2", RowWiseKernel::PgdStartL2),
    ("pgd_start_l2_x4", RowWiseKernel::PgdStartL2X4),
    ("along_direction_eps", RowWiseKernel::AlongDirectionEps),
    ("along_direction_eps_x4", RowWiseKernel::AlongDirectionEpsX4),
    ("bisect", RowWiseKernel::Bisect),
];

/// A launch of a block a row. `alone` are the launches of the steps as ops of their own, whose kernels say in which
/// units a step reads and writes, and whose arguments are the step's numbers.
pub(super) fn row_wise(desc: &Desc, steps: &[RowWiseStep], alone: &[Lowered]) -> Launch {
    let mut code = RowWiseCode { count: steps.len() as u32, ..RowWiseCode::zeroed() };
    let (mut cost, mut capacity) = (Cost::default(), 0);
    let (mut read, mut written): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for (at, (step, lowered)) in steps.iter().zip(alone).enumerate() {
        let [launch] = &lowered.launches[..] else { unreachable!("a row-wise step is one launch") };
        code.steps[at] = step_code(step, launch);
        // Threads of a block see what others wrote after a barrier.
        let waits = step.inputs.iter().any(|value| written.contains(value))
            || step.outputs.iter().any(|value| written.contains(value) || read.contains(value));
        if waits {
            code.steps[at].waits = 1;
            (read, written) = (Vec::new(), Vec::new());
        }
        read.extend(&step.inputs);
        written.extend(&step.outputs);
        cost.bytes += launch.cost.bytes;
        cost.flops += launch.cost.flops;
        capacity = capacity_of(launch);
    }
    let operand = |number| match number {
        _ if number < desc.inputs() => Arg::Input(number),
        _ if number < desc.inputs() + desc.outputs() => Arg::Output(number - desc.inputs()),
        _ => Arg::Null,
    };
    let operands = RowWiseOperands { of: Arg::Members("pointers", (0..ROW_WISE_OPERANDS).map(operand).collect()) };
    let args = vec![operands.into(), Arg::of(code), Arg::Rows, Arg::size(capacity)];
    Launch::new("row_wise", capacity, args, cost)
}

/// Capacity in rows, which follows the count of active rows in the arguments of every step's kernel.
fn capacity_of(launch: &Launch) -> usize {
    let rows = launch.args.iter().position(|arg| *arg == Arg::Rows).expect("a step takes the count of rows");
    match launch.args[rows + 1] {
        Arg::Int(n) => usize::try_from(n).expect("a capacity is not negative"),
        ref other => unreachable!("{other:?} is no capacity"),
    }
}

/// Code of a step: operands and numbers in the order of its kernel's arguments, without null operands, the count of
/// active rows and the capacity.
fn step_code(step: &RowWiseStep, launch: &Launch) -> RowWiseStepCode {
    let known = KERNELS.iter().find(|(kernel, _)| *kernel == launch.kernel);
    let (_, kernel) = known.unwrap_or_else(|| unreachable!("{} is no step", launch.kernel));
    let mut code = RowWiseStepCode { kernel: *kernel as u32, ..RowWiseStepCode::zeroed() };
    let (mut operands, mut numbers): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    let members = |arg: &Arg| match arg {
        Arg::Members(_, members) => members.clone(),
        other => vec![other.clone()],
    };
    let args: Vec<Arg> = launch.args.iter().flat_map(members).collect();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg {
            Arg::Input(i) => operands.push(step.inputs[*i] as u32),
            Arg::Output(i) => operands.push(step.outputs[*i] as u32),
            Arg::Int(value) => numbers.push(value.cast_unsigned()),
            Arg::Unsigned(value) => numbers.push(*value),
            Arg::Float(value) => numbers.push(value.to_bits()),
            Arg::Rows => _ = args.next(),
            Arg::Null => {}
            other => unreachable!("{other:?} of {}", launch.kernel),
        }
    }
    assert!(operands.len() <= ROW_WISE_STEP_OPERANDS && numbers.len() <= ROW_WISE_NUMBERS, "{}", launch.kernel);
    code.operand[..operands.len()].copy_from_slice(&operands);
    code.number[..numbers.len()].copy_from_slice(&numbers);
    code
}
