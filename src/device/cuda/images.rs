//! The compiled kernels in the binary, which `build.rs` makes from `kernels/`.

/// Device code of one kernel file.
pub(super) struct KernelImage {
    /// Name of the source file.
    pub file: &'static str,
    /// Fatbin.
    pub bytes: &'static [u8],
}

/// Declaration and resources of a kernel, an `extern "C" __global__` function.
pub struct KernelInfo {
    /// Name.
    pub name: &'static str,
    /// Position of its file in [`IMAGES`].
    pub(super) image: usize,
    /// Type of each argument: `pointer`, `int`, `unsigned`, `float`, or a struct's name.
    pub params: &'static [&'static str],
    /// Resources on each architecture; empty in a binary that was built without nvcc.
    pub usage: &'static [KernelUsage],
}

impl KernelInfo {
    /// Name of its source file.
    #[must_use]
    pub fn file(&self) -> &'static str {
        IMAGES[self.image].file
    }
}

/// Resources of a kernel on an architecture, as ptxas reports them. A register that spills is a build error.
pub struct KernelUsage {
    /// Architecture, such as `sm_90a`.
    pub arch: &'static str,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of shared memory a block, without dynamic shared memory.
    pub shared: u32,
    /// Bytes of local memory a thread: its stack frame. More than `STACK_FRAMES` in build.rs allows is a build error.
    pub stack: u32,
}

/// Bytes with the alignment of a fatbin, which the driver reads as words of 8 bytes.
#[allow(dead_code)] // unused in a binary that was built without nvcc
#[repr(C, align(16))]
struct Aligned<const N: usize>([u8; N]);

/// Placeholder for a fatbin in a binary that was built without nvcc. Every driver refuses it.
#[allow(dead_code)] // used in such a binary alone
const NO_IMAGE: &[u8] = b"built without nvcc\0";

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The kernel called `name`.
///
/// # Panics
/// No file declares such a kernel.
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

    /// The type of a parameter in constant memory has no qualifiers.
    #[test]
    fn a_parameter_s_qualifiers_are_not_its_type() {
        let params = ["pointer", "FormulaInputs", "FormulaCode", "pointer", "int", "int"];
        assert_eq!(kernel("map").params, params);
    }
}
