//! What a checkpoint is worth: the question as `maxmargin evaluate` asks it, and the answer.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::{Attack, Examples, Margins, RepeatedPgd, accuracy, mean};
use crate::config::Config;
use crate::data;
use crate::device::{Device, Schedule};
use crate::model::state_dict::{Loaded, load_model};
use crate::record::Progress;
use crate::report::{histogram, length, si};
use crate::tape::{Memory, Norm};
use crate::{Error, Result};

/// Which images of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Split {
    /// The test images.
    Test,
    /// The images held out of training.
    Validation,
    /// The images trained on.
    Train,
}

/// One eps of the repeated PGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PgdAt {
    /// As it was written, to show.
    pub eps: f64,
    /// PGD's step.
    pub eps_iter: f32,
}

/// What is to be measured of a checkpoint.
#[derive(Clone, Debug)]
pub struct Question {
    /// The weights.
    pub weights: PathBuf,
    /// Data set, norm, and AN-PGD's settings for the margins.
    pub config: Config,
    /// Which images.
    pub split: Split,
    /// Only so many of them.
    pub size: Option<usize>,
    /// Where images are looked for.
    pub data: PathBuf,
    /// Repeated PGD at each of these; none if it was not asked for.
    pub pgd: Vec<PgdAt>,
    /// PGD's iterations.
    pub nb_iter: u32,
    /// PGD's random starts.
    pub nb_restart: u32,
    /// Whether margins are measured.
    pub margins: bool,
    /// The seed of the random starts.
    pub seed: u64,
    /// Images at a time.
    pub batch_size: usize,
    /// Whether no progress is shown.
    pub quiet: bool,
}

/// What was found, as it is written to `--json`. Accuracies are in percent.
#[derive(Serialize)]
pub struct Evaluation {
    /// The file of weights.
    pub weights: String,
    /// The network, in a line.
    pub model: String,
    /// Where the images came from, and which.
    pub images: String,
    /// How many images.
    pub count: usize,
    /// The norm of eps and margins.
    pub norm: Norm,
    /// The seed of the random starts.
    pub seed: u64,
    /// Accuracy without an attack.
    pub clean_accuracy: f64,
    /// Accuracy under repeated PGD, at each eps.
    pub robust: Vec<Robust>,
    /// The mean of the margins.
    pub mean_margin: Option<f64>,
    /// One an image, in order: 0 where it is wrong without an attack.
    pub margins: Option<Vec<f32>>,
    /// How long it took.
    pub seconds: f64,
}

/// Accuracy at one eps.
#[derive(Serialize)]
pub struct Robust {
    /// Radius of the ball.
    pub eps: f64,
    /// PGD's step.
    pub eps_iter: f32,
    /// Iterations.
    pub nb_iter: u32,
    /// Random starts.
    pub nb_restart: u32,
    /// Share of images that no start broke.
    pub accuracy: f64,
}

