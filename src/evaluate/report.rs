//! Report of an evaluation: the content of `evaluation.json`, and the table that is printed.
//!
//! One set of types is written by `evaluate` and read by `report`. Fields that files of former versions lack, or have
//! under another name, are marked.

use serde::{Deserialize, Serialize};

use super::adversarial::AdversarialImages;
use super::image_results::{HEADER, ImageResult};
use super::passes::Passes;
use super::statistics::{mean, quantile};
use super::strength::{AttackStrength, strength_lines};
use crate::catalog::DatasetKind;
use crate::data::Provenance;
use crate::record::Margins;
use crate::tape::Norm;
use crate::text::{counted, histogram, length, si};

/// Version of the form of `evaluation.json` that this program writes.
///
/// Version 1, written without a version, named the warnings `suspicious` and the request's hash `question`.
pub const SCHEMA_VERSION: u32 = 2;

/// Version of files that do not say one.
fn unversioned() -> u32 {
    1
}

/// Result of an evaluation. Accuracies are in percent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Version of the file's form, [`SCHEMA_VERSION`].
    #[serde(default = "unversioned")]
    pub schema_version: u32,
    /// Version of the program.
    #[serde(default)]
    pub maxmargin: String,
    /// Commit that the program was built from, if it was known.
    pub commit: Option<String>,
    /// File of weights.
    pub weights: String,
    /// SHA-256 of that file.
    #[serde(default)]
    pub weights_sha256: String,
    /// SHA-256 of the request: of the weights, the images and every setting that the result depends on.
    #[serde(default, alias = "question")]
    pub request: String,
    /// Description of the network in a line.
    #[serde(default)]
    pub model: String,
    /// Normalization of images by the network, as `--normalization` has it; empty in files of former versions.
    #[serde(default)]
    pub normalization: String,
    /// Names of the tensors that `--ignore-tensors` left out.
    #[serde(default)]
    pub ignored_tensors: Vec<String>,
    /// Remarks on the reading of the weights, such as a dropped prefix of the tensors' names.
    #[serde(default)]
    pub weights_remarks: Vec<String>,
    /// Data set.
    pub dataset: DatasetKind,
    /// Part of the data set: `test`, `validation` or `train`.
    #[serde(default)]
    pub split: String,
    /// Origin of the images.
    #[serde(default)]
    pub images: String,
    /// SHA-256 of number, size, labels and pixels of the images; empty in files of former versions.
    #[serde(default)]
    pub images_sha256: String,
    /// Provenance of the images; absent from files of former versions.
    pub provenance: Option<Provenance>,
    /// Number of images.
    pub count: usize,
    /// Norm of eps, distances and margins.
    pub norm: Norm,
    /// Name of the published protocol, if the attacks are one's.
    pub protocol: Option<String>,
    /// Method that trained the weights, if known.
    pub method: Option<String>,
    /// d_max, or eps, that the weights were trained with.
    pub d_max: Option<f64>,
    /// Seed of all random numbers.
    pub seed: Option<u64>,
    /// Images per batch.
    #[serde(default)]
    pub batch_size: usize,
    /// Precision of the attacks; empty in files of former versions, which is single precision, as are all verdicts.
    #[serde(default)]
    pub precision: String,
    /// Device that computed.
    #[serde(default)]
    pub device: String,
    /// Accuracy without an attack.
    pub clean_accuracy: f64,
    /// AvgRobAcc: mean of the accuracies under attack, if there are several eps.
    pub average_robust_accuracy: Option<f64>,
    /// AvgAcc: mean of the accuracies under attack and the clean accuracy, if there are several eps.
    pub average_accuracy: Option<f64>,
    /// Accuracy under attack, by ascending eps.
    #[serde(default)]
    pub robust: Vec<RobustAccuracy>,
    /// Results of minimum-norm attacks.
    #[serde(default)]
    pub minimum_norm: Vec<MinimumNormResult>,
    /// Mean of the margins.
    pub mean_margin: Option<f64>,
    /// Margins by AN-PGD `[count]`, in the order of the images.
    pub margins: Option<Vec<f32>>,
    /// Indices of the images that are misclassified without an attack. Files of former versions lack them; the margins
    /// of such images are 0 there.
    #[serde(default)]
    pub misclassified: Vec<usize>,
    /// Strength of AN-PGD, by which the margins were measured.
    pub margin_strength: Option<AttackStrength>,
    /// Upper bound of the search for margins.
    #[serde(default)]
    pub max_eps: f32,
    /// Forward passes, summed over the images.
    #[serde(default)]
    pub forward_passes: u64,
    /// Backward passes, summed over the images.
    #[serde(default)]
    pub backward_passes: u64,
    /// Duration in seconds, including the time before an interruption.
    pub seconds: Option<f64>,
    /// Warnings of the checks, each beginning with the check's name.
    #[serde(default, alias = "suspicious")]
    pub warnings: Vec<String>,
    /// Result of each image, kept in a file of its own.
    #[serde(skip)]
    pub image_results: Vec<ImageResult>,
    /// Adversarial images, if they were asked for; kept in a file of their own.
    #[serde(skip)]
    pub adversarial: Option<AdversarialImages>,
}

