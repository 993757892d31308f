//! The CPU: rayon over rows, convolutions in vector registers, a library's matrix products in linear layers.
//!
//! Work is cut by rows or by blocks of a fixed size, never by the number of threads, and every sum has a fixed
//! order: the same program gives the same bits on one thread and on many.

mod arena;
mod attack;
mod batch_norm;
mod conv;
mod conv_fused;
mod conv_pool;
mod elementwise;
mod formula;
mod hyperplane;
mod image;
mod linear;
mod loss;
mod microkernel;
mod optimizer;
mod pool;
mod rows;

use arena::Arena;

use super::{Device, Snapshot};
use crate::tape::{Buffer, ConvWindow, DType, Memory, Node, Op, Place, Program, Value};
use crate::{Error, Result};

/// Threads and caches of this machine.
#[derive(Default)]
pub struct Cpu {
    arena: Arena,
}

impl Cpu {
    /// A device without memory: see [`Device::allocate`]. Threads are those of rayon's pool.
    pub fn new() -> Cpu {
        Cpu::default()
    }
}

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

/// The first `n` rows of a value of shape `dims`.
fn live<'a>(bytes: &'a mut [u8], dims: &[usize], n: usize) -> &'a mut [f32] {
    &mut f32s_mut(bytes)[..n * dims[1..].iter().product::<usize>()]
}

/// Batch norm's weight, bias, mean and variance, in this order.
fn norm<'a>(operands: &[&'a [u8]]) -> batch_norm::Norm<'a> {
    let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|i| f32s(operands[i]));
    batch_norm::Norm { weight, bias, mean, variance }
}

/// A formula's inputs with their dimensions.
fn formula_inputs<'a>(program: &'a Program, node: &Node, x: &[&'a [u8]]) -> Vec<(formula::Values<'a>, &'a [usize])> {
    let one = |(value, bytes): (&Value, &&'a [u8])| {
        let info = &program.values[value.0];
        let values = match info.dtype {
            DType::U32 => formula::Values::U32(u32s(bytes)),
            _ => formula::Values::F32(f32s(bytes)),
        };
        (values, &info.dims[..])
    };
    node.inputs.iter().zip(x).map(one).collect()
}

/// Runs `work` with the widest vector instructions this machine has.
fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// A copy, which is there at once.
struct Taken(Vec<u8>);

impl Snapshot for Taken {
    fn ready(&self) -> Result<bool> {
        Ok(true)
    }

    fn bytes(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0)
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("CPU, {} threads", rayon::current_num_threads())
    }

    fn allocate(&mut self, memory: &Memory, programs: &[&Program]) -> Result<usize> {
        let workspace = programs.iter().map(|program| program.workspace).max().unwrap_or(0);
        self.arena = Arena::new(memory.bytes(), workspace).ok_or_else(|| {
            Error::device(format!(
                "out of memory: the images and the network take {} MB, the largest program {} MB; a smaller --width, \
                 --training-batch-size (train), --batch-size (evaluate, bench) or --megabytes (bench) takes less",
                memory.bytes() / 1_000_000,
                workspace / 1_000_000
            ))
        })?;
        Ok(memory.bytes() + workspace)
    }

    fn write_bytes(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.arena.persistent_mut()[buffer.offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_bytes(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.arena.persistent()[buffer.offset..][..bytes.len()]);
        Ok(())
    }

    fn snapshot(&mut self, buffer: &Buffer) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(Taken(self.arena.persistent()[buffer.offset..][..buffer.bytes()].to_vec())))
    }

    fn execute(&mut self, program: &Program) -> Result<()> {
        program.nodes.iter().for_each(|node| self.run(program, node));
        Ok(())
    }
}

