//! HTML report about runs and evaluations, made from their files alone, never from a device.
//!
//! - [`page`]: the whole page.
//! - [`sources`]: its input: runs and evaluations, read from their folders.
//! - [`training`], [`evaluations`], [`comparison`], [`examples`]: its chapters.
//! - [`distances`]: accuracy over eps by the distances of minimum-norm attacks.
//! - [`shown`]: an evaluation's name and look on the page.
//! - [`paper`], [`paper_file`]: figures of the paper, and their file.
//! - [`plot`], [`marker`], [`colour`]: plots as SVG, what tells series apart, colours.
//! - [`images`], [`html`], [`escape`], [`values`]: images as data, parts of HTML, text, numbers.
//!
//! Nothing in this module is used by the rest of the crate, apart from the command line.

pub mod colour;
pub mod comparison;
pub mod distances;
pub mod escape;
pub mod evaluations;
pub mod examples;
pub mod html;
pub mod images;
pub mod marker;
pub mod page;
pub mod paper;
pub mod paper_file;
pub mod plot;
pub mod shown;
pub mod sources;
pub mod training;
pub mod values;
