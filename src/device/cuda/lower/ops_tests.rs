//! Tests of the launches of ops. Every element has its thread, and is read in vectors if its address allows it. Bias
//! and ReLU of linear layers are applied once. Batch norm takes few launches. (`gemm.rs` tests plans of matrix
//! products.)

mod attacks;
mod first_layer;
mod half;

use super::{TYPICAL_MULTIPROCESSORS, lower};
use crate::device::cuda::abi::MAX_LEARNING_RATES;
use crate::device::cuda::images::kernel;
use crate::device::cuda::launch::{Arg, COUNTERS, Launch, Lowered, THREADS};
use crate::rng::Purpose;
use crate::tape::{
    AlongRule, Buffer, ConvFusion, ConvGradientFusion, ConvWindow, DType, Direction, L2Order, Loss, LossRule, Memory,
    Metric, Node, Norm, Op, OptimizerRule, PgdRule, Place, Program, Region, Tape,
};

/// Lengths of rows around a block's threads, and around four times as many.
const ROWS: [usize; 16] = [1, 2, 3, 4, 7, 16, 255, 256, 257, 784, 1020, 1024, 1028, 3072, 3076, 150_528];

/// Lowers an op on operands of these shapes. Operand `off` begins four bytes past a multiple of 16.
fn lowered(op: Op, inputs: &[(&[usize], DType)], outputs: &[(&[usize], DType)], off: Option<usize>) -> Lowered {
    let mut memory = Memory::default();
    let operands: Vec<Buffer> = inputs
        .iter()
        .chain(outputs)
        .enumerate()
        .map(|(i, (dims, dtype))| {
            let mut buffer = memory.buffer(&format!("operand {i}"), dims, *dtype);
            buffer.offset += if off == Some(i) { 4 } else { 0 };
            buffer
        })
        .collect();
    let mut tape = Tape::new("one op");
    let mut values: Vec<_> = operands.iter().map(|buffer| tape.leaf(buffer)).collect();
    let mut program: Program = tape.finish();
    program.places = (operands.iter())
        .map(|b| Some(Place { region: Region::Persistent, offset: b.offset, bytes: b.bytes() }))
        .collect();
    let outputs = values.split_off(inputs.len());
    let lowered = lower(&program, &Node { op, inputs: values, outputs, rows: None }, TYPICAL_MULTIPROCESSORS);
    for launch in &lowered.launches {
        let kinds: Vec<_> = launch.args.iter().map(Arg::kind).collect();
        assert_eq!(kinds, kernel(launch.kernel).params, "arguments of {}", launch.kernel);
    }
    lowered
}

/// Launches of an op.
fn launches(op: Op, inputs: &[(&[usize], DType)], outputs: &[(&[usize], DType)], off: Option<usize>) -> Vec<Launch> {
    lowered(op, inputs, outputs, off).launches
}

/// Launch of an op that has only one.
fn launch(op: Op, inputs: &[(&[usize], DType)], outputs: &[(&[usize], DType)], off: Option<usize>) -> Launch {
    let launches = launches(op, inputs, outputs, off);
    let [launch] = &launches[..] else { panic!("one launch an op") };
    assert_eq!((launch.block, launch.grid[1], launch.grid[2]), (THREADS as u32, 1, 1));
    launch.clone()
}

fn f32s(dims: &[usize]) -> (&[usize], DType) {
    (dims, DType::F32)
}

/// Last `N` arguments, which are ints.
fn sizes<const N: usize>(launch: &Launch) -> [usize; N] {
    let last = &launch.args[launch.args.len() - N..];
    std::array::from_fn(|i| match last[i] {
        Arg::Int(n) => usize::try_from(n).unwrap(),
        ref other => panic!("{other:?} is no size"),
    })
}

/// Asserts that there are enough blocks for `threads` threads, and no more.
fn covers(launch: &Launch, threads: usize) {
    assert_eq!(launch.grid[0] as usize, threads.div_ceil(256).max(1), "{launch:?}");
}

fn pgd(norm: Norm) -> PgdRule {
    PgdRule { norm, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 }
}