impl Question {
    /// Measures it on a device that has no memory yet.
    ///
    /// # Errors
    /// The weights or the data cannot be read, or do not fit each other; or the device failed.
    pub fn answer(&self, device: &mut dyn Device) -> Result<Evaluation> {
        let start = Instant::now();
        let config = &self.config;
        let Loaded { mut model, state, .. } = load_model(&self.weights)?;
        let splits = data::load(config.dataset, &self.data, config.val_size)?.cut(config.train_size, config.test_size);
        let dataset = match self.split {
            Split::Test => splits.test,
            Split::Validation => splits.validation,
            Split::Train => splits.train,
        };
        let dataset = dataset.take(self.size.unwrap_or(usize::MAX));
        let found = [dataset.height, dataset.width, dataset.channels];
        if model.image() != found {
            let wanted = model.image();
            return Err(Error::usage(format!(
                "--dataset: {} takes images {wanted:?} (height, width, channels); those of {} are {found:?}",
                self.weights.display(),
                splits.source
            )));
        }

        let classes = model.params().list.last().map_or(0, |p| p.shape[0]);
        if classes != usize::from(data::CLASSES) {
            let expected = format!("expected {} classes, found {classes}", data::CLASSES);
            return Err(Error::format(&self.weights, format!("linear2.weight: {expected}")));
        }

        let mut memory = Memory::default();
        model.declare(&mut memory);
        let examples = Examples::new(&mut memory, &*model, "images", dataset.len(), self.batch_size);
        let margins = self.margins.then(|| Margins::new(&mut memory, &*model, &examples, config));
        let (rule, confidence) = (config.pgd_rule(), config.fidelity.cw_confidence);
        let pgd = RepeatedPgd::new(&mut memory, &*model, &examples, rule, confidence, self.nb_iter, self.seed);
        let schedules = margins.iter().map(Margins::schedule).chain(pgd.schedules());
        let programs = schedules.flat_map(Schedule::programs).chain(examples.programs());
        let bytes = device.allocate(&memory, &programs.collect::<Vec<_>>())?;
        model.load(device, &state)?;
        examples.upload(device, &dataset)?;

        let starts = self.pgd.len() as u64 * u64::from(self.nb_restart) + u64::from(self.margins);
        let mut progress = Progress::new("starts", starts, 0, self.quiet);
        progress.note(&format!("{} on {}; {}B of memory", model.describe(), device.describe(), si(bytes as f64)));
        let mut done = 0;
        let clean_accuracy = accuracy(&examples.right(device)?);
        let mut attack = |&PgdAt { eps, eps_iter }: &PgdAt| {
            let attack = Attack { eps: eps as f32, eps_iter, restarts: self.nb_restart };
            let right = pgd.run(device, &examples, &attack, |restart, left| {
                done += 1;
                progress.update(done, &format!("eps {eps}: {left} of {} right after {restart} starts", dataset.len()));
            })?;
            let Question { nb_iter, nb_restart, .. } = *self;
            Ok(Robust { eps, eps_iter, nb_iter, nb_restart, accuracy: accuracy(&right) })
        };
        let robust = self.pgd.iter().map(&mut attack).collect::<Result<_>>()?;
        let measure = |margins: Margins| {
            margins.measure(device, &examples, |n| {
                // The last start is the margins'.
                let done = if n == dataset.len() { starts } else { starts - 1 };
                progress.update(done, &format!("margins: {n} of {} images", dataset.len()));
            })
        };
        let margins = margins.map(measure).transpose()?;
        progress.finish();
        Ok(Evaluation {
            weights: self.weights.display().to_string(),
            model: model.describe(),
            images: format!("{}, {}", splits.source, format!("{:?}", self.split).to_lowercase()),
            count: dataset.len(),
            norm: config.norm,
            seed: self.seed,
            clean_accuracy,
            robust,
            mean_margin: margins.as_deref().map(mean),
            margins,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

impl Evaluation {
    /// The figures for a person; `max_eps` is the end of the histogram.
    pub fn table(&self, max_eps: f32) -> String {
        let Evaluation { weights, model, images, count, clean_accuracy, seconds, .. } = self;
        let norm = self.norm;
        let mut text = format!("{weights}: {model}\n{count} images ({images})\n\n");
        text += &format!("{:44}{clean_accuracy:>9.2} %\n", "clean accuracy");
        for Robust { eps, nb_iter, nb_restart, accuracy, .. } in &self.robust {
            let name = format!("PGD-{nb_iter} {norm}, eps {}, {nb_restart} starts", length(*eps));
            text += &format!("{name:44}{accuracy:>9.2} %\n");
        }
        if let (Some(mean), Some(margins)) = (self.mean_margin, &self.margins) {
            text += &format!("{:44}{mean:>9.4}\n\nmargins, {norm}\n", "mean margin by AN-PGD");
            histogram(margins, max_eps, 40).iter().for_each(|line| text += &format!("{line}\n"));
        }
        text + &format!("\n{seconds:.1} s\n")
    }
}
