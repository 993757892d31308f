//! Outputs of a network on clean images that no figure can rest on: NaN or infinite logits, and one class for every
//! image. The layer that they come from is found by computing a few images layer by layer on the CPU.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::examples::CleanPrediction;
use super::network::{ImageSet, Network};
use crate::Result;
use crate::device::{Device, cpu::Cpu};
use crate::model::{Mode, image_buffer};
use crate::tape::{Buffer, Memory, Tape};

/// Number of images, each of another class, on which a layer that tells no image apart is looked for.
const COMPARED: usize = 4;

/// Observations on a network's outputs on clean images.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CleanOutputs {
    /// Number of images.
    pub count: usize,
    /// Images with a logit that is NaN or infinite.
    pub non_finite: usize,
    /// Class that is predicted for every image, if the images have several classes and their logits are finite.
    pub constant: Option<u32>,
    /// First layer with a value that is NaN or infinite; or the first that gives equal values for images of several
    /// classes.
    pub layer: Option<String>,
}

impl CleanOutputs {
    /// Observations on the predictions `clean` of a network for all images.
    ///
    /// # Errors
    /// The weights cannot be read again.
    pub(super) fn new(network: &Network, images: &ImageSet, clean: &[CleanPrediction]) -> Result<CleanOutputs> {
        let non_finite = clean.iter().filter(|prediction| !prediction.finite).count();
        let mut outputs = CleanOutputs { count: clean.len(), non_finite, ..CleanOutputs::default() };
        if let Some(first) = clean.iter().position(|prediction| !prediction.finite) {
            let layers = Layer::all(network, images, &[first])?;
            outputs.layer = layers.into_iter().find(|layer| !layer.finite()).map(|layer| layer.name);
            return Ok(outputs);
        }
        let mut seen = BTreeSet::new();
        let of_other_classes = (0..clean.len()).filter(|&i| seen.insert(images.dataset.labels[i]));
        let compared: Vec<usize> = of_other_classes.take(COMPARED).collect();
        let first = clean.first().map(|prediction| prediction.class);
        let constant = first.filter(|first| clean.iter().all(|prediction| prediction.class == *first));
        if compared.len() > 1 && constant.is_some() {
            outputs.constant = constant;
            let layers = Layer::all(network, images, &compared)?;
            outputs.layer = layers.into_iter().find(Layer::constant).map(|layer| layer.name);
        }
        Ok(outputs)
    }
}

/// Values of one layer for a few images.
struct Layer {
    /// Name of its parameters without their last part, such as `conv1`.
    name: String,
    /// Values, by image.
    values: Vec<f32>,
    /// Number of images.
    images: usize,
}

impl Layer {
    /// Values of each layer of a network, from input to output, for the images `index`.
    fn all(network: &Network, images: &ImageSet, index: &[usize]) -> Result<Vec<Layer>> {
        let again = Network::read(&network.path, &network.options)?;
        let mut model = again.model;
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let parameters: Vec<String> = model.stored().flat_map(|params| &params.list).map(|p| p.name.clone()).collect();
        let x = image_buffer(&mut memory, &*model, "x", index.len());
        let mut tape = Tape::new("layers").without_fusion();
        let leaf = tape.leaf(&x);
        model.logits(&mut tape, leaf, Mode::Eval);
        let mut name = String::from("the normalization of images");
        let mut layers: Vec<(String, Buffer)> = Vec::new();
        for node in tape.nodes().to_vec() {
            let leaves = node.inputs.iter().filter_map(|input| tape.values[input.0].home.as_ref());
            let known = leaves.map(|buffer| &buffer.name).find(|leaf| parameters.contains(leaf));
            if let Some((layer, _)) = known.and_then(|leaf| leaf.rsplit_once('.')) {
                name = layer.into();
            }
            let values = memory.f32("values", tape.dims(node.outputs[0]));
            tape.keep(node.outputs[0], &values);
            layers.push((name.clone(), values));
        }
        let program = Arc::new(tape.finish());
        let mut cpu = Cpu::new();
        let cpu: &mut dyn Device = &mut cpu;
        cpu.allocate(&memory, &[&*program])?;
        model.load(cpu, &again.weights)?;
        let pixels = index.iter().flat_map(|&i| images.dataset.image(i)).map(|&byte| f32::from(byte) / 255.0);
        cpu.write_f32(&x, &pixels.collect::<Vec<_>>())?;
        cpu.execute(&program)?;
        let read =
            |(name, buffer): (String, Buffer)| Ok(Layer { name, values: cpu.read_f32(&buffer)?, images: index.len() });
        layers.into_iter().map(read).collect()
    }

    /// True if no value is NaN or infinite.
    fn finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    /// True if the values of all images are equal.
    fn constant(&self) -> bool {
        let mut images = self.values.chunks(self.values.len() / self.images);
        let first = images.next();
        images.all(|image| Some(image) == first)
    }
}
