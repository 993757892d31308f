//! Identity of an evaluation: everything that its result depends on, and nothing else. Two evaluations of the same
//! identity have the same result; of two others neither continues nor overwrites the other.
//!
//! It is JSON of names and numbers as settings and files have them, so that it does not depend on the source code.
//! Settings that no attack of the request reads have no part in it, and a setting that is left out is one with its
//! default.

use serde_json::{Map, Value, json};

use super::attack_flags::AttackFlag;
use super::attacks::AttackName;
use super::network::{ImageSet, Network};
use super::request::EvaluationRequest;
use crate::choice::Choice as _;
use crate::config::as_written;
use crate::hash::sha256;

impl EvaluationRequest {
    /// SHA-256 of the evaluation's identity.
    pub(super) fn hash(&self, network: &Network, images: &ImageSet) -> String {
        let normalization = network.model.normalization().to_string();
        let identity = self.identity(&network.sha256, &network.ignored_tensors, &normalization, &images.sha256);
        sha256(identity.to_string().as_bytes())
    }

    /// Identity of the evaluation with these hashes of weights and images, by a network of this normalization and
    /// without these tensors of the file.
    fn identity(
        &self,
        weights_sha256: &str,
        ignored_tensors: &[String],
        normalization: &str,
        images_sha256: &str,
    ) -> Value {
        let EvaluationRequest { config, split, attacks, margins, .. } = self;
        // Radii are single precision where they are used: 8/255 and 0.03137255 are the same.
        let eps: Vec<f64> = self.eps.iter().map(|&eps| as_written(eps as f32)).collect();
        let an_pgd = *margins || attacks.iter().any(|&attack| AttackFlag::HingeMaxeps.is_read_by(attack));
        json!({
            "maxmargin": env!("CARGO_PKG_VERSION"),
            "precision": config.precision,
            "weights_sha256": weights_sha256,
            "ignored_tensors": ignored_tensors,
            "normalization": normalization,
            "images_sha256": images_sha256,
            "dataset": config.dataset,
            "split": split,
            "norm": config.norm,
            "eps": eps,
            "attacks": attacks.iter().map(|&attack| self.attack_identity(attack)).collect::<Vec<_>>(),
            "margins": margins,
            "fidelity": config.fidelity,
            "an_pgd": an_pgd.then(|| json!({
                "hinge_maxeps": config.hinge_maxeps,
                "test_eps": config.test_eps,
                "test_eps_iter": config.test_eps_iter,
                "nb_iter": config.nb_iter,
                "num_search_steps": config.num_search_steps,
                "attack_loss_fn": config.attack_loss_fn,
                "seed": config.seed,
            })),
        })
    }