impl Cpu {
    fn run(&mut self, program: &Program, node: &Node) {
        let place = |v: &crate::tape::Value| program.places[v.0].expect("every operand has a place");
        let mut reads: Vec<Place> = node.inputs.iter().map(place).collect();
        reads.extend(node.rows.iter().map(place));
        let writes: Vec<Place> = node.outputs.iter().map(place).collect();
        let (mut x, mut y) = self.arena.views(&reads, &writes);
        let in_dims = |i: usize| &program.values[node.inputs[i].0].dims[..];
        let out_dims = &program.values[node.outputs[0].0].dims[..];
        let active = node.rows.map(|_| u32s(x.pop().expect("rows were read last"))[0] as usize);
        // Rows are those of the first operand, or of the result where nothing is read.
        let all = node.inputs.first().map_or(out_dims, |_| in_dims(0)).first().copied().unwrap_or(1);
        let n = active.unwrap_or(all);

        let [y0, others @ ..] = &mut y[..] else { unreachable!("every op writes something") };
        match &node.op {
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
            Op::BytesToUnit => elementwise::bytes_to_unit(live(y0, out_dims, n), x[0]),
            Op::Copy => elementwise::copy(live(y0, out_dims, n), f32s(x[0])),
            Op::Fill { value } => live(y0, out_dims, n).fill(*value),
            Op::Add => elementwise::add(live(y0, out_dims, n), f32s(x[0]), f32s(x[1])),
            Op::Scale { factor } => elementwise::scale(live(y0, out_dims, n), f32s(x[0]), *factor),
            Op::ClampMin { least } => elementwise::clamp_min(live(y0, out_dims, n), f32s(x[0]), *least),

            Op::Map(formula) => {
                let (capacity, row) = (out_dims[0], out_dims[1..].iter().product());
                let bound = formula::Bound::new(formula, formula_inputs(program, node, &x), capacity, row);
                let len = active.unwrap_or(capacity) * row;
                match program.values[node.outputs[0].0].dtype {
                    DType::U32 => formula::map(&mut u32s_mut(y0)[..len], &bound),
                    _ => formula::map(&mut f32s_mut(y0)[..len], &bound),
                }
            }
            Op::Reduce(reduction, formula) => {
                let (capacity, inputs) = (out_dims[0], formula_inputs(program, node, &x));
                let rowed = inputs.iter().enumerate().filter(|(i, _)| !formula.is_table(*i));
                let longest = rowed.map(|(_, (_, dims))| dims.iter().product::<usize>()).max();
                let row = longest.expect("a formula has an input with rows") / capacity;
                let bound = formula::Bound::new(formula, inputs, capacity, row);
                formula::reduce(&mut f32s_mut(y0)[..active.unwrap_or(capacity)], *reduction, &bound);
            }

            Op::Conv2d(window) => {
                let shape = conv::Shape::new(in_dims(0), in_dims(1), *window);
                conv::conv2d(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, &shape);
            }
            Op::Conv2dBackwardInput(window) => {
                let shape = conv::Shape::new(out_dims, in_dims(1), *window);
                conv::conv2d_backward_input(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, &shape);
            }
            Op::Conv2dBackwardWeight(window) => {
                let shape = conv::Shape::new(in_dims(1), out_dims, *window);
                conv::conv2d_backward_weight(f32s_mut(y0), f32s(x[0]), f32s(x[1]), n, &shape);
            }
            Op::AddBias => elementwise::add_bias(live(y0, out_dims, n), f32s(x[0]), f32s(x[1])),
            Op::AddBiasBackwardBias => {
                let row = in_dims(0)[1..].iter().product::<usize>();
                elementwise::add_bias_backward_bias(f32s_mut(y0), &f32s(x[0])[..n * row]);
            }
            Op::Relu => elementwise::relu(live(y0, out_dims, n), f32s(x[0])),
            Op::ReluBackward => elementwise::relu_backward(live(y0, out_dims, n), f32s(x[0]), f32s(x[1])),
            Op::MaxPool2d => pool::max_pool2d(f32s_mut(y0), others[0], f32s(x[0]), n, in_dims(0)),
            Op::MaxPool2dBackward => pool::max_pool2d_backward(f32s_mut(y0), f32s(x[0]), x[1], n, out_dims),
            Op::ConvPool(window) => {
                let shape = conv::Shape::new(in_dims(0), in_dims(1), *window);
                conv_pool::conv_pool(f32s_mut(y0), others[0], f32s(x[0]), f32s(x[1]), f32s(x[2]), n, &shape);
            }
            Op::ConvPoolBackwardInput(window) => {
                let shape = conv::Shape::new(out_dims, in_dims(2), *window);
                conv_pool::conv_pool_backward_input(f32s_mut(y0), f32s(x[0]), x[1], f32s(x[2]), n, &shape);
            }
            Op::ConvPoolBackwardWeight(window) => {
                let shape = conv::Shape::new(in_dims(2), out_dims, *window);
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
                image::standardize(live(y0, out_dims, n), deviation, f32s(x[0]), out_dims[1..].iter().product());
            }
            Op::StandardizeBackward => {
                let (dx, deviation) = (live(y0, out_dims, n), &f32s(x[2])[..n]);
                image::standardize_backward(dx, f32s(x[0]), f32s(x[1]), deviation, out_dims[1..].iter().product());
            }
            Op::BatchNorm { relu } => {
                batch_norm::batch_norm(live(y0, out_dims, n), f32s(x[0]), norm(&x[1..]), *relu);
            }
            Op::BatchNormBackwardInput { relu } => {
                let y = relu.then(|| f32s(x[3]));
                let dx = live(y0, out_dims, n);
                batch_norm::batch_norm_backward_input(dx, f32s(x[0]), f32s(x[1]), f32s(x[2]), y);
            }
            Op::BatchNormTraining { relu } => {
                let [mean, variance, running_mean, running_variance] = others else {
                    unreachable!("batch norm in training mode writes its statistics")
                };
                let y = live(y0, out_dims, n);
                let [mean, variance] = [f32s_mut(mean), f32s_mut(variance)];
                let values = &f32s(x[0])[..y.len()];
                batch_norm::statistics(mean, variance, f32s_mut(running_mean), f32s_mut(running_variance), values);
                let norm = batch_norm::Norm { weight: f32s(x[1]), bias: f32s(x[2]), mean, variance };
                batch_norm::batch_norm(y, values, norm, *relu);
            }
            Op::BatchNormTrainingBackwardInput { relu } => {
                let (dx, sums) = (live(y0, out_dims, n), [f32s(x[6]), f32s(x[7])]);
                let norm = norm(&x[2..]);
                batch_norm::batch_norm_training_backward_input(dx, f32s(x[0]), f32s(x[1]), norm, sums, *relu);
            }
            Op::BatchNormBackwardWeight { relu } => {
                let dy = &f32s(x[0])[..n * in_dims(0)[1..].iter().product::<usize>()];
                let dbias = f32s_mut(others[0]);
                batch_norm::batch_norm_backward_weight(f32s_mut(y0), dbias, dy, f32s(x[1]), norm(&x[2..]), *relu);
            }
            Op::GlobalMean => {
                let &[_, h, w, c] = in_dims(0) else { unreachable!("shapes were checked when recorded") };
                image::global_mean(live(y0, out_dims, n), f32s(x[0]), h * w, c);
            }
            Op::GlobalMeanBackward => {
                let &[_, h, w, c] = out_dims else { unreachable!("shapes were checked when recorded") };
                image::global_mean_backward(live(y0, out_dims, n), f32s(x[0]), h * w, c);
            }
            Op::Conv2dFused(fusion) => {
                let shape = conv::Shape::new(in_dims(0), in_dims(1), fusion.window);
                let shortcut = |stride| conv::Shape::new(in_dims(2), in_dims(3), ConvWindow { padding: 0, stride });
                let shortcut = fusion.shortcut.map(shortcut);
                let inputs: Vec<&[f32]> = x.iter().map(|x| f32s(x)).collect();
                let outputs = [y0].into_iter().chain(others).map(|y| f32s_mut(y)).collect();
                conv_fused::conv2d_fused(outputs, &inputs, n, fusion, &shape, shortcut.as_ref());
            }
            Op::Conv2dFusedBackwardInput(fusion) => {
                let shape = conv::Shape::new(out_dims, in_dims(1), fusion.window);
                let shortcut = |stride| conv::Shape::new(out_dims, in_dims(3), ConvWindow { padding: 0, stride });
                let shortcut = fusion.shortcut.map(shortcut);
                let inputs: Vec<&[f32]> = x.iter().map(|x| f32s(x)).collect();
                conv_fused::conv2d_fused_backward_input(f32s_mut(y0), &inputs, n, fusion, &shape, shortcut.as_ref());
            }

            Op::Loss(rule) => loss::loss(&mut f32s_mut(y0)[..n], f32s(x[0]), u32s(x[1]), *rule),
            Op::LossBackward(rule) => {
                let classes = out_dims[1];
                let dlogits = &mut f32s_mut(y0)[..n * classes];
                loss::loss_backward(dlogits, f32s(x[0]), u32s(x[1]), f32s(x[2]), *rule);
            }
            Op::Kl => loss::kl(&mut f32s_mut(y0)[..n], f32s(x[0]), f32s(x[1]), in_dims(0)[1]),
            Op::KlBackwardP => {
                loss::kl_backward_p(live(y0, out_dims, n), f32s(x[0]), f32s(x[1]), f32s(x[2]), out_dims[1])
            }
            Op::KlBackwardQ => {
                loss::kl_backward_q(live(y0, out_dims, n), f32s(x[0]), f32s(x[1]), f32s(x[2]), out_dims[1])
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
            Op::MeanWeights => f32s_mut(y0)[..n].fill(1.0 / n as f32),
            Op::HingeWeights { hinge } => loss::hinge_weights(&mut f32s_mut(y0)[..n], f32s(x[0]), *hinge),
            Op::SelectNegative => {
                let count = rows::select_negative(u32s_mut(y0), &f32s(x[0])[..n]);
                u32s_mut(others[0])[0] = count;
            }

            Op::Uniform { seed, purpose, signed } => {
                let n = active.unwrap_or(out_dims[0]);
                let row = out_dims[1..].iter().product();
                let noise = attack::Noise { seed: *seed, purpose: *purpose, step: u32s(x[0])[0], signed: *signed };
                attack::uniform(f32s_mut(y0), u32s(x[1]), n, row, &noise);
            }
            Op::PgdStart(norm) => attack::pgd_start(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), n, *norm),
            Op::PgdStep(rule) => {
                attack::pgd_step(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), f32s(x[3]), n, rule);
            }
            Op::AlongDirection { norm, direction, clamp } => {
                let along = attack::Along { norm: *norm, direction: *direction, clamp: *clamp };
                attack::along_direction(f32s_mut(y0), f32s(x[0]), f32s(x[1]), f32s(x[2]), f32s(x[3]), n, &along);
            }
            Op::ProjectHyperplane(norm) => {
                let d = live(y0, out_dims, n);
                hyperplane::project_hyperplane(d, f32s(x[0]), f32s(x[1]), f32s(x[2]), f32s(x[3]), *norm);
            }
            Op::Bisect { max_eps } => {
                let [low, high] = others else { unreachable!("bisect updates t, low and high") };
                let (t, low, high) = (f32s_mut(y0), f32s_mut(low), f32s_mut(high));
                attack::bisect(&mut t[..n], low, high, f32s(x[0]), *max_eps);
            }

            Op::Adam(rule) | Op::Sgd(rule) => {
                let (step, gradients) = x.split_last().expect("the step is read last");
                let step = u32s(step)[0];
                let gradients: Vec<&[f32]> = gradients.iter().map(|g| f32s(g)).collect();
                match others {
                    [m, v] => optimizer::adam(f32s_mut(y0), f32s_mut(m), f32s_mut(v), &gradients, step, rule),
                    [momentum] => optimizer::sgd(f32s_mut(y0), f32s_mut(momentum), &gradients, step, rule),
                    _ => unreachable!("an optimizer updates its state"),
                }
            }
            Op::Increment => u32s_mut(y0)[0] += 1,
            Op::AccumulateMetrics => {
                let rows: Vec<&[f32]> = x.iter().map(|v| &f32s(v)[..n]).collect();
                loss::accumulate_metrics(f32s_mut(y0), &rows);
            }
        }
    }
}
