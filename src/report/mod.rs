//! HTML report about runs and evaluations, made from their files alone, never from a device.
//!
//! - [`page`]: the whole page.
//! - [`sources`]: its input: runs and evaluations, read from their folders.
//! - [`training`], [`evaluations`], [`comparison`], [`examples`]: its chapters.
//! - [`shown`]: an evaluation's name and colour on the page.
//! - [`paper`]: figures of the paper, transcribed.
//! - [`plot`], [`images`], [`html`], [`escape`], [`values`]: plots as SVG, images as data, parts of HTML, text,
//!   numbers.
//!
//! Nothing in this module is used by the rest of the crate, apart from the command line.

pub mod comparison;
pub mod escape;
pub mod evaluations;
pub mod examples;
pub mod html;
pub mod images;
pub mod page;
pub mod paper;
pub mod plot;
pub mod shown;
pub mod sources;
pub mod training;
pub mod values;
