//! Models by their architecture.

use super::lenet5::LeNet5;
use super::network::Model;
use super::wide_resnet::WideResNet;
use crate::catalog::{Architecture, ModelKind};

/// Builds the network of an architecture; its parameters are not declared yet. Panics if a wide ResNet has no depth.
pub fn build(architecture: &Architecture) -> Box<dyn Model> {
    let Architecture { model, depth, width } = *architecture;
    match model {
        ModelKind::LeNet5 => Box::new(LeNet5::new(width)),
        ModelKind::WideResNet => Box::new(WideResNet::new(depth.expect("a wide ResNet has a depth"), width as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::{Mode, image_buffer};
    use super::*;
    use crate::tape::{Memory, Tape};

    fn small(model: ModelKind) -> Box<dyn Model> {
        let depth = model.entry().depth.map(|_| 10);
        build(&Architecture { model, depth, width: if depth.is_some() { 1.0 } else { 0.125 } })
    }

    #[test]
    fn every_model_takes_the_images_and_tells_apart_the_classes_of_its_data_sets() {
        use crate::catalog::DatasetKind;
        use crate::choice::Choice as _;
        for dataset in DatasetKind::ALL.iter().copied() {
            let model = small(dataset.entry().model);
            assert_eq!(model.image(), dataset.entry().image);
            assert_eq!(model.classes(), dataset.entry().classes);
        }
    }

    #[test]
    fn logits_have_a_column_for_each_class() {
        let models: [Box<dyn Model>; 2] =
            [Box::new(LeNet5::with_sizes([8, 8, 1], [2, 3], 3, 4, 7)), small(ModelKind::WideResNet)];
        for (mut model, classes) in models.into_iter().zip([7, 10]) {
            let mut memory = Memory::default();
            model.declare(&mut memory);
            let mut tape = Tape::new("logits");
            let x = tape.leaf(&image_buffer(&mut memory, &*model, "x", 2));
            let logits = model.logits(&mut tape, x, Mode::Eval);
            assert_eq!(tape.dims(logits), [2, classes]);
            assert_eq!(model.classes(), classes, "{}", model.describe());
        }
    }
}