#[test]
fn an_elementwise_launch_covers_every_element() {
    for (n, row) in [1, 2, 50, 257].into_iter().flat_map(|n| ROWS.map(|row| (n, row))) {
        let dims = [n, row];
        let (one, two) = (vec![f32s(&dims)], vec![f32s(&dims); 2]);
        let bytes = vec![(&dims[..], DType::U8)];
        for (op, inputs) in [
            (Op::Fill { value: 1.0 }, vec![]),
            (Op::BytesToUnit, bytes),
            (Op::Copy, one.clone()),
            (Op::Add, two.clone()),
            (Op::Scale { factor: 2.0 }, one.clone()),
            (Op::ClampMin { least: 0.0 }, one.clone()),
            (Op::AddBias, vec![f32s(&dims), f32s(&dims[1..])]),
            (Op::Relu, one),
            (Op::ReluBackward, two),
        ] {
            for off in [None, Some(0)] {
                let launch = launch(op.clone(), &inputs, &[f32s(&dims)], off);
                let wide = off.is_none() && row % 4 == 0;
                assert_eq!(launch.kernel, format!("{}{}", op.name(), if wide { "_x4" } else { "" }));
                let width = if wide { 4 } else { 1 };
                covers(&launch, n * row / width);
                if op == Op::AddBias {
                    assert_eq!(sizes(&launch), [n, row / width, row / width]);
                } else {
                    assert_eq!(sizes(&launch), [n, row / width]);
                }
            }
        }
    }
}

#[test]
fn a_bias_that_begins_in_the_middle_of_a_buffer_is_read_number_by_number() {
    let (x, bias) = ([50, 8], [8]);
    let of = |off| launch(Op::AddBias, &[f32s(&x), f32s(&bias)], &[f32s(&x)], off).kernel;
    assert_eq!([of(None), of(Some(1)), of(Some(2))], ["add_bias_x4", "add_bias", "add_bias"]);
}

#[test]
fn rows_are_copied_in_the_widest_units_that_divide_them() {
    for (row, dtype, unit) in [
        (784, DType::U8, 16),
        (48, DType::U8, 16),
        (28, DType::U8, 4),
        (27, DType::U8, 1),
        (1, DType::F32, 4),
        (4, DType::F32, 16),
        (15, DType::U32, 4),
    ] {
        let (table, batch, index) = ([1000, row], [50, row], [50]);
        let units = row * dtype.size() / unit;
        let index = (&index[..], DType::U32);
        for (op, src, dst) in [(Op::GatherRows, table, batch), (Op::ScatterRows, batch, table)] {
            let launch = launch(op.clone(), &[(&src, dtype), index], &[(&dst, dtype)], None);
            assert_eq!(launch.kernel, format!("{}_by{unit}", op.name()));
            assert_eq!(sizes(&launch), [50, units]);
            covers(&launch, 50 * units);
            assert_eq!(launch.cost.bytes as usize, 50 * (2 * row * dtype.size() + 4), "not the whole table");
        }
    }
    let (table, batch, index) = ([1000, 4], [50, 4], [50]);
    let index = (&index[..], DType::U32);
    assert_eq!(launch(Op::GatherRows, &[f32s(&table), index], &[f32s(&batch)], Some(2)).kernel, "gather_rows_by4");
}

