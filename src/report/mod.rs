//! What a person reads, made out of records and plain numbers, never from a device.
//!
//! - [`histogram`](mod@histogram), [`length`], [`si`]: text for the terminal.
//! - [`page`]: a page of HTML about runs and evaluations; its parts are below.
//! - [`records`]: what it is made of, read from files.
//! - [`training`], [`attacks`], [`examples`]: its chapters.
//! - [`paper`]: the paper's figures, transcribed, to stand beside a run's.
//! - [`plot`], [`images`], [`html`]: plots as SVG, images as data, pieces of HTML.

pub mod attacks;
pub mod examples;
pub mod histogram;
pub mod html;
pub mod images;
pub mod page;
pub mod paper;
pub mod plot;
pub mod records;
pub mod training;
mod units;

pub use histogram::histogram;
pub use units::{length, si};
