//! Machine code of the tensor-core kernels, where `cuobjdump` is installed: products are HMMA instructions, operands
//! come from shared memory by LDSM, and no floating-point sum is left to FFMA in the inner loop.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `cuobjdump` beside nvcc, or on the PATH.
fn cuobjdump() -> Option<PathBuf> {
    let nvcc = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/.nvcc")).ok();
    let beside = nvcc.map(|path| Path::new(path.trim()).with_file_name("cuobjdump"));
    let on_path =
        std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join("cuobjdump")).collect::<Vec<_>>();
    beside.into_iter().chain(on_path).find(|path| path.is_file())
}

/// Names of the instructions of a kernel's SASS, in their order.
fn instructions(program: &Path, file: &str, kernel: &str) -> Vec<String> {
    let fatbin = Path::new(env!("OUT_DIR")).join(file);
    let output =
        Command::new(program).args(["-sass", "-arch", "sm_90a", "-fun", kernel]).arg(&fatbin).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_line = |line: &str| {
        let code = line.trim().strip_prefix("/*")?.split_once("*/")?.1.split(';').next()?;
        let name = code.split_whitespace().find(|word| !word.starts_with('@'))?;
        Some(name.split('.').next()?.to_owned())
    };
    let found: Vec<String> = text.lines().filter_map(of_line).collect();
    assert!(!found.is_empty(), "{kernel}: {} shows nothing of {}", program.display(), fatbin.display());
    found
}

#[test]
fn products_of_halves_are_tensor_core_instructions() {
    let Some(program) = cuobjdump() else {
        eprintln!("skipped: cuobjdump is neither beside nvcc nor on the PATH");
        return;
    };
    // HMMA of a step in each loop of products: a warp tile's fragments of 16 x 8, times the terms of a step over 16.
    for (file, kernel, of_loop, loops) in [
        ("conv.fatbin", "conv2d_half_halo32", 4 * 8 * 4, 2),
        ("conv.fatbin", "conv2d_half_halo16", 4 * 8 * 4, 2),
        ("conv.fatbin", "conv2d_half_halo8", 4 * 8 * 4, 2),
        ("conv.fatbin", "conv2d_half_tall", 4 * 4 * 2, 2),
        ("conv.fatbin", "conv2d_half_small", 2 * 4 * 2, 2),
        ("conv.fatbin", "conv2d_backward_weight_half_wide", 4 * 4 * 2, 1),
        ("conv_pool.fatbin", "conv_pool_backward_weight_half_wide", 4 * 4 * 2, 1),
        ("conv_pool.fatbin", "two_conv_pools_half", 2 * 4 * 2, 1),
        ("first_layer.fatbin", "pgd_step_fused_two_pooled_splits", 2 * 4 * 2, 1),
        ("linear.fatbin", "linear_backward_weight_half_wide", 4 * 4 * 2, 1),
        ("linear.fatbin", "linear_half_small", 2 * 4 * 2, 1),
        ("linear.fatbin", "linear_half_tall", 4 * 4 * 2, 1),
        ("linear.fatbin", "linear_half_narrow", 2 * 4 * 2, 1),
        ("conv.fatbin", "conv2d_backward_input_half_narrow", 2 * 4 * 2, 2),
    ] {
        let all = instructions(&program, file, kernel);
        let count = |name: &str| all.iter().filter(|other| *other == name).count();
        // The compiler may unroll a loop.
        let products = count("HMMA");
        assert!(products >= of_loop * loops && products.is_multiple_of(of_loop), "{kernel}: {products} HMMA");
        assert!(count("LDSM") * 2 <= products, "{kernel}: {} LDSM for {products} HMMA", count("LDSM"));
        assert_eq!(count("LDL") + count("STL"), 0, "{kernel} keeps numbers in local memory");
    }
}
