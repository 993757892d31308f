//! Pictures of adversarial examples: the clean image, the adversarial one, and their difference, amplified.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::attacks::Shown;
use super::html::escape;
use super::images::{bytes, data_uri};
use super::records::{Adversarial, RecordedEvaluation, RecordedImageRow};
use crate::Result;
use crate::catalog::DatasetKind;
use crate::data::{self, Dataset, Splits};
use crate::text::length;

/// So many examples are shown of an evaluation, one of each class if there are.
const SHOWN: usize = 10;
/// Where pictures come from: the data sets, read when they are needed.
pub struct Pictures {
    folder: PathBuf,
    /// What was read last, or why it could not be.
    last: Option<((DatasetKind, usize), std::result::Result<Splits, String>)>,
}

impl Pictures {
    /// Clean images are looked for in `folder`, as training does.
    pub fn from(folder: &Path) -> Self {
        Pictures { folder: folder.to_owned(), last: None }
    }

    /// The pictures of an evaluation that kept its adversarial examples; nothing where it did not.
    ///
    /// # Errors
    /// The examples are not as they must be.
    pub fn of(&mut self, shown: &Shown) -> Result<String> {
        let Some(found) = shown.evaluation.adversarial()? else { return Ok(String::new()) };
        let rows = shown.evaluation.image_rows()?.into_iter().map(|row| (row.index, row)).collect();
        let (clean, why) = match self.clean(shown, &found) {
            Ok(images) => (Some(images), None),
            Err(why) => (None, Some(why)),
        };
        let both = Both { found: &found, clean, rows };
        let chosen = both.choose();
        let differences = chosen.iter().filter_map(|&i| both.difference(i)).flatten();
        let largest = differences.fold(0f32, |largest, difference| largest.max(difference.abs()));
        // Whole, and such that the largest difference is black or white; a bit more for roundings.
        let factor = if largest > 0.0 { (0.5 / largest + 1e-3).floor().clamp(1.0, 255.0) } else { 1.0 };
        let attack = found.attack.as_deref().map_or(String::new(), |attack| format!(" by {}", escape(attack)));
        let total = found.index.len();
        let mut text = format!("<h4>Adversarial examples{attack}: {} of {total}</h4>\n", chosen.len());
        text += &match why {
            None => format!(
                "<p class=\"note\">The clean image, the adversarial one, and their difference times {factor}, grey where \
                 there is none.</p>\n"
            ),
            Some(why) => format!(
                "<p class=\"note\">The adversarial images alone: the clean ones are not shown ({}).</p>\n",
                escape(&why)
            ),
        };
        text += "<div class=\"examples\">\n";
        for i in chosen {
            text += &both.example(i, shown.evaluation, factor)?;
        }
        Ok(text + "</div>\n")
    }

    /// The images that were attacked, or why they cannot be shown.
    fn clean(&mut self, shown: &Shown, found: &Adversarial) -> std::result::Result<&Dataset, String> {
        let RecordedEvaluation { dataset, .. } = *shown.evaluation;
        let split = shown.evaluation.split.as_deref().unwrap_or("test");
        // The test images are the same whatever is held out of training.
        let held_out = match (&shown.source.run, split) {
            (Some(run), _) => run.config.val_size,
            (None, "test") => 1,
            (None, other) => {
                return Err(format!("which images are {other} ones is said by a run's settings; there are none"));
            }
        };
        let key = (dataset, held_out);
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            self.last = Some((key, data::load(dataset, &self.folder, held_out).map_err(|e| e.to_string())));
        }
        let splits = match &self.last {
            Some((_, Ok(splits))) => splits,
            Some((_, Err(why))) => return Err(why.clone()),
            None => return Err("no data set was read".into()),
        };
        let images = match split {
            "train" => &splits.train,
            "validation" => &splits.validation,
            "test" => &splits.test,
            other => return Err(format!("there is no part {other:?} of a data set")),
        };
        let shape = [images.height, images.width, images.channels];
        if shape != found.shape {
            return Err(format!("those of {} are {shape:?}, the adversarial ones {:?}", images.name, found.shape));
        }
        let other = |(&index, &label): (&u32, &u32)| {
            images.labels.get(index as usize).is_none_or(|&known| u32::from(known) != label)
        };
        match found.index.iter().zip(&found.labels).find(|pair| other(*pair)) {
            Some((index, label)) => Err(format!("image {index} of {} is no {label}: other data", images.name)),
            None => Ok(images),
        }
    }
}