#[test]
fn a_linear_layer_s_epilogue_is_applied_once_to_whole_sums() {
    // Few terms: one launch. Many terms: splits, and a launch that adds them. Ten outputs: a warp an output.
    for (inner, out, kernels) in [
        (16, 64, &["linear_narrow"][..]),
        (3136, 1024, &["linear_square", "sum_split_rows"]),
        (1024, 10, &["linear_warp"]),
    ] {
        let (x, w, bias, y) = ([50, inner], [out, inner], [out], [50, out]);
        let all = [f32s(&x), f32s(&w), f32s(&bias)];
        for (op, inputs, relu) in [
            (Op::Linear, &all[..2], false),
            (Op::LinearBias { relu: false }, &all, false),
            (Op::LinearBias { relu: true }, &all, true),
        ] {
            let Lowered { launches, scratch } = lowered(op, inputs, &[f32s(&y)], None);
            assert_eq!(launches.iter().map(|launch| launch.kernel).collect::<Vec<_>>(), kernels);
            let splits = launches[0].grid[1] as usize;
            assert_eq!(scratch, if splits > 1 { 4 * splits * 50 * out } else { 0 }, "the results of every split");
            let (last, before) = launches.split_last().unwrap();
            let applied = |launch: &Launch| (launch.has(&Arg::Input(2)), launch.has(&Arg::Int(1)));
            assert_eq!(applied(last), (inputs.len() > 2, relu), "{last:?}");
            assert!(before.iter().all(|launch| applied(launch) == (false, false)), "{before:?}");
        }
        let (dy, dx) = (f32s(&y), f32s(&x));
        for inputs in [&[dy, all[1]][..], &[dy, all[1], dx]] {
            let launches = launches(Op::LinearBackwardInput, inputs, &[dx], None);
            let masked: Vec<bool> = launches.iter().map(|launch| launch.has(&Arg::Input(2))).collect();
            assert_eq!(masked.iter().filter(|masked| **masked).count(), inputs.len() - 2, "{launches:?}");
            assert_eq!(masked.last(), Some(&(inputs.len() > 2)), "{launches:?}");
        }
    }
}

/// Members of the struct called `name` among a launch's arguments.
fn members<'a>(launch: &'a Launch, name: &str) -> Option<&'a [Arg]> {
    launch.args.iter().find_map(|arg| match arg {
        Arg::Members(of, members) if *of == name => Some(&members[..]),
        _ => None,
    })
}

#[test]
fn a_convolution_s_epilogue_is_applied_once_to_whole_sums() {
    let window = ConvWindow { padding: 1, stride: 2 };
    let forward = ConvFusion { shortcut: Some(2), norm: true, ..ConvFusion::alone(window) };
    let backward =
        ConvGradientFusion { shortcut: Some(2), norm: true, addend: true, ..ConvGradientFusion::alone(window) };
    let input = Arg::Input;
    for (n, size, split) in [(128, 16, false), (1, 4, true)] {
        let (large, small) = ([n, 2 * size, 2 * size, 64], [n, size, size, 128]);
        let (w, single, from, to) = ([128, 3, 3, 64], [128, 1, 1, 64], [64], [128]);
        let [large, small, w, single, from, to] =
            [f32s(&large), f32s(&small), f32s(&w), f32s(&single), f32s(&from), f32s(&to)];
        let of_forward =
            launches(Op::Conv2dFused(forward), &[large, w, large, single, to, to, to, to], &[small, small], None);
        let of_backward = launches(
            Op::Conv2dFusedBackwardInput(backward),
            &[small, w, small, single, from, from, large, large],
            &[large],
            None,
        );
        // Members of `Epilogue`: before, sum, weight, variance, bias, mean, y, after, relu.
        let forward =
            [Arg::Null, Arg::Output(0), input(4), input(7), input(5), input(6), Arg::Null, Arg::Null, Arg::Int(1)];
        let backward =
            [Arg::Null, Arg::Null, input(4), input(5), Arg::Null, Arg::Null, input(6), input(7), Arg::Int(0)];
        for (launches, epilogue, to, classes) in
            [(of_forward, forward, Arg::Output(1), 1), (of_backward, backward, Arg::Output(0), 4)]
        {
            assert_eq!(launches.len(), if split { 2 } else { 1 }, "{launches:?}");
            assert_eq!(launches[0].grid[2], classes, "a product a class of pixels");
            assert_eq!(members(&launches[0], "Shortcut").unwrap()[..2], [input(2), input(3)]);
            let (last, before) = launches.split_last().unwrap();
            assert_eq!((&last.args[0], members(last, "Epilogue")), (&to, Some(&epilogue[..])));
            for launch in before {
                let nothing = |arg: &Arg| matches!(arg, Arg::Null | Arg::Int(0));
                assert!(members(launch, "Epilogue").unwrap().iter().all(nothing), "{launch:?}");
            }
        }
    }
}

/// Number of blocks of a launch whose blocks each work on one row.
fn blocks_of_rows(n: usize, width: usize) -> usize {
    n * width.div_ceil(256)
}

