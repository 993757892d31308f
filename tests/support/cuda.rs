//! The CUDA device in tests. Usually on the fake driver (tests/fake_driver), on any machine; with
//! `MAXMARGIN_REQUIRE=gpu` on the real driver and its first GPU. A process has one driver or the other.

use std::sync::LazyLock;

use maxmargin::device::cuda::{Cuda, NVCC};

use super::Make;
use super::fake::{self, Fake, required, rung};

static READY: LazyLock<bool> = LazyLock::new(|| {
    let compiled = NVCC.ok_or("no nvcc compiled the kernels (scripts/setup-nvcc installs one)".to_string());
    rung("compile", compiled);
    if required("gpu") {
        // One device stays open: the driver tears a GPU down when the last is closed, which takes long.
        std::mem::forget(Cuda::open(0, false).expect("a GPU is required"));
        return true;
    }
    rung("gpu", Err::<(), _>("MAXMARGIN_REQUIRE=gpu runs the suites on a GPU".to_string()));
    rung("fake", fake::load()).is_some()
});

/// The CUDA device in both of its forms: every operand apart, and each launch waited for; one arena. In a process that
/// is there to watch kernels ([`fake::again`]) the first alone.
pub fn devices() -> Vec<Make> {
    let forms: [Make; 2] = [|| Box::new(open(true)), || Box::new(open(false))];
    match (*READY, fake::is_again()) {
        (false, _) => Vec::new(),
        (true, true) => forms[..1].to_vec(),
        (true, false) => forms.to_vec(),
    }
}

/// Whether there is a CUDA device to test.
pub fn ready() -> bool {
    *READY
}

/// The fake driver, where the device is on it.
pub fn fake_driver() -> Option<&'static Fake> {
    if ready() && !required("gpu") { fake::load().ok() } else { None }
}

pub fn open(sync: bool) -> Cuda {
    Cuda::open(0, sync).expect("a GPU that opened before")
}
