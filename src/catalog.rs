//! Data sets and models that the program knows: one table of each, and nothing else about them.
//!
//! The tables hold facts that need neither images nor layers: names, shapes, classes, published sizes, radii of the
//! published evaluations. Reading files is [`crate::data`]'s part, layers are [`crate::model`]'s.

use crate::choice::{Choice as _, choices};
use crate::tape::Norm;

/// Number of classes of every data set here.
pub const CLASSES: usize = 10;

choices! {
    /// A data set.
    pub enum DatasetKind {
        /// 8,000 images of MNIST that are bundled with the program.
        Digits = "digits",
        /// MNIST: 60,000 training and 10,000 test images, 28x28, grey.
        Mnist = "mnist",
        /// CIFAR10: 50,000 training and 10,000 test images, 32x32, in colour.
        Cifar10 = "cifar10",
    }
}

/// Facts about a data set.
#[derive(Debug)]
pub struct DatasetEntry {
    /// Name in text.
    pub title: &'static str,
    /// Size of an image, `[height, width, channels]`.
    pub image: [usize; 3],
    /// Number of classes; labels are 0 to `classes - 1`.
    pub classes: usize,
    /// Names of the classes, in the order of their labels; empty if the labels are their own names.
    pub class_names: &'static [&'static str],
    /// Folders below the data folder in which the files may lie; empty for the bundled images.
    pub folders: &'static [&'static str],
    /// Stem of the presets with the published settings: `<stem>-<norm>`.
    pub preset_stem: &'static str,
    /// Model that the paper trains on these images, and the only one whose input they fit.
    pub model: ModelKind,
    /// Radii of the published evaluations in linf.
    pub linf: EvaluationRadii,
    /// Radii of the published evaluations in l2.
    pub l2: EvaluationRadii,
}

/// Radii of the published evaluations on a data set in one norm.
#[derive(Debug)]
pub struct EvaluationRadii {
    /// Radii of the paper's tables, ascending (section 4 and appendix).
    pub paper: &'static [f64],
    /// Radius at which AutoAttack is reported: RobustBench's for CIFAR10, the training radius for digits.
    pub autoattack: f64,
    /// The released evaluator's PGD takes steps of `eps / pgd_step_divisor`.
    pub pgd_step_divisor: f32,
}

const MNIST_LINF: EvaluationRadii =
    EvaluationRadii { paper: &[0.1, 0.2, 0.3, 0.4], autoattack: 0.3, pgd_step_divisor: 40.0 };
const MNIST_L2: EvaluationRadii =
    EvaluationRadii { paper: &[1.0, 2.0, 3.0, 4.0], autoattack: 2.0, pgd_step_divisor: 4.0 };

const MNIST: DatasetEntry = DatasetEntry {
    title: "MNIST",
    image: [28, 28, 1],
    classes: CLASSES,
    class_names: &[],
    folders: &["", "mnist", "MNIST/raw"],
    preset_stem: "mnist",
    model: ModelKind::LeNet5,
    linf: MNIST_LINF,
    l2: MNIST_L2,
};

/// The bundled digits are images of MNIST, and its published settings hold for them.
const DIGITS: DatasetEntry = DatasetEntry { title: "digits", folders: &[], ..MNIST };

const CIFAR10: DatasetEntry = DatasetEntry {
    title: "CIFAR10",
    image: [32, 32, 3],
    classes: CLASSES,
    class_names: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    folders: &["", "cifar-10-batches-bin", "cifar10"],
    preset_stem: "cifar10",
    model: ModelKind::WideResNet,
    linf: EvaluationRadii {
        paper: &[
            4.0 / 255.0,
            8.0 / 255.0,
            12.0 / 255.0,
            16.0 / 255.0,
            20.0 / 255.0,
            24.0 / 255.0,
            28.0 / 255.0,
            32.0 / 255.0,
        ],
        autoattack: 8.0 / 255.0,
        pgd_step_divisor: 4.0,
    },
    l2: EvaluationRadii { paper: &[0.5, 1.0, 1.5, 2.0, 2.5], autoattack: 0.5, pgd_step_divisor: 4.0 },
};

impl DatasetKind {
    /// Facts about the data set.
    pub fn entry(self) -> &'static DatasetEntry {
        match self {
            DatasetKind::Digits => &DIGITS,
            DatasetKind::Mnist => &MNIST,
            DatasetKind::Cifar10 => &CIFAR10,
        }
    }

    /// Radii of the published evaluations in `norm`.
    pub fn radii(self, norm: Norm) -> &'static EvaluationRadii {
        match norm {
            Norm::Linf => &self.entry().linf,
            Norm::L2 => &self.entry().l2,
        }
    }

    /// Name of the preset with the published settings in `norm`.
    pub fn preset(self, norm: Norm) -> String {
        format!("{}-{norm}", self.entry().preset_stem)
    }
}

choices! {
    /// A model.
    pub enum ModelKind {
        /// LeNet5 of Madry et al., for MNIST and the bundled digits.
        LeNet5 = "lenet5",
        /// Wide ResNet, for CIFAR10. The released one standardizes each image first.
        WideResNet = "wide-resnet",
    }
}

/// Facts about a model.
#[derive(Debug)]
pub struct ModelEntry {
    /// Name in text.
    pub title: &'static str,
    /// Depth of the published network; `None` for a model of one depth.
    pub depth: Option<usize>,
    /// Width of the published network: a multiple of [`ModelEntry::filters`] and [`ModelEntry::hidden`].
    pub width: f64,
    /// Filters of the convolutions at a width of 1: of each, or of each group.
    pub filters: &'static [usize],
    /// Hidden units of the linear layer at a width of 1; 0 for a model without one.
    pub hidden: usize,
    /// Tensor by which a file of this model is known under [`WeightNames::Released`].
    pub released_tensor: &'static str,
    /// Tensor by which a file of this model is known under [`WeightNames::Robustbench`]; `None` for a model that
    /// RobustBench does not have.
    pub robustbench_tensor: Option<&'static str>,
}