/// Adversarial examples and what there is beside them.
struct Both<'a> {
    found: &'a Adversarial,
    /// The images that were attacked.
    clean: Option<&'a Dataset>,
    /// What became of each image, by its number.
    rows: BTreeMap<u32, RecordedImageRow>,
}

impl Both<'_> {
    /// The clean image of example `i`, in [0, 1].
    fn clean(&self, i: usize) -> Option<Vec<f32>> {
        let image = self.clean?.image(self.found.index[i] as usize);
        Some(image.iter().map(|&value| f32::from(value) / 255.0).collect())
    }

    fn difference(&self, i: usize) -> Option<Vec<f32>> {
        let clean = self.clean(i)?;
        Some(self.found.image(i).iter().zip(clean).map(|(adversarial, clean)| adversarial - clean).collect())
    }

    /// Those that are shown: right without an attack, broken and changed where that is known; of each class first one.
    fn choose(&self) -> Vec<usize> {
        let telling = |&i: &usize| {
            let row = self.rows.get(&self.found.index[i]);
            // An image that is wrong as it is was not attacked.
            let attacked = row.is_none_or(|row| row.broken_eps != Some(0.0));
            let broken = match (&self.found.misclassified, row) {
                (Some(all), _) => all[i] != 0,
                (None, Some(row)) => row.broken_eps.is_some(),
                (None, None) => true,
            };
            attacked && broken && self.difference(i).is_none_or(|difference| difference.iter().any(|&d| d != 0.0))
        };
        let (mut first, mut others) = (BTreeMap::new(), Vec::new());
        for i in (0..self.found.index.len()).filter(telling) {
            match first.entry(self.found.labels[i]) {
                Entry::Vacant(entry) => drop(entry.insert(i)),
                Entry::Occupied(_) => others.push(i),
            }
        }
        let mut chosen: Vec<usize> = first.into_values().chain(others).take(SHOWN).collect();
        chosen.sort_by_key(|&i| self.found.labels[i]);
        chosen
    }

    /// One example with what is known of it.
    fn example(&self, i: usize, of: &RecordedEvaluation, factor: f32) -> Result<String> {
        let Both { found, rows, .. } = self;
        let picture = |title: &str, pixels: &[u8]| -> Result<String> {
            Ok(format!("<div><img src=\"{}\" alt=\"{title}\">{title}</div>", data_uri(found.shape, pixels)?))
        };
        let mut pictures = String::new();
        if let Some(clean) = self.clean(i) {
            pictures += &picture("clean", &bytes(&clean))?;
        }
        pictures += &picture("adversarial", &bytes(found.image(i)))?;
        if let Some(difference) = self.difference(i) {
            let grey: Vec<f32> = difference.iter().map(|d| 0.5 + factor * d).collect();
            pictures += &picture("difference", &bytes(&grey))?;
        }
        let class = |label: u32| match of.dataset.entry().class_names.get(label as usize) {
            Some(name) => (*name).to_string(),
            None => label.to_string(),
        };
        let row = rows.get(&found.index[i]);
        let mut said = vec![format!("image {}", found.index[i]), format!("label <b>{}</b>", class(found.labels[i]))];
        said.extend(row.and_then(|row| row.clean_prediction).map(|clean| format!("predicted {}", class(clean))));
        said.extend(found.predictions.as_ref().map(|all| format!("attacked: <b>{}</b>", class(all[i]))));
        said.push(format!("eps {}", length(f64::from(found.eps[i]))));
        let broken = row.and_then(|row| Some((row.broken_eps?, &row.broken_by)));
        said.extend(broken.map(|(eps, by)| format!("broken at {} by {}", length(eps), escape(by))));
        Ok(format!("<div class=\"example\"><div class=\"row\">{pictures}</div><p>{}</p></div>\n", said.join(" · ")))
    }
}