/// Accuracy under attack at one eps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RobustAccuracy {
    /// Radius of the ball.
    pub eps: f64,
    /// Percentage of images that stay correct under all attacks, at this and at every smaller eps.
    pub accuracy: f64,
    /// PGD's step size at this eps.
    pub eps_iter: f32,
    /// Attacks in a line.
    pub attack: String,
    /// Statistics of each attack.
    pub attacks: Vec<AttackStatistics>,
}

/// Work and success of one attack at one eps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttackStatistics {
    /// Name of the attack.
    pub name: String,
    /// Runs done: random starts or targets.
    pub runs: u32,
    /// Examples that the attack was given.
    pub attacked: usize,
    /// Examples for which it found an adversarial image.
    #[serde(rename = "broken")]
    pub found: usize,
    /// Results that differ from their example.
    pub moved: u64,
    /// Passes through the network, summed over the examples.
    #[serde(flatten)]
    pub passes: Passes,
    /// Duration in seconds.
    pub seconds: f64,
    /// Strength of the attack; absent from files of former versions.
    pub strength: Option<AttackStrength>,
}

/// Distances of the adversarial images that a minimum-norm attack found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MinimumNormResult {
    /// Name of the attack.
    pub name: String,
    /// Images for which an adversarial one was found.
    pub found: usize,
    /// Images that the attack was given: those classified correctly.
    pub attacked: usize,
    /// Mean distance of those that were found; absent if there is none.
    pub mean: Option<f64>,
    /// Quartiles of these distances, linear between two neighbours.
    pub quartiles: Option<[f64; 3]>,
    /// Passes through the network, summed over the images.
    #[serde(flatten)]
    pub passes: Passes,
    /// Duration in seconds.
    pub seconds: f64,
    /// Strength of the attack; absent from files of former versions.
    pub strength: Option<AttackStrength>,
}

impl MinimumNormResult {
    /// Result of an attack whose distances, by example, are `distances`.
    pub(super) fn new(statistics: &AttackStatistics, distances: &[Option<f32>]) -> MinimumNormResult {
        let mut found: Vec<f32> = distances.iter().flatten().copied().collect();
        found.sort_by(f32::total_cmp);
        MinimumNormResult {
            name: statistics.name.clone(),
            found: found.len(),
            attacked: statistics.attacked,
            mean: (!found.is_empty()).then(|| mean(&found)),
            quartiles: (!found.is_empty()).then(|| [0.25, 0.5, 0.75].map(|part| quantile(&found, part))),
            passes: statistics.passes,
            seconds: statistics.seconds,
            strength: statistics.strength.clone(),
        }
    }
}

impl EvaluationReport {
    /// Lines of the table on the strength of each attack.
    fn strengths(&self) -> String {
        let bounded = self.robust.first().into_iter().flat_map(|robust| &robust.attacks);
        let bounded = bounded.map(|attack| (&*attack.name, &attack.strength));
        let minimum_norm = self.minimum_norm.iter().map(|attack| (&*attack.name, &attack.strength));
        let all = bounded.chain(minimum_norm).chain([("margins", &self.margin_strength)]);
        strength_lines(all.filter_map(|(name, strength)| Some((name, strength.as_ref()?))))
    }

    /// Adds the paper's averages, if there are several eps.
    #[must_use]
    pub(super) fn with_averages(self) -> EvaluationReport {
        let sum: f64 = self.robust.iter().map(|robust| robust.accuracy).sum();
        let n = self.robust.len() as f64;
        let several = self.robust.len() > 1;
        EvaluationReport {
            average_robust_accuracy: several.then(|| sum / n),
            average_accuracy: several.then(|| (sum + self.clean_accuracy) / (n + 1.0)),
            ..self
        }
    }

    /// The margins, if they were measured.
    pub fn image_margins(&self) -> Option<Margins> {
        let mut margins = Margins::zero_if_misclassified(self.margins.clone()?);
        for &i in &self.misclassified {
            margins.correct.get_mut(i).into_iter().for_each(|correct| *correct = false);
        }
        Some(margins)
    }

    /// Results of the images, as `images.csv` has them.
    pub fn csv(&self) -> String {
        let lines = self.image_results.iter().map(|result| result.to_csv() + "\n");
        [format!("{HEADER}\n")].into_iter().chain(lines).collect()
    }