    /// An attack with the settings that it reads.
    fn attack_identity(&self, attack: AttackName) -> Value {
        let settings = &self.settings;
        let value = |flag: AttackFlag| match flag {
            AttackFlag::NbIter => json!(settings.nb_iter.or(attack.published_iterations(self.config.norm))),
            AttackFlag::NbRestart => json!(settings.nb_restart),
            AttackFlag::EpsIter => json!(settings.step.to_string()),
            AttackFlag::Loss => json!(settings.loss),
            AttackFlag::NbSample => json!(settings.nb_sample),
            AttackFlag::Seed => json!(settings.seed),
            // The whole evaluation's.
            AttackFlag::Eps | AttackFlag::HingeMaxeps => Value::Null,
        };
        let read = AttackFlag::ALL.iter().filter(|flag| flag.is_read_by(attack));
        let values = read.map(|&flag| (flag.to_string(), value(flag))).filter(|(_, value)| !value.is_null());
        let name = ("name".to_owned(), json!(attack));
        Value::Object(values.chain([name]).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::StepLength;
    use crate::catalog::DatasetKind;
    use crate::config::{Config, preset};
    use crate::evaluate::{AttackSettings, Split};
    use crate::model::state_dict::WeightsOptions;
    use crate::tape::{Loss, Precision};
    use std::path::PathBuf;

    fn request(attacks: &[AttackName], margins: bool) -> EvaluationRequest {
        let config = preset("mnist-linf").unwrap().config;
        EvaluationRequest {
            weights: PathBuf::new(),
            weights_options: WeightsOptions::default(),
            settings: AttackSettings::published(&config),
            config,
            trained: None,
            split: Split::Test,
            size: None,
            data: PathBuf::from("data"),
            protocol: None,
            attacks: attacks.to_vec(),
            eps: vec![0.3],
            margins,
            batch_size: 100,
            quiet: true,
        }
    }

    fn identity(request: &EvaluationRequest) -> String {
        request.identity("w", &[], "none", "i").to_string()
    }

    #[test]
    fn other_images_weights_tensors_or_normalization_are_another_evaluation() {
        let request = request(&[AttackName::Pgd], true);
        let of = |weights, normalization, images| request.identity(weights, &[], normalization, images).to_string();
        assert_eq!(of("w", "none", "i"), of("w", "none", "i"));
        for other in [of("v", "none", "i"), of("w", "per-image", "i"), of("w", "none", "j")] {
            assert_ne!(of("w", "none", "i"), other);
        }
        let without = request.identity("w", &["ema.conv1.weight".into()], "none", "i").to_string();
        assert_ne!(of("w", "none", "i"), without);
    }

    #[test]
    fn a_default_and_the_same_value_written_out_are_one_evaluation() {
        let default = request(&[AttackName::Pgd, AttackName::ApgdCe], false);
        let mut written = default.clone();
        written.settings.nb_iter = Some(100);
        written.eps = vec![f64::from(0.3f32)];
        assert_eq!(identity(&default), identity(&written));
        written.eps = vec![0.301];
        assert_ne!(identity(&default), identity(&written));
    }

    #[test]
    fn how_an_evaluation_is_computed_is_no_part_of_its_identity() {
        let one = request(&[AttackName::Pgd], true);
        let other = EvaluationRequest { batch_size: 7, quiet: false, data: "elsewhere".into(), ..one.clone() };
        assert_eq!(identity(&one), identity(&other));
        let training = EvaluationRequest {
            config: Config { max_num_training_steps: 7, learning_rate_schedule: vec![(0, 0.5)], ..one.config.clone() },
            ..one.clone()
        };
        assert_eq!(identity(&one), identity(&training));
    }

    #[test]
    fn a_setting_changes_the_evaluations_that_read_it_and_no_others() {
        for &attack in AttackName::ALL {
            let one = request(&[attack], false);
            let changed = |change: fn(&mut EvaluationRequest)| {
                let mut other = one.clone();
                change(&mut other);
                identity(&other) != identity(&one)
            };
            for (flag, change) in [
                (AttackFlag::EpsIter, (|r| r.settings.step = StepLength::Fixed(0.01)) as fn(&mut EvaluationRequest)),
                (AttackFlag::NbIter, |r| r.settings.nb_iter = Some(7)),
                (AttackFlag::NbRestart, |r| r.settings.nb_restart = 3),
                (AttackFlag::Loss, |r| r.settings.loss = Loss::Cw),
                (AttackFlag::NbSample, |r| r.settings.nb_sample = 64),
                (AttackFlag::Seed, |r| r.settings.seed = 1),
                (AttackFlag::HingeMaxeps, |r| r.config.hinge_maxeps = 0.2),
            ] {
                assert_eq!(changed(change), flag.is_read_by(attack), "{flag} of {attack}");
            }
            assert!(changed(|r| r.split = Split::Train) && changed(|r| r.config.dataset = DatasetKind::Digits));
            assert!(changed(|r| r.config.fidelity.cw_confidence = 1.0));
            assert!(changed(|r| r.config.precision = Precision::Fp16));
        }
        let [one, mut other] = [(); 2].map(|()| request(&[], true));
        other.config.hinge_maxeps = 0.2;
        assert_ne!(identity(&one), identity(&other), "margins");
    }
}