const LENET5: ModelEntry = ModelEntry {
    title: "LeNet5",
    depth: None,
    width: 1.0,
    filters: &[32, 64],
    hidden: 1024,
    released_tensor: "linear1.weight",
    robustbench_tensor: None,
};

const WIDE_RESNET: ModelEntry = ModelEntry {
    title: "wide ResNet",
    depth: Some(28),
    width: 4.0,
    filters: &[16, 32, 64],
    hidden: 0,
    released_tensor: "1.convgroup1.layer.0.conv1.weight",
    robustbench_tensor: Some("block1.layer.0.conv1.weight"),
};

impl ModelKind {
    /// Facts about the model.
    pub const fn entry(self) -> &'static ModelEntry {
        match self {
            ModelKind::LeNet5 => &LENET5,
            ModelKind::WideResNet => &WIDE_RESNET,
        }
    }

    /// True if the model takes the images of `dataset`.
    pub fn takes(self, dataset: DatasetKind) -> bool {
        dataset.entry().model == self
    }
}

/// A model and its size: all that its layers depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Architecture {
    /// Model.
    pub model: ModelKind,
    /// Depth of a wide ResNet, `6n + 4`; `None` for LeNet5.
    pub depth: Option<usize>,
    /// Multiple of the filters and hidden units of [`ModelEntry`]; a whole number for a wide ResNet.
    pub width: f64,
}

choices! {
    /// Naming scheme of the tensors in a file of weights.
    pub enum WeightNames {
        /// Names of the released code: a wide ResNet is the second of two modules, so
        /// `1.convgroup1.layer.0.conv_shortcut.weight`.
        Released = "released",
        /// Names of RobustBench's class `Ding2020MMANet`: `block1.layer.0.convShortcut.weight`.
        Robustbench = "robustbench",
    }
}

impl WeightNames {
    /// A tensor's name under this scheme, from its released name.
    pub fn rename(self, released: &str) -> String {
        match self {
            WeightNames::Released => released.into(),
            WeightNames::Robustbench => {
                let inner = released.strip_prefix("1.").unwrap_or(released);
                inner.replace("convgroup", "block").replace("conv_shortcut", "convShortcut")
            }
        }
    }
}

/// Network among the tensors of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNetwork {
    /// Model.
    pub model: ModelKind,
    /// Naming scheme of its tensors.
    pub names: WeightNames,
    /// Beginning of its tensors' names before those of the scheme, such as `module.`; mostly empty.
    pub prefix: String,
}

/// Networks of a file that holds the tensors `names`: one for each tensor by which a model is known.
pub fn networks_among<'a>(names: impl Iterator<Item = &'a str>) -> Vec<NamedNetwork> {
    let mut known = Vec::new();
    for &model in ModelKind::ALL {
        let ModelEntry { released_tensor, robustbench_tensor, .. } = model.entry();
        known.push((model, WeightNames::Released, *released_tensor));
        known.extend(robustbench_tensor.map(|tensor| (model, WeightNames::Robustbench, tensor)));
    }
    let network = |name: &str| {
        known.iter().find_map(|&(model, names, tensor)| {
            let prefix = name.strip_suffix(tensor)?;
            let whole = prefix.is_empty() || prefix.ends_with('.');
            whole.then(|| NamedNetwork { model, names, prefix: prefix.into() })
        })
    };
    names.filter_map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_radii_for_cifar10_are_multiples_of_4_255_and_of_a_half() {
        let multiples = |n: u32, step: f64| (1..=n).map(|i| f64::from(i) * step).collect::<Vec<_>>();
        let linf: Vec<f64> = (1..=8).map(|i| f64::from(4 * i) / 255.0).collect();
        assert_eq!(DatasetKind::Cifar10.radii(Norm::Linf).paper, linf);
        assert_eq!(DatasetKind::Cifar10.radii(Norm::L2).paper, multiples(5, 0.5));
    }

    #[test]
    fn the_networks_of_a_file_are_known_by_their_tensors_names_under_any_prefix() {
        use {ModelKind::*, WeightNames::*};
        let wide = "1.convgroup1.layer.0.conv1.weight";
        for (names, expected) in [
            (&["conv1.weight", "linear1.weight"][..], &[(LeNet5, Released, "")][..]),
            (&["module.linear1.weight"], &[(LeNet5, Released, "module.")]),
            (&["1.conv1.weight", wide], &[(WideResNet, Released, "")]),
            (&["state_dict.module.1.convgroup1.layer.0.conv1.weight"], &[(WideResNet, Released, "state_dict.module.")]),
            (&["conv1.weight", "block1.layer.0.conv1.weight"], &[(WideResNet, Robustbench, "")]),
            (&["_orig_mod.block1.layer.0.conv1.weight"], &[(WideResNet, Robustbench, "_orig_mod.")]),
            (
                &["ema.linear1.weight", "model.linear1.weight"],
                &[(LeNet5, Released, "ema."), (LeNet5, Released, "model.")],
            ),
            (&["layer1.0.weight", "sub_block1.layer.0.conv1.weight", "nonlinear1.weight"], &[]),
        ] {
            let found = networks_among(names.iter().copied());
            let found: Vec<_> = found.iter().map(|it| (it.model, it.names, it.prefix.as_str())).collect();
            assert_eq!(found, expected, "{names:?}");
        }
    }
}
