//! What a person reads, made out of records and plain numbers, never from a device.

pub mod histogram;

pub use histogram::histogram;
