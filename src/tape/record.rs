//! One method an op: checks the shapes, records it, returns the result. Wrong shapes are the program's own
//! mistake, so they panic, naming the op and both shapes.

use super::formula::{Formula, Reduction};
use super::op::Direction;
use super::{Buffer, ConvWindow, DType, LossRule, Norm, Op, OptimizerRule, PgdRule, Tape, TargetedLoss, Value};
use crate::rng::Purpose;

/// `[n, h', w', k]` of a convolution of x `[n, h, w, c]` by w `[k, kh, kw, c]`.
fn conv_dims(x: &[usize], w: &[usize], window: ConvWindow) -> [usize; 4] {
    let (&[n, h, wide, c], &[k, kh, kw, wc]) = (x, w) else { panic!("conv2d: x {x:?}, w {w:?}") };
    assert_eq!(c, wc, "conv2d: channels of x {x:?} and w {w:?}");
    [n, window.outputs(h, kh), window.outputs(wide, kw), k]
}

fn halved(x: &[usize]) -> [usize; 4] {
    let &[n, h, w, c] = x else { panic!("max_pool2d: x {x:?}") };
    assert!(h % 2 == 0 && w % 2 == 0, "max_pool2d: {h} x {w} is not even");
    [n, h / 2, w / 2, c]
}

/// The operands of batch norm beside its input, each `[c]`.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// What the normalized values are multiplied by.
    pub weight: Value,
    /// What is added then.
    pub bias: Value,
    /// Running mean.
    pub running_mean: Buffer,
    /// Running variance.
    pub running_variance: Buffer,
}

impl Tape {
    fn op(&mut self, op: Op, inputs: &[Value], dims: &[usize]) -> Value {
        let out = self.value(dims, DType::F32, None);
        self.push(op, inputs, &[out]);
        out
    }

    fn same(&mut self, op: Op, inputs: &[Value]) -> Value {
        let dims = self.dims(inputs[0]).to_vec();
        self.op(op, inputs, &dims)
    }

    fn per_row(&self, value: Value, n: usize, what: &str) {
        assert_eq!(self.dims(value), [n], "{what}: one value a row");
    }

    /// [`Op::GatherRows`].
    pub fn gather_rows(&mut self, src: Value, index: Value) -> Value {
        let mut dims = self.dims(src).to_vec();
        dims[0] = self.dims(index)[0];
        let out = self.value(&dims, self.dtype(src), None);
        self.push(Op::GatherRows, &[src, index], &[out]);
        out
    }

    /// [`Op::ScatterRows`].
    pub fn scatter_rows(&mut self, dst: &Buffer, src: Value, index: Value) {
        let dst = self.leaf(dst);
        assert_eq!(self.dims(dst)[1..], self.dims(src)[1..], "scatter_rows: dst and src");
        self.push(Op::ScatterRows, &[src, index], &[dst]);
    }

    /// [`Op::DrawAugmentation`].
    pub fn draw_augmentation(&mut self, seed: u64, reach: u32, step: Value, index: Value) -> Value {
        let n = self.dims(index)[0];
        let choice = self.value(&[n, 3], DType::U32, None);
        self.push(Op::DrawAugmentation { seed, reach }, &[step, index], &[choice]);
        choice
    }

    /// [`Op::GatherAugmented`].
    pub fn gather_augmented(&mut self, reach: u32, src: Value, index: Value, choice: Value) -> Value {
        let n = self.dims(index)[0];
        assert_eq!(self.dims(choice), [n, 3], "gather_augmented: three choices a row");
        let &[_, h, w, c] = self.dims(src) else { panic!("gather_augmented: src {:?}", self.dims(src)) };
        assert!((reach as usize) < h.min(w), "gather_augmented: {reach} pixels around an image of {h} x {w}");
        assert_eq!(self.dtype(src), DType::U8, "gather_augmented: images as bytes");
        let out = self.value(&[n, h, w, c], DType::U8, None);
        self.push(Op::GatherAugmented { reach }, &[src, index, choice], &[out]);
        out
    }

    /// [`Op::BytesToUnit`].
    pub fn bytes_to_unit(&mut self, bytes: Value) -> Value {
        assert_eq!(self.dtype(bytes), DType::U8, "bytes_to_unit");
        self.same(Op::BytesToUnit, &[bytes])
    }

    /// [`Op::Copy`].
    pub fn copy(&mut self, a: Value) -> Value {
        self.same(Op::Copy, &[a])
    }

    /// [`Op::Fill`].
    pub fn fill(&mut self, value: f32, dims: &[usize]) -> Value {
        self.op(Op::Fill { value }, &[], dims)
    }

