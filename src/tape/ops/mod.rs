//! Recording functions: one method of [`Tape`](super::Tape) an op, one file a family of ops. The family's file has the
//! same name in `src/device/cpu/`, `src/device/cuda/lower/`, `kernels/` and `tests/ops/`.
//!
//! A method checks the operands' shapes, records the op and returns its result. A wrong shape is a mistake of the
//! program, so it panics; the message names the op and the shapes. Gradients are recorded by `grad.rs`, fused ops by
//! `fuse.rs`.

mod attack;
pub(super) mod batch_norm;
mod conv;
mod elementwise;
mod formula;
mod half;
mod hyperplane;
mod image;
mod linear;
mod loss;
mod optimizer;
mod pool;
mod rows;
