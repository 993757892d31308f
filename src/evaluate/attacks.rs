//! The attacks that evaluation knows by name, and the published settings each is recorded with.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Examples;
use crate::attack::{AnPgd, Attack, Noise, PgdSettings, RestartedPgd, Search, SearchStart, StepLength};
use crate::config::Config;
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::{Loss, Memory};

/// An attack by its name; some stand for several, which are run in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AttackName {
    /// PGD from random starts: half of them (one more if odd) ascend the cross-entropy, half the cw loss
    Pgd,
    /// PGD on the loss that --loss names
    PgdLoss,
    /// AN-PGD: PGD at --test-eps, then a bisection for the boundary; minimum norm
    AnPgd,
}

impl AttackName {
    /// As it is written.
    pub fn text(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("every attack has a name");
        value.get_name().to_owned()
    }

    /// Whether it looks for the nearest adversarial example instead of one in a ball.
    pub fn is_minimum_norm(self) -> bool {
        matches!(self, AttackName::AnPgd)
    }
}

/// What the attacks of an evaluation are recorded with.
#[derive(Clone, Debug, PartialEq)]
pub struct AttackSettings {
    /// PGD's iterations.
    pub nb_iter: u32,
    /// PGD's random starts.
    pub nb_restart: u32,
    /// PGD's step.
    pub step: StepLength,
    /// The loss of [`AttackName::PgdLoss`].
    pub loss: Loss,
    /// The seed of all random numbers.
    pub seed: u64,
}

/// Records the attacks called `names`, in their order, on the examples' target. Norm, fidelity and AN-PGD's lengths are
/// the config's.
pub fn record(
    memory: &mut Memory,
    model: &dyn Model,
    examples: &Examples,
    names: &[AttackName],
    config: &Config,
    settings: &AttackSettings,
) -> Vec<Attack> {
    let target = &examples.target;
    let run = memory.u32("run", &[1]);
    let mut attacks = Vec::new();
    for name in names {
        let pgd = |loss: Loss, starts: Range<u32>| RestartedPgd {
            loss: config.loss_rule(loss),
            rule: config.pgd_rule(),
            iterations: settings.nb_iter,
            step: settings.step,
            seed: settings.seed,
            starts,
        };
        match name {
            AttackName::Pgd => {
                let all = settings.nb_restart;
                let xent = all - all / 2;
                for (loss, starts) in [(Loss::Xent, 0..xent), (Loss::Cw, xent..all)] {
                    if !starts.is_empty() {
                        attacks.push(pgd(loss, starts).record(memory, model, target, &run));
                    }
                }
            }
            AttackName::PgdLoss => {
                attacks.push(pgd(settings.loss, 0..settings.nb_restart).record(memory, model, target, &run));
            }
            AttackName::AnPgd => {
                let search = Search {
                    loss: config.loss_rule(config.fidelity.test_search_loss_fn),
                    steps: config.num_search_steps,
                    max_eps: config.max_eps(),
                    start: SearchStart::Eps,
                    norm: config.norm,
                    direction: config.fidelity.direction,
                    result: config.fidelity.search_result,
                    mode: Mode::Eval,
                };
                let noise = Noise::Counted { seed: settings.seed, purpose: Purpose::MarginStart, step: run.clone() };
                let pgd = PgdSettings {
                    loss: config.loss_rule(config.attack_loss_fn),
                    rule: config.pgd_rule(),
                    iterations: config.nb_iter,
                    noise,
                };
                let lengths = [config.test_eps, config.test_eps_iter];
                attacks.push(AnPgd::attack(memory, model, target, &pgd, search, lengths, &run));
            }
        }
    }
    attacks
}