#[test]
fn a_linf_step_gives_every_block_one_row() {
    for (n, row) in [1, 50, 257].into_iter().flat_map(|n| ROWS.map(|row| (n, row))) {
        let (dims, each) = ([n, row], [n]);
        let (image, each) = (f32s(&dims), f32s(&each));
        let along = Op::AlongDirection(AlongRule { norm: Norm::Linf, direction: Direction::Eps, clamp: true });
        for (op, name, inputs) in [
            (Op::PgdStep(pgd(Norm::Linf)), "pgd_step_linf", vec![image, image, each, each]),
            (Op::PgdStart(Norm::Linf), "pgd_start_linf", vec![image, each, image]),
            (along, "along_direction_eps", vec![image, image, each, each]),
        ] {
            for off in [None, Some(0)] {
                let launch = launch(op.clone(), &inputs, &[image], off);
                let wide = off.is_none() && row % 4 == 0;
                assert_eq!(launch.kernel, format!("{name}{}", if wide { "_x4" } else { "" }));
                let width = if wide { row / 4 } else { row };
                assert_eq!(launch.grid[0] as usize, blocks_of_rows(n, width));
                assert_eq!(sizes(&launch), [n, width]);
            }
        }
    }
}

#[test]
fn an_l2_step_holds_a_row_in_registers_if_it_fits() {
    let kernel = |row: usize, off| {
        let (dims, each) = ([50, row], [50]);
        let (image, each) = (f32s(&dims), f32s(&each));
        let launch = launch(Op::PgdStep(pgd(Norm::L2)), &[image, image, each, each], &[image], off);
        assert_eq!(launch.grid[0], 50, "a block an example");
        let width = if launch.kernel == "pgd_step_l2" { row } else { row / 4 };
        assert_eq!(sizes(&launch), [50, width]);
        launch.kernel
    };
    for (row, expected) in [
        (1, "pgd_step_l2"),
        (785, "pgd_step_l2"),
        (4, "pgd_step_l2_registers1"),
        (784, "pgd_step_l2_registers1"),
        (1024, "pgd_step_l2_registers1"),
        (1028, "pgd_step_l2_registers3"),
        (3072, "pgd_step_l2_registers3"),
        (3076, "pgd_step_l2"),
        (150_528, "pgd_step_l2"),
    ] {
        assert_eq!(kernel(row, None), expected, "{row} numbers a row");
        assert_eq!(kernel(row, Some(1)), "pgd_step_l2", "{row} numbers a row, not aligned");
    }
}

/// The step reads three images and writes one.
#[test]
fn a_pgd_step_costs_four_images() {
    let (dims, each) = ([50, 28, 28, 1], [50]);
    let (image, each) = (f32s(&dims), f32s(&each));
    let launch = launch(Op::PgdStep(pgd(Norm::Linf)), &[image, image, each, each], &[image], None);
    assert_eq!(launch.cost.bytes, 4 * (4 * 50 * 784 + 2 * 50));
}

#[test]
fn noise_takes_a_thread_for_four_numbers() {
    for (n, row) in [1, 50, 257].into_iter().flat_map(|n| ROWS.map(|row| (n, row))) {
        let (dims, one, each) = ([n, row], [1], [n]);
        let op = Op::Uniform { seed: 7 + (9 << 32), purpose: Purpose::TrainStart, signed: true };
        let launch = launch(op, &[(&one, DType::U32), (&each, DType::U32)], &[f32s(&dims)], None);
        covers(&launch, n * row.div_ceil(4));
        let numbers = [Arg::Unsigned(7), Arg::Unsigned(9), Arg::Unsigned(2), Arg::Int(1)];
        assert_eq!(launch.args[3..7], numbers, "the seed's words, the purpose, the range");
    }
}

