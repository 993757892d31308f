//! Parameters: PyTorch's names and shapes, places in one buffer, first values.

use std::ops::Range;

use crate::Result;
use crate::device::Device;
use crate::rng::{Purpose, normal, philox, unit};
use crate::tape::{Buffer, Memory, Tape, Value};

/// A parameter: a tensor of weights, or of running statistics.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// PyTorch's name, such as `conv1.weight`.
    pub name: String,
    /// PyTorch's shape, such as `[out, in, kh, kw]`.
    pub shape: Vec<usize>,
    /// Our shape, such as `[out, kh, kw, in]`.
    pub dims: Vec<usize>,
    /// Number of input channels if PyTorch's layout has them before the pixels and ours after; 0 if the layouts are
    /// equal.
    pub channels: usize,
    /// Distribution of the first values.
    pub initial: InitialValues,
}

/// Distribution of a parameter's first values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InitialValues {
    /// Uniform in [-bound, bound).
    Uniform(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// One constant.
    Constant(f32),
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position in our layout of each element, in PyTorch's order.
    fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        // PyTorch: [out, channels, pixels]; ours: [out, pixels, channels].
        let row = self.len() / self.shape[0];
        let channels = if self.channels == 0 { row } else { self.channels };
        let pixels = row / channels;
        (0..self.len()).map(move |i| {
            let (out, channel, pixel) = (i / row, i % row / pixels, i % pixels);
            out * row + pixel * channels + channel
        })
    }

    /// Converts values from our layout to PyTorch's.
    pub fn to_torch(&self, ours: &[f32]) -> Vec<f32> {
        self.positions().map(|position| ours[position]).collect()
    }

    /// Converts values from PyTorch's layout to ours.
    pub fn from_torch(&self, torch: &[f32]) -> Vec<f32> {
        let mut ours = vec![0.0; torch.len()];
        self.positions().zip(torch).for_each(|(position, &value)| ours[position] = value);
        ours
    }
}

/// Parameters of a model, in PyTorch's order, side by side in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The parameters, in PyTorch's order.
    pub list: Vec<Parameter>,
    buffer: Option<Buffer>,
}

impl Params {
    /// Adds a weight whose first values are uniform within `1 / sqrt(fan_in)`: PyTorch's default for convolutions and
    /// linear layers (`nn.init.kaiming_uniform_` with a = sqrt 5). `shape` is PyTorch's, `dims` is ours.
    pub fn weight(&mut self, name: &str, shape: &[usize], dims: &[usize], channels: usize) {
        let fan_in: usize = shape[1..].iter().product();
        let initial = InitialValues::Uniform(1.0 / (fan_in as f32).sqrt());
        self.list.push(Parameter { name: name.into(), shape: shape.to_vec(), dims: dims.to_vec(), channels, initial });
    }

    /// Adds the weight of a convolution: `out` filters over `channels` channels, `size x size`.
    pub fn filters(&mut self, name: &str, [out, channels, size]: [usize; 3], initial: InitialValues) {
        let (shape, dims) = (vec![out, channels, size, size], vec![out, size, size, channels]);
        self.list.push(Parameter { name: name.into(), shape, dims, channels, initial });
    }

    /// Adds a vector of `len` elements whose first values are all `value`.
    pub fn vector(&mut self, name: &str, len: usize, value: f32) {
        let (shape, dims, initial) = (vec![len], vec![len], InitialValues::Constant(value));
        self.list.push(Parameter { name: name.into(), shape, dims, channels: 0, initial });
    }

    /// Adds the bias of the weight that was added last, whose first values have the weight's distribution.
    pub fn bias(&mut self, name: &str) {
        let weight = self.list.last().expect("a bias follows its weight");
        let (shape, initial) = (vec![weight.shape[0]], weight.initial);
        self.list.push(Parameter { name: name.into(), dims: shape.clone(), shape, channels: 0, initial });
    }

    /// Number of elements of all parameters.
    pub fn len(&self) -> usize {
        self.list.iter().map(Parameter::len).sum()
    }

    /// True if there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Declares the buffer of all values under `name`. Panics if it was declared before.
    pub fn declare(&mut self, memory: &mut Memory, name: &str) {
        assert!(self.buffer.is_none(), "parameters are declared once");
        self.buffer = Some(memory.f32(name, &[self.len()]));
    }

    /// Buffer of all values. Panics if it was not declared.
    pub fn buffer(&self) -> &Buffer {
        self.buffer.as_ref().expect("the model was declared")
    }

    /// Splits `whole`, a buffer of [`Params::len`] elements, into a part for each parameter, in order.
    pub fn parts(&self, whole: &Buffer) -> Vec<Buffer> {
        let mut start = 0;
        let mut part = |p: &Parameter| {
            let name = if whole == self.buffer() { p.name.clone() } else { format!("{}.{}", whole.name, p.name) };
            start += p.len();
            whole.part(&name, start - p.len(), &p.dims)
        };
        self.list.iter().map(&mut part).collect()
    }

    /// Records every parameter as a leaf of the tape, in order.
    pub fn leaves(&self, tape: &mut Tape) -> Vec<Value> {
        self.parts(self.buffer()).iter().map(|part| tape.leaf(part)).collect()
    }

    /// Part of the buffer that holds the parameter `name`. Panics if there is none.
    pub fn part(&self, name: &str) -> Buffer {
        self.parts(self.buffer()).swap_remove(self.position(name))
    }

    /// Elements of the parameter `name` among all elements. Panics if there is none.
    pub fn range(&self, name: &str) -> Range<usize> {
        let (before, from) = self.list.split_at(self.position(name));
        let start = before.iter().map(Parameter::len).sum();
        start..start + from[0].len()
    }

    fn position(&self, name: &str) -> usize {
        self.list.iter().position(|p| p.name == name).unwrap_or_else(|| panic!("no parameter {name}"))
    }

    /// Records the parameter `name` as a leaf of the tape. Panics if there is none.
    pub fn leaf(&self, tape: &mut Tape, name: &str) -> Value {
        tape.leaf(&self.part(name))
    }

    /// First values in our layout. They are counter-based random numbers, so a function of the seed alone.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len());
        for (number, p) in self.list.iter().enumerate() {
            let words = |i: usize| philox(seed, Purpose::Init, 0, number as u32, (i / 4) as u32);
            let first = |i: usize| match p.initial {
                InitialValues::Uniform(bound) => bound * (2.0 * unit(words(i)[i % 4]) - 1.0),
                InitialValues::Normal(deviation) => deviation * normal(words(i))[i % 4],
                InitialValues::Constant(value) => value,
            };
            let torch: Vec<f32> = (0..p.len()).map(first).collect();
            values.extend(p.from_torch(&torch));
        }
        values
    }

    /// Splits all values, in our layout, into those of each parameter, in PyTorch's layout, in order.
    pub fn split_to_torch(&self, values: &[f32]) -> Vec<Vec<f32>> {
        let mut rest = values;
        let mut split = |p: &Parameter| {
            let (own, tail) = rest.split_at(p.len());
            rest = tail;
            p.to_torch(own)
        };
        self.list.iter().map(&mut split).collect()
    }

    /// Writes the values of all parameters, in our layout, to the device. Panics if their number is another.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for all parameters");
        device.write_f32(self.buffer(), values)
    }
}
