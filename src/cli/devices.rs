//! `maxmargin devices`: lists the CPU, the GPUs and the kernels of the program, with reasons if a GPU cannot be used.

use clap::Args;

use super::device_flags::start_threads;
use super::output::{Outcome, print};
use crate::Result;
use crate::device::cuda::{self, Cuda, Gpu, KERNELS, KernelInfo, NVCC, TARGETS};

/// List the CPU, the GPUs, and the kernels built into this program
///
/// Every GPU is opened; if one cannot be used, the reason and a remedy are printed.
#[derive(Args, Debug)]
pub(super) struct DevicesArgs {
    /// Also list every kernel: registers and stack bytes per thread, shared memory bytes per block
    #[arg(long)]
    kernels: bool,
}

pub(super) fn run(args: &DevicesArgs) -> Result<Outcome> {
    start_threads(None)?;
    let mut text = format!("cpu      {} threads, matrix products by faer\n", rayon::current_num_threads());
    match cuda::find() {
        Err(reason) => text += &format!("cuda     cannot be used. {reason}\n"),
        Ok(found) => {
            text += &format!("driver   for CUDA {}\n", found.driver_version());
            found.gpus.iter().for_each(|gpu| text += &describe(gpu));
        }
    }
    text += &images();
    if args.kernels {
        text += "\n";
        text += &kernels();
    }
    print(&text)?;
    Ok(Outcome::Done)
}

/// Line of a GPU, and the reason if it cannot be used.
fn describe(gpu: &Gpu) -> String {
    let Gpu { ordinal, name, capability: (major, minor), memory, multiprocessors, .. } = gpu;
    let mut text = format!(
        "{:8} {name}, compute capability {major}.{minor}, {:.1} GB, {multiprocessors} multiprocessors\n",
        format!("cuda:{ordinal}"),
        *memory as f64 / 1e9
    );
    if let Err(reason) = Cuda::open(*ordinal, false) {
        text += &format!("         cannot be used. {reason}\n");
    }
    text
}

/// Kernels built into this program: their number, compiler, targets and files.
fn images() -> String {
    let mut files: Vec<&str> = KERNELS.iter().map(KernelInfo::file).collect();
    files.dedup();
    let built = match NVCC {
        Some(nvcc) => format!("compiled by nvcc {nvcc} for {}", TARGETS.join(", ")),
        None => "not compiled: this program was built without nvcc; `scripts/setup-nvcc` installs it, then build again"
            .into(),
    };
    format!("kernels  {}, {built}\n         files {}\n", KERNELS.len(), files.join(", "))
}

/// Table of the kernels: a line for each, three columns for each architecture.
fn kernels() -> String {
    let name_width = KERNELS.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0);
    let file_width = KERNELS.iter().map(|kernel| kernel.file().len()).max().unwrap_or(0);
    let name_width = name_width.max("kernel".len());
    let mut text = format!("{:name_width$}  {:file_width$}", "kernel", "file");
    let archs = TARGETS.iter().filter(|target| KERNELS.iter().any(|k| k.usage.iter().any(|u| u.arch == **target)));
    for arch in archs.clone() {
        text += &format!("  {:>16}  {:>11}  {:>13}", format!("{arch} registers"), "stack bytes", "shared bytes");
    }
    for kernel in KERNELS {
        text += &format!("\n{:name_width$}  {:file_width$}", kernel.name, kernel.file());
        for arch in archs.clone() {
            if let Some(usage) = kernel.usage.iter().find(|usage| usage.arch == *arch) {
                text += &format!("  {:>16}  {:>11}  {:>13}", usage.registers, usage.stack, usage.shared);
            }
        }
    }
    text + "\n"
}