#[test]
fn a_loss_takes_a_warp_for_a_row() {
    for n in [1, 7, 8, 9, 50, 257] {
        let (logits, each) = ([n, 10], [n]);
        let rule = LossRule { loss: Loss::Cw, confidence: 50.0 };
        let labels = (&each[..], DType::U32);
        let forward = launch(Op::Loss(rule), &[f32s(&logits), labels], &[f32s(&each)], None);
        let inputs = [f32s(&logits), labels, f32s(&each)];
        let backward = launch(Op::LossBackward(rule), &inputs, &[f32s(&logits)], None);
        let (two, value) = ([f32s(&logits); 2], f32s(&each));
        let divergence = launch(Op::Kl, &two, &[value], None);
        let [by_p, by_q] =
            [Op::KlBackwardP, Op::KlBackwardQ].map(|op| launch(op, &[two[0], two[1], value], &[f32s(&logits)], None));
        for launch in [forward, backward, divergence, by_p, by_q] {
            assert_eq!(launch.grid[0] as usize, n.div_ceil(8));
            assert_eq!(sizes(&launch), [n, 10]);
        }
    }
}

#[test]
fn an_op_of_one_number_a_row_takes_a_thread_a_row_and_a_sum_takes_one_block() {
    for n in [1, 50, 255, 256, 257] {
        let (each, one) = ([n], [1]);
        let (each, one) = (f32s(&each), (&one[..], DType::U32));
        covers(&launch(Op::MeanWeights, &[], &[each], None), n);
        covers(&launch(Op::HingeWeights { hinge: 0.4 }, &[each], &[each], None), n);
        covers(&launch(Op::Bisect { max_eps: 0.4 }, &[each], &[each; 3], None), n);
        let sums = [Metric::COUNT];
        covers(&launch(Op::AccumulateMetrics, &[each; 5], &[f32s(&sums), one], None), 1);
        covers(&launch(Op::SelectNegative, &[each], &[(each.0, DType::U32), one], None), 1);
        covers(&launch(Op::Increment, &[], &[one], None), 1);
    }
}

/// Shapes of images around a block's threads, items and channels, and those of the wide ResNet at a batch of 128.
const IMAGES: [[usize; 4]; 12] = [
    [1, 1, 1, 1],
    [3, 5, 7, 3],
    [2, 16, 16, 4],
    [5, 9, 9, 31],
    [5, 9, 9, 33],
    [7, 3, 3, 132],
    [1, 1, 1, 640],
    [2, 8, 8, 257],
    [128, 32, 32, 16],
    [128, 32, 32, 64],
    [128, 16, 16, 128],
    [128, 8, 8, 256],
];

/// Lowers batch norm on images. `[images, channels]` are the numbers of image operands and of operands with a number a
/// channel, among the inputs and among the outputs.
fn batch_norm(op: &Op, dims: &[usize], [inputs, outputs]: [[usize; 2]; 2], off: Option<usize>) -> Lowered {
    let channels = &dims[3..];
    let operands =
        |[images, statistics]: [usize; 2]| [vec![f32s(dims); images], vec![f32s(channels); statistics]].concat();
    lowered(op.clone(), &operands(inputs), &operands(outputs), off)
}

/// Asserts that every item and channel has a block, and that no block is empty.
fn covers_items_and_channels(launch: &Launch, [_, pixels, width, chunk]: [usize; 4], dims: &[usize], wide: bool) {
    let items = dims[..3].iter().product::<usize>();
    let [blocks, groups, _] = launch.grid.map(|blocks| blocks as usize);
    assert_eq!((pixels, width), (dims[1] * dims[2], if wide { dims[3] / 4 } else { dims[3] }));
    assert!(blocks * chunk >= items && (blocks - 1) * chunk < items, "{launch:?}");
    assert!(groups * 32 >= width && (groups - 1) * 32 < width, "{launch:?}");
    assert_eq!(launch.kernel.ends_with("_x4"), wide, "{launch:?}");
}

