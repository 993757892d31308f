//! Flags of the settings, made from their table.

use clap::builder::{EnumValueParser, PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::catalog::DatasetKind;
use crate::choice::Choice as _;
use crate::config::{
    Config, DEFAULT_PRESET, FIDELITY_SETTINGS, Fidelity, FidelityPreset, Method, RUN_SETTINGS, Setting, preset,
};
use crate::tape::{Loss, Norm};

/// Settings that were given as flags.
#[derive(Clone, Debug)]
pub struct SettingsFlags {
    /// Each setting with its value, in the order of the table.
    given: Vec<(&'static Setting, String)>,
    /// Value of `--fidelity`.
    fidelity: Option<FidelityPreset>,
}

impl Args for SettingsFlags {
    fn augment_args(command: Command) -> Command {
        let default = preset(DEFAULT_PRESET).expect("the default preset exists").config;
        let flag = |setting: &'static Setting| flag(setting, &default);
        let fidelity = Arg::new("fidelity")
            .long("fidelity")
            .value_name("SOURCE")
            .value_parser(EnumValueParser::<FidelityPreset>::new())
            .help_heading(FIDELITY_SETTINGS[0].heading)
            .help(
                "Follow the released code or the paper in every flag of this group and in --search-loss-fn; a flag of \
                 its own overrides each",
            );
        // `--preset` is a flag of the run: it says where the settings start from.
        let settings = RUN_SETTINGS.iter().filter(|setting| setting.name != "preset");
        command.args(settings.map(flag)).arg(fidelity).args(FIDELITY_SETTINGS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingsFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingsFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingsFlags, clap::Error> {
        let value = |setting: &'static Setting| {
            let text = matches.try_get_one::<String>(setting.name).ok().flatten()?;
            Some((setting, text.clone()))
        };
        let given = Setting::all().filter(|setting| setting.name != "preset").filter_map(value).collect();
        Ok(SettingsFlags { given, fidelity: matches.get_one("fidelity").copied() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingsFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Flag of a setting. Its help ends with the value in `default`.
fn flag(setting: &'static Setting, default: &Config) -> Arg {
    let mut help = setting.help.trim().trim_end_matches('.').to_owned();
    if !help.contains("[default") {
        help += &format!(" [default: {}]", (setting.text)(default));
    }
    let arg = Arg::new(setting.name)
        .long(setting.flag())
        .aliases(setting.aliases)
        .value_name(setting.value_name)
        .help_heading(setting.heading)
        .hide_short_help(!setting.brief)
        .help(help);
    let values = (setting.values)();
    if values.is_empty() {
        return arg.value_parser(|text: &str| (setting.set)(&mut Config::defaults(), text).map(|()| text.to_owned()));
    }
    // Values that several flags share are listed once, by `losses`, or are plain from the placeholder.
    let shared = Setting::all().filter(|other| (other.values)() == values).count() > 1;
    let value = |(name, help): (&'static str, &'static str)| match help {
        "" => PossibleValue::new(name),
        help => PossibleValue::new(name).help(help),
    };
    let values = PossibleValuesParser::new(values.into_iter().map(value));
    arg.value_parser(values).hide_possible_values(shared)
}

/// List of the losses, which several flags take, for the end of `--help`.
pub(super) fn losses() -> String {
    let line = |loss: &Loss| format!("  {:<6}{}\n", loss.name(), loss.help().trim_end_matches('.'));
    format!("Losses, the values of LOSS:\n{}", Loss::ALL.iter().map(line).collect::<String>())
}

impl SettingsFlags {
    /// The value that was given for the setting `name`.
    fn value(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(setting, _)| setting.name == name).map(|(_, text)| &text[..])
    }

    /// Data set, norm and method, where they were given: with `--dataset mnist` or `cifar10` they choose the preset, as
    /// in the released program.
    pub fn dataset_norm_method(&self) -> (Option<DatasetKind>, Option<Norm>, Option<Method>) {
        (
            self.value("dataset").and_then(DatasetKind::from_name),
            self.value("norm").and_then(Norm::from_name),
            self.value("method").and_then(Method::from_name),
        )
    }

    /// The number of training steps, if it was given.
    pub fn steps(&self) -> Option<u32> {
        self.value("max_num_training_steps").and_then(|text| text.parse().ok())
    }

    /// Overrides `config` by the flags.
    pub fn apply(&self, config: &mut Config) {
        if let Some(preset) = self.fidelity {
            (config.fidelity, config.search_loss_fn) = match preset {
                FidelityPreset::Released => (Fidelity::RELEASED, Loss::Slm),
                FidelityPreset::Paper => (Fidelity::PAPER, Loss::Lm),
            };
        }
        for (setting, text) in &self.given {
            (setting.set)(config, text).expect("the flag's parser has read it");
        }
        let given = |name| self.value(name).is_some();
        // The released code has one setting for both.
        if given("search_loss_fn") && !given("right_when") {
            config.fidelity.right_when = config.search_loss_fn;
        }
        // OMMA is MMA without the clean loss: each of the two flags implies the other.
        match (given("method"), given("clean_loss_coeff")) {
            (true, false) if config.method == Method::Omma => config.clean_loss_coeff = 0.0,
            (false, true) if config.method.is_mma() => {
                config.method = Method::with_clean_loss_coeff(config.clean_loss_coeff);
            }
            _ => {}
        }
        // The ramp of a file or a preset fits its own number of steps.
        let asks = given("method") || given("max_num_training_steps");
        if config.method == Method::Pgdls && asks && !given("eps_ramp_steps") {
            config.eps_ramp_steps = config.max_num_training_steps.div_ceil(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::ModelKind;
    use crate::config::{Direction, OptimizerKind};
    use crate::tape::Precision;
    use clap::Parser;

    #[derive(Parser)]
    struct SettingsParser {
        #[command(flatten)]
        settings: SettingsFlags,
    }

    fn applied(mut config: Config, flags: &[String]) -> Config {
        let command = super::super::spelling::released_spellings(<SettingsParser as clap::CommandFactory>::command());
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
            precision: Precision::Fp16,
            loss_scale: 64.0,
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
                assert!(fields.contains(&(name, value.clone())), "{flag} {value}");
            }
        }
    }

    #[test]
    fn fidelity_sets_the_whole_group_and_single_flags_override_it() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let paper = applied(base.clone(), &flags("--fidelity paper"));
        assert_eq!((paper.fidelity, paper.search_loss_fn), (Fidelity::PAPER, Loss::Lm));
        assert_eq!(applied(paper.clone(), &flags("--fidelity released")), base);
        let mixed = applied(base.clone(), &flags("--direction eps --fidelity paper"));
        assert_eq!(mixed.fidelity, Fidelity { direction: Direction::Eps, ..Fidelity::PAPER });
    }

    #[test]
    fn the_search_loss_also_sets_right_when_unless_that_is_given() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let pair = |config: Config| (config.search_loss_fn, config.fidelity.right_when);
        assert_eq!(pair(applied(base.clone(), &flags("--search_loss_fn lm"))), (Loss::Lm, Loss::Lm));
        assert_eq!(pair(applied(base, &flags("--right-when slm --search-loss-fn lm"))), (Loss::Lm, Loss::Slm));
    }

    #[test]
    fn omma_and_a_clean_loss_coeff_of_0_imply_each_other() {
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
        assert!(applied(omma, &flags("--method mma")).validate().is_err(), "the coefficient is not known");
    }

    #[test]
    fn eps_grows_over_half_of_the_steps_unless_a_flag_says_otherwise() {
        let base = preset(DEFAULT_PRESET).unwrap().config;
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let ramp = |text: &str| applied(base.clone(), &flags(text)).eps_ramp_steps;
        assert_eq!(ramp("--method pgdls"), 750);
        assert_eq!(ramp("--method pgdls --steps 601"), 301);
        assert_eq!(ramp("--method pgdls --eps-ramp-steps 20 --steps 601"), 20);
        assert_eq!(ramp("--steps 601"), 750, "mma has no ramp");
        let short = Config { max_num_training_steps: 100, ..base.clone() };
        assert_eq!(applied(short, &flags("--method pgdls")).eps_ramp_steps, 50);
    }
}
