//! Flags of the device, its threads and the output, and the device that they mean.

use std::fmt;

use clap::Args;

use super::output::print_message;
use super::values;
use crate::config::ranges::THREADS;
use crate::device::Device;
use crate::device::cpu::Cpu;
use crate::device::cuda::{self, Cuda};
use crate::{Error, Result};

/// Value of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceChoice {
    /// The first GPU that works, or else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

/// Reads `auto`, `cpu`, `cuda` or `cuda:N`, in any case.
pub(super) fn device_choice(text: &str) -> std::result::Result<DeviceChoice, String> {
    let text = text.to_ascii_lowercase();
    let number = |text: &str| text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    match &text[..] {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        other => number(other)
            .map(DeviceChoice::Cuda)
            .ok_or_else(|| "expected auto, cpu, cuda or cuda:N, such as cuda:1".into()),
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Device, its threads, and how much is printed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Run")]
pub(super) struct DeviceFlags {
    /// Device: cpu, cuda (the first GPU), cuda:N, or auto: the first GPU that works, or else the CPU. `maxmargin
    /// devices` lists them
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device_choice)]
    pub device: DeviceChoice,
    /// Debug a failing kernel: wait after every launch, so that the error names the kernel, and give every buffer an
    /// allocation of its own, so that compute-sanitizer sees each access out of bounds. Slow
    #[arg(long, hide_short_help = true)]
    pub sync: bool,
    /// Number of CPU threads; results do not depend on it [default: one for each core]
    #[arg(long, value_name = "N", value_parser = values::within(&THREADS))]
    pub threads: Option<usize>,
    /// Print the result only
    #[arg(long)]
    pub quiet: bool,
}

impl DeviceFlags {
    /// The flags that differ from their defaults, as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let device = (self.device != DeviceChoice::Auto).then(|| format!("--device={}", self.device));
        let threads = self.threads.map(|threads| format!("--threads={threads}"));
        let switches = [(self.sync, "--sync"), (self.quiet, "--quiet")];
        let switches = switches.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned());
        device.into_iter().chain(threads).chain(switches).collect()
    }

    /// Opens the device and starts its threads. If `auto` finds a GPU that cannot be used, a line says why.
    ///
    /// # Errors
    /// The device does not exist or cannot be used; or `--sync` was given without a GPU.
    pub fn open(&self) -> Result<Box<dyn Device>> {
        start_threads(self.threads)?;
        match self.device {
            DeviceChoice::Cuda(ordinal) => Ok(Box::new(Cuda::open(ordinal, self.sync)?)),
            DeviceChoice::Cpu => self.cpu("--device cpu"),
            DeviceChoice::Auto if !cuda::driver_is_here() => self.cpu("--device auto, which finds no NVIDIA driver"),
            DeviceChoice::Auto => match Cuda::open_first(self.sync) {
                Ok(gpu) => Ok(Box::new(gpu)),
                Err(reason) if self.sync => Err(reason),
                Err(reason) => {
                    if !self.quiet {
                        print_message(&format!("--device auto takes the CPU: {reason}"));
                    }
                    Ok(Box::new(Cpu::new()))
                }
            },
        }
    }

    /// The CPU, which `asked` asks for.
    fn cpu(&self, asked: &str) -> Result<Box<dyn Device>> {
        if self.sync {
            return Err(Error::usage(format!("--sync: expected a GPU to wait for; found {asked}")));
        }
        Ok(Box::new(Cpu::new()))
    }
}

/// Starts the CPU's thread pool; `None`: one thread for each core.
pub(super) fn start_threads(threads: Option<usize>) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build_global().map_err(|e| Error::usage(format!("--threads: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_auto_cpu_or_a_gpu_by_its_number() {
        for (text, expected) in [
            ("auto", DeviceChoice::Auto),
            ("CPU", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("CUDA:12", DeviceChoice::Cuda(12)),
        ] {
            assert_eq!(device_choice(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_text_is_refused_with_the_forms_that_are_read() {
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda 1", "cuda:99999999999999999999"] {
            assert!(device_choice(text).unwrap_err().contains("auto, cpu, cuda or cuda:N"), "{text}");
        }
    }
}
