//! From an op to the function that computes it: one exhaustive `match` over [`Op`]. The function stands in the file of
//! the op's family.

use super::arena::Arena;
use super::batch_norm::ChannelStatistics;
use super::scratch::scratch;
use super::shapes::{OpShapes, OperandShape};
use super::{
    attack, batch_norm, conv, conv_fused, conv_pool, elementwise, first_layer, formula, half, head, hyperplane, image,
    linear, loss, optimizer, pool, row_wise, rows,
};
use crate::tape::{
    ConvFusion, ConvGradientFusion, ConvWindow, DType, HeadFeatures, Metric, Node, Op, Place, Program, StepLayer, Value,
};

fn f32s(bytes: &[u8]) -> &[f32] {
    bytemuck::cast_slice(bytes)
}

fn f32s_mut(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::cast_slice_mut(bytes)
}

fn u32s(bytes: &[u8]) -> &[u32] {
    bytemuck::cast_slice(bytes)
}

fn u32s_mut(bytes: &mut [u8]) -> &mut [u32] {
    bytemuck::cast_slice_mut(bytes)
}

/// The active rows, `n`, of a value of shape `dims`.
fn active_rows<'a>(bytes: &'a mut [u8], dims: &[usize], n: usize) -> &'a mut [f32] {
    &mut f32s_mut(bytes)[..n * dims[1..].iter().product::<usize>()]
}

/// Weight, bias, mean and variance of batch norm, in this order.
fn norm<'a>(operands: &[&'a [u8]]) -> batch_norm::BatchNormOperands<'a> {
    let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|i| f32s(operands[i]));
    batch_norm::BatchNormOperands { weight, bias, mean, variance }
}

/// Inputs of an elementwise program with their dimensions.
fn formula_inputs<'a>(shapes: &'a OpShapes, x: &[&'a [u8]]) -> Vec<(formula::InputNumbers<'a>, &'a [usize])> {
    let one = |(shape, bytes): (&'a OperandShape, &&'a [u8])| {
        let values = match shape.dtype {
            DType::U32 => formula::InputNumbers::U32(u32s(bytes)),
            _ => formula::InputNumbers::F32(f32s(bytes)),
        };
        (values, &shape.dims[..])
    };
    shapes.inputs.iter().zip(x).map(one).collect()
}

/// Computes one op on the memory of `arena`.
pub(super) fn run(arena: &mut Arena, program: &Program, node: &Node) {
    if let Op::RowWise(_) = node.op {
        return row_wise::row_wise(node, |step| run(arena, program, step));
    }
    let place = |v: &Value| program.places[v.0].expect("every operand has a place");
    let mut reads: Vec<Place> = node.inputs.iter().map(place).collect();
    reads.extend(node.rows.iter().map(place));
    let writes: Vec<Place> = node.outputs.iter().map(place).collect();
    let (mut x, mut y) = arena.views(&reads, &writes);
    let mut shapes = OpShapes::new(&program.values, &node.inputs, &node.outputs);
    shapes.active = node.rows.map(|_| u32s(x.pop().expect("rows were read last"))[0] as usize);
    match node.op {
        Op::PackFilters => {
            for ((copies, x), shape) in y.chunks_exact_mut(2).zip(&x).zip(&shapes.inputs) {
                let [plain, turned] = copies else { unreachable!("a weight has two copies") };
                half::pack_filters(plain, turned, f32s(x), &shape.dims);
            }
        }
        Op::Conv2dFused(fusion) if fusion.normalized || fusion.statistics => {
            conv2d_and_batch_norm(fusion, &shapes, &x, &mut y);
        }
        Op::Conv2dFusedBackwardInput(fusion) if fusion.norm_weight => {
            conv2d_backward_input_and_norm_weight(fusion, &shapes, &x, &mut y);
        }
        _ => compute_in_any_precision(&node.op, &shapes, &x, &mut y),
    }
}

