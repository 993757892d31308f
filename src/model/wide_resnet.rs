//! Wide residual network of Zagoruyko and Komodakis (2016) as in the released code (`WideResNet` behind
//! `PerImageStandardize`): three groups of blocks, each of two 3x3 convolutions after batch norm and ReLU.
//!
//! If a block changes the number of channels, its shortcut is a 1x1 convolution of the batch norm and ReLU that its
//! first convolution reads too. Otherwise the shortcut is the block's input.

use super::input_layer::{InputLayer, Normalization};
use super::network::{Mode, Model, OutputLayer};
use super::params::{InitialValues, Params};
use crate::catalog::{CLASSES, DatasetKind, ModelKind, WeightNames};
use crate::tape::{BatchNorm, ConvWindow, Memory, Tape, Value};

/// Filters of each group at a widening factor of 1. The first convolution has as many as the first of them at any
/// factor.
const FILTERS: &[usize] = ModelKind::WideResNet.entry().filters;

/// Wide ResNet of any depth `6n + 4` and widening factor, on images of CIFAR10's shape and for as many classes.
#[derive(Clone, Debug)]
pub struct WideResNet {
    depth: usize,
    widen: usize,
    input: InputLayer,
    params: Params,
    statistics: Params,
}

/// Name and sizes of a residual block.
struct ResidualBlock {
    name: String,
    from: usize,
    to: usize,
    stride: usize,
}

impl WideResNet {
    /// Builds the network `depth`-`widen`, which is 28-4 in the paper. Panics if there is none of these sizes.
    pub fn new(depth: usize, widen: usize) -> WideResNet {
        assert!(depth >= 10 && depth % 6 == 4 && widen > 0, "wide ResNet {depth}-{widen}");
        let [.., channels] = DatasetKind::Cifar10.entry().image;
        let input = InputLayer::new(Normalization::PerImage, channels).expect("it has no values");
        let mut network = WideResNet { depth, widen, input, params: Params::default(), statistics: Params::default() };
        network.filters("1.conv1.weight", channels, FILTERS[0], 3);
        for ResidualBlock { name, from, to, .. } in network.blocks() {
            network.norm(&format!("{name}.bn1"), from);
            network.filters(&format!("{name}.conv1.weight"), from, to, 3);
            network.norm(&format!("{name}.bn2"), to);
            network.filters(&format!("{name}.conv2.weight"), to, to, 3);
            if from != to {
                network.filters(&format!("{name}.conv_shortcut.weight"), from, to, 1);
            }
        }
        let features = FILTERS[FILTERS.len() - 1] * widen;
        network.norm("1.bn1", features);
        network.params.weight("1.fc.weight", &[CLASSES, features], &[CLASSES, features], 0);
        network.params.vector("1.fc.bias", CLASSES, 0.0);
        network
    }

    /// Builds the network whose tensors have these shapes. `shape` gives a tensor's shape by its name under `names`, or
    /// a message that there is no such tensor.
    ///
    /// # Errors
    /// A message that names the tensor that is missing or does not fit.
    pub fn from_shapes(
        names: WeightNames,
        shape: impl Fn(&str) -> Result<Vec<usize>, String>,
    ) -> Result<WideResNet, String> {
        let get =
            |released: &str| shape(&names.rename(released)).map_err(|missing| format!("not a wide ResNet: {missing}"));
        let first = get("1.convgroup1.layer.0.conv1.weight")?;
        let whole = first.first().is_some_and(|&k| k > 0 && k % FILTERS[0] == 0);
        if !whole {
            let name = names.rename("1.convgroup1.layer.0.conv1.weight");
            return Err(format!("{name} has shape {first:?}, expected a multiple of {} filters", FILTERS[0]));
        }
        let blocks = |n: &usize| get(&format!("1.convgroup1.layer.{n}.conv1.weight")).is_ok();
        let network = WideResNet::new(4 + 6 * (0..).take_while(blocks).count(), first[0] / FILTERS[0]);
        for p in network.params.list.iter().chain(&network.statistics.list) {
            let found = get(&p.name)?;
            if found != p.shape {
                return Err(format!("{} has shape {found:?}, expected {:?}", names.rename(&p.name), p.shape));
            }
        }
        Ok(network)
    }

    /// Adds the weight of a convolution; its first values are normal with variance 2 / (fan out), as in the released
    /// code.
    fn filters(&mut self, name: &str, from: usize, to: usize, size: usize) {
        let initial = InitialValues::Normal((2.0 / (size * size * to) as f32).sqrt());
        self.params.filters(name, [to, from, size], initial);
    }

    /// Adds the parameters and running statistics of a batch norm.
    fn norm(&mut self, name: &str, channels: usize) {
        self.params.vector(&format!("{name}.weight"), channels, 1.0);
        self.params.vector(&format!("{name}.bias"), channels, 0.0);
        self.statistics.vector(&format!("{name}.running_mean"), channels, 0.0);
        self.statistics.vector(&format!("{name}.running_var"), channels, 1.0);
    }

