//! Pictures of adversarial examples: the clean image, the adversarial one, and their difference, amplified.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::escape::escape;
use super::images::{bytes, data_uri};
use super::shown::ShownEvaluation;
use crate::Result;
use crate::catalog::DatasetKind;
use crate::choice::Choice as _;
use crate::data::{self, Dataset, Split};
use crate::evaluate::adversarial::AdversarialImages;
use crate::evaluate::folder::{read_adversarial, read_image_results};
use crate::evaluate::image_results::ImageResult;
use crate::text::length;

/// Examples shown of an evaluation, one of each class if there are.
const SHOWN: usize = 10;

/// Source of pictures: the data sets, each read when it is needed.
pub struct Pictures {
    folder: PathBuf,
    /// Part of a data set that was read last.
    last: Option<LastRead>,
}

/// Part of a data set that was read, or the reason why it could not be.
struct LastRead {
    dataset: DatasetKind,
    val_size: usize,
    split: Split,
    images: std::result::Result<Dataset, String>,
}

impl Pictures {
    /// Clean images are read from the data sets in `folder`, as in training.
    pub fn from(folder: &Path) -> Self {
        Pictures { folder: folder.to_owned(), last: None }
    }

    /// Pictures of an evaluation whose adversarial images were saved; empty if they were not.
    ///
    /// # Errors
    /// A file of the evaluation has another form.
    pub fn of(&mut self, shown: &ShownEvaluation) -> Result<String> {
        let Some(adversarial) = read_adversarial(&shown.evaluation.path)? else { return Ok(String::new()) };
        let results = read_image_results(&shown.evaluation.path)?
            .into_iter()
            .map(|result| (result.index as u32, result))
            .collect();
        let (clean, why) = match self.clean(shown, &adversarial) {
            Ok(images) => (Some(images), None),
            Err(why) => (None, Some(why)),
        };
        let examples = ExamplePictures { adversarial: &adversarial, clean, results, dataset: shown.report().dataset };
        let chosen = examples.choose();
        let differences = chosen.iter().filter_map(|&i| examples.difference(i)).flatten();
        let largest = differences.fold(0f32, |largest, difference| largest.max(difference.abs()));
        // Whole number by which the largest difference becomes black or white; a little more for rounding.
        let factor = if largest > 0.0 { (0.5 / largest + 1e-3).floor().clamp(1.0, 255.0) } else { 1.0 };
        let attack = adversarial.attack.as_deref().map_or(String::new(), |attack| format!(" by {}", escape(attack)));
        let total = adversarial.index.len();
        let mut text = format!("<h4>Adversarial examples{attack}: {} of {total}</h4>\n", chosen.len());
        text += &match why {
            None => format!(
                "<p class=\"note\">The clean image, the adversarial one, and their difference times {factor}; a pixel \
                 without a difference is grey.</p>\n"
            ),
            Some(why) => format!(
                "<p class=\"note\">The adversarial images alone: the clean ones are not shown ({}).</p>\n",
                escape(&why)
            ),
        };
        text += "<div class=\"examples\">\n";
        for i in chosen {
            text += &examples.example(i, factor)?;
        }
        Ok(text + "</div>\n")
    }

    /// Images that were attacked, or the reason why they cannot be shown.
    fn clean(
        &mut self,
        shown: &ShownEvaluation,
        adversarial: &AdversarialImages,
    ) -> std::result::Result<&Dataset, String> {
        let dataset = shown.report().dataset;
        let split = Some(&*shown.report().split).filter(|split| !split.is_empty()).unwrap_or("test");
        let split = Split::from_name(split)
            .ok_or_else(|| format!("expected the split test, validation or train, found {split:?}"))?;
        // The test images do not depend on the size of the validation set.
        let val_size = match (&shown.source.run, split) {
            (Some(run), _) => run.config.val_size,
            (None, Split::Test) => 1,
            (None, other) => {
                return Err(format!("the settings of a run tell which images are {other} ones; there is no run"));
            }
        };
        let same = |last: &LastRead| (last.dataset, last.val_size, last.split) == (dataset, val_size, split);
        let last = self.last.take().filter(same).unwrap_or_else(|| {
            let read = data::load_split(dataset, &self.folder, val_size, split);
            let images = read.map(|(images, _)| images).map_err(|e| e.to_string());
            LastRead { dataset, val_size, split, images }
        });
        let images = self.last.insert(last).images.as_ref().map_err(Clone::clone)?;
        let shape = [images.height, images.width, images.channels];
        if shape != adversarial.shape {
            return Err(format!(
                "those of {} are {shape:?}, the adversarial ones {:?}",
                images.name, adversarial.shape
            ));
        }
        let differs = |(&index, &label): (&u32, &u32)| {
            images.labels.get(index as usize).is_none_or(|&known| u32::from(known) != label)
        };
        match adversarial.index.iter().zip(&adversarial.labels).find(|pair| differs(*pair)) {
            Some((index, label)) => Err(format!("image {index} of {} has not the label {label}", images.name)),
            None => Ok(images),
        }
    }
}