    /// [`Op::Add`].
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        assert_eq!(self.dims(a), self.dims(b), "add: a and b");
        self.same(Op::Add, &[a, b])
    }

    /// [`Op::Scale`].
    pub fn scale(&mut self, a: Value, factor: f32) -> Value {
        self.same(Op::Scale { factor }, &[a])
    }

    /// [`Op::ClampMin`].
    pub fn clamp_min(&mut self, a: Value, least: f32) -> Value {
        self.same(Op::ClampMin { least }, &[a])
    }

    /// [`Op::Map`]: `formula` of the inputs' numbers, of the longest input's shape.
    pub fn map<const N: usize>(&mut self, inputs: [Value; N], formula: impl FnOnce([Formula; N]) -> Formula) -> Value {
        let formula = formula(std::array::from_fn(Formula::input));
        let dims = self.longest(&inputs, &formula);
        self.check_formula(&inputs, &dims, &formula);
        self.op(Op::Map(formula), &inputs, &dims)
    }

    /// [`Op::Map`] in place: `formula` of what `buffer` holds and of the inputs' numbers. What a buffer of integers gets
    /// loses its fraction, and is 0 where it is negative.
    pub fn map_into<const N: usize>(
        &mut self,
        buffer: &Buffer,
        inputs: [Value; N],
        formula: impl FnOnce(Formula, [Formula; N]) -> Formula,
    ) {
        let formula = formula(Formula::old(), std::array::from_fn(Formula::input));
        let out = self.leaf(buffer);
        assert!(!inputs.contains(&out), "map_into: {} is read as `old`, not as an input", buffer.name);
        assert_ne!(buffer.dtype, DType::U8, "map_into: {} holds bytes", buffer.name);
        self.check_formula(&inputs, &buffer.dims, &formula);
        self.push(Op::Map(formula), &inputs, &[out]);
    }

    /// [`Op::Reduce`]: what `formula` of the inputs' numbers comes to along each row.
    pub fn reduce<const N: usize>(
        &mut self,
        reduction: Reduction,
        inputs: [Value; N],
        formula: impl FnOnce([Formula; N]) -> Formula,
    ) -> Value {
        let formula = formula(std::array::from_fn(Formula::input));
        let dims = self.longest(&inputs, &formula);
        self.check_formula(&inputs, &dims, &formula);
        self.op(Op::Reduce(reduction, formula), &inputs, &dims[..1])
    }

    /// The shape of the longest input that is no table; of two, the first.
    fn longest(&self, inputs: &[Value], formula: &Formula) -> Vec<usize> {
        let values = (inputs.iter().enumerate()).filter(|(i, _)| !formula.is_table(*i)).map(|(_, v)| self.dims(*v));
        let longest = values.reduce(|a, b| if b.iter().product::<usize>() > a.iter().product() { b } else { a });
        longest.expect("a formula has an input with rows").to_vec()
    }

    fn check_formula(&self, inputs: &[Value], dims: &[usize], formula: &Formula) {
        formula.check(inputs.len());
        let numbers = [DType::F32, DType::U32];
        for (i, &input) in inputs.iter().enumerate() {
            let found = self.dims(input);
            let fits = match formula.is_table(i) {
                true => found.len() == 1 || found[0] == dims[0],
                false => found == dims || found == &dims[..1] || found == [1],
            };
            assert!(fits, "a formula of shape {dims:?}: input {i} is {found:?}");
            assert!(numbers.contains(&self.dtype(input)), "a formula's input {i} is of bytes");
        }
    }

    /// [`Op::Conv2d`].
    pub fn conv2d(&mut self, x: Value, w: Value, window: ConvWindow) -> Value {
        let dims = conv_dims(self.dims(x), self.dims(w), window);
        self.op(Op::Conv2d(window), &[x, w], &dims)
    }

    /// [`Op::AddBias`].
    pub fn add_bias(&mut self, x: Value, bias: Value) -> Value {
        assert_eq!(self.dims(x).last(), Some(&self.dims(bias)[0]), "add_bias: last dimension of x and bias");
        self.same(Op::AddBias, &[x, bias])
    }

    /// [`Op::Relu`].
    pub fn relu(&mut self, x: Value) -> Value {
        self.same(Op::Relu, &[x])
    }

    /// [`Op::MaxPool2d`]: the maxima.
    pub fn max_pool2d(&mut self, x: Value) -> Value {
        let dims = halved(self.dims(x));
        let (out, choice) = (self.value(&dims, DType::F32, None), self.value(&dims, DType::U8, None));
        self.push(Op::MaxPool2d, &[x], &[out, choice]);
        out
    }

    /// [`Op::Linear`].
    pub fn linear(&mut self, x: Value, w: Value) -> Value {
        let (n, out) = (self.dims(x)[0], self.dims(w)[0]);
        let row: usize = self.dims(x)[1..].iter().product();
        assert_eq!(row, self.dims(w)[1], "linear: elements of a row of x {:?} and w {:?}", self.dims(x), self.dims(w));
        self.op(Op::Linear, &[x, w], &[n, out])
    }

    /// [`Op::Standardize`]: the images.
    pub fn standardize(&mut self, x: Value) -> Value {
        let dims = self.dims(x).to_vec();
        let (out, deviation) = (self.value(&dims, DType::F32, None), self.value(&dims[..1], DType::F32, None));
        self.push(Op::Standardize, &[x], &[out, deviation]);
        out
    }

    /// [`Op::BatchNorm`] with the running statistics.
    pub fn batch_norm(&mut self, x: Value, norm: &BatchNorm) -> Value {
        let operands = [norm.weight, norm.bias, self.leaf(&norm.running_mean), self.leaf(&norm.running_variance)];
        self.check_channels(x, &operands);
        self.same(Op::BatchNorm { relu: false }, &[&[x], &operands[..]].concat())
    }

    /// [`Op::BatchNormTraining`], which updates the running statistics.
    pub fn batch_norm_training(&mut self, x: Value, norm: &BatchNorm) -> Value {
        let running = [self.leaf(&norm.running_mean), self.leaf(&norm.running_variance)];
        self.check_channels(x, &[norm.weight, norm.bias, running[0], running[1]]);
        let (dims, channels) = (self.dims(x).to_vec(), self.dims(norm.weight).to_vec());
        let out = self.value(&dims, DType::F32, None);
        let [mean, variance] = [0, 1].map(|_| self.value(&channels, DType::F32, None));
        let outputs = [out, mean, variance, running[0], running[1]];
        self.push(Op::BatchNormTraining { relu: false }, &[x, norm.weight, norm.bias], &outputs);
        out
    }

    fn check_channels(&self, x: Value, operands: &[Value]) {
        let channels = self.dims(x).last().expect("batch_norm: x has channels");
        for operand in operands {
            assert_eq!(self.dims(*operand), [*channels], "batch_norm: an operand of x {:?}", self.dims(x));
        }
    }

    /// [`Op::GlobalMean`].
    pub fn global_mean(&mut self, x: Value) -> Value {
        let &[n, _, _, c] = self.dims(x) else { panic!("global_mean: x {:?}", self.dims(x)) };
        self.op(Op::GlobalMean, &[x], &[n, c])
    }

    /// [`Op::Loss`].
    pub fn loss(&mut self, rule: LossRule, logits: Value, labels: Value) -> Value {
        let n = self.examples(logits, &[labels], rule.loss.least_classes(), "loss");
        self.op(Op::Loss(rule), &[logits, labels], &[n])
    }

    /// [`Op::Kl`] of logits `q` from logits `p`.
    pub fn kl(&mut self, p: Value, q: Value) -> Value {
        assert_eq!(self.dims(p), self.dims(q), "kl: p and q");
        let n = self.dims(p)[0];
        self.op(Op::Kl, &[p, q], &[n])
    }

    /// [`Op::TargetedLoss`].
    pub fn targeted_loss(&mut self, loss: TargetedLoss, logits: Value, labels: Value, targets: Value) -> Value {
        let n = self.examples(logits, &[labels, targets], loss.least_classes(), "targeted_loss");
        self.op(Op::TargetedLoss(loss), &[logits, labels, targets], &[n])
    }

    /// [`Op::RankClass`].
    pub fn rank_class(&mut self, rank: u32, logits: Value, labels: Value, run: Option<Value>) -> Value {
        let n = self.examples(logits, &[labels], 2, "rank_class");
        let class = self.value(&[n], DType::U32, None);
        let inputs: Vec<Value> = [logits, labels].into_iter().chain(run).collect();
        self.push(Op::RankClass { rank }, &inputs, &[class]);
        class
    }

    /// How many rows of logits there are; each has a label, and at least so many classes.
    fn examples(&self, logits: Value, labels: &[Value], classes: usize, what: &str) -> usize {
        let &[n, found] = self.dims(logits) else { panic!("{what}: logits {:?}", self.dims(logits)) };
        assert!(found >= classes, "{what}: {classes} classes are needed, there are {found}");
        labels.iter().for_each(|labels| self.per_row(*labels, n, what));
        n
    }

    /// [`Op::MeanWeights`] of `n` rows.
    pub fn mean_weights(&mut self, n: usize) -> Value {
        self.op(Op::MeanWeights, &[], &[n])
    }

    /// [`Op::HingeWeights`].
    pub fn hinge_weights(&mut self, eps: Value, hinge: f32) -> Value {
        self.same(Op::HingeWeights { hinge }, &[eps])
    }

    /// [`Op::SelectNegative`]: writes the rows' places to `selected` and their number to `count`.
    pub fn select_negative(&mut self, values: Value, selected: &Buffer, count: &Buffer) {
        let (selected, count) = (self.leaf(selected), self.leaf(count));
        assert_eq!(self.dims(values), self.dims(selected), "select_negative");
        self.push(Op::SelectNegative, &[values], &[selected, count]);
    }

    /// [`Op::Uniform`], as many values a row as `like` has.
    pub fn uniform(
        &mut self,
        like: Value,
        step: Value,
        index: Value,
        seed: u64,
        purpose: Purpose,
        signed: bool,
    ) -> Value {
        let dims = self.dims(like).to_vec();
        self.per_row(index, dims[0], "uniform");
        self.op(Op::Uniform { seed, purpose, signed }, &[step, index], &dims)
    }

    /// [`Op::PgdStart`].
    pub fn pgd_start(&mut self, norm: Norm, x: Value, eps: Value, noise: Value) -> Value {
        assert_eq!(self.dims(x), self.dims(noise), "pgd_start: x and noise");
        self.per_row(eps, self.dims(x)[0], "pgd_start");
        self.same(Op::PgdStart(norm), &[x, eps, noise])
    }

    /// [`Op::PgdStep`]: moves `adv`.
    pub fn pgd_step(&mut self, rule: PgdRule, adv: &Buffer, x: Value, dx: Value, eps: Value, step: Value) {
        let adv = self.leaf(adv);
        assert!(self.dims(adv) == self.dims(x) && self.dims(x) == self.dims(dx), "pgd_step: adv, x and dx");
        self.per_row(eps, self.dims(x)[0], "pgd_step");
        self.per_row(step, self.dims(x)[0], "pgd_step");
        self.push(Op::PgdStep(rule), &[x, dx, eps, step], &[adv]);
    }

    /// [`Op::AlongDirection`].
    #[allow(clippy::too_many_arguments)] // the op's operands and its three choices
    pub fn along_direction(
        &mut self,
        norm: Norm,
        direction: Direction,
        clamp: bool,
        x: Value,
        adv: Value,
        ball: Value,
        t: Value,
    ) -> Value {
        assert_eq!(self.dims(x), self.dims(adv), "along_direction: x and adv");
        self.same(Op::AlongDirection { norm, direction, clamp }, &[x, adv, ball, t])
    }

    /// [`Op::ProjectHyperplane`].
    pub fn project_hyperplane(&mut self, norm: Norm, z: Value, anchor: Value, w: Value, value: Value) -> Value {
        let alike = self.dims(z) == self.dims(anchor) && self.dims(z) == self.dims(w);
        assert!(alike, "project_hyperplane: z {:?}, anchor and w", self.dims(z));
        self.per_row(value, self.dims(z)[0], "project_hyperplane");
        self.same(Op::ProjectHyperplane(norm), &[z, anchor, w, value])
    }

    /// [`Op::Bisect`].
    pub fn bisect(&mut self, max_eps: f32, loss: Value, t: &Buffer, low: &Buffer, high: &Buffer) {
        let [t, low, high] = [t, low, high].map(|b| self.leaf(b));
        self.push(Op::Bisect { max_eps }, &[loss], &[t, low, high]);
    }

    /// [`Op::Adam`]; `state` is m, v.
    pub fn adam(
        &mut self,
        rule: OptimizerRule,
        gradients: &[Value],
        step: Value,
        params: &Buffer,
        state: &[Buffer; 2],
    ) {
        let inputs: Vec<Value> = gradients.iter().copied().chain([step]).collect();
        let outputs = [params, &state[0], &state[1]].map(|b| self.leaf(b));
        self.push(Op::Adam(rule), &inputs, &outputs);
    }

    /// [`Op::Sgd`].
    pub fn sgd(&mut self, rule: OptimizerRule, gradients: &[Value], step: Value, params: &Buffer, momentum: &Buffer) {
        let inputs: Vec<Value> = gradients.iter().copied().chain([step]).collect();
        let outputs = [params, momentum].map(|b| self.leaf(b));
        self.push(Op::Sgd(rule), &inputs, &outputs);
    }

    /// [`Op::Increment`].
    pub fn increment(&mut self, counter: &Buffer) {
        let counter = self.leaf(counter);
        self.push(Op::Increment, &[], &[counter]);
    }

    /// [`Op::AccumulateMetrics`]: clean loss, clean lm, weights, margin loss, eps.
    pub fn accumulate_metrics(&mut self, rows: [Value; 5], sums: &Buffer) {
        let sums = self.leaf(sums);
        self.push(Op::AccumulateMetrics, &rows, &[sums]);
    }
}
