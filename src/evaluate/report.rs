//! What an evaluation found: the record that is written as JSON, the row of each image, and the table for a person.

use serde::Serialize;

use super::checkpoint::AttackStatistics;
use super::mean;
use super::passes::Passes;
use crate::catalog::DatasetKind;
use crate::config::Method;
use crate::tape::Norm;
use crate::text::{histogram, length, si};

/// An evaluation. Accuracies are in percent.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluationReport {
    /// The program's version.
    pub maxmargin: &'static str,
    /// The commit it was built from, where that was known.
    pub commit: Option<&'static str>,
    /// The file of weights.
    pub weights: String,
    /// Its SHA-256.
    pub weights_sha256: String,
    /// What was asked, as a hash: the weights and every setting that the answer depends on.
    pub question: String,
    /// The network, in a line.
    pub model: String,
    /// Which data set.
    pub dataset: DatasetKind,
    /// Which of its images: `test`, `validation` or `train`.
    pub split: String,
    /// Where they came from.
    pub images: String,
    /// How many images.
    pub count: usize,
    /// The norm of eps and margins.
    pub norm: Norm,
    /// The published protocol, if it is one.
    pub protocol: Option<String>,
    /// How the weights were trained, if that is known.
    pub method: Option<Method>,
    /// With which d_max, or eps.
    pub d_max: Option<f64>,
    /// The seed of the random starts.
    pub seed: u64,
    /// Images at a time.
    pub batch_size: usize,
    /// What computed.
    pub device: String,
    /// Accuracy without an attack.
    pub clean_accuracy: f64,
    /// AvgRobAcc: the mean over the eps, if there are several.
    pub average_robust_accuracy: Option<f64>,
    /// AvgAcc: the mean over the eps and the clean accuracy, if there are several eps.
    pub average_accuracy: Option<f64>,
    /// Accuracy under attack, at each eps.
    pub robust: Vec<RobustAccuracy>,
    /// What minimum-norm attacks found.
    pub minimum_norm: Vec<MinimumNormResult>,
    /// The mean of the margins.
    pub mean_margin: Option<f64>,
    /// AN-PGD's margins, one an image, in order: 0 where it is wrong without an attack.
    pub margins: Option<Vec<f32>>,
    /// The upper bound of the margins' search.
    pub max_eps: f32,
    /// Examples that went through the network, but for the margins.
    #[serde(flatten, serialize_with = "as_passes")]
    pub passes: Passes,
    /// How long it took, what was done before it was resumed included.
    pub seconds: f64,
    /// What makes the figures doubtful.
    pub suspicious: Vec<String>,
    /// One an image.
    #[serde(skip)]
    pub rows: Vec<ImageRow>,
}

/// `forward_passes` and `backward_passes` in the record of a whole evaluation.
fn as_passes<S: serde::Serializer>(passes: &Passes, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("forward_passes", &passes.forward)?;
    map.serialize_entry("backward_passes", &passes.backward)?;
    map.end()
}

/// Accuracy at one eps.
#[derive(Clone, Debug, Serialize)]
pub struct RobustAccuracy {
    /// Radius of the ball.
    pub eps: f64,
    /// Share of images that stay right under all attacks, at this and at every smaller eps.
    pub accuracy: f64,
    /// PGD's step there.
    pub eps_iter: f32,
    /// The attacks, in a line.
    pub attack: String,
    /// What each of them did.
    pub attacks: Vec<AttackStatistics>,
}

/// What a minimum-norm attack found.
#[derive(Clone, Debug, Serialize)]
pub struct MinimumNormResult {
    /// The attack.
    pub name: String,
    /// Images for which an adversarial one was found.
    pub found: usize,
    /// Images that it was given: those right without an attack.
    pub attacked: usize,
    /// The mean of the distances found.
    pub mean: f64,
    /// Their quartiles: a quarter, half and three quarters are not larger (linear between two neighbours).
    pub quartiles: [f64; 3],
    /// What it took.
    #[serde(flatten)]
    pub passes: Passes,
    /// How long.
    pub seconds: f64,
}

impl MinimumNormResult {
    pub(super) fn new(tally: &AttackStatistics, distances: &[Option<f32>]) -> MinimumNormResult {
        let mut found: Vec<f32> = distances.iter().flatten().copied().collect();
        found.sort_by(f32::total_cmp);
        MinimumNormResult {
            name: tally.name.clone(),
            found: found.len(),
            attacked: tally.attacked,
            mean: mean(&found),
            quartiles: [0.25, 0.5, 0.75].map(|share| quantile(&found, share)),
            passes: tally.passes,
            seconds: tally.seconds,
        }
    }
}

