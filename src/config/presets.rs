//! The published settings as one table, each preset with its source: the values that differ from the defaults.

use super::kinds::{Method, OptimizerKind};
use super::method_presets::METHOD_PRESETS;
use super::settings::{Config, Fidelity};
use crate::catalog::{DatasetKind, ModelKind};
use crate::tape::{Loss, Norm};

/// Settings with a name.
#[derive(Clone, Debug)]
pub struct Preset {
    /// Name, as `--preset` takes it.
    pub name: &'static str,
    /// Purpose, in a line.
    pub summary: &'static str,
    /// Source of the values.
    pub source: &'static str,
    /// MMA's preset of which a few values are changed; `None` for a preset of MMA.
    pub base: Option<&'static str>,
    /// Values.
    pub config: Config,
}

/// Preset of `train` without flags.
pub const DEFAULT_PRESET: &str = "quick";

/// All presets: the default one first, presets of the other methods last.
pub fn presets() -> Vec<Preset> {
    let mma = mma_presets();
    let others = METHOD_PRESETS.iter().map(|other| {
        let base = mma.iter().find(|preset| preset.name == other.base).expect("a preset of MMA");
        let mut config = Config { preset: other.name.into(), method: other.method, ..base.config.clone() };
        (other.change)(&mut config);
        Preset { name: other.name, summary: other.summary, source: other.source, base: Some(base.name), config }
    });
    let others: Vec<Preset> = others.collect();
    mma.into_iter().chain(others).collect()
}

/// Presets of MMA.
fn mma_presets() -> Vec<Preset> {
    vec![
        Preset {
            name: DEFAULT_PRESET,
            summary: "the bundled digits in minutes on two cores, linf, d_max 0.45",
            source: "ours: mnist-linf on fewer images; narrower LeNet5, shorter attack, fewer steps at a larger rate",
            base: None,
            config: Config {
                preset: DEFAULT_PRESET.into(),
                dataset: DatasetKind::Digits,
                val_size: 500,
                width: 0.5,
                nb_iter: 5,
                learning_rate_schedule: vec![(0, 2e-3), (900, 1e-3), (1250, 2e-4)],
                max_num_training_steps: 1500,
                eps_ramp_steps: 750,
                test_eps_iter: 0.1, // five steps cross the ball
                disp_interval: 50,
                ..Config::defaults()
            },
        },
        Preset {
            name: "mnist-linf",
            summary: "MNIST, linf, d_max 0.45, as published",
            source: "paper: appendix, training settings; released: config.py (LinfMNIST), run_mnist_training.sh",
            base: None,
            config: Config::defaults(),
        },
        Preset {
            name: "mnist-l2",
            summary: "MNIST, l2, d_max 4.0; published too: --hinge-maxeps 2.0 and --hinge-maxeps 6.0",
            source: "paper: appendix, training settings; released: config.py (L2MNIST), run_mnist_training.sh",
            base: None,
            config: Config {
                preset: "mnist-l2".into(),
                norm: Norm::L2,
                hinge_maxeps: 4.0, // of 2.0, 4.0 and 6.0 in run_mnist_training.sh
                attack_mineps: 0.5,
                attack_eps: 2.0,
                test_eps: 2.0,
                test_eps_iter: 0.125,
                ..Config::defaults()
            },
        },
        Preset {
            name: "cifar10-linf",
            summary: "CIFAR10, linf, d_max 0.0471 (12/255), as published; published too: --hinge-maxeps 0.0784 \
                      (20/255) and --hinge-maxeps 0.1255 (32/255)",
            source: "paper: appendix, training settings; released: config.py (LinfCIFAR10), run_cifar10_training.sh",
            base: None,
            config: cifar10_linf(),
        },
        Preset {
            name: "cifar10-l2",
            summary: "CIFAR10, l2, d_max 1.0; published too: --hinge-maxeps 2.0 and --hinge-maxeps 3.0",
            source: "paper: appendix, training settings; released: config.py (L2CIFAR10), run_cifar10_training.sh",
            base: None,
            config: Config {
                preset: "cifar10-l2".into(),
                norm: Norm::L2,
                hinge_maxeps: 1.0, // of 1.0, 2.0 and 3.0 in run_cifar10_training.sh
                attack_mineps: 0.5,
                attack_eps: 1.0,
                test_eps: 1.0,
                test_eps_iter: 0.25,
                ..cifar10_linf()
            },
        },
        Preset {
            name: "cifar10-quick",
            summary: "CIFAR10 in minutes on two cores, linf, d_max 32/255",
            source: "ours: OMMA of run_cifar10_training.sh with a small wide ResNet, a shorter attack, fewer steps on \
                     smaller batches; the search for the paper's boundary, so that margins grow sooner",
            base: None,
            config: Config {
                preset: "cifar10-quick".into(),
                val_size: 1000,
                test_size: Some(1000),
                augment: false, // three epochs are too few for it to help
                depth: Some(10),
                width: 1.0,
                method: Method::Omma,
                hinge_maxeps: 32.0 / 255.0,
                search_loss_fn: Loss::Lm,
                clean_loss_coeff: 0.0,
                nb_iter: 3,
                num_search_steps: 5,
                attack_mineps: 8.0 / 255.0,
                learning_rate_schedule: vec![(0, 0.1), (1400, 0.03), (1800, 0.01)],
                training_batch_size: 64,
                max_num_training_steps: 2000,
                eps_ramp_steps: 1000,
                test_eps_iter: 4.0 / 255.0, // three steps cross the ball
                fidelity: Fidelity { right_when: Loss::Lm, ..Fidelity::RELEASED },
                disp_interval: 50,
                ..cifar10_linf()
            },
        },
    ]
}

