//! Attacks of an evaluation by name, and the published settings that each is recorded with.

use std::ops::Range;

use super::examples::Examples;
use super::margins::test_search;
use crate::attack::{
    AnPgd, ApgdLoss, ApgdSettings, Attack, AutoAttack, CwSettings, DdnSettings, FabSettings, FmnSettings, PgdSettings,
    RestartedPgd, SearchStart, SpsaSettings, SquareSettings, StartNoise, StepLength, apgd, at_boundary, auto_attack,
    cw, ddn, fab, fmn, spsa, square,
};
use crate::choice::choices;
use crate::config::Config;
use crate::model::{Model, ModelInPrecision};
use crate::rng::Purpose;
use crate::tape::{Loss, Memory, Norm};
use crate::{Error, Result};

choices! {
    /// Attack by its name. Some names stand for several attacks, which are run in turn.
    pub enum AttackName {
        /// PGD from random starts, half of them (one more if odd) on the cross-entropy, half on the cw loss
        Pgd = "pgd",
        /// PGD on the loss of --loss
        PgdLoss = "pgd-loss",
        /// PGD towards each other class in turn, on the loss of --loss
        PgdT = "pgd-t",
        /// APGD on the cross-entropy (Croce and Hein, 2020)
        ApgdCe = "apgd-ce",
        /// APGD on the difference of logits ratio (DLR)
        ApgdDlr = "apgd-dlr",
        /// APGD on the targeted DLR, towards nine other classes
        ApgdT = "apgd-t",
        /// FAB towards nine other classes; images in the ball count
        FabT = "fab-t",
        /// Square: 5,000 queries without gradients (Andriushchenko et al., 2020)
        Square = "square",
        /// SPSA: gradients estimated from samples of the loss (Uesato et al., 2018); linf
        Spsa = "spsa",
        /// AutoAttack standard: apgd-ce, apgd-t, fab-t, square
        Autoattack = "autoattack",
        /// AutoAttack plus: apgd-ce and apgd-dlr from five starts, fab from five, square, apgd-t, fab-t
        AutoattackPlus = "autoattack-plus",
        /// AN-PGD: PGD at the run's test eps, then bisection for the boundary; minimum norm
        AnPgd = "an-pgd",
        /// FAB (Croce and Hein, 2020); minimum norm
        Fab = "fab",
        /// DDN (Rony et al., 2019); minimum norm, l2
        Ddn = "ddn",
        /// FMN (Pintor et al., 2021); minimum norm
        Fmn = "fmn",
        /// Carlini and Wagner's attack (2017); minimum norm, l2
        Cw = "cw",
    }
}

impl AttackName {
    /// The only norm of an attack that is defined for one.
    pub fn only_norm(self) -> Option<Norm> {
        match self {
            AttackName::Ddn | AttackName::Cw => Some(Norm::L2),
            AttackName::Spsa => Some(Norm::Linf),
            _ => None,
        }
    }

    /// True if the attack looks for the nearest adversarial example instead of one in a ball.
    pub fn is_minimum_norm(self) -> bool {
        use AttackName::{AnPgd, Cw, Ddn, Fab, Fmn};
        matches!(self, AnPgd | Fab | Ddn | Fmn | Cw)
    }

    /// Published iterations, or queries of Square. Of several attacks under one name, and of AN-PGD, there are none
    /// here.
    pub fn published_iterations(self, norm: Norm) -> Option<u32> {
        let apgd = |loss| ApgdSettings::published(loss, norm, 0).iterations;
        Some(match self {
            AttackName::Pgd | AttackName::PgdLoss | AttackName::PgdT => PGD_ITERATIONS,
            AttackName::ApgdCe => apgd(ApgdLoss::Xent),
            AttackName::ApgdDlr => apgd(ApgdLoss::Dlr),
            AttackName::ApgdT => apgd(ApgdLoss::TargetedDlr),
            AttackName::Fab => FabSettings::published(norm, false, false, 0).iterations,
            AttackName::FabT => FabSettings::published(norm, true, true, 0).iterations,
            AttackName::Square => SquareSettings::published(norm).queries,
            AttackName::Spsa => SpsaSettings::default().iterations,
            AttackName::Ddn => DdnSettings::default().iterations,
            AttackName::Fmn => FmnSettings::published(norm).iterations,
            AttackName::Cw => CwSettings::default().iterations,
            AttackName::Autoattack | AttackName::AutoattackPlus | AttackName::AnPgd => return None,
        })
    }
}

/// Iterations of PGD (the released evaluate_on_pgd_attacks.py).
pub const PGD_ITERATIONS: u32 = 100;

/// Settings of the attacks of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct AttackSettings {
    /// Iterations, or queries of Square; `None`: [`AttackName::published_iterations`].
    pub nb_iter: Option<u32>,
    /// Random starts of PGD.
    pub nb_restart: u32,
    /// Step size of PGD.
    pub step: StepLength,
    /// Loss of [`AttackName::PgdLoss`] and [`AttackName::PgdT`].
    pub loss: Loss,
    /// Samples of SPSA for a gradient.
    pub nb_sample: u32,
    /// Seed of all random numbers.
    pub seed: u64,
}

impl AttackSettings {
    /// Settings of the released evaluator and of the attacks' publications.
    pub fn published(config: &Config) -> AttackSettings {
        AttackSettings {
            nb_iter: None,
            nb_restart: 10,
            step: StepLength::EpsOver(config.dataset.radii(config.norm).pgd_step_divisor),
            loss: Loss::Xent,
            nb_sample: SpsaSettings::default().samples,
            seed: 0,
        }
    }
}

