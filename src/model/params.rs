//! Parameters: names and shapes as PyTorch has them, places in one buffer, first values.

use std::ops::Range;

use crate::Result;
use crate::device::Device;
use crate::rng::{Purpose, normal, philox, unit};
use crate::tape::{Buffer, Memory, Tape, Value};

/// One parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// PyTorch's name, such as `conv1.weight`.
    pub name: String,
    /// PyTorch's shape, such as `[out, in, kh, kw]`.
    pub shape: Vec<usize>,
    /// Our shape, such as `[out, kh, kw, in]`.
    pub dims: Vec<usize>,
    /// The input channels where PyTorch puts them before the pixels and we after: 0 where the layouts are equal.
    pub channels: usize,
    /// First values.
    pub initial: Initial,
}

/// How first values are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Uniform in [-bound, bound).
    Uniform(f32),
    /// Normal with mean 0 and this deviation.
    Normal(f32),
    /// All the same.
    Constant(f32),
}

impl Parameter {
    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For each element in PyTorch's order, its place in ours.
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        // PyTorch: [out, channels, pixels]; ours: [out, pixels, channels].
        let row = self.len() / self.shape[0];
        let channels = if self.channels == 0 { row } else { self.channels };
        let pixels = row / channels;
        (0..self.len()).map(move |i| {
            let (out, channel, pixel) = (i / row, i % row / pixels, i % pixels);
            out * row + pixel * channels + channel
        })
    }

    /// Values in PyTorch's layout, from ours.
    pub fn to_torch(&self, ours: &[f32]) -> Vec<f32> {
        self.places().map(|place| ours[place]).collect()
    }

    /// Values in our layout, from PyTorch's.
    pub fn from_torch(&self, torch: &[f32]) -> Vec<f32> {
        let mut ours = vec![0.0; torch.len()];
        self.places().zip(torch).for_each(|(place, &value)| ours[place] = value);
        ours
    }
}

/// Parameters of a model, in PyTorch's order, side by side in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// Each parameter.
    pub list: Vec<Parameter>,
    buffer: Option<Buffer>,
}

impl Params {
    /// Adds a weight: first values uniform within `1 / sqrt(fan_in)`, PyTorch's default for convolutions and linear
    /// layers (`nn.init.kaiming_uniform_` with a = sqrt 5). `dims` is our shape.
    pub fn weight(&mut self, name: &str, shape: &[usize], dims: &[usize], channels: usize) {
        let fan_in: usize = shape[1..].iter().product();
        let initial = Initial::Uniform(1.0 / (fan_in as f32).sqrt());
        self.list.push(Parameter { name: name.into(), shape: shape.to_vec(), dims: dims.to_vec(), channels, initial });
    }

    /// Adds the filters of a convolution: `out` of them over `channels`, `size x size`.
    pub fn filters(&mut self, name: &str, [out, channels, size]: [usize; 3], initial: Initial) {
        let (shape, dims) = (vec![out, channels, size, size], vec![out, size, size, channels]);
        self.list.push(Parameter { name: name.into(), shape, dims, channels, initial });
    }

    /// Adds a vector of `len` equal numbers.
    pub fn vector(&mut self, name: &str, len: usize, value: f32) {
        let (shape, dims) = (vec![len], vec![len]);
        self.list.push(Parameter { name: name.into(), shape, dims, channels: 0, initial: Initial::Constant(value) });
    }

    /// Adds the bias of the weight that was added last, with the same first values.
    pub fn bias(&mut self, name: &str) {
        let weight = self.list.last().expect("a bias follows its weight");
        let (shape, initial) = (vec![weight.shape[0]], weight.initial);
        self.list.push(Parameter { name: name.into(), dims: shape.clone(), shape, channels: 0, initial });
    }

    /// Elements of all.
    pub fn len(&self) -> usize {
        self.list.iter().map(Parameter::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes a place in memory for the values; `name` is the buffer's.
    pub fn declare(&mut self, memory: &mut Memory, name: &str) {
        assert!(self.buffer.is_none(), "parameters are declared once");
        self.buffer = Some(memory.f32(name, &[self.len()]));
    }

    /// The buffer of all values.
    pub fn buffer(&self) -> &Buffer {
        self.buffer.as_ref().expect("the model was declared")
    }

    /// Each parameter's part of `whole`, a buffer of [`Params::len`] elements.
    pub fn parts(&self, whole: &Buffer) -> Vec<Buffer> {
        let mut start = 0;
        let mut part = |p: &Parameter| {
            let name = if whole == self.buffer() { p.name.clone() } else { format!("{}.{}", whole.name, p.name) };
            start += p.len();
            whole.part(&name, start - p.len(), &p.dims)
        };
        self.list.iter().map(&mut part).collect()
    }

    /// Every parameter as a value on a tape, in order.
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

    /// One parameter as a value on a tape.
    pub fn leaf(&self, tape: &mut Tape, name: &str) -> Value {
        tape.leaf(&self.part(name))
    }

    /// First values, in our layout: counted random numbers, so a function of the seed alone.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len());
        for (number, p) in self.list.iter().enumerate() {
            let words = |i: usize| philox(seed, Purpose::Init, 0, number as u32, (i / 4) as u32);
            let first = |i: usize| match p.initial {
                Initial::Uniform(bound) => bound * (2.0 * unit(words(i)[i % 4]) - 1.0),
                Initial::Normal(deviation) => deviation * normal(words(i))[i % 4],
                Initial::Constant(value) => value,
            };
            let torch: Vec<f32> = (0..p.len()).map(first).collect();
            values.extend(p.from_torch(&torch));
        }
        values
    }

    /// Splits all values (our layout), each parameter's turned into PyTorch's layout, in order.
    pub fn split_to_torch(&self, values: &[f32]) -> Vec<Vec<f32>> {
        let mut rest = values;
        let mut split = |p: &Parameter| {
            let (own, tail) = rest.split_at(p.len());
            rest = tail;
            p.to_torch(own)
        };
        self.list.iter().map(&mut split).collect()
    }

    /// Writes values, in our layout, to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for all parameters");
        device.write_f32(self.buffer(), values)
    }
}