/// The preset of this name, in any case.
pub fn preset(name: &str) -> Option<Preset> {
    presets().into_iter().find(|preset| preset.name.eq_ignore_ascii_case(name))
}

/// `LinfCIFAR10` of the released `config.py`. Values of its `BaseConfig` and of `train.py` are the defaults.
fn cifar10_linf() -> Config {
    Config {
        preset: "cifar10-linf".into(),
        dataset: DatasetKind::Cifar10,
        augment: true, // train.py: get_madry_et_al_cifar10_train_transform
        model: ModelKind::WideResNet,
        depth: ModelKind::WideResNet.entry().depth, // train.py: get_cifar10_wrn28_widen_factor(4)
        width: ModelKind::WideResNet.entry().width,
        hinge_maxeps: 0.0471, // of 0.0471, 0.0784 and 0.1255 in run_cifar10_training.sh: n / 255 to four decimals
        // CIFAR10
        nb_iter: 10,
        optimizer: OptimizerKind::Sgd,
        momentum: 0.9,
        weight_decay: 2e-4,
        learning_rate_schedule: vec![(0, 0.3), (20_000, 0.09), (30_000, 0.03), (40_000, 0.009)],
        training_batch_size: 128,
        max_num_training_steps: 50_000,
        // LinfCIFAR10
        attack_mineps: 0.005,
        test_eps: 8.0 / 255.0,
        test_eps_iter: 2.0 / 255.0,
        attack_eps: 8.0 / 255.0,
        eps_ramp_steps: 25_000, // ours: half of the steps
        trades_beta: 6.0,       // TRADES: README.md
        ..Config::defaults()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_holds_its_own_name() {
        for Preset { name, config, .. } in presets() {
            config.validate().unwrap();
            assert_eq!(config.preset, name);
        }
    }

    #[test]
    fn presets_of_two_norms_differ_in_the_norm_and_its_lengths_alone() {
        for dataset in ["mnist", "cifar10"] {
            let [linf, l2] = ["linf", "l2"].map(|norm| preset(&format!("{dataset}-{norm}")).unwrap().config.fields());
            let differing: Vec<_> = linf.iter().zip(&l2).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
            let lengths = ["hinge_maxeps", "attack_mineps", "attack_eps", "test_eps", "test_eps_iter"];
            assert_eq!(differing, [&["preset", "norm"], &lengths[..]].concat());
        }
    }

    #[test]
    fn a_preset_of_another_method_is_named_after_its_base_and_changes_little() {
        for Preset { name, base, config, .. } in presets() {
            let Some(base) = base else {
                assert!(config.method.is_mma(), "{name}");
                continue;
            };
            assert_eq!(name, format!("{base}-{}", config.method));
            let base = preset(base).unwrap().config.fields();
            let fields = config.fields();
            let differing: Vec<_> = fields.iter().zip(&base).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
            let optimizer = ["optimizer", "momentum", "weight_decay", "learning_rate_schedule", "training_batch_size"];
            let attack =
                ["preset", "method", "attack_eps", "eps_iter_scale", "eps_ramp_steps", "max_num_training_steps"];
            let may = |name: &&str| attack[..2].contains(name) || config.method == Method::Trades;
            assert!(differing.iter().all(may), "{name}: {differing:?}");
            assert!(
                differing.iter().all(|name| attack.contains(name) || optimizer.contains(name)),
                "{name}: {differing:?}"
            );
        }
    }

    #[test]
    fn the_eps_of_pgdls_grows_over_half_of_the_steps() {
        for Preset { name, config, .. } in presets() {
            assert_eq!(config.eps_ramp_steps, config.max_num_training_steps.div_ceil(2), "{name}");
        }
    }

    #[test]
    fn the_step_size_of_trades_is_the_published_one() {
        for (name, step) in [("mnist-linf-trades", 0.01), ("cifar10-linf-trades", 0.007)] {
            let config = preset(name).unwrap().config;
            let found = f64::from(config.attack_eps * (config.eps_iter_scale / config.nb_iter as f32));
            assert!((found - step).abs() < 2e-7 * step, "{name}: {found}");
        }
    }
}
