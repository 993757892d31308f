//! Published settings of the methods beside MMA, as changes of a preset of MMA.

use super::kinds::{Method, OptimizerKind};
use super::settings::Config;

/// A preset of another method.
pub(super) struct MethodPreset {
    /// Name: the base's and the method's.
    pub name: &'static str,
    /// Name of the preset of MMA.
    pub base: &'static str,
    pub method: Method,
    pub summary: &'static str,
    pub source: &'static str,
    pub change: fn(&mut Config),
}

const STD: &str = "paper: STD; training settings as MMA's";
const PGD: &str = "paper: PGD training (Madry et al., 2018), step 2.5 eps / iterations; training settings as MMA's";
const PGDLS: &str =
    "paper: PGDLS; eps grows over half of the steps, which is ours: the paper does not say how many; else as PGD";
const TRADES: &str =
    "Zhang et al., 2019, and their code: attack, beta, optimizer, epochs counted as steps; the network is ours";

/// Every preset of another method.
pub(super) const METHOD_PRESETS: [MethodPreset; 14] = [
    of("mnist-linf-std", "mnist-linf", Method::Std, "standard training", STD),
    of("mnist-linf-pgd", "mnist-linf", Method::Pgd, "eps 0.3; published too: 0.1, 0.2, 0.4, 0.45", PGD),
    of("mnist-linf-pgdls", "mnist-linf", Method::Pgdls, "eps 0.3; published too: 0.1, 0.2, 0.4, 0.45", PGDLS),
    MethodPreset { change: mnist_trades, ..of("mnist-linf-trades", "mnist-linf", Method::Trades, "step 0.01", TRADES) },
    of("mnist-l2-std", "mnist-l2", Method::Std, "standard training, margins measured in l2", STD),
    of("mnist-l2-pgd", "mnist-l2", Method::Pgd, "eps 2.0; published too: 1.0, 3.0, 4.0", PGD),
    of("mnist-l2-pgdls", "mnist-l2", Method::Pgdls, "eps 2.0; published too: 1.0, 3.0, 4.0", PGDLS),
    of("cifar10-linf-std", "cifar10-linf", Method::Std, "standard training", STD),
    of("cifar10-linf-pgd", "cifar10-linf", Method::Pgd, "eps 8/255; published too: 4, 12, 16, .., 32 of 255", PGD),
    of(
        "cifar10-linf-pgdls",
        "cifar10-linf",
        Method::Pgdls,
        "eps 8/255; published too: 4, 12, 16, .., 32 of 255",
        PGDLS,
    ),
    MethodPreset {
        change: cifar10_trades,
        ..of("cifar10-linf-trades", "cifar10-linf", Method::Trades, "step 0.007", TRADES)
    },
    of("cifar10-l2-std", "cifar10-l2", Method::Std, "standard training, margins measured in l2", STD),
    of("cifar10-l2-pgd", "cifar10-l2", Method::Pgd, "eps 1.0; published too: 0.5, 1.5, 2.0, 2.5", PGD),
    of("cifar10-l2-pgdls", "cifar10-l2", Method::Pgdls, "eps 1.0; published too: 0.5, 1.5, 2.0, 2.5", PGDLS),
];

/// A preset that changes the method alone: the base has the settings that the method needs.
const fn of(
    name: &'static str,
    base: &'static str,
    method: Method,
    summary: &'static str,
    source: &'static str,
) -> MethodPreset {
    MethodPreset { name, base, method, summary, source, change: |_| () }
}

/// train_trades_mnist.py. Its schedule has one change: the later changes stand in branches that are never reached.
fn mnist_trades(config: &mut Config) {
    config.eps_iter_scale = 0.4 / 0.3; // 40 steps of 0.01 in 0.3
    config.optimizer = OptimizerKind::Sgd;
    config.momentum = 0.9;
    config.training_batch_size = 128;
    trained_for(config, 100, 469, [0.01, 0.001], 55);
}

/// train_trades_cifar10.py; 76 epochs as published.
fn cifar10_trades(config: &mut Config) {
    config.attack_eps = 0.031;
    config.eps_iter_scale = 0.07 / 0.031; // 10 steps of 0.007 in 0.031
    trained_for(config, 76, 391, [0.1, 0.01], 75);
}

/// Sets the length to `epochs` of `steps` each, and the second learning rate from the beginning of epoch `second`,
/// counted from 1.
fn trained_for(config: &mut Config, epochs: u32, steps: u32, rates: [f32; 2], second: u32) {
    config.max_num_training_steps = epochs * steps;
    config.eps_ramp_steps = config.max_num_training_steps / 2;
    config.learning_rate_schedule = vec![(0, rates[0]), ((second - 1) * steps, rates[1])];
}
