//! Images with their labels, and the three parts of a data set.

use super::provenance::Provenance;
use crate::choice::choices;
use crate::hash::{sha256, sha256_of_parts};

/// Images and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Name of the data set and its part, for messages: "mnist test".
    pub name: String,
    /// Pixels `[len, height, width, channels]`, a byte a value.
    pub images: Vec<u8>,
    /// Labels `[len]`, each 0 to 9.
    pub labels: Vec<u8>,
    /// Height of an image in pixels.
    pub height: usize,
    /// Width of an image in pixels.
    pub width: usize,
    /// Values of a pixel: 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Provenance of the whole part that the images were taken from.
    pub provenance: Provenance,
}

impl Dataset {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of bytes of one image.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Size of an image, `[height, width, channels]`.
    pub fn image_dims(&self) -> [usize; 3] {
        [self.height, self.width, self.channels]
    }

    /// Image `i`, `[height, width, channels]`. Panics if `i >= len`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_len()..][..self.image_len()]
    }

    /// SHA-256 of number, size, labels and pixels of the images. The name and the form of the files have no part in it.
    pub fn sha256(&self) -> String {
        let shape = format!("{}x{}x{}x{}\n", self.len(), self.height, self.width, self.channels);
        sha256_of_parts(&[shape.as_bytes(), &self.labels, &self.images])
    }

    /// The data set with the provenance of a whole part whose published SHA-256 is `published`.
    pub(super) fn compared(self, published: &str) -> Dataset {
        Dataset { provenance: Provenance::compared(&self.sha256(), published), ..self }
    }

    /// Keeps the first `n` images, or all if there are fewer.
    pub fn take(mut self, n: usize) -> Dataset {
        let n = n.min(self.len());
        self.images.truncate(n * self.image_len());
        self.labels.truncate(n);
        self
    }

    /// Splits off the first `n` images; returns them and the rest. Panics if `n > len`.
    pub(super) fn split(mut self, n: usize) -> (Dataset, Dataset) {
        let rest = Dataset {
            images: self.images.split_off(n * self.image_len()),
            labels: self.labels.split_off(n),
            ..self.empty()
        };
        (self, rest)
    }

    /// Data set of this name and shape without images.
    fn empty(&self) -> Dataset {
        let Dataset { height, width, channels, provenance, .. } = *self;
        Dataset { name: self.name.clone(), images: Vec::new(), labels: Vec::new(), height, width, channels, provenance }
    }
}

choices! {
    /// Part of a data set.
    pub enum Split {
        /// Test images
        Test = "test",
        /// Images held out of training
        Validation = "validation",
        /// Images trained on
        Train = "train",
    }
}

/// A data set in three disjoint parts.
#[derive(Clone, Debug)]
pub struct Splits {
    /// Training images.
    pub train: Dataset,
    /// Validation images, which select the best checkpoint.
    pub validation: Dataset,
    /// Test images, on which results are measured.
    pub test: Dataset,
    /// Origin, for messages: "bundled digits", or the folder of the files.
    pub source: String,
}

impl Splits {
    /// SHA-256 of the three parts: that of their SHA-256.
    pub fn sha256(&self) -> String {
        sha256([&self.train, &self.validation, &self.test].map(Dataset::sha256).concat().as_bytes())
    }

    /// Provenance of all parts: `Other` if that of any part is.
    pub fn provenance(&self) -> Provenance {
        let differs = |part: &&Dataset| part.provenance == Provenance::Other;
        [&self.validation, &self.test].into_iter().find(differs).unwrap_or(&self.train).provenance
    }

    /// Keeps the first `train` training and the first `test` test images; `None` keeps all.
    pub fn cut(self, train: Option<usize>, test: Option<usize>) -> Splits {
        let first = |dataset: Dataset, n: Option<usize>| dataset.take(n.unwrap_or(usize::MAX));
        Splits { train: first(self.train, train), test: first(self.test, test), ..self }
    }
}