/// Computes one op, whose half results are rounded when it is done.
fn compute_in_any_precision(op: &Op, shapes: &OpShapes, x: &[&[u8]], y: &mut [&mut [u8]]) {
    if shapes.inputs.iter().chain(&shapes.outputs).any(OperandShape::is_half) {
        half::in_single_precision(op, shapes, x, y, |shapes, x, y| compute(op, shapes, x, y));
    } else {
        compute(op, shapes, x, y);
    }
}

/// A convolution with batch norm of its operand, or with the statistics of its sum: one after the other, so that what
/// lies between them is rounded as memory would round it.
fn conv2d_and_batch_norm(fusion: ConvFusion, shapes: &OpShapes, x: &[&[u8]], y: &mut [&mut [u8]]) {
    let (own, norm) = x.split_at(x.len() - if fusion.normalized { 4 } else { 0 });
    let conv = Op::Conv2dFused(fusion.without_batch_norm_in_training());
    let (y, statistics) = y.split_at_mut(y.len() - if fusion.statistics { 4 } else { 0 });
    let (results, kept) = y.split_at_mut(y.len() - usize::from(fusion.keeps_operand));
    let conv_shapes = shapes.of(&shapes.inputs[..own.len()], &shapes.outputs[..results.len()]);
    let mut from_operand = |normalized: &mut [u8]| {
        let operand = &shapes.inputs[0];
        let inputs = [&shapes.inputs[..1], &shapes.inputs[own.len()..]].concat();
        let norm_shapes = shapes.of(&inputs, std::slice::from_ref(operand));
        let op = Op::BatchNorm { relu: true };
        compute_in_any_precision(&op, &norm_shapes, &[&[own[0]], norm].concat(), &mut [&mut *normalized]);
        compute_in_any_precision(&conv, &conv_shapes, &[&[&*normalized], &own[1..]].concat(), results);
    };
    match kept {
        [kept] => from_operand(kept),
        _ if fusion.normalized => {
            let operand = &shapes.inputs[0];
            let bytes = operand.len() * operand.dtype.size();
            scratch(operand.len(), |memory| from_operand(&mut bytemuck::cast_slice_mut(memory)[..bytes]));
        }
        _ => compute_in_any_precision(&conv, &conv_shapes, own, results),
    }
    if let [mean, variance, running_mean, running_variance] = statistics {
        let sum = &shapes.outputs[0];
        half::with_single(&results[0][..], sum, shapes.rows() * sum.row(), |sum| {
            let mut batch = ChannelStatistics { mean: f32s_mut(mean), variance: f32s_mut(variance) };
            let mut running = ChannelStatistics { mean: f32s_mut(running_mean), variance: f32s_mut(running_variance) };
            batch_norm::update_statistics(&mut batch, &mut running, sum);
        });
    }
}

/// The input gradient of a convolution, then the gradients of batch norm's weight and bias from it as memory has it.
fn conv2d_backward_input_and_norm_weight(
    fusion: ConvGradientFusion,
    shapes: &OpShapes,
    x: &[&[u8]],
    y: &mut [&mut [u8]],
) {
    let (own, norm) = x.split_at(x.len() - 5);
    let (dx, sums) = y.split_at_mut(1);
    let op = Op::Conv2dFusedBackwardInput(ConvGradientFusion { norm_weight: false, ..fusion });
    compute_in_any_precision(&op, &shapes.of(&shapes.inputs[..own.len()], &shapes.outputs[..1]), own, dx);
    let operands = [&shapes.outputs[..1], &shapes.inputs[own.len()..]].concat();
    let norm_shapes = shapes.of(&operands, &shapes.outputs[1..]);
    let op = Op::BatchNormBackwardWeight { relu: true };
    compute_in_any_precision(&op, &norm_shapes, &[&[&*dx[0]], norm].concat(), sums);
}