/// Recorded attack, one of those that a name stands for.
#[derive(Clone, Debug)]
pub struct RecordedAttack {
    /// Name under which it was asked for.
    pub asked: AttackName,
    /// The attack.
    pub attack: Attack,
}

/// Records the attacks `names`, in their order, on the examples' batch. Norm, fidelity and AN-PGD's lengths are those
/// of the config. Attacks in half precision whose results lie at the boundary end with a bisection in single precision.
///
/// # Errors
/// The network has too few classes for an attack.
pub fn record(
    memory: &mut Memory,
    attacked: &ModelInPrecision,
    examples: &Examples,
    names: &[AttackName],
    config: &Config,
    settings: &AttackSettings,
) -> Result<Vec<RecordedAttack>> {
    let model: &dyn Model = attacked;
    let (batch, norm) = (&examples.batch, config.norm);
    let AttackSettings { nb_restart, seed, .. } = *settings;
    let iterations = |published: u32| settings.nb_iter.unwrap_or(published);
    let run = memory.u32("run", &[1]);
    let pgd = |loss: Loss, starts: Range<u32>| RestartedPgd {
        loss: config.loss_rule(loss),
        rule: config.pgd_rule(),
        iterations: iterations(PGD_ITERATIONS),
        step: settings.step,
        seed,
        starts,
        targeted: false,
    };
    let mut recorded = Vec::new();
    for name in names {
        let mut attacks = Vec::new();
        let mut apgd_on = |memory: &mut Memory, loss: ApgdLoss| {
            let published = ApgdSettings::published(loss, norm, seed);
            let settings = ApgdSettings { iterations: iterations(published.iterations), ..published };
            attacks.push(apgd(memory, model, batch, &settings)?);
            Ok::<(), Error>(())
        };
        match name {
            AttackName::ApgdCe => apgd_on(memory, ApgdLoss::Xent)?,
            AttackName::ApgdDlr => apgd_on(memory, ApgdLoss::Dlr)?,
            AttackName::ApgdT => apgd_on(memory, ApgdLoss::TargetedDlr)?,
            AttackName::Pgd => {
                let xent = nb_restart - nb_restart / 2;
                for (loss, starts) in [(Loss::Xent, 0..xent), (Loss::Cw, xent..nb_restart)] {
                    if !starts.is_empty() {
                        attacks.push(pgd(loss, starts).record(memory, model, batch));
                    }
                }
            }
            AttackName::PgdLoss => {
                attacks.push(pgd(settings.loss, 0..nb_restart).record(memory, model, batch));
            }
            AttackName::PgdT => {
                let others = 0..model.classes() as u32 - 1;
                let pgd = RestartedPgd { targeted: true, ..pgd(settings.loss, others) };
                attacks.push(pgd.record(memory, model, batch));
            }
            AttackName::FabT | AttackName::Fab => {
                let in_ball = *name == AttackName::FabT;
                let published = FabSettings::published(norm, in_ball, in_ball, seed);
                let settings = FabSettings { iterations: iterations(published.iterations), ..published };
                attacks.push(fab(memory, model, batch, &settings)?);
            }
            AttackName::Square => {
                let published = SquareSettings::published(norm);
                let settings = SquareSettings { queries: iterations(published.queries), seed, ..published };
                attacks.push(square(memory, model, batch, &settings));
            }
            AttackName::Spsa => {
                let published = SpsaSettings::default();
                let iterations = iterations(published.iterations);
                let settings = SpsaSettings { iterations, samples: settings.nb_sample, seed, ..published };
                attacks.push(spsa(memory, model, batch, &settings));
            }
            AttackName::Autoattack => {
                attacks.extend(auto_attack(memory, model, batch, AutoAttack::Standard, norm, seed)?);
            }
            AttackName::AutoattackPlus => {
                attacks.extend(auto_attack(memory, model, batch, AutoAttack::Plus, norm, seed)?);
            }
            AttackName::Ddn => {
                let published = DdnSettings::default();
                let settings = DdnSettings { iterations: iterations(published.iterations), seed, ..published };
                attacks.push(ddn(memory, model, batch, &settings));
            }
            AttackName::Fmn => {
                let published = FmnSettings::published(norm);
                let settings = FmnSettings { iterations: iterations(published.iterations), seed, ..published };
                attacks.push(fmn(memory, model, batch, &settings));
            }
            AttackName::Cw => {
                let published = CwSettings::default();
                let settings = CwSettings { iterations: iterations(published.iterations), ..published };
                attacks.push(cw(memory, model, batch, &settings));
            }
            AttackName::AnPgd => {
                let search = test_search(config, SearchStart::Eps);
                let pgd = PgdSettings {
                    loss: config.test_attack_loss(),
                    rule: config.pgd_rule(),
                    iterations: config.nb_iter,
                    noise: StartNoise::CounterBased { seed, purpose: Purpose::MarginStart, step: run.clone() },
                };
                let lengths = [config.test_eps, config.test_eps_iter];
                attacks.push(AnPgd::attack(memory, attacked, batch, &pgd, search, lengths, &run));
            }
        }
        recorded.extend(attacks.into_iter().map(|attack| {
            // AN-PGD has such a bisection of its own.
            let lies_there = attack.eps.is_none() || attack.name.starts_with("fab");
            let attack = match attacked.is_half() && lies_there && *name != AttackName::AnPgd {
                true => at_boundary(memory, attacked.itself(), batch, attack),
                false => attack,
            };
            RecordedAttack { asked: *name, attack }
        }));
    }
    Ok(recorded)
}
