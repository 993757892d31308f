//! What a person reads, made out of records and plain numbers, never from a device.

pub mod histogram;
mod units;

pub use histogram::histogram;
pub use units::{length, si};
