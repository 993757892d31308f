//! The HTML report about runs and evaluations, made from their files, never from a device.
//!
//! - [`page`]: the whole page; its parts are below.
//! - [`records`]: what it is made of, read from files.
//! - [`training`], [`attacks`], [`examples`]: its chapters.
//! - [`paper`]: the paper's figures, transcribed, to stand beside a run's.
//! - [`plot`], [`images`], [`html`]: plots as SVG, images as data, pieces of HTML.

pub mod attacks;
pub mod examples;
pub mod html;
pub mod images;
pub mod page;
pub mod paper;
pub mod plot;
pub mod records;
pub mod training;
