//! Output for a user of a GPU, on the fake driver: the device that is chosen, the list of devices, errors.

use std::fs;
use std::path::Path;
use std::process::Command;

use maxmargin::record::read_metrics;
use serde_json::Value;

use crate::fake::{library, rung};
use crate::{PROGRAM, ProgramOutput, said};

/// Flags of a run that takes a moment.
const TINY: &str = "--width 0.125 --nb-iter 1 --train-size 60 --val-size 2 --test-size 2 --training-batch-size 10 \
                    --steps 4 --disp-interval 2 --checkpoint-interval 2";

/// Runs the program on the fake driver with its `options`; `None` if no fake driver can be built.
fn on_fake_gpu(folder: &Path, options: &str, line: &str) -> Option<ProgramOutput> {
    let library = rung("fake", library())?;
    let mut command = Command::new(PROGRAM);
    command.args(line.split_whitespace()).current_dir(folder);
    command.env("LD_LIBRARY_PATH", library).env("FAKE_CUDA", options);
    Some(said(command.output().expect("the program starts")))
}

/// Runs the program as [`on_fake_gpu`] and expects exit code 0.
fn done(folder: &Path, options: &str, line: &str) -> Option<ProgramOutput> {
    let said = on_fake_gpu(folder, options, line)?;
    assert_eq!(said.code, Some(0), "{options} {line}: {said:?}");
    Some(said)
}

/// Runs the program as [`on_fake_gpu`] and expects an error with all of `parts`.
fn refused(folder: &Path, options: &str, line: &str, parts: &[&str]) {
    let Some(said) = on_fake_gpu(folder, options, line) else { return };
    assert_eq!(said.code, Some(2), "{options} {line}: {said:?}");
    for part in parts {
        assert!(said.err.contains(part), "{options} {line}: no {part:?} in {}", said.err);
    }
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

/// Checkpoint and metrics of the run in `path`, without times.
fn checkpoint_and_metrics(path: &Path) -> (Vec<u8>, Vec<Value>) {
    let mut lines = read_metrics(&path.join("metrics.jsonl")).expect("metrics");
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().and_then(|line| line.remove("clock"))));
    (fs::read(path.join("last.safetensors")).expect("a checkpoint"), lines)
}

#[test]
fn devices_lists_the_driver_and_each_gpu() {
    let Some(said) = done(Path::new("."), "devices=2;memory=8000000000", "devices") else { return };
    assert!(said.out.contains("\ndriver   for CUDA 13.0\n"), "{}", said.out);
    for gpu in ["\ncuda:0   ", "\ncuda:1   "] {
        assert!(said.out.contains(gpu), "{}", said.out);
    }
    assert!(said.out.contains(", compute capability 9.0, 8.0 GB, 132 multiprocessors\n"), "{}", said.out);
    assert!(!said.out.contains("cannot be used"), "{}", said.out);
}

/// Options of the fake driver that make a GPU unusable, with parts of the message.
const UNUSABLE: [(&str, &[&str]); 3] = [
    ("devices=0", &["the NVIDIA driver finds no GPU", "CUDA_VISIBLE_DEVICES", "--device cpu"]),
    ("driver=12020", &["the driver supports CUDA 12.2, the kernels need ", "580 or newer", "--device cpu"]),
    ("capability=7.5", &["compute capability 7.5; the kernels need 8.0 or newer", "--device cpu"]),
];

/// [`UNUSABLE`], without the old driver if the kernels were built without nvcc: their driver is not known then.
fn unusable() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    let compiled = maxmargin::device::cuda::NVCC.is_some();
    UNUSABLE.into_iter().filter(move |(options, _)| compiled || !options.starts_with("driver="))
}

#[test]
fn a_gpu_that_cannot_be_used_is_listed_with_the_reason_and_refused_by_device_cuda() {
    let folder = temporary();
    for (options, parts) in unusable() {
        let Some(said) = done(folder.path(), options, "devices") else { return };
        for part in ["cannot be used. CUDA: "].iter().chain(parts) {
            assert!(said.out.contains(part), "{options}: no {part:?} in {}", said.out);
        }
        refused(folder.path(), options, &format!("train {TINY} --quiet --device cuda"), parts);
    }
    refused(folder.path(), "", &format!("train {TINY} --quiet --device cuda:1"), &["there is one GPU, cuda:0"]);
    refused(
        folder.path(),
        "devices=3",
        &format!("train {TINY} --quiet --device cuda:3"),
        &["3 GPUs, cuda:0 to cuda:2"],
    );
    assert_eq!(entries(folder.path()), 0, "no run was begun");
}

/// GPUs of compute capability 8.6, 8.9 and 12.0 give a block 99 KB.
#[test]
fn a_kernel_with_more_shared_memory_than_the_gpu_gives_a_block_is_refused_before_anything_runs() {
    let folder = temporary();
    let line = "train --quiet --device cuda --width 1 --train-size 60 --val-size 2 --test-size 2 --precision";
    let parts = ["117 KB of shared memory a block", "gives a block 99 KB", "--precision fp32 runs on the GPU"];
    refused(folder.path(), "shared=101376", &format!("{line} fp16"), &parts);
}

#[test]
fn auto_takes_the_gpu_and_says_so() {
    let folder = temporary();
    let Some(said) = done(folder.path(), "", &format!("train {TINY}")) else { return };
    let first = said.err.lines().next().expect("a line");
    assert!(first.contains("; GPU 0, fake NVIDIA H100; "), "{first}");
}

