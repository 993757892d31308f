//! Images and labels as bytes, in splits, and the order in which training visits them.
//!
//! Owns: reading MNIST ([`idx`]), CIFAR10 ([`cifar`]) and the bundled digits ([`digits`]); the split into training and
//! validation ([`load()`]); batches as lists of indices ([`batches`]); what is found in which folder, and the
//! conversion of fetched packages into the published files ([`published`]).
//!
//! Refuses: to guess. A file whose size, magic number or labels its format does not allow is an error that names the
//! file and the byte. This module scales no pixels, fetches nothing and knows no model.

pub mod batches;
pub mod cifar;
mod dataset;
pub mod digits;
mod files;
pub mod idx;
mod load;
mod provenance;
pub mod published;

pub use batches::Batches;
pub use dataset::{Dataset, Split, Splits};
pub use load::{load, load_split};
pub use provenance::{Provenance, PublishedPart};
pub use published::{DatasetCondition, SurveyedDataset, import, survey};
