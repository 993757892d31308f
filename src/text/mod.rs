//! Text for the terminal out of plain numbers: short numbers, lengths, histograms.
//!
//! - [`si`]: a number with three digits and a prefix.
//! - [`length`]: a radius or distance, as a fraction of 255 where it is one.
//! - [`histogram`](mod@histogram): margins by bins.

pub mod histogram;
mod units;

pub use histogram::histogram;
pub use units::{length, si};
