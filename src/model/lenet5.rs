//! LeNet5 as in Madry et al.'s MNIST challenge and in the paper: two convolutions, each with ReLU and a 2x2 max-pool,
//! and two linear layers.

use super::input_layer::{InputLayer, Normalization};
use super::network::{Mode, Model, OutputLayer};
use super::params::Params;
use crate::catalog::{CLASSES, DatasetKind, ModelKind};
use crate::tape::{ConvWindow, Memory, Tape, Value};

/// Filter size of the published network.
const KERNEL: usize = 5;

/// LeNet5 of any width, on images `[28, 28, 1]` or of another size divisible by 4.
#[derive(Clone, Debug)]
pub struct LeNet5 {
    image: [usize; 3],
    kernel: usize,
    input: InputLayer,
    params: Params,
}

impl LeNet5 {
    /// Builds the published network with `width` times its filters and hidden units, each rounded down.
    pub fn new(width: f64) -> LeNet5 {
        let published = ModelKind::LeNet5.entry();
        let scaled = |n: usize| (n as f64 * width) as usize;
        let filters = [0, 1].map(|i| scaled(published.filters[i]));
        LeNet5::with_sizes(DatasetKind::Mnist.entry().image, filters, KERNEL, scaled(published.hidden), CLASSES)
    }

    /// Builds a network of any sizes: image `[h, w, c]`, filters of both convolutions, their odd kernel size (padding
    /// keeps the image's size), hidden units, classes. Panics if the image's sides are not multiples of 4, or the
    /// kernel size is even.
    pub fn with_sizes(image: [usize; 3], filters: [usize; 2], kernel: usize, hidden: usize, classes: usize) -> LeNet5 {
        let [h, w, c] = image;
        assert!(h % 4 == 0 && w % 4 == 0 && kernel % 2 == 1, "LeNet5: image {h} x {w}, kernel {kernel}");
        let [a, b] = filters;
        let (k, features) = (kernel, h / 4 * (w / 4) * b);
        let mut params = Params::default();
        params.weight("conv1.weight", &[a, c, k, k], &[a, k, k, c], c);
        params.bias("conv1.bias");
        params.weight("conv2.weight", &[b, a, k, k], &[b, k, k, a], a);
        params.bias("conv2.bias");
        params.weight("linear1.weight", &[hidden, features], &[hidden, features], b);
        params.bias("linear1.bias");
        params.weight("linear2.weight", &[classes, hidden], &[classes, hidden], 0);
        params.bias("linear2.bias");
        let input = InputLayer::new(Normalization::None, c).expect("it has no values");
        LeNet5 { image, kernel, input, params }
    }

    /// Builds the network whose tensors have these shapes, a LeNet5 on 28x28 images. `shape` gives a tensor's shape by
    /// PyTorch's name, or a message that there is no such tensor.
    ///
    /// # Errors
    /// A message that names the tensor that is missing or does not fit.
    pub fn from_shapes(shape: impl Fn(&str) -> Result<Vec<usize>, String>) -> Result<LeNet5, String> {
        let get = |name: &str, dimensions: usize| match shape(name) {
            Ok(s) if s.len() == dimensions => Ok(s),
            Ok(s) => Err(format!("{name} has shape {s:?}, expected {dimensions} dimensions")),
            Err(missing) => Err(format!("not a LeNet5: {missing}")),
        };
        let (conv1, conv2) = (get("conv1.weight", 4)?, get("conv2.weight", 4)?);
        let (linear1, linear2) = (get("linear1.weight", 2)?, get("linear2.weight", 2)?);
        for (name, shape) in [("conv1", &conv1), ("conv2", &conv2), ("linear1", &linear1), ("linear2", &linear2)] {
            if shape.contains(&0) {
                return Err(format!("{name}.weight has shape {shape:?}, expected no size of 0"));
            }
        }
        if conv1[2] % 2 == 0 {
            return Err(format!("conv1.weight has shape {conv1:?}, expected an odd kernel"));
        }
        let [height, width, _] = DatasetKind::Mnist.entry().image;
        let model =
            LeNet5::with_sizes([height, width, conv1[1]], [conv1[0], conv2[0]], conv1[2], linear1[0], linear2[0]);
        for p in &model.params.list {
            let found = get(&p.name, p.shape.len())?;
            if found != p.shape {
                return Err(format!("{} has shape {found:?}, expected {:?}", p.name, p.shape));
            }
        }
        Ok(model)
    }
}

impl Model for LeNet5 {
    fn describe(&self) -> String {
        let size = |name: &str| self.params.list.iter().find(|p| p.name == name).map_or(0, |p| p.shape[0]);
        let [a, b, hidden] = ["conv1.bias", "conv2.bias", "linear1.bias"].map(size);
        format!(
            "LeNet5, {a} and {b} filters {k}x{k}, {hidden} hidden, {} parameters; {}",
            self.params.len(),
            self.input.normalization().describe(),
            k = self.kernel
        )
    }

    fn image(&self) -> [usize; 3] {
        self.image
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn input_layer(&self) -> Option<&InputLayer> {
        Some(&self.input)
    }

    fn input_layer_mut(&mut self) -> Option<&mut InputLayer> {
        Some(&mut self.input)
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "linear2.weight", bias: "linear2.bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, _: Mode) -> Value {
        let leaves = self.params.leaves(tape);
        let [conv1, conv1_bias, conv2, conv2_bias, linear1, linear1_bias, linear2, linear2_bias] = leaves[..] else {
            unreachable!("LeNet5 has eight parameters")
        };
        let window = ConvWindow { padding: self.kernel / 2, stride: 1 };
        let mut x = self.input.record(tape, x);
        for (weight, bias) in [(conv1, conv1_bias), (conv2, conv2_bias)] {
            let conv = tape.conv2d(x, weight, window);
            let biased = tape.add_bias(conv, bias);
            let positive = tape.relu(biased);
            x = tape.max_pool2d(positive);
        }
        let hidden = tape.linear(x, linear1);
        let hidden = tape.add_bias(hidden, linear1_bias);
        let hidden = tape.relu(hidden);
        let logits = tape.linear(hidden, linear2);
        tape.add_bias(logits, linear2_bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
        self.input.declare(memory);
    }
}
