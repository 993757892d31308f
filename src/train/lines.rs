//! What the sums of steps say, by method: a line of `metrics.jsonl`, and what is shown of the training.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::config::{Config, Method};
use crate::record::Figures;
use crate::tape::Metric;

/// The means over the steps since the line before.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum StepLine {
    /// MMA and OMMA.
    Mma {
        clean_loss: f32,
        margin_loss: f32,
        clean_accuracy: f32,
        mean_margin: f32,
        reached_d_max: f32,
        learning_rate: f32,
    },
    /// Standard training.
    Std { clean_loss: f32, clean_accuracy: f32, learning_rate: f32 },
    /// PGD training and PGDLS: no pass sees the images as they are.
    Pgd { adversarial_loss: f32, adversarial_accuracy: f32, attack_eps: f32, learning_rate: f32 },
    /// TRADES: `kl` is not yet multiplied by beta.
    Trades { clean_loss: f32, kl: f32, clean_accuracy: f32, learning_rate: f32 },
}

impl StepLine {
    /// Of the steps up to `step`, whose sums by [`Metric`] are `sums`.
    pub fn new(config: &Config, step: u32, sums: &[f32]) -> StepLine {
        let sum = |metric: Metric| sums[metric as usize];
        let (steps, examples) = (sum(Metric::Steps), sum(Metric::Examples));
        let (clean_loss, margin_loss) = (sum(Metric::CleanLoss) / steps, sum(Metric::MarginLoss) / steps);
        let (clean_accuracy, eps) = (sum(Metric::Correct) / examples, sum(Metric::Eps) / examples);
        let rule = &config.learning_rate_schedule;
        let learning_rate = rule.iter().take_while(|(from, _)| *from < step).last().map_or(0.0, |(_, rate)| *rate);
        match config.method {
            Method::Mma | Method::Omma => StepLine::Mma {
                clean_loss,
                margin_loss,
                clean_accuracy,
                mean_margin: eps,
                reached_d_max: sum(Metric::Reached) / examples,
                learning_rate,
            },
            Method::Std => StepLine::Std { clean_loss, clean_accuracy, learning_rate },
            Method::Pgd | Method::Pgdls => StepLine::Pgd {
                adversarial_loss: margin_loss,
                adversarial_accuracy: clean_accuracy,
                attack_eps: eps,
                learning_rate,
            },
            Method::Trades => StepLine::Trades { clean_loss, kl: margin_loss, clean_accuracy, learning_rate },
        }
    }

    /// The losses in words, if one of them is no number.
    pub fn diverged(&self) -> Option<String> {
        let losses = match *self {
            StepLine::Mma { clean_loss, margin_loss, .. } => {
                vec![("clean loss", clean_loss), ("margin loss", margin_loss)]
            }
            StepLine::Std { clean_loss, .. } => vec![("clean loss", clean_loss)],
            StepLine::Pgd { adversarial_loss, .. } => vec![("adversarial loss", adversarial_loss)],
            StepLine::Trades { clean_loss, kl, .. } => vec![("clean loss", clean_loss), ("kl", kl)],
        };
        let words: Vec<_> = losses.iter().map(|(name, loss)| format!("{name} {loss}")).collect();
        losses.iter().any(|(_, loss)| !loss.is_finite()).then(|| words.join(", "))
    }
}

impl Display for StepLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            StepLine::Mma { margin_loss: loss, clean_accuracy: accuracy, mean_margin, .. } => {
                Figures { loss, accuracy, mean_margin }.fmt(f)
            }
            StepLine::Std { clean_loss, clean_accuracy, .. } => {
                write!(f, "loss {clean_loss:.4}  accuracy {:.1} %", 100.0 * clean_accuracy)
            }
            StepLine::Pgd { adversarial_loss, adversarial_accuracy, attack_eps, .. } => {
                let accuracy = 100.0 * adversarial_accuracy;
                write!(f, "loss {adversarial_loss:.4}  accuracy {accuracy:.1} % within eps {attack_eps:.4}")
            }
            StepLine::Trades { clean_loss, kl, clean_accuracy, .. } => {
                write!(f, "loss {clean_loss:.4}  kl {kl:.4}  accuracy {:.1} %", 100.0 * clean_accuracy)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;

    /// Two steps of 50 examples.
    fn line(method: Method, kl: f32) -> StepLine {
        let config = Config { method, ..preset("quick").unwrap().config };
        StepLine::new(&config, 2, &[2.0, 100.0, 1.0, kl, 90.0, 30.0, 25.0])
    }

    #[test]
    fn each_method_tells_what_it_has() {
        let names = |method| {
            let line = serde_json::to_value(line(method, 0.5)).unwrap();
            line.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let mma = "clean_accuracy clean_loss learning_rate margin_loss mean_margin reached_d_max";
        assert_eq!([Method::Mma, Method::Omma].map(names), [mma, mma]);
        assert_eq!(names(Method::Std), "clean_accuracy clean_loss learning_rate");
        let pgd = "adversarial_accuracy adversarial_loss attack_eps learning_rate";
        assert_eq!([Method::Pgd, Method::Pgdls].map(names), [pgd, pgd]);
        assert_eq!(names(Method::Trades), "clean_accuracy clean_loss kl learning_rate");
    }

    #[test]
    fn figures_are_means_over_steps_and_examples() {
        for (method, shown) in [
            (Method::Mma, "loss 0.2500  accuracy 90.0 %  mean margin 0.3000"),
            (Method::Std, "loss 0.5000  accuracy 90.0 %"),
            (Method::Pgdls, "loss 0.2500  accuracy 90.0 % within eps 0.3000"),
            (Method::Trades, "loss 0.5000  kl 0.2500  accuracy 90.0 %"),
        ] {
            assert_eq!(line(method, 0.5).to_string(), shown);
        }
    }

    #[test]
    fn a_loss_that_is_no_number_is_told() {
        assert_eq!(line(Method::Trades, 0.5).diverged(), None);
        assert_eq!(line(Method::Trades, f32::NAN).diverged(), Some("clean loss 0.5, kl NaN".into()));
        assert_eq!(line(Method::Mma, f32::INFINITY).diverged(), Some("clean loss 0.5, margin loss inf".into()));
        assert_eq!(line(Method::Std, f32::NAN).diverged(), None, "it has no such loss");
    }
}
