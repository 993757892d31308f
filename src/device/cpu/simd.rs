//! Choice of vector instructions at run time.

/// Runs `work`, compiled for the widest vector instructions of this machine. Closures and functions that it calls must
/// be `inline(always)`: otherwise they are compiled for the least machine.
pub(super) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
