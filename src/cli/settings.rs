//! One flag for every setting of [`Config`], in the groups that `train --help` shows.
//!
//! A flag's id is its setting's name: that is how [`describe_defaults`] finds what the presets have, and why no
//! default stands in this file.

use clap::{Args, Command, ValueEnum};

use super::values::{LearningRates, schedule, single, whole};
use crate::catalog::{DatasetKind, ModelKind};
use crate::config::{
    Config, Direction, Fidelity, L2Order, Method, OptimizerKind, SearchMode, SearchResult, TestSearchStart, presets,
};
use crate::tape::{Loss, Norm};

/// All of the settings' flags.
#[derive(Args, Debug)]
pub struct Settings {
    #[command(flatten)]
    data: SettingDataFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    margins: MarginFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    fidelity: FidelityFlags,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Data")]
struct SettingDataFlags {
    /// Which images
    #[arg(long, value_name = "NAME")]
    dataset: Option<DatasetKind>,
    /// Train on the first N images after those held out
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    train_size: Option<usize>,
    /// Hold out the first N training images for validation, which chooses the best weights; the digits have their own
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    val_size: Option<usize>,
    /// Test on the first N test images
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    test_size: Option<usize>,
    /// Move training images by up to 4 pixels, what is beyond the edge reflected, and mirror half of them
    #[arg(long, value_name = "BOOL")]
    augment: Option<bool>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
struct ModelFlags {
    /// Which network: lenet5 for digits and mnist, wide-resnet for cifar10
    #[arg(long, value_name = "NAME")]
    model: Option<ModelKind>,
    /// The wide ResNet's depth: 10, 16, 22, 28 or another 6n + 4
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    depth: Option<usize>,
    /// LeNet5: a multiple of 32 and 64 filters and 1,024 hidden units; wide ResNet: the widening factor, a whole number
    #[arg(long, value_name = "MULTIPLE", value_parser = super::values::number)]
    width: Option<f64>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Margins and attack")]
struct MarginFlags {
    /// The norm of margins and attacks
    #[arg(long)]
    norm: Option<Norm>,
    /// d_max: up to this margin an example is trained on at its boundary point
    #[arg(long, value_name = "EPS", alias = "hinge-max-eps", value_parser = single)]
    hinge_maxeps: Option<f32>,
    /// The loss on clean and on wrong examples
    #[arg(long, value_name = "LOSS")]
    clean_loss_fn: Option<Loss>,
    /// The loss at the boundary points; with pgd and pgdls the loss that the attack ascends and training descends
    #[arg(long, value_name = "LOSS")]
    margin_loss_fn: Option<Loss>,
    /// The loss that PGD ascends in mma and when margins are measured
    #[arg(long, value_name = "LOSS")]
    attack_loss_fn: Option<Loss>,
    /// The loss whose zero is the boundary; also --right-when, unless that is given
    #[arg(long, value_name = "LOSS")]
    search_loss_fn: Option<Loss>,
    /// mma: the share of the clean loss's gradient; 0 is omma
    #[arg(long, value_name = "SHARE", value_parser = single)]
    clean_loss_coeff: Option<f32>,
    /// Iterations of PGD, in training by any method and when margins are measured
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    nb_iter: Option<u32>,
    /// PGD's step is this times eps / nb-iter
    #[arg(long, value_name = "SCALE", value_parser = single)]
    eps_iter_scale: Option<f32>,
    /// Halvings of the search for the boundary
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    num_search_steps: Option<u32>,
    /// mma: the least eps that PGD searches within; at most 1.05 times --hinge-maxeps
    #[arg(long, value_name = "EPS", value_parser = single)]
    attack_mineps: Option<f32>,
    /// pgd, pgdls, trades: the eps that every training image is attacked within
    #[arg(long, value_name = "EPS", value_parser = single)]
    attack_eps: Option<f32>,
    /// pgdls: eps grows by equal steps from 0 to --attack-eps, which it has from step N on [default: half of the steps]
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    eps_ramp_steps: Option<u32>,
    /// trades: how much equal answers around an image count, beside right ones on it; more is more robust, less accurate
    #[arg(long, value_name = "BETA", value_parser = single)]
    trades_beta: Option<f32>,
    /// PGD's eps when margins are measured, on validation and test images
    #[arg(long, value_name = "EPS", value_parser = single)]
    test_eps: Option<f32>,
    /// PGD's step when margins are measured
    #[arg(long, value_name = "EPS", value_parser = single)]
    test_eps_iter: Option<f32>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
struct TrainingFlags {
    /// How the network is trained
    #[arg(long, value_name = "NAME")]
    method: Option<Method>,
    /// The seed of every random number; a run is a function of its settings and its data
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// How gradients become weights
    #[arg(long, value_name = "NAME")]
    optimizer: Option<OptimizerKind>,
    /// Momentum of sgd
    #[arg(long, value_name = "SHARE", value_parser = single)]
    momentum: Option<f32>,
    /// L2 penalty, added to every gradient
    #[arg(long, value_name = "FACTOR", value_parser = single)]
    weight_decay: Option<f32>,
    /// One rate, or rates from steps on, such as 0:0.3,20000:0.09
    #[arg(long, value_name = "RATE", aliases = ["lr", "initial-learning-rate"], value_parser = schedule)]
    learning_rate_schedule: Option<LearningRates>,
    /// Examples a step
    #[arg(long, value_name = "N", alias = "batch-size", value_parser = whole::<usize>)]
    training_batch_size: Option<usize>,
    /// Steps of the whole run; with --resume it may be more than before
    #[arg(long, value_name = "N", alias = "steps", value_parser = whole::<u32>)]
    max_num_training_steps: Option<u32>,
    /// Steps between two lines of metrics.jsonl
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    disp_interval: Option<u32>,
    /// Steps between two checkpoints to resume from
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    checkpoint_interval: Option<u32>,
}

/// Whose word holds where they differ.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FidelityName {
    /// What the published figures came from.
    Released,
    /// What the paper's text says or intends.
    Paper,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Where the released code and the paper differ")]
struct FidelityFlags {
    /// Set all of this group, and --search-loss-fn: slm as released, lm as in the paper; a flag of its own overrides
    #[arg(long, value_name = "WHOSE")]
    fidelity: Option<FidelityName>,
    /// Batch norm's mode in the search: the statistics of the images searched, which then also update the running ones, or
    /// the running ones as they are; LeNet5 has none
    #[arg(long, value_name = "MODE")]
    search_mode: Option<SearchMode>,
    /// An example is right, so attacked, when this loss is negative: slm says p > 1/2, lm the largest logit
    #[arg(long, value_name = "LOSS")]
    right_when: Option<Loss>,
    /// Margins are multiples of the attack's eps, or distances
    #[arg(long, value_name = "UNIT")]
    direction: Option<Direction>,
    /// Clamp the boundary point to [0, 1] before training on it
    #[arg(long, value_name = "BOOL")]
    clamp_boundary: Option<bool>,
    /// Which end of the last bracket is the boundary point
    #[arg(long, value_name = "WHICH")]
    search_result: Option<SearchResult>,
    /// A wrong example's next search starts at --attack-mineps
    #[arg(long, value_name = "BOOL")]
    forget_wrong: Option<bool>,
    /// Where the search starts when margins are measured
    #[arg(long, value_name = "WHERE")]
    test_search_start: Option<TestSearchStart>,
    /// The loss whose zero is the boundary when margins are measured
    #[arg(long, value_name = "LOSS")]
    test_search_loss_fn: Option<Loss>,
    /// What follows an l2 step: the box then the ball, or the ball then the box
    #[arg(long, value_name = "ORDER")]
    l2_order: Option<L2Order>,
    /// The least gradient norm that an l2 step divides by
    #[arg(long, value_name = "NORM", value_parser = single)]
    l2_grad_floor: Option<f32>,
    /// The cw loss has no gradient on examples more confident than this
    #[arg(long, value_name = "LOGITS", value_parser = single)]
    cw_confidence: Option<f32>,
}

impl Settings {
    /// The data set, norm and method asked for: with `--dataset mnist` or `cifar10` they choose the preset, as in the released
    /// program.
    pub fn asked(&self) -> (Option<DatasetKind>, Option<Norm>, Option<Method>) {
        (self.data.dataset, self.margins.norm, self.training.method)
    }