#[test]
fn a_pass_of_batch_norm_is_one_launch_over_all_items_and_channels() {
    for dims in IMAGES {
        for (op, kernel, operands) in [
            (Op::BatchNorm { relu: true }, "batch_norm", [[1, 4], [1, 0]]),
            (Op::BatchNormBackwardInput { relu: false }, "batch_norm_backward_input", [[1, 2], [1, 0]]),
            (Op::BatchNormTrainingBackwardInput { relu: true }, "batch_norm_training_backward_input", [[2, 6], [1, 0]]),
        ] {
            for off in [None, Some(0)] {
                let Lowered { launches, scratch } = batch_norm(&op, &dims, operands, off);
                let [launch] = &launches[..] else { panic!("{launches:?}") };
                assert_eq!(scratch, 0);
                covers_items_and_channels(launch, sizes(launch), &dims, off.is_none() && dims[3].is_multiple_of(4));
                assert_eq!(launch.kernel.trim_end_matches("_x4"), kernel);
            }
        }
    }
}

#[test]
fn batch_norm_s_sums_are_splits_of_all_items_with_a_counter_for_each_group_of_channels() {
    for dims @ [.., c] in IMAGES {
        for (op, operands, kernels) in [
            (
                Op::BatchNormTraining { relu: true },
                [[1, 2], [1, 4]],
                &["batch_norm_training_statistics", "batch_norm"][..],
            ),
            (Op::BatchNormBackwardWeight { relu: true }, [[2, 4], [0, 2]], &["batch_norm_backward_weight"]),
        ] {
            for off in [None, Some(0)] {
                let Lowered { launches, scratch } = batch_norm(&op, &dims, operands, off);
                let names: Vec<_> = launches.iter().map(|launch| launch.kernel.trim_end_matches("_x4")).collect();
                assert_eq!(names, kernels);
                let [n, pixels, width, chunk, splits] = sizes(&launches[0]);
                let wide = off.is_none() && c.is_multiple_of(4);
                covers_items_and_channels(&launches[0], [n, pixels, width, chunk], &dims, wide);
                assert_eq!(launches[0].grid[0] as usize, splits);
                assert!(splits <= 256, "{splits} splits of {dims:?}");
                assert!(launches[0].has(&Arg::Counters) && launches[0].grid[1] as usize <= COUNTERS);
                assert_eq!(scratch, 16 * c * splits, "two sums in double");
                if let Some(apply) = launches.get(1) {
                    covers_items_and_channels(apply, sizes(apply), &dims, wide);
                    let own = [Arg::Output(1), Arg::Output(2), Arg::Int(1)];
                    assert_eq!(apply.args[4..7], own, "the batch's own mean and variance; ReLU");
                }
            }
        }
    }
}

#[test]
fn an_image_is_standardized_by_a_block_and_averaged_by_a_thread_a_channel() {
    for dims @ [n, h, w, c] in IMAGES {
        let (image, each, means) = (f32s(&dims), [n], [n, c]);
        let (each, means) = (f32s(&each), f32s(&means));
        for off in [None, Some(0)] {
            let by_fours = |elements: usize| if off.is_none() && elements.is_multiple_of(4) { 4 } else { 1 };
            let fours = by_fours(h * w * c);
            for launch in [
                launch(Op::Standardize, &[image], &[image, each], off),
                launch(Op::StandardizeBackward, &[image, image, each], &[image], off),
            ] {
                assert_eq!(launch.grid[0] as usize, n);
                assert_eq!(sizes(&launch), [n, h * w * c / fours]);
                assert_eq!(launch.kernel.ends_with("_x4"), fours > 1);
            }
            covers(&launch(Op::GlobalMean, &[image], &[means], off), n * c);
            let back = launch(Op::GlobalMeanBackward, &[means], &[image], off);
            covers(&back, n * h * w * c / by_fours(c));
            assert_eq!(sizes(&back), [n, h * w, c / by_fours(c)]);
        }
    }
}

#[test]
fn augmentation_takes_a_thread_for_an_example_then_for_a_byte() {
    for n in [1, 128, 255, 256, 257] {
        let (images, out, each, one, choice) = ([1000, 32, 32, 3], [n, 32, 32, 3], [n], [1], [n, 3]);
        let (index, choice) = ((&each[..], DType::U32), (&choice[..], DType::U32));
        let op = Op::DrawAugmentation { seed: 7 + (9 << 32), reach: 4 };
        let draw = launch(op, &[(&one, DType::U32), index], &[choice], None);
        covers(&draw, n);
        assert_eq!(draw.args[3..7], [7, 9, 5, 4].map(Arg::Unsigned), "the seed's words, the purpose, the reach");
        let inputs = [(&images[..], DType::U8), index, choice];
        let gather = launch(Op::GatherAugmented { reach: 4 }, &inputs, &[(&out, DType::U8)], None);
        covers(&gather, n * 3072);
        assert_eq!(sizes(&gather), [n, 32, 32, 3]);
        assert_eq!(gather.cost.bytes as usize, n * (2 * 3072 + 16), "not the whole table");
    }
}

