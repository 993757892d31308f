//! Training on a GPU: the same program on the fake driver (tests/fake_driver), which fails on request.

use std::fs;
use std::path::Path;
use std::process::Command;

use maxmargin::record::run::LAST;

use crate::support::fake::{self, rung, runs_long_tests};
use crate::{assert_same, begin, done, go_on, metrics, run, temporary, tensors};

/// Fewer steps than on the CPU, because the fake driver simulates every thread of the GPU.
const FEW: &str = "--max-num-training-steps 6 --train-size 100 --val-size 10 --test-size 10 \
                   --training-batch-size 20 --checkpoint-interval 2 --disp-interval 2";

/// Folder of the fake driver; `None`, after printing the reason, if it cannot be built.
fn driver() -> Option<std::path::PathBuf> {
    rung("fake", fake::library())
}

/// Makes `command` run on the fake GPU, with the driver's `options`.
fn on<'a>(driver: &Path, command: &'a mut Command, options: &str) -> &'a mut Command {
    command.env("LD_LIBRARY_PATH", driver).env("FAKE_CUDA", options).args(["--device", "cuda"])
}

#[test]
fn a_run_on_the_gpu_stopped_and_resumed_has_the_bits_of_an_uninterrupted_run() {
    let Some(driver) = driver() else { return };
    let folder = temporary();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    // An epoch has five steps, and a line is written at its end in any case.
    let few = format!("{FEW} --disp-interval 5");
    done(on(&driver, &mut begin(&whole, &format!("{few} --max-num-training-steps 10")), ""));
    done(on(&driver, &mut begin(&parts, &format!("{few} --max-num-training-steps 5")), ""));
    done(on(&driver, &mut go_on(&parts, "--max-num-training-steps 10"), ""));
    assert_same(&parts, &whole, "resumed at the end of an epoch");
    let correct = |line: &serde_json::Value| line["train_accuracy"].as_f64().is_some_and(|percent| percent > 0.0);
    assert!(metrics(&whole).iter().any(correct), "something was attacked");
}

#[test]
fn other_methods_on_the_gpu_stop_and_resume_like_mma() {
    let Some(driver) = driver().filter(|_| runs_long_tests("other methods on the GPU")) else { return };
    let folder = temporary();
    for method in ["std", "pgdls", "trades"] {
        let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(format!("{method}-{name}")));
        // The ramp of eps has not ended when the run is stopped.
        let few = format!("{FEW} --disp-interval 5 --method {method} --eps-ramp-steps 8");
        done(on(&driver, &mut begin(&whole, &format!("{few} --max-num-training-steps 10")), ""));
        done(on(&driver, &mut begin(&parts, &format!("{few} --max-num-training-steps 5")), ""));
        done(on(&driver, &mut go_on(&parts, "--max-num-training-steps 10"), ""));
        assert_same(&parts, &whole, method);
    }
}

#[test]
fn the_order_of_blocks_and_threads_does_not_change_a_bit() {
    let Some(driver) = driver().filter(|_| runs_long_tests("training in other orders of threads")) else { return };
    let folder = temporary();
    let orders = ["", "blocks=reversed;threads=reversed", "blocks=random:7;threads=random:7;workers=1"];
    let runs = orders.map(|options| {
        let run = folder.path().join(options.len().to_string());
        done(on(&driver, &mut begin(&run, FEW), options));
        run
    });
    assert_same(&runs[1], &runs[0], orders[1]);
    assert_same(&runs[2], &runs[0], orders[2]);
}

#[test]
fn a_launch_that_fails_ends_the_run_and_loses_nothing() {
    let Some(driver) = driver() else { return };
    let folder = temporary();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    done(on(&driver, &mut begin(&whole, FEW), ""));
    let mut steps = Vec::new();
    // Launches fail in training, and in the long test also in each measurement and in validation.
    let launches = if runs_long_tests("failures of other launches") { &[8, 300, 600, 900, 1200][..] } else { &[600] };
    for launch in launches {
        let said = run(on(&driver, &mut begin(&broken, FEW), &format!("fail_launch={launch}")));
        assert_eq!(said.code, Some(2), "{launch}: {said:?}");
        for part in ["error: CUDA: ", "--sync", "is whole", "--resume"] {
            assert!(said.err.contains(part), "no {part} in {}", said.err);
        }
        let file = tensors(&broken, LAST);
        steps.push(file.meta::<u32>("step").unwrap());
        done(on(&driver, &mut go_on(&broken, ""), ""));
        assert_same(&broken, &whole, &format!("failed at launch {launch}"));
        fs::remove_dir_all(&broken).unwrap();
    }
    assert!(steps.iter().any(|&step| step > 0), "one fails after a checkpoint: {steps:?}");
}

#[test]
fn with_sync_a_failed_launch_names_its_kernel() {
    let Some(driver) = driver() else { return };
    let folder = temporary();
    let run_folder = folder.path().join("run");
    let mut command = begin(&run_folder, FEW);
    command.arg("--sync");
    let said = run(on(&driver, &mut command, "fail_launch=100"));
    assert_eq!(said.code, Some(2), "{said:?}");
    // The fake driver names the kernel that it made fail on stderr.
    let kernel = said.err.split("kernel ").nth(1).and_then(|rest| rest.split(':').next()).expect("the driver's line");
    assert!(said.err.contains(&format!("error: CUDA: kernel {kernel} failed in program ")), "{}", said.err);
}

#[test]
fn errors_of_the_driver_name_what_is_missing_and_the_next_step() {
    let Some(driver) = driver() else { return };
    let cases: [(&str, &[&str]); 5] = [
        ("devices=0", &["finds no GPU", "--device cpu"]),
        ("driver=12040", &["supports CUDA 12.4", "13.0", "580"]),
        ("capability=7.5", &["compute capability 7.5", "8.0 or newer"]),
        ("memory=500000", &["out of memory on GPU 0", "are free", "--training-batch-size"]),
        ("fail_alloc=2", &["out of memory on GPU 0", "--width"]),
    ];
    let refused = |folder: &Path, options: &str, parts: &[&str]| {
        let said = run(on(folder, &mut begin(&temporary().path().join("run"), FEW), options));
        assert_eq!(said.code, Some(2), "{options}: {said:?}");
        for part in parts.iter().chain(&["error: "]) {
            assert!(said.err.contains(part), "{options}: no {part} in {}", said.err);
        }
    };
    // Without nvcc no kernels were compiled, and the driver version that they need is unknown.
    let compiled = maxmargin::device::cuda::NVCC.is_some();
    for (options, parts) in cases.into_iter().filter(|(options, _)| compiled || !options.starts_with("driver=")) {
        refused(&driver, options, parts);
    }
    if maxmargin::device::cuda::find().is_err() {
        // A real driver on this machine would be found in place of the fake one.
        refused(temporary().path(), "", &["no NVIDIA driver", "--device cpu"]);
    }
}
