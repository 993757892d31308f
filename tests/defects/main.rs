//! The fake driver's own tests. A detector that nobody has seen detect is not trusted: mistakes are planted in kernels,
//! in launches and in captures, and each must be found by the mode that should find it, while the mended twin passes in
//! every mode.

mod gpu;
mod planted;

#[path = "../support/fake.rs"]
mod fake;
