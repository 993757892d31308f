//! The compiled kernels that are built into the binary: what `build.rs` made of `kernels/`.

/// The device code of one kernel file.
pub(super) struct KernelImage {
    /// The source's name.
    pub file: &'static str,
    /// A fatbin.
    pub bytes: &'static [u8],
}

/// A kernel: an `extern "C" __global__` function of a file.
pub struct KernelInfo {
    /// Its name.
    pub name: &'static str,
    /// Which of the images has it.
    pub(super) image: usize,
    /// The type of each argument: `pointer`, `int`, `unsigned`, `float`, or a struct's name.
    pub params: &'static [&'static str],
    /// What it uses on each architecture; empty where the binary was built without nvcc.
    pub usage: &'static [KernelUsage],
}

impl KernelInfo {
    /// The name of its source.
    #[must_use]
    pub fn file(&self) -> &'static str {
        IMAGES[self.image].file
    }
}

/// What a kernel uses on an architecture, as ptxas reports it. Registers never spill: that is a build error.
pub struct KernelUsage {
    /// Such as `sm_90a`.
    pub arch: &'static str,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of shared memory a block, without what a launch adds.
    pub shared: u32,
    /// Bytes of local memory a thread: its stack frame. More than `STACK_FRAMES` in build.rs allows is a build error.
    pub stack: u32,
}

/// Fatbins are read as 8-byte words.
#[allow(dead_code)] // unused in a binary that was built without nvcc
#[repr(C, align(16))]
struct Aligned<const N: usize>([u8; N]);

/// What stands in for an image in a binary that was built without nvcc. No driver takes it.
#[allow(dead_code)] // used in such a binary alone
const NO_IMAGE: &[u8] = b"built without nvcc\0";

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The kernel called `name`.
///
/// # Panics
/// There is none: a launch names a kernel that no file declares.
pub(super) fn kernel(name: &str) -> &'static KernelInfo {
    KERNELS.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel is called {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_its_own_name_and_known_arguments() {
        for (at, KernelInfo { name, params, .. }) in KERNELS.iter().enumerate() {
            assert!(KERNELS[..at].iter().all(|other| other.name != *name), "{name} is declared twice");
            assert!(!params.is_empty(), "{name} has no arguments");
        }
        assert_eq!(kernel("fill").params, ["pointer", "float", "pointer", "int", "int"]);
    }

    #[test]
    fn every_kernel_is_compiled_for_every_architecture() {
        let Some(_) = NVCC else { return };
        for KernelInfo { name, usage, .. } in KERNELS {
            let archs: Vec<_> = usage.iter().map(|usage| usage.arch).collect();
            assert_eq!(archs, ["sm_80", "sm_90a"], "{name}");
        }
    }

    #[test]
    fn only_kernels_that_call_cosf_have_a_stack_frame() {
        for (kernel, usage) in KERNELS.iter().flat_map(|kernel| kernel.usage.iter().map(move |usage| (kernel, usage))) {
            let allowed = if kernel.file() == "formula.cu" { 32 } else { 0 };
            assert!(usage.registers > 0, "{} on {}", kernel.name, usage.arch);
            assert!(usage.stack <= allowed, "{} on {}: {} bytes", kernel.name, usage.arch, usage.stack);
        }
    }

    /// Parameters in constant memory are named by their type alone, as all others.
    #[test]
    fn a_parameter_s_qualifiers_are_not_its_type() {
        let params = ["pointer", "FormulaInputs", "FormulaCode", "pointer", "int", "int"];
        assert_eq!(kernel("map").params, params);
    }
}