    /// The number of steps asked for.
    pub fn steps(&self) -> Option<u32> {
        self.training.max_num_training_steps
    }

    /// Overrides `config` by what was given.
    pub fn apply(self, config: &mut Config) {
        let SettingDataFlags { dataset, train_size, val_size, test_size, augment } = self.data;
        set(&mut config.dataset, dataset);
        set(&mut config.train_size, train_size.map(Some));
        set(&mut config.val_size, val_size);
        set(&mut config.test_size, test_size.map(Some));
        set(&mut config.augment, augment);

        let ModelFlags { model, depth, width } = self.model;
        set(&mut config.model, model);
        set(&mut config.depth, depth.map(Some));
        set(&mut config.width, width);

        // Before the flags that override it.
        if let Some(name) = self.fidelity.fidelity {
            (config.fidelity, config.search_loss_fn) = match name {
                FidelityName::Released => (Fidelity::RELEASED, Loss::Slm),
                FidelityName::Paper => (Fidelity::PAPER, Loss::Lm),
            };
        }

        let MarginFlags {
            norm,
            hinge_maxeps,
            clean_loss_fn,
            margin_loss_fn,
            attack_loss_fn,
            search_loss_fn,
            clean_loss_coeff,
            nb_iter,
            eps_iter_scale,
            num_search_steps,
            attack_mineps,
            attack_eps,
            eps_ramp_steps,
            trades_beta,
            test_eps,
            test_eps_iter,
        } = self.margins;
        set(&mut config.norm, norm);
        set(&mut config.hinge_maxeps, hinge_maxeps);
        set(&mut config.clean_loss_fn, clean_loss_fn);
        set(&mut config.margin_loss_fn, margin_loss_fn);
        set(&mut config.attack_loss_fn, attack_loss_fn);
        set(&mut config.search_loss_fn, search_loss_fn);
        // The released code has one setting for both.
        set(&mut config.fidelity.right_when, search_loss_fn);
        set(&mut config.clean_loss_coeff, clean_loss_coeff);
        set(&mut config.nb_iter, nb_iter);
        set(&mut config.eps_iter_scale, eps_iter_scale);
        set(&mut config.num_search_steps, num_search_steps);
        set(&mut config.attack_mineps, attack_mineps);
        set(&mut config.attack_eps, attack_eps);
        set(&mut config.trades_beta, trades_beta);
        set(&mut config.test_eps, test_eps);
        set(&mut config.test_eps_iter, test_eps_iter);

        let TrainingFlags {
            method,
            seed,
            optimizer,
            momentum,
            weight_decay,
            learning_rate_schedule,
            training_batch_size,
            max_num_training_steps,
            disp_interval,
            checkpoint_interval,
        } = self.training;
        set(&mut config.method, method);
        // OMMA is MMA without the clean loss: where one of the two is given, it says the other.
        match (method, clean_loss_coeff) {
            (Some(Method::Omma), None) => config.clean_loss_coeff = 0.0,
            (None, Some(share)) if config.method.is_mma() => config.method = Method::of_share(share),
            _ => {}
        }
        set(&mut config.seed, seed);
        set(&mut config.optimizer, optimizer);
        set(&mut config.momentum, momentum);
        set(&mut config.weight_decay, weight_decay);
        set(&mut config.learning_rate_schedule, learning_rate_schedule.map(|schedule| schedule.0));
        set(&mut config.training_batch_size, training_batch_size);
        set(&mut config.max_num_training_steps, max_num_training_steps);
        // Of whom it is asked for, half of the steps: what a file or a preset has fits its own number of steps.
        let asks = config.method == Method::Pgdls && (method.is_some() || max_num_training_steps.is_some());
        let half = asks.then(|| config.max_num_training_steps.div_ceil(2));
        set(&mut config.eps_ramp_steps, eps_ramp_steps.or(half));
        set(&mut config.disp_interval, disp_interval);
        set(&mut config.checkpoint_interval, checkpoint_interval);

        let FidelityFlags {
            fidelity: _,
            search_mode,
            right_when,
            direction,
            clamp_boundary,
            search_result,
            forget_wrong,
            test_search_start,
            test_search_loss_fn,
            l2_order,
            l2_grad_floor,
            cw_confidence,
        } = self.fidelity;
        let fidelity = &mut config.fidelity;
        set(&mut fidelity.search_mode, search_mode);
        set(&mut fidelity.right_when, right_when);
        set(&mut fidelity.direction, direction);
        set(&mut fidelity.clamp_boundary, clamp_boundary);
        set(&mut fidelity.search_result, search_result);
        set(&mut fidelity.forget_wrong, forget_wrong);
        set(&mut fidelity.test_search_start, test_search_start);
        set(&mut fidelity.test_search_loss_fn, test_search_loss_fn);
        set(&mut fidelity.l2_order, l2_order);
        set(&mut fidelity.l2_grad_floor, l2_grad_floor);
        set(&mut fidelity.cw_confidence, cw_confidence);
    }
}

fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *setting = value;
    }
}

/// Adds to the help of every setting's flag what each preset has.
pub fn describe_defaults(command: Command) -> Command {
    // Those of other methods are told by their bases.
    let presets = presets().into_iter().filter(|preset| preset.base.is_none());
    let presets: Vec<_> = presets.map(|preset| (preset.name, preset.config.fields())).collect();
    command.mut_args(|arg| {
        if arg.get_id() == "preset" {
            return arg;
        }
        // (the presets that have a value, the value)
        let mut values: Vec<(Vec<&str>, &str)> = Vec::new();
        for (name, fields) in &presets {
            if let Some((_, value)) = fields.iter().find(|field| arg.get_id() == field.0.as_str()) {
                match values.iter_mut().find(|known| known.1 == value) {
                    Some(known) => known.0.push(name),
                    None => values.push((vec![name], value)),
                }
            }
        }
        let defaults = match values.as_slice() {
            [] => return arg,
            [(_, value)] => format!("[default: {value}]"),
            _ => {
                let each: Vec<_> =
                    values.iter().map(|(names, value)| format!("{}: {value}", names.join(", "))).collect();
                format!("[{}]", each.join("; "))
            }
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help} {defaults}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_PRESET, preset};
    use clap::{FromArgMatches, Parser};

    #[derive(Parser)]
    struct SettingsParser {
        #[command(flatten)]
        settings: Settings,
    }

    fn applied(mut config: Config, flags: &[String]) -> Config {
        let command = super::super::released_spellings(<SettingsParser as clap::CommandFactory>::command());
        let matches = command.try_get_matches_from([&["program".to_owned()], flags].concat()).unwrap();
        SettingsParser::from_arg_matches(&matches).unwrap().settings.apply(&mut config);
        config
    }

    #[test]
    fn every_setting_has_its_flag_and_the_flag_sets_it() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let other = Config {
            seed: 7,
            dataset: DatasetKind::Mnist,
            train_size: Some(3),
            val_size: 4,
            test_size: Some(5),
            augment: true,
            model: ModelKind::WideResNet,
            depth: Some(16),
            width: 0.25,
            method: Method::Trades,
            norm: Norm::L2,
            hinge_maxeps: 8.0 / 255.0,
            clean_loss_fn: Loss::Slm,
            margin_loss_fn: Loss::Cw,
            attack_loss_fn: Loss::Xent,
            search_loss_fn: Loss::Lm,
            clean_loss_coeff: 0.25,
            nb_iter: 11,
            eps_iter_scale: 2.0,
            num_search_steps: 12,
            attack_mineps: 0.01,
            attack_eps: 0.03,
            eps_ramp_steps: 17,
            trades_beta: 6.0,
            optimizer: OptimizerKind::Sgd,
            momentum: 0.9,
            weight_decay: 2e-4,
            learning_rate_schedule: vec![(0, 0.3), (20_000, 0.09)],
            training_batch_size: 128,
            max_num_training_steps: 13,
            test_eps: 0.02,
            test_eps_iter: 0.001,
            disp_interval: 14,
            checkpoint_interval: 15,
            fidelity: Fidelity { cw_confidence: 40.0, ..Fidelity::PAPER },
            preset: base.preset.clone(),
        };
        for ((name, value), (_, before)) in other.fields().into_iter().zip(base.fields()).skip(1) {
            // Both fidelities measure margins by lm.
            let value = if name == "test_search_loss_fn" { "slm".into() } else { value };
            assert_ne!(value, before, "{name}: the test must change every setting");
            for flag in [format!("--{name}"), format!("--{}", name.replace('_', "-"))] {
                let fields = applied(base.clone(), &[flag.clone(), value.clone()]).fields();
                assert!(fields.contains(&(name.clone(), value.clone())), "{flag} {value}");
            }
        }
    }

    #[test]
    fn paper_fidelity_sets_all_and_single_flags_override_it() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let paper = applied(base.clone(), &flags("--fidelity paper"));
        assert_eq!((paper.fidelity, paper.search_loss_fn), (Fidelity::PAPER, Loss::Lm));
        assert_eq!(applied(paper.clone(), &flags("--fidelity released")), base);
        let mixed = applied(base.clone(), &flags("--direction eps --fidelity paper"));
        assert_eq!(mixed.fidelity, Fidelity { direction: Direction::Eps, ..Fidelity::PAPER });
    }

