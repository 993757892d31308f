//! Numbers as text for the terminal: short numbers, lengths, histograms.
//!
//! - [`si`]: a number with three digits and a prefix.
//! - [`counted`]: a number with its noun, in the singular or plural.
//! - [`seconds`]: a time with its unit.
//! - [`length`]: a radius or distance, as a multiple of 1/255 if it is one.
//! - [`histogram`](mod@histogram): margins by bins.

pub mod histogram;
mod units;

pub use histogram::histogram;
pub use units::{counted, length, seconds, si};