#[test]
fn auto_takes_the_cpu_if_the_gpu_cannot_be_used_and_says_why_in_a_line() {
    let folder = temporary();
    for (i, (options, parts)) in unusable().enumerate() {
        let Some(said) = done(folder.path(), options, &format!("train {TINY} --savepath {i}")) else { return };
        let mut lines = said.err.lines();
        let first = lines.next().expect("a line");
        assert!(first.starts_with("--device auto takes the CPU: CUDA: "), "{first}");
        assert!(parts.iter().all(|part| first.contains(part)), "{first}");
        assert!(lines.next().expect("a line").contains("; CPU, "), "{}", said.err);
    }
    let said =
        done(folder.path(), "devices=0", &format!("train {TINY} --savepath quiet --quiet")).expect("it was there");
    assert_eq!(said.err, "");
    refused(folder.path(), "devices=0", &format!("train {TINY} --savepath sync --quiet --sync"), &["finds no GPU"]);
}

#[test]
fn sync_changes_no_bit() {
    let folder = temporary();
    let line = |name: &str| format!("train {TINY} --quiet --savepath {name}");
    let Some(_) = done(folder.path(), "", &line("graph")) else { return };
    done(folder.path(), "", &format!("{} --sync", line("sync")));
    assert!(
        checkpoint_and_metrics(&folder.path().join("graph")) == checkpoint_and_metrics(&folder.path().join("sync"))
    );
}

#[test]
fn a_run_may_be_resumed_on_another_device() {
    let folder = temporary();
    let Some(_) = done(folder.path(), "", &format!("train {TINY} --quiet --savepath run --device cpu")) else { return };
    for (device, steps) in [("cuda:0 --sync", 5), ("cpu", 6), ("auto", 7)] {
        let said = done(folder.path(), "", &format!("train --resume run --steps {steps} --quiet --device {device}"));
        assert_eq!(said.expect("it was there").err, "");
    }
    let (_, lines) = checkpoint_and_metrics(&folder.path().join("run"));
    let steps: Vec<_> = lines.iter().filter(|line| line["kind"] == "step").map(|line| line["step"].clone()).collect();
    assert_eq!(steps, [2, 4, 5, 6, 7]);
}

#[test]
fn the_error_of_a_failed_launch_names_the_checkpoint_to_resume_from() {
    let folder = temporary();
    let log = folder.path().join("log");
    let line = |name: &str| format!("train {TINY} --quiet --savepath {name}");
    let logging = format!("log={}", log.display());
    let Some(_) = done(folder.path(), &logging, &format!("{} --sync", line("whole"))) else { return };
    // The launch that ends the third step; a checkpoint is written after two steps.
    let log = fs::read_to_string(log).expect("a log");
    let launches = log.lines().filter(|line| line.starts_with("cuLaunchKernel ")).enumerate();
    let mut optimizer = launches.filter(|(_, line)| line.contains(" adam"));
    let options = format!("fail_launch={}", optimizer.nth(2).expect("three steps").0 + 1);
    for (name, sync, expected) in [
        ("replayed", "", "work on the GPU failed: CUDA_ERROR_LAUNCH_FAILED"),
        ("waited", " --sync", "kernel adam_x4 failed in program update, on "),
    ] {
        let way_on =
            format!("\nthe checkpoint of step 2 is whole; `maxmargin train --resume {name}` goes on from it\n");
        refused(folder.path(), &options, &format!("{}{sync}", line(name)), &["error: CUDA: ", expected, &way_on]);
    }
}

/// Calls of the driver between two graph launches, without those that choose a context.
fn calls_between_graph_launches(log: &str) -> Vec<Vec<&str>> {
    let calls = log.lines().map(|line| line.split(' ').next().unwrap_or_default());
    let calls: Vec<&str> = calls.filter(|call| *call != "cuCtxSetCurrent").collect();
    calls.split(|call| *call == "cuGraphLaunch").map(<[_]>::to_vec).collect()
}

#[test]
fn a_step_is_two_small_copies_and_one_graph_and_does_not_wait_for_metrics() {
    let folder = temporary();
    let log = folder.path().join("log");
    let options = format!("log={}", log.display());
    let rare = TINY.replace("--steps 4", "--steps 6").replace("--checkpoint-interval 2", "--checkpoint-interval 100");
    let Some(_) = done(folder.path(), &options, &format!("train {rare} --device cuda --quiet")) else { return };
    let log = fs::read_to_string(log).expect("a log");
    let between = calls_between_graph_launches(&log);
    let input = ["cuMemcpyHtoDAsync"; 2];
    // Before the first step and after the last one the graphs of validation run.
    let steps = between.iter().filter(|calls| ***calls == input).count();
    assert_eq!(steps, 3, "steps 2, 4 and 6 follow steps without a line of metrics: {between:?}");
    let lines: Vec<_> = between.iter().filter(|calls| calls.contains(&"cuEventQuery")).collect();
    assert_eq!(lines.len(), 2, "after steps 2 and 4: {between:?}");
    for calls in lines {
        let waits = ["cuStreamSynchronize", "cuMemcpyDtoH", "cuMemcpyHtoD", "cuMemAlloc", "cuLaunchKernel"];
        assert!(waits.iter().all(|wait| !calls.contains(wait)), "{calls:?}");
        assert!(calls.contains(&"cuMemcpyDtoHAsync"), "{calls:?}");
    }
}

#[test]
fn bench_runs_on_a_gpu_by_its_own_clock_and_its_sums_agree() {
    let folder = temporary();
    let line = format!("bench --device cuda {} --quiet --json figures.json", crate::bench::SMALL);
    let Some(said) = done(folder.path(), "", &line) else { return };
    assert!(said.out.starts_with("GPU 0, fake NVIDIA H100; LeNet5, "), "{}", said.out);
    crate::bench::assert_complete(&folder.path().join("figures.json"));
}