    #[test]
    fn the_search_loss_also_says_what_is_right_unless_that_is_given() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let pair = |config: Config| (config.search_loss_fn, config.fidelity.right_when);
        assert_eq!(pair(applied(base.clone(), &flags("--search_loss_fn lm"))), (Loss::Lm, Loss::Lm));
        assert_eq!(pair(applied(base, &flags("--right-when slm --search-loss-fn lm"))), (Loss::Lm, Loss::Slm));
    }

    #[test]
    fn omma_and_no_clean_loss_are_one_setting() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let pair = |config: &Config| (config.method, config.clean_loss_coeff);
        let omma = applied(base.clone(), &flags("--method omma"));
        assert_eq!(pair(&omma), (Method::Omma, 0.0));
        assert_eq!(pair(&applied(base.clone(), &flags("--clean-loss-coeff 0"))), (Method::Omma, 0.0));
        assert_eq!(pair(&applied(omma.clone(), &flags("--clean-loss-coeff 0.25"))), (Method::Mma, 0.25));
        assert_eq!(pair(&applied(base.clone(), &flags("--clean-loss-coeff 0 --method std"))), (Method::Std, 0.0));
        for contradiction in ["--method omma --clean-loss-coeff 0.25", "--method mma --clean-loss-coeff 0"] {
            let message = applied(base.clone(), &flags(contradiction)).validate().unwrap_err().to_string();
            assert!(message.starts_with("--clean-loss-coeff: expected ") && message.contains("--method"), "{message}");
        }
        assert!(applied(omma, &flags("--method mma")).validate().is_err(), "which share is not known");
    }

    #[test]
    fn eps_grows_over_half_of_the_steps_unless_told_otherwise() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let ramp = |text: &str| applied(base.clone(), &flags(text)).eps_ramp_steps;
        assert_eq!(ramp("--method pgdls"), 750);
        assert_eq!(ramp("--method pgdls --steps 601"), 301);
        assert_eq!(ramp("--method pgdls --eps-ramp-steps 20 --steps 601"), 20);
        assert_eq!(ramp("--steps 601"), 750, "mma has none");
        let short = Config { max_num_training_steps: 100, ..base.clone() };
        assert_eq!(applied(short, &flags("--method pgdls")).eps_ramp_steps, 50);
    }
}
