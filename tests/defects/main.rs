//! Tests of the fake driver. Mistakes are planted in kernels, in launches and in captures. The mode that is meant for a
//! mistake must find it, and the mended twin must pass in every mode.

mod capture;
mod gpu;
mod injected;
mod planted;
mod threads;

#[path = "../support/fake.rs"]
mod fake;