/// Adversarial images with the clean ones and the results of the evaluation.
struct ExamplePictures<'a> {
    adversarial: &'a AdversarialImages,
    /// Images that were attacked, if they can be shown.
    clean: Option<&'a Dataset>,
    /// Results by the index of the image.
    results: BTreeMap<u32, ImageResult>,
    dataset: DatasetKind,
}

impl ExamplePictures<'_> {
    /// Clean image of example `i`, in [0, 1].
    fn clean(&self, i: usize) -> Option<Vec<f32>> {
        let image = self.clean?.image(self.adversarial.index[i] as usize);
        Some(image.iter().map(|&value| f32::from(value) / 255.0).collect())
    }

    /// Adversarial less clean image of example `i`.
    fn difference(&self, i: usize) -> Option<Vec<f32>> {
        let clean = self.clean(i)?;
        Some(self.adversarial.image(i).iter().zip(clean).map(|(adversarial, clean)| adversarial - clean).collect())
    }

    /// Examples to show: classified correctly without an attack, adversarial and changed, as far as that is known. The
    /// first of each class comes before the others.
    fn choose(&self) -> Vec<usize> {
        let successful = |&i: &usize| {
            let result = self.results.get(&self.adversarial.index[i]);
            // An image that is misclassified without an attack was not attacked.
            let attacked = result.is_none_or(|result| result.found_eps != Some(0.0));
            let adversarial = match (&self.adversarial.misclassified, result) {
                (Some(all), _) => all[i] != 0,
                (None, Some(result)) => result.found_eps.is_some(),
                (None, None) => true,
            };
            let changed = || self.difference(i).is_none_or(|difference| difference.iter().any(|&d| d != 0.0));
            attacked && adversarial && changed()
        };
        let (mut first, mut others) = (BTreeMap::new(), Vec::new());
        for i in (0..self.adversarial.index.len()).filter(successful) {
            match first.entry(self.adversarial.labels[i]) {
                Entry::Vacant(entry) => drop(entry.insert(i)),
                Entry::Occupied(_) => others.push(i),
            }
        }
        let mut chosen: Vec<usize> = first.into_values().chain(others).take(SHOWN).collect();
        chosen.sort_by_key(|&i| self.adversarial.labels[i]);
        chosen
    }

    /// Pictures of one example with its facts.
    fn example(&self, i: usize, factor: f32) -> Result<String> {
        let adversarial = self.adversarial;
        let picture = |title: &str, pixels: &[u8]| -> Result<String> {
            Ok(format!("<div><img src=\"{}\" alt=\"{title}\">{title}</div>", data_uri(adversarial.shape, pixels)?))
        };
        let mut pictures = String::new();
        if let Some(clean) = self.clean(i) {
            pictures += &picture("clean", &bytes(&clean))?;
        }
        pictures += &picture("adversarial", &bytes(adversarial.image(i)))?;
        if let Some(difference) = self.difference(i) {
            let grey: Vec<f32> = difference.iter().map(|d| 0.5 + factor * d).collect();
            pictures += &picture("difference", &bytes(&grey))?;
        }
        let class = |label: u32| match self.dataset.entry().class_names.get(label as usize) {
            Some(name) => (*name).to_string(),
            None => label.to_string(),
        };
        let (index, label, eps) = (adversarial.index[i], adversarial.labels[i], adversarial.eps[i]);
        let result = self.results.get(&index);
        let mut facts = vec![format!("image {index}"), format!("label <b>{}</b>", class(label))];
        facts.extend(
            result.and_then(|result| result.clean_prediction).map(|clean| format!("predicted {}", class(clean))),
        );
        facts.extend(adversarial.predictions.as_ref().map(|all| format!("under attack <b>{}</b>", class(all[i]))));
        facts.push(format!("eps {}", length(f64::from(eps))));
        if let Some(ImageResult { found_eps: Some(eps), found_by, .. }) = result {
            let by = escape(found_by.as_deref().unwrap_or_default());
            facts.push(format!("adversarial at {} by {by}", length(*eps)));
        }
        Ok(format!("<div class=\"example\"><div class=\"row\">{pictures}</div><p>{}</p></div>\n", facts.join(" · ")))
    }
}