    /// Table of the figures for the terminal.
    pub fn table(&self) -> String {
        let EvaluationReport { weights, model, images, count, clean_accuracy, norm, .. } = self;
        let mut text = format!("{weights}: {model}\n");
        self.weights_remarks.iter().for_each(|remark| text += &format!("{remark}\n"));
        let images = origin(images, self.provenance);
        let precision = in_precision(&self.precision);
        text += &format!("{} ({images}){precision}\n\n", counted(*count as u64, "image"));
        text += &format!("{:44}{clean_accuracy:>9.2} %\n", "clean accuracy");
        for RobustAccuracy { eps, accuracy, attack, attacks, .. } in &self.robust {
            let name = format!("eps {}, {attack}", length(*eps));
            text += &format!("{name:44}{accuracy:>9.2} %\n");
            attacks.iter().filter(|_| attacks.len() > 1).for_each(|statistics| text += &statistics.line());
        }
        if let (Some(robust), Some(all)) = (self.average_robust_accuracy, self.average_accuracy) {
            text += &format!("{:44}{robust:>9.2} %\n", "AvgRobAcc, the mean over the eps");
            text += &format!("{:44}{all:>9.2} %\n", "AvgAcc, with the clean accuracy");
        }
        for MinimumNormResult { name, found, attacked, mean, quartiles, strength, .. } in &self.minimum_norm {
            let name = [vec![name.clone()], unpublished(strength)].concat().join(", ");
            let name = format!("{name}, {norm}: {found} of {attacked} found");
            let figures = match (mean, quartiles) {
                (Some(mean), Some([lower, median, upper])) => {
                    format!("mean {mean:.4}, quartiles {lower:.4} {median:.4} {upper:.4}")
                }
                _ => "no distance".into(),
            };
            text += &format!("{name:44} {figures}\n");
        }
        if let Some(mean) = self.mean_margin {
            let name = [vec!["mean margin by AN-PGD".into()], unpublished(&self.margin_strength)].concat().join(", ");
            text += &format!("{name:44}{mean:>9.4}\n");
        }
        text += &self.strengths();
        if let Some(margins) = &self.image_margins() {
            text += &format!("\nmargins, {norm}\n");
            histogram(margins, self.max_eps, 40).iter().for_each(|line| text += &format!("{line}\n"));
        }
        let [forward, backward] = [self.forward_passes, self.backward_passes].map(|passes| si(passes as f64));
        text += &format!("\n{forward} forward and {backward} backward passes of an image; ");
        let (seconds, seed) = (self.seconds.unwrap_or_default(), self.seed.unwrap_or_default());
        let (weights, images) = (&self.weights_sha256, &self.images_sha256);
        text += &format!("{seconds:.1} s; seed {seed}; SHA-256 of weights {weights:.12}, of images {images:.12}\n");
        self.warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
        text
    }
}

/// Words on the precision of attacks that are not single precision.
pub(super) fn in_precision(precision: &str) -> String {
    match precision {
        "" | "fp32" => String::new(),
        other => format!("; attacks in {other}, verdicts in fp32"),
    }
}

/// Origin of images, with a word on those that are not the published ones.
pub(super) fn origin(images: &str, provenance: Option<Provenance>) -> String {
    match provenance {
        Some(other @ Provenance::Other) => format!("{images}; {}", other.describe()),
        _ => images.into(),
    }
}

/// Values of an attack that are not the published ones; none if its strength is not known.
fn unpublished(strength: &Option<AttackStrength>) -> Vec<String> {
    strength.as_ref().map(AttackStrength::unpublished).unwrap_or_default()
}

impl AttackStatistics {
    /// Number of runs that the attack is to have; 0 if its strength is not known.
    pub(super) fn planned_runs(&self) -> usize {
        self.strength.as_ref().map_or(0, |strength| strength.used.restarts as usize)
    }

    /// Line of the table.
    fn line(&self) -> String {
        let AttackStatistics { name, runs, attacked, found, passes, seconds, .. } = self;
        let forward = si(passes.forward as f64);
        format!(
            "  {name:12} {found:>6} of {attacked:>6} adversarial in {}, {forward} forward passes, {seconds:.1} s\n",
            counted((*runs).into(), "run")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_that_found_nothing_has_no_mean_distance() {
        let statistics = AttackStatistics { attacked: 2, ..AttackStatistics::default() };
        let none = MinimumNormResult::new(&statistics, &[None, None]);
        assert_eq!((none.found, none.mean, none.quartiles), (0, None, None));
        let one = MinimumNormResult::new(&statistics, &[None, Some(0.5)]);
        assert_eq!((one.found, one.attacked, one.mean, one.quartiles), (1, 2, Some(0.5), Some([0.5; 3])));
    }

    #[test]
    fn other_images_than_the_published_ones_have_a_word() {
        assert_eq!(origin("mnist, test", Some(Provenance::Published)), "mnist, test");
        assert_eq!(origin("mnist, test", Some(Provenance::Other)), "mnist, test; NOT the published files");
        assert_eq!(origin("mnist, test", None), "mnist, test");
    }
}
