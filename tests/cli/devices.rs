//! `maxmargin devices`, and the messages of `--device` and `--sync` on a machine without a GPU.

use std::path::Path;

use crate::{done_in, maxmargin, maxmargin_in, refused};

/// True if this machine has an NVIDIA driver: the messages about its absence cannot be tested then.
fn has_driver() -> bool {
    maxmargin_devices().contains("\ndriver ") || !maxmargin_devices().contains("libcuda.so.1 was not found")
}

fn maxmargin_devices() -> String {
    done_in(Path::new("."), "devices").out
}

/// Flags of a run that takes a moment.
const TINY: &str = "--width 0.125 --nb-iter 1 --train-size 50 --val-size 20 --test-size 20 --steps 1";

#[test]
fn devices_lists_the_cpu_and_the_kernels_of_the_program() {
    let said = maxmargin_devices();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("cpu ") && lines[0].ends_with(" threads, matrix products by faer"), "{said}");
    assert!(said.contains("\nkernels  ") && said.contains("elementwise.cu"), "{said}");
    assert!(said.contains("compiled by nvcc ") || said.contains("built without nvcc; `scripts/setup-nvcc`"), "{said}");
}

#[test]
fn devices_without_a_driver_says_so_and_succeeds() {
    if has_driver() {
        return println!("skipped: there is an NVIDIA driver");
    }
    let said = maxmargin_devices();
    assert!(said.contains("\ncuda     cannot be used. CUDA: there is no NVIDIA driver here"), "{said}");
}

#[test]
fn devices_can_list_every_kernel_with_its_file() {
    let said = done_in(Path::new("."), "devices --kernels").out;
    let fill = said.lines().find(|line| line.starts_with("fill ")).unwrap_or_else(|| panic!("fill in {said}"));
    let words: Vec<&str> = fill.split_whitespace().collect();
    assert_eq!(words[1], "elementwise.cu");
    if said.contains("compiled by nvcc") {
        assert_eq!(words.len(), 8, "registers, stack and shared memory on two architectures: {fill}");
        assert!(words[2..].iter().all(|number| number.parse::<u32>().is_ok()), "{fill}");
        assert!(words[2] != "0" && words[5] != "0", "every kernel needs registers: {fill}");
        assert_eq!((words[3], words[6]), ("0", "0"), "stack: {fill}");
    }
}

#[test]
fn an_unknown_device_is_refused_with_the_forms_that_are_read() {
    for device in ["gpu", "cuda:", "cuda:x", "1"] {
        let quoted = format!("'{device}'");
        refused(&format!("train --device {device}"), &[&quoted, "--device", "expected auto, cpu, cuda or cuda:N"]);
    }
}

#[test]
fn a_gpu_without_a_driver_is_an_error_that_names_the_driver() {
    if has_driver() {
        return println!("skipped: there is an NVIDIA driver");
    }
    let folder = tempfile::tempdir().expect("a folder");
    for device in ["cuda", "CUDA:1"] {
        let said = maxmargin_in(folder.path(), &format!("train {TINY} --device {device}"));
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.starts_with("error: CUDA: there is no NVIDIA driver here"), "{}", said.err);
        assert!(said.err.contains("--device cpu"), "{}", said.err);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "no run was begun");
}

#[test]
fn auto_without_a_driver_takes_the_cpu_and_says_so() {
    if has_driver() {
        return println!("skipped: there is an NVIDIA driver");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let said = done_in(folder.path(), &format!("train {TINY} --threads 2"));
    let first = said.err.lines().next().expect("a line");
    assert!(first.contains("; CPU, 2 threads; "), "{first}");
    let said = done_in(folder.path(), "evaluate runs/quick-0 --nb-iter 1 --nb-restart 1 --test-size 5 --threads 2");
    let first = said.err.lines().next().expect("a line");
    assert!(first.contains("; CPU, 2 threads; "), "{first}");
}

#[test]
fn sync_needs_a_gpu() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("train {TINY} --sync --device cpu");
    let said = maxmargin_in(folder.path(), &line);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("--sync: expected a GPU to wait for; found --device cpu"), "{}", said.err);
    if !has_driver() {
        let said = maxmargin_in(folder.path(), &format!("train {TINY} --sync"));
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("found --device auto, which finds no NVIDIA driver"), "{}", said.err);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "no run was begun");
}

#[test]
fn help_lists_the_forms_of_a_device() {
    let help = maxmargin("train --help").out.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["cuda:N", "`maxmargin devices` lists them", "--sync", "compute-sanitizer"] {
        assert!(help.contains(part), "{part} in {help}");
    }
}
