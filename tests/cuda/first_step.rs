//! The first training step of each network: the CUDA device compared with the CPU, and at the published sizes a GPU
//! compared with recorded steps of the fake driver (`tests/support/fingerprints.rs`).

use maxmargin::config::{Config, preset};
use maxmargin::device::Device;
use maxmargin::device::cpu::Cpu;
use maxmargin::tape::Metric;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::support::cuda::{open, ready};
use super::support::fingerprints::{in_use, record, recorded};
use super::{Trained, alone};

/// Distance of the weights that are recorded: a prime, so that every element of a filter occurs.
const SAMPLED: usize = 997;

/// Results of a step that are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct After {
    /// SHA-256 of the clean pass's logits.
    logits_sha256: String,
    /// Number of examples that are classified correctly, and so attacked.
    correct: u32,
    clean_loss: f32,
    margin_loss: f32,
    /// Margin of each example; 0 if it is misclassified.
    margins: Vec<f32>,
    /// SHA-256 of all weights.
    weights_sha256: String,
    /// Change of every [`SAMPLED`]-th weight.
    weight_changes: Vec<f32>,
}

fn sha256(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn after(device: &mut dyn Device, config: &Config) -> After {
    let trained = Trained::of(config.clone());
    trained.prepare(device);
    let weights = trained.model.params().buffer();
    let before = device.read_f32(weights).unwrap();
    trained.step(device, config.training_batch_size);
    let weights = device.read_f32(weights).unwrap();
    let sums = device.read_f32(&trained.mma.metrics).unwrap();
    After {
        logits_sha256: sha256(&device.read_f32(&trained.mma.logits).unwrap()),
        correct: device.read_u32(&trained.mma.correct).unwrap()[0],
        clean_loss: sums[Metric::MeanLoss as usize],
        margin_loss: sums[Metric::WeightedLoss as usize],
        margins: device.read_f32(&trained.mma.eps).unwrap(),
        weights_sha256: sha256(&weights),
        weight_changes: weights.iter().zip(&before).map(|(after, before)| after - before).step_by(SAMPLED).collect(),
    }
}

/// Differences of two steps.
#[derive(Debug, Serialize)]
struct Apart {
    /// True if the clean pass's logits have the same bits.
    same_logits: bool,
    /// True if all weights have the same bits.
    same_weights: bool,
    correct: u32,
    /// Relative.
    clean_loss: f64,
    /// Relative.
    margin_loss: f64,
    /// Largest difference of a margin, in steps of the search.
    margins_in_search_steps: f64,
    /// Norm of the difference of the sampled changes of weights, relative to their norm.
    weight_changes: f64,
}

impl Apart {
    fn of(a: &After, b: &After, config: &Config) -> Apart {
        let relative = |a: f32, b: f32| f64::from((a - b).abs()) / f64::from(b.abs()).max(1e-30);
        let search_step = config.max_eps() * 0.5f32.powi(config.num_search_steps as i32);
        let margins = a.margins.iter().zip(&b.margins).map(|(a, b)| f64::from((a - b).abs()));
        let length = |changes: &mut dyn Iterator<Item = f32>| {
            changes.map(|change| f64::from(change).powi(2)).sum::<f64>().sqrt()
        };
        let difference = length(&mut a.weight_changes.iter().zip(&b.weight_changes).map(|(a, b)| a - b));
        Apart {
            same_logits: a.logits_sha256 == b.logits_sha256,
            same_weights: a.weights_sha256 == b.weights_sha256,
            correct: a.correct.abs_diff(b.correct),
            clean_loss: relative(a.clean_loss, b.clean_loss),
            margin_loss: relative(a.margin_loss, b.margin_loss),
            margins_in_search_steps: margins.fold(0.0, f64::max) / f64::from(search_step),
            weight_changes: difference / length(&mut b.weight_changes.iter().copied()),
        }
    }

    /// Bounds for a first step. The clean pass has the same arithmetic; the attack depends on the signs of gradients
    /// near 0, of which few differ.
    fn assert_near(&self, what: &str) {
        assert_eq!(self.correct, 0, "{what}: {self:?}");
        assert!(self.clean_loss <= 1e-6, "{what}: {self:?}");
        assert!(self.margins_in_search_steps <= 1.0, "{what}: {self:?}");
        assert!(self.margin_loss <= 1e-5 && self.weight_changes <= 1e-4, "{what}: {self:?}");
    }
}

/// Settings of the first steps. Small ones run on every machine; `published` ones have two networks of full size with
/// few examples and iterations, which take the fake driver some seconds.
fn settings(published: bool) -> Vec<(&'static str, Config)> {
    let of = |name: &'static str, published: bool| {
        let config = Config { nb_iter: 2, num_search_steps: 3, ..preset(name).expect("a preset").config };
        let wide_resnet = config.depth.is_some();
        let config = match (published, wide_resnet) {
            (true, true) => Config { training_batch_size: 2, ..config },
            (true, false) => Config { training_batch_size: 16, ..config },
            (false, true) => Config { training_batch_size: 4, depth: Some(10), width: 1.0, ..config },
            (false, false) => Config { training_batch_size: 16, width: 0.125, ..config },
        };
        (name, config)
    };
    ["mnist-linf", "mnist-l2", "cifar10-linf", "cifar10-l2"]
        .map(|name| of(name, published && name.ends_with("linf")))
        .into()
}

#[test]
fn the_first_step_of_each_network_is_that_of_the_cpu() {
    let _alone = alone();
    if !ready() || in_use() {
        return; // the next test compares the recorded steps
    }
    for (name, config) in settings(false) {
        let [cpu, gpu] = [&mut Cpu::new() as &mut dyn Device, &mut open(false)].map(|device| after(device, &config));
        assert!(gpu.correct > 0, "{name}: something is attacked");
        let apart = Apart::of(&gpu, &cpu, &config);
        println!("{name}: {apart:?}");
        apart.assert_near(name);
    }
}

#[test]
fn the_first_step_of_each_published_network_is_the_one_that_was_recorded() {
    let _alone = alone();
    if !ready() || !in_use() {
        return;
    }
    for (name, config) in settings(true) {
        let found = after(&mut open(false), &config);
        assert!(found.correct > 0, "{name}: something is attacked");
        let key = format!("first step {name}");
        record(&key, &serde_json::to_string(&found).unwrap());
        let Some(text) = recorded(&key) else { continue };
        let apart = Apart::of(&found, &serde_json::from_str(text).unwrap(), &config);
        let line =
            serde_json::json!({ "name": name, "apart": apart, "found": After { weight_changes: vec![], ..found } });
        println!("first_step {line}");
        // The clean pass only adds, multiplies, divides and takes roots. The losses, whose gradients everything else
        // depends on, call `expf`, and Adam calls `pow`: a GPU rounds these differently.
        assert!(apart.same_logits, "{name}: {apart:?}");
        apart.assert_near(name);
    }
}