/// The value below which `share` of the ascending values lie; 0 of none.
fn quantile(sorted: &[f32], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (below, above) = (sorted[place as usize], sorted[(place as usize + 1).min(last)]);
    f64::from(below) + place.fract() * (f64::from(above) - f64::from(below))
}

/// What is known of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// Its place.
    pub index: usize,
    /// What it is.
    pub label: u8,
    /// What the network says without an attack.
    pub clean_prediction: u32,
    /// AN-PGD's margin, or else the nearest adversarial distance that a minimum-norm attack found.
    pub margin: Option<f32>,
    /// The least eps at which it was broken; 0 where it is wrong without an attack.
    pub broken_eps: Option<f64>,
    /// What broke it: an attack, or `clean`.
    pub broken_by: Option<String>,
}

impl EvaluationReport {
    /// Adds the paper's averages, where there are several eps.
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

    /// The rows of all images as comma-separated values; what is not known is empty.
    pub fn csv(&self) -> String {
        let shown = |value: Option<String>| value.unwrap_or_default();
        let mut text = "index,label,clean_prediction,margin,broken_eps,broken_by\n".to_owned();
        for ImageRow { index, label, clean_prediction, margin, broken_eps, broken_by } in &self.rows {
            let (margin, eps) = (shown(margin.map(|m| m.to_string())), shown(broken_eps.map(|e| e.to_string())));
            text += &format!("{index},{label},{clean_prediction},{margin},{eps},{}\n", shown(broken_by.clone()));
        }
        text
    }

    /// The figures for a person.
    pub fn table(&self) -> String {
        let EvaluationReport { weights, model, images, count, clean_accuracy, norm, .. } = self;
        let mut text = format!("{weights}: {model}\n{count} images ({images})\n\n");
        text += &format!("{:44}{clean_accuracy:>9.2} %\n", "clean accuracy");
        for RobustAccuracy { eps, accuracy, attack, attacks, .. } in &self.robust {
            let name = format!("eps {}, {attack}", length(*eps));
            text += &format!("{name:44}{accuracy:>9.2} %\n");
            for AttackStatistics { name, runs, attacked, broken, passes, seconds, .. } in
                attacks.iter().filter(|_| attacks.len() > 1)
            {
                let forward = si(passes.forward as f64);
                text += &format!(
                    "  {name:12} {broken:>6} of {attacked:>6} broken in {runs} runs, {forward} forward passes, {seconds:.1} s\n"
                );
            }
        }
        if let (Some(robust), Some(all)) = (self.average_robust_accuracy, self.average_accuracy) {
            text += &format!("{:44}{robust:>9.2} %\n", "AvgRobAcc, the mean over the eps");
            text += &format!("{:44}{all:>9.2} %\n", "AvgAcc, with the clean accuracy");
        }
        for MinimumNormResult { name, found, attacked, mean, quartiles: [quarter, median, three], .. } in
            &self.minimum_norm
        {
            let name = format!("{name}, {norm}: {found} of {attacked} found");
            text += &format!("{name:44} mean {mean:.4}, quartiles {quarter:.4} {median:.4} {three:.4}\n");
        }
        if let (Some(mean), Some(margins)) = (self.mean_margin, &self.margins) {
            text += &format!("{:44}{mean:>9.4}\n\nmargins, {norm}\n", "mean margin by AN-PGD");
            histogram(margins, self.max_eps, 40).iter().for_each(|line| text += &format!("{line}\n"));
        }
        let Passes { forward, backward } = self.passes;
        text += &format!("\n{} forward and {} backward passes of an image; ", si(forward as f64), si(backward as f64));
        text += &format!("{:.1} s; seed {}; weights {}\n", self.seconds, self.seed, &self.weights_sha256[..12]);
        self.suspicious.iter().for_each(|odd| text += &format!("suspicious: {odd}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_linear_between_two_neighbours() {
        assert_eq!([0.25, 0.5, 0.75].map(|share| quantile(&[1.0, 2.0, 3.0, 5.0], share)), [1.75, 2.5, 3.5]);
        assert_eq!(quantile(&[4.0], 0.75), 4.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