    /// All blocks, from input to output.
    fn blocks(&self) -> Vec<ResidualBlock> {
        let mut blocks = Vec::new();
        let mut from = FILTERS[0];
        for (group, filters) in (1..).zip(FILTERS) {
            let to = filters * self.widen;
            for layer in 0..(self.depth - 4) / 6 {
                let stride = if group > 1 && layer == 0 { 2 } else { 1 };
                blocks.push(ResidualBlock { name: format!("1.convgroup{group}.layer.{layer}"), from, to, stride });
                from = to;
            }
        }
        blocks
    }
}

/// Recorder of a network's layers in one mode.
struct LayerRecorder<'a> {
    network: &'a WideResNet,
    mode: Mode,
}

impl LayerRecorder<'_> {
    fn conv(&self, tape: &mut Tape, x: Value, name: &str, window: ConvWindow) -> Value {
        let weight = self.network.params.leaf(tape, &format!("{name}.weight"));
        tape.conv2d(x, weight, window)
    }

    fn norm_relu(&self, tape: &mut Tape, x: Value, name: &str) -> Value {
        let WideResNet { params, statistics, .. } = self.network;
        let [weight, bias] = ["weight", "bias"].map(|part| params.leaf(tape, &format!("{name}.{part}")));
        let [running_mean, running_variance] =
            ["running_mean", "running_var"].map(|part| statistics.part(&format!("{name}.{part}")));
        let norm = BatchNorm { weight, bias, running_mean, running_variance };
        let normalized = match self.mode {
            Mode::Train => tape.batch_norm_training(x, &norm),
            Mode::Eval => tape.batch_norm(x, &norm),
        };
        tape.relu(normalized)
    }

    fn block(&self, tape: &mut Tape, x: Value, block: &ResidualBlock) -> Value {
        let ResidualBlock { name, from, to, stride } = block;
        let three = |stride| ConvWindow { padding: 1, stride };
        let active = self.norm_relu(tape, x, &format!("{name}.bn1"));
        let shortcut = if from == to {
            x
        } else {
            self.conv(tape, active, &format!("{name}.conv_shortcut"), ConvWindow { padding: 0, stride: *stride })
        };
        let inner = self.conv(tape, active, &format!("{name}.conv1"), three(*stride));
        let inner = self.norm_relu(tape, inner, &format!("{name}.bn2"));
        let inner = self.conv(tape, inner, &format!("{name}.conv2"), three(1));
        tape.add(shortcut, inner)
    }
}

impl Model for WideResNet {
    fn describe(&self) -> String {
        let (parameters, input) = (self.params.len(), self.input.normalization().describe());
        format!("wide ResNet {}-{}, {parameters} parameters; {input}", self.depth, self.widen)
    }

    fn image(&self) -> [usize; 3] {
        DatasetKind::Cifar10.entry().image
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn statistics(&self) -> Option<&Params> {
        Some(&self.statistics)
    }

    fn input_layer(&self) -> Option<&InputLayer> {
        Some(&self.input)
    }

    fn input_layer_mut(&mut self) -> Option<&mut InputLayer> {
        Some(&mut self.input)
    }

    fn output_layer(&self) -> OutputLayer {
        OutputLayer { weight: "1.fc.weight", bias: "1.fc.bias" }
    }

    fn logits(&self, tape: &mut Tape, x: Value, mode: Mode) -> Value {
        let layers = LayerRecorder { network: self, mode };
        let normalized = self.input.record(tape, x);
        let mut x = layers.conv(tape, normalized, "1.conv1", ConvWindow { padding: 1, stride: 1 });
        for block in self.blocks() {
            x = layers.block(tape, x, &block);
        }
        let active = layers.norm_relu(tape, x, "1.bn1");
        let features = tape.global_mean(active);
        let OutputLayer { weight, bias } = self.output_layer();
        let [weight, bias] = [weight, bias].map(|name| self.params.leaf(tape, name));
        let logits = tape.linear(features, weight);
        tape.add_bias(logits, bias)
    }

    fn declare(&mut self, memory: &mut Memory) {
        self.params.declare(memory, "params");
        self.statistics.declare(memory, "statistics");
        self.input.declare(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_shapes_builds_the_same_network_under_both_naming_schemes() {
        for (depth, widen) in [(10, 1), (16, 3), (28, 4), (40, 2)] {
            let network = WideResNet::new(depth, widen);
            for names in [WeightNames::Released, WeightNames::Robustbench] {
                let stored = || network.params.list.iter().chain(&network.statistics.list);
                let shape = |name: &str| {
                    let found = stored().find(|p| names.rename(&p.name) == name);
                    found.map(|p| p.shape.clone()).ok_or(String::new())
                };
                let found = WideResNet::from_shapes(names, shape).unwrap();
                assert_eq!((found.depth, found.widen), (depth, widen), "{names:?}");
            }
        }
    }
}