fn rule(entries: u32) -> OptimizerRule {
    let schedule = (0..entries).map(|i| (10 * i, 0.5)).collect();
    OptimizerRule { schedule, clean_coeff: 0.25, weight_decay: 1e-4, momentum: 0.9, loss_scale: None }
}

#[test]
fn an_optimizer_takes_all_parameters_in_one_launch() {
    for n in [1, 3, 4, 5, 1023, 1024, 1025, 3_274_634] {
        let (p, one) = ([n], [1]);
        let (p, step) = (f32s(&p), (&one[..], DType::U32));
        for (op, name, states) in [(Op::Adam(rule(3)), "adam", 3), (Op::Sgd(rule(3)), "sgd", 2)] {
            for (off, clean) in [(None, true), (None, false), (Some(0), true)] {
                let inputs = if clean { vec![p, p, step] } else { vec![p, step] };
                let launch = launch(op.clone(), &inputs, &vec![p; states], off);
                let wide = off.is_none();
                assert_eq!(launch.kernel, format!("{name}{}", if wide { "_x4" } else { "" }));
                covers(&launch, if wide { n.div_ceil(4) } else { n });
                assert_eq!(sizes(&launch), [n]);
                // Without a clean gradient the margin's gradient is the whole gradient.
                let (gradient, coefficient) = if clean { (Arg::Input(1), 0.25) } else { (Arg::Input(0), 0.0) };
                assert_eq!([&launch.args[states + 1], &launch.args[states + 5]], [&gradient, &Arg::Float(coefficient)]);
                assert_eq!([&launch.args[states + 3], &launch.args[states + 6]], [&Arg::Null, &Arg::Float(1.0)]);
            }
        }
        for clean in [true, false] {
            let inputs = if clean { vec![p, p, step, step] } else { vec![p, step, step] };
            let scaled = OptimizerRule { loss_scale: Some(1024.0), ..rule(3) };
            let launch = launch(Op::Sgd(scaled), &inputs, &[p; 2], None);
            let (step, overflow) = (Arg::Input(inputs.len() - 2), Arg::Input(inputs.len() - 1));
            assert_eq!([&launch.args[4], &launch.args[5]], [&step, &overflow]);
            assert_eq!(launch.args[8], Arg::Float(1.0 / 1024.0));
        }
    }
}

#[test]
fn a_search_for_an_overflow_reads_both_gradients_or_the_only_one_twice() {
    for n in [1, 3, 4, 1025] {
        let (p, one, sums) = ([n], [1], [Metric::COUNT]);
        let (p, step) = (f32s(&p), (&one[..], DType::U32));
        for (inputs, second) in [(vec![p, p, step], 1), (vec![p, step], 0)] {
            for (off, kernel, threads) in [(None, "find_overflow_x4", n.div_ceil(4)), (Some(0), "find_overflow", n)] {
                let launch = launch(Op::FindOverflow, &inputs, &[step, f32s(&sums)], off);
                assert_eq!(launch.kernel, kernel);
                covers(&launch, threads);
                assert_eq!([&launch.args[2], &launch.args[3]], [&Arg::Input(0), &Arg::Input(second)]);
            }
        }
    }
}

#[test]
#[should_panic(expected = "a schedule of 33 learning rates; the GPU's kernels take 32")]
fn a_schedule_that_is_too_long_is_not_cut_off() {
    let (p, one) = ([7], [1]);
    let too_many = MAX_LEARNING_RATES as u32 + 1;
    launch(Op::Adam(rule(too_many)), &[f32s(&p), (&one, DType::U32)], &[f32s(&p); 3], None);
}