/// Computes one op in single precision.
fn compute(op: &Op, shapes: &OpShapes, x: &[&[u8]], y: &mut [&mut [u8]]) {
    let in_dims = |i: usize| &shapes.inputs[i].dims[..];
    let out_dims = &shapes.outputs[0].dims[..];
    let (active, n) = (shapes.active, shapes.rows());

    let [y0, others @ ..] = y else { unreachable!("every op writes something") };
    match op {
        Op::GatherRows => {
            let n = active.unwrap_or(out_dims[0]);
            rows::gather_rows(y0, x[0], u32s(x[1]), n, x[0].len() / in_dims(0)[0]);
        }
        Op::ScatterRows => rows::scatter_rows(y0, x[0], u32s(x[1]), n, x[0].len() / in_dims(0)[0]),
        Op::DrawAugmentation { seed, reach } => {
            let n = active.unwrap_or(out_dims[0]);
            image::draw_augmentation(&mut u32s_mut(y0)[..3 * n], u32s(x[1]), *seed, u32s(x[0])[0], *reach);
        }
        Op::GatherAugmented { reach } => {
            let sizes = [active.unwrap_or(out_dims[0]), out_dims[1], out_dims[2], out_dims[3]];
            image::gather_augmented(y0, x[0], u32s(x[1]), u32s(x[2]), sizes, *reach as usize);
        }
        Op::BytesToUnit => elementwise::bytes_to_unit(active_rows(y0, out_dims, n), x[0]),
        Op::Copy => elementwise::copy(active_rows(y0, out_dims, n), f32s(x[0])),
        Op::Fill { value } => elementwise::fill(active_rows(y0, out_dims, n), *value),
        Op::Add => elementwise::add(active_rows(y0, out_dims, n), f32s(x[0]), f32s(x[1])),
        Op::Scale { factor } => elementwise::scale(active_rows(y0, out_dims, n), f32s(x[0]), *factor),
        Op::ClampMin { least } => elementwise::clamp_min(active_rows(y0, out_dims, n), f32s(x[0]), *least),

        Op::Map(formula) => {
            let (capacity, row) = (out_dims[0], out_dims[1..].iter().product());
            let bound = formula::BoundFormula::new(formula, formula_inputs(shapes, x), capacity, row);
            let len = active.unwrap_or(capacity) * row;
            match shapes.outputs[0].dtype {
                DType::U32 => formula::map(&mut u32s_mut(y0)[..len], &bound),
                _ => formula::map(&mut f32s_mut(y0)[..len], &bound),
            }
        }
        Op::Reduce(reduction, formula) => {
            let (capacity, inputs) = (out_dims[0], formula_inputs(shapes, x));
            let rowed = inputs.iter().enumerate().filter(|(i, _)| !formula.is_table(*i));
            let longest = rowed.map(|(_, (_, dims))| dims.iter().product::<usize>()).max();
            let row = longest.expect("a formula has an input that is not a table") / capacity;
            let bound = formula::BoundFormula::new(formula, inputs, capacity, row);
            formula::reduce(&mut f32s_mut(y0)[..active.unwrap_or(capacity)], *reduction, &bound);
        }

        Op::Conv2d(window) => {
            let shape = conv::ConvSizes::new(in_dims(0), in_dims(1), *window);
            conv::conv2d(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, &shape);
        }
        Op::Conv2dBackwardInput(window) => {
            let shape = conv::ConvSizes::new(out_dims, in_dims(1), *window);
            conv::conv2d_backward_input(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, &shape);
        }
        Op::Conv2dBackwardWeight(window) => {
            let shape = conv::ConvSizes::new(in_dims(1), out_dims, *window);
            conv::conv2d_backward_weight(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, &shape);
        }
        Op::AddBias => elementwise::add_bias(active_rows(y0, out_dims, n), f32s(x[0]), f32s(x[1])),
        Op::AddBiasBackwardBias => {
            let row = in_dims(0)[1..].iter().product::<usize>();
            elementwise::add_bias_backward_bias(f32s_mut(y0), &f32s(x[0])[..n * row]);
        }
        Op::Relu => elementwise::relu(active_rows(y0, out_dims, n), f32s(x[0])),
        Op::ReluBackward => elementwise::relu_backward(active_rows(y0, out_dims, n), f32s(x[0]), f32s(x[1])),
        Op::MaxPool2d => pool::max_pool2d(f32s_mut(y0), others[0], f32s(x[0]), n, in_dims(0)),
        Op::MaxPool2dBackward => pool::max_pool2d_backward(f32s_mut(y0), f32s(x[0]), x[1], n, out_dims),
        Op::ConvPool(window) => {
            let shape = conv::ConvSizes::new(in_dims(0), in_dims(1), *window);
            conv_pool::conv_pool(f32s_mut(y0), others[0], f32s(x[0]), f32s(x[1]), f32s(x[2]), n, &shape);
        }
        Op::TwoConvPools { along, first, second } => {
            let [choice, first_choice] = others else { unreachable!("both layers write their choices") };
            let shape = conv::ConvSizes::new(in_dims(0), in_dims(1), *first);
            let between = [in_dims(0)[0], shape.out_h / 2, shape.out_w / 2, in_dims(1)[0]];
            let layer = |w: usize, shape| conv_pool::PooledLayer { w: f32s(x[w]), bias: f32s(x[w + 1]), shape };
            let second = layer(3, conv::ConvSizes::new(&between, in_dims(3), *second));
            let layers = [&layer(1, shape), &second];
            let along = along.map(|rule| (rule, [5, 6, 7].map(|i| f32s(x[i]))));
            conv_pool::two_conv_pools(f32s_mut(y0), [choice, first_choice], f32s(x[0]), along, layers, n);
        }
        Op::ConvPoolBackwardInput(window) => {
            let shape = conv::ConvSizes::new(out_dims, in_dims(2), *window);
            conv_pool::conv_pool_backward_input(f32s_mut(y0), f32s(x[0]), x[1], f32s(x[2]), n, &shape);
        }
        Op::ConvPoolBackwardWeight(window) => {
            let shape = conv::ConvSizes::new(in_dims(2), out_dims, *window);
            conv_pool::conv_pool_backward_weight(f32s_mut(y0), f32s(x[0]), x[1], f32s(x[2]), n, &shape);
        }
        Op::ConvPoolBackwardBias => {
            let row = in_dims(0)[1..].iter().product::<usize>();
            conv_pool::conv_pool_backward_bias(f32s_mut(y0), &f32s(x[0])[..n * row], x[1]);
        }
        Op::Linear => linear::linear(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, in_dims(1)),
        Op::LinearBias { relu } => {
            linear::linear_bias(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), n, in_dims(1), *relu);
        }
        Op::LinearBackwardInput => {
            let kept = x.get(2).map(|y| f32s(y));
            linear::linear_backward_input(f32s_mut(y0), f32s(x[0]), f32s(x[1]), kept, n, in_dims(1));
        }
        Op::LinearBackwardWeight => {
            linear::linear_backward_weight(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, out_dims);
        }

        Op::Standardize => {
            let deviation = &mut f32s_mut(others[0])[..n];
            image::standardize(active_rows(y0, out_dims, n), deviation, f32s(x[0]), out_dims[1..].iter().product());
        }
        Op::StandardizeBackward => {
            let (dx, deviation) = (active_rows(y0, out_dims, n), &f32s(x[2])[..n]);
            image::standardize_backward(dx, f32s(x[0]), f32s(x[1]), deviation, out_dims[1..].iter().product());
        }
        Op::BatchNorm { relu } => {
            batch_norm::batch_norm(active_rows(y0, out_dims, n), f32s(x[0]), norm(&x[1..]), *relu);
        }
        Op::BatchNormBackwardInput { relu } => {
            let y = relu.then(|| f32s(x[3]));
            let dx = active_rows(y0, out_dims, n);
            batch_norm::batch_norm_backward_input(dx, f32s(x[0]), f32s(x[1]), f32s(x[2]), y);
        }
        Op::BatchNormTraining { relu } => {
            let [mean, variance, running_mean, running_variance] = others else {
                unreachable!("batch norm in training mode writes its statistics")
            };
            let statistics = ChannelStatistics { mean: f32s_mut(mean), variance: f32s_mut(variance) };
            let running = ChannelStatistics { mean: f32s_mut(running_mean), variance: f32s_mut(running_variance) };
            let y = active_rows(y0, out_dims, n);
            batch_norm::batch_norm_training(y, statistics, running, f32s(x[0]), [f32s(x[1]), f32s(x[2])], *relu);
        }
        Op::BatchNormTrainingBackwardInput { relu } => {
            let (dx, sums) = (active_rows(y0, out_dims, n), [f32s(x[6]), f32s(x[7])]);
            let norm = norm(&x[2..]);
            let addend = x.get(8).map(|addend| f32s(addend));
            batch_norm::batch_norm_training_backward_input(dx, [f32s(x[0]), f32s(x[1])], norm, sums, addend, *relu);
        }
        Op::BatchNormBackwardWeight { relu } => {
            let dy = &f32s(x[0])[..n * in_dims(0)[1..].iter().product::<usize>()];
            let dbias = f32s_mut(others[0]);
            batch_norm::batch_norm_backward_weight(f32s_mut(y0), dbias, dy, f32s(x[1]), norm(&x[2..]), *relu);
        }
        Op::GlobalMean => {
            let &[_, h, w, c] = in_dims(0) else { unreachable!("shapes were checked when recorded") };
            image::global_mean(active_rows(y0, out_dims, n), f32s(x[0]), h * w, c);
        }
        Op::GlobalMeanBackward => {
            let &[_, h, w, c] = out_dims else { unreachable!("shapes were checked when recorded") };
            image::global_mean_backward(active_rows(y0, out_dims, n), f32s(x[0]), h * w, c);
        }
        Op::Conv2dFused(fusion) => {
            let shape = conv::ConvSizes::new(in_dims(0), in_dims(1), fusion.window);
            let shortcut = |stride| conv::ConvSizes::new(in_dims(2), in_dims(3), ConvWindow { padding: 0, stride });
            let shortcut = fusion.shortcut.map(shortcut);
            let inputs: Vec<&[f32]> = x.iter().map(|x| f32s(x)).collect();
            let outputs = [y0].into_iter().chain(others).map(|y| f32s_mut(y)).collect();
            conv_fused::conv2d_fused(outputs, &inputs, n, fusion, &shape, shortcut.as_ref());
        }
        Op::Conv2dFusedBackwardInput(fusion) => {
            let shape = conv::ConvSizes::new(out_dims, in_dims(1), fusion.window);
            let shortcut = |stride| conv::ConvSizes::new(out_dims, in_dims(3), ConvWindow { padding: 0, stride });
            let shortcut = fusion.shortcut.map(shortcut);
            let inputs: Vec<&[f32]> = x.iter().map(|x| f32s(x)).collect();
            conv_fused::conv2d_fused_backward_input(f32s_mut(y0), &inputs, n, fusion, &shape, shortcut.as_ref());
        }

        Op::HeadBackward(fusion) => {
            let layer = fusion.features.operands();
            let own = &x[layer..];
            let dx = active_rows(y0, out_dims, n);
            let norm = others.first_mut().map(|norm| &mut f32s_mut(norm)[..n]);
            let head = |features: &[f32]| {
                let operands = head::HeadOperands {
                    features,
                    w: f32s(own[0]),
                    bias: f32s(own[1]),
                    labels: &u32s(own[2])[..n],
                    dvalue: &f32s(own[3])[..n],
                    norm: own.get(4).map(|weight| [f32s(weight), f32s(own[5])]),
                };
                head::head_backward(dx, norm, &operands, n, in_dims(layer), fusion);
            };
            if fusion.features == HeadFeatures::Hidden {
                head::with_hidden(f32s(x[0]), f32s(x[1]), f32s(x[2]), n, in_dims(1), head);
            } else {
                head(f32s(x[0]));
            }
        }

        Op::Loss(rule) => loss::loss(&mut f32s_mut(y0)[..n], f32s(x[0]), u32s(x[1]), *rule),
        Op::LossBackward(rule) => {
            let classes = out_dims[1];
            let dlogits = &mut f32s_mut(y0)[..n * classes];
            loss::loss_backward(dlogits, f32s(x[0]), u32s(x[1]), f32s(x[2]), *rule);
        }
        Op::Kl => loss::kl(&mut f32s_mut(y0)[..n], f32s(x[0]), f32s(x[1]), in_dims(0)[1]),
        Op::KlBackwardP => {
            loss::kl_backward_p(active_rows(y0, out_dims, n), f32s(x[0]), f32s(x[1]), f32s(x[2]), out_dims[1])
        }
        Op::KlBackwardQ => {
            loss::kl_backward_q(active_rows(y0, out_dims, n), f32s(x[0]), f32s(x[1]), f32s(x[2]), out_dims[1])
        }
        Op::TargetedLoss(targeted) => {
            let out = &mut f32s_mut(y0)[..n];
            loss::targeted_loss(out, f32s(x[0]), u32s(x[1]), u32s(x[2]), *targeted);
        }
        Op::TargetedLossBackward(targeted) => {
            let dlogits = &mut f32s_mut(y0)[..n * out_dims[1]];
            let [labels, targets] = [1, 2].map(|i| u32s(x[i]));
            loss::targeted_loss_backward(dlogits, f32s(x[0]), labels, targets, f32s(x[3]), *targeted);
        }
        Op::RankClass { rank } => {
            let rank = rank + x.get(2).map_or(0, |run| u32s(run)[0]);
            loss::rank_class(&mut u32s_mut(y0)[..n], f32s(x[0]), u32s(x[1]), rank as usize);
        }
        Op::MeanWeights => loss::mean_weights(&mut f32s_mut(y0)[..n]),
        Op::HingeWeights { hinge } => loss::hinge_weights(&mut f32s_mut(y0)[..n], f32s(x[0]), *hinge),
        Op::SelectNegative => {
            let count = rows::select_negative(u32s_mut(y0), &f32s(x[0])[..n]);
            u32s_mut(others[0])[0] = count;
        }

        Op::Uniform { seed, purpose, signed } => {
            let n = active.unwrap_or(out_dims[0]);
            let row = out_dims[1..].iter().product();
            let noise = attack::NoiseKey { seed: *seed, purpose: *purpose, step: u32s(x[0])[0], signed: *signed };
            attack::uniform(f32s_mut(y0), u32s(x[1]), n, row, &noise);
        }
        Op::PgdStart(norm) => attack::pgd_start(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), n, *norm),
        Op::PgdStep(rule) => {
            attack::pgd_step(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), f32s(x[3]), n, rule);
        }
        Op::PgdStepFused(fusion) => {
            let (layers, operands) = x[4..].split_at(fusion.layer.map_or(0, StepLayer::operands));
            let (norm, standardized) = operands.split_at(usize::from(fusion.from_norm));
            let layer = |operand: usize, dims: &[usize], window| first_layer::UnfinishedLayer {
                w: f32s(layers[operand]),
                shape: conv::ConvSizes::new(dims, in_dims(4 + operand), window),
                choice: layers.get(operand + 1).copied(),
            };
            let linear = layers.get(4).map(|w| (f32s(w), in_dims(8)));
            let layers = match fusion.layer {
                None => vec![],
                Some(StepLayer::Conv(window) | StepLayer::ConvPool(window)) => vec![layer(0, out_dims, window)],
                // The first layer's choices have the shape of its results, the second layer's images.
                Some(StepLayer::TwoConvPools { first, second, .. }) => {
                    vec![layer(2, in_dims(5), second), layer(0, out_dims, first)]
                }
            };
            let gradient = first_layer::ImageGradient {
                dx: f32s(x[1]),
                linear,
                layers,
                norm: norm.first().map(|norm| f32s(norm)),
                standardized: (!standardized.is_empty()).then(|| [0, 1].map(|i| f32s(standardized[i]))),
            };
            first_layer::pgd_step_fused(f32s_mut(y0), f32s(x[0]), &gradient, f32s(x[2]), f32s(x[3]), n, &fusion.rule);
        }
        Op::StandardizeConv2d(fusion) => {
            let (along, norm) = x[2..].split_at(if fusion.along.is_some() { 3 } else { 0 });
            let operands = first_layer::FirstLayerOperands {
                x: f32s(x[0]),
                along: fusion.along.map(|rule| (rule, [0, 1, 2].map(|i| f32s(along[i])))),
                w: f32s(x[1]),
                norm: norm.iter().map(|operand| f32s(operand)).collect(),
            };
            let mut results: Vec<&mut [f32]> = [y0].into_iter().chain(others).map(|y| f32s_mut(y)).collect();
            let images = fusion.keeps_images.then(|| results.split_off(results.len() - 2));
            let images = images.map(|images| images.try_into().expect("images and deviations"));
            let shape = conv::ConvSizes::new(in_dims(0), in_dims(1), fusion.layer.window);
            first_layer::standardize_conv2d(results, images, &operands, n, &fusion.layer, &shape);
        }
        Op::AlongDirection(rule) => {
            attack::along_direction(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), f32s(x[3]), n, rule);
        }
        Op::ProjectHyperplane(norm) => {
            let d = active_rows(y0, out_dims, n);
            hyperplane::project_hyperplane(d, f32s(x[0]), f32s(x[1]), f32s(x[2]), f32s(x[3]), *norm);
        }
        Op::Bisect { max_eps } => {
            let [low, high] = others else { unreachable!("bisect updates t, low and high") };
            let (t, low, high) = (f32s_mut(y0), f32s_mut(low), f32s_mut(high));
            attack::bisect(&mut t[..n], low, high, f32s(x[0]), *max_eps);
        }

        Op::PackFilters => unreachable!("it writes half-precision numbers"),
        Op::FindOverflow => {
            let (step, gradients) = x.split_last().expect("the step is read last");
            let gradients: Vec<&[f32]> = gradients.iter().map(|g| f32s(g)).collect();
            let skipped = &mut f32s_mut(others[0])[Metric::SkippedSteps as usize];
            optimizer::find_overflow(&mut u32s_mut(y0)[0], skipped, &gradients, u32s(step)[0]);
        }
        Op::Adam(rule) | Op::Sgd(rule) => {
            let (operands, overflow) = x.split_at(x.len() - usize::from(rule.loss_scale.is_some()));
            let (step, gradients) = operands.split_last().expect("the step follows the gradients");
            let step = u32s(step)[0];
            if overflow.iter().any(|overflow| u32s(overflow)[0] == step + 1) {
                return;
            }
            let gradients: Vec<&[f32]> = gradients.iter().map(|g| f32s(g)).collect();
            match others {
                [m, v] => optimizer::adam(f32s_mut(y0), f32s_mut(m), f32s_mut(v), &gradients, step, rule),
                [momentum] => optimizer::sgd(f32s_mut(y0), f32s_mut(momentum), &gradients, step, rule),
                _ => unreachable!("an optimizer updates its state"),
            }
        }
        Op::Increment => optimizer::increment(&mut u32s_mut(y0)[0]),
        Op::AccumulateMetrics => {
            let rows: Vec<&[f32]> = x.iter().map(|v| &f32s(v)[..n]).collect();
            loss::accumulate_metrics(f32s_mut(y0), &rows);
            optimizer::increment(&mut u32s_mut(others[0])[0]);
        }
        Op::RowWise(_) => unreachable!("its steps are computed one by one"),
    }
}
