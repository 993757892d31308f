//! `scripts/gpu-check`: it ends in time, its record is complete at every moment, and a program that hangs or crashes
//! does not stop the others. The programs here are stand-ins, short shell scripts; `scripts/gpu-bundle --dry-run`
//! rehearses a visit with the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Largest number of seconds by which a visit may exceed its budget.
const GRACE: u64 = 10;

/// First lines of each stand-in: it notes that it ran. Programs start in the bundle's folder.
const NOTE: &str = "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>RUNS\n";
/// A test suite that passes.
const PASSES: &str = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'";
/// A program that hangs, and has a child that hangs.
const HANGS: &str = "sleep 300 & echo $! >>CHILDREN; wait";
const CRASHES: &str = "echo 'test a ... ok'; kill -SEGV $$";
/// A test suite that fails.
const FAILS: &str =
    r"printf 'test b ... FAILED\n\nfailures:\n    b\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored\n'; exit 101";
/// The op suite with a kernel that crashes: test b and all tests after it fail, and test c alone passes.
const FAILS_TOGETHER: &str = r#"case "$*" in
*'--exact b'*) echo 'CUDA: kernel scale failed'; exit 101 ;;
*--exact*) exit 0 ;;
*) printf '\nfailures:\n    b\n    c\n\ntest result: FAILED. 2 passed; 2 failed; 0 ignored\n'; exit 101 ;;
esac"#;
/// The program: it names a GPU and writes the figures of a benchmark.
const PROGRAM: &str = r#"case "$1" in
devices) echo 'cuda:0   Stand-in GPU, compute capability 9.0' ;;
bench) while [ "$1" != --json ]; do shift; done
       rates='"share_of_step": 0.4, "bytes_per_s": 1e12, "flops_per_s": 2e13'
       kernels="{\"kernels\": [\"product\", \"sum\"], \"time_s\": 0.1, \"predicted_s\": 0.09, $rates}"
       rare='{"kernels": ["fill"], "time_s": 1e-6, "predicted_s": 2e-6, "share_of_step": 4e-6,'
       kernels="[$kernels, $rare \"bytes_per_s\": 0.0, \"flops_per_s\": 0.0}]"
       step='{"median_s": 0.25, "predicted_s": 0.3, "launches": 7}'
       echo "{\"complete\": true, \"items\": [{}], \"kernels\": $kernels, \"step\": $step}" >"$2" ;;
*) exit 2 ;;
esac"#;
/// The CUDA suite with first steps equal to the recorded ones.
const STEPS: &str = r#"for name in a b; do echo "first_step {\"name\": \"$name\", \"apart\": {\"same_weights\": true}}"; done
echo 'test result: ok. 1 passed; 0 failed'"#;
/// The CUDA suite with first steps as a GPU gives them: its `expf` rounds otherwise than that of the recorded steps.
const STEPS_OF_A_GPU: &str = r#"
apart='{"same_logits": true, "same_weights": false, "margin_loss": 9e-8, "weight_changes": 8e-7}'
for name in a b; do echo "first_step {\"name\": \"$name\", \"apart\": $apart}"; done
echo 'test result: ok. 1 passed; 0 failed'"#;
/// The op suite with the recorded bits.
const EQUAL: &str = "echo 'fingerprint equal scale of [2]'; echo 'test result: ok. 3 passed; 0 failed'";
const STEP: &str = r#"echo '{"name": "mma_step", "median_s": 0.25}'"#;
/// ncu of a version that does not know the metrics that are asked for.
const NCU: &str = r#"case "$*" in
*--metrics*) echo '==ERROR== Failed to find metric' ; exit 1 ;;
*) printf '    Registers Per Thread   register/thread      127\n    Block Size                        128\n' ;;
esac"#;
/// A Python with PyTorch.
const PYTHON: &str = r#"case "$1" in
-c) echo 'torch 2.11.0 True' ;;
*ceilings.py) echo '{"copy_bytes_per_s": {"200 MB": 3e12}}' >"$2" ;;
*) echo '{"name": "mma_step", "median_s": 0.125}' ;;
esac"#;

/// A bundle of stand-ins.
struct Bundle(tempfile::TempDir);

impl Bundle {
    /// Bundle in which the named programs have other bodies than the passing ones. `None` without Python; the reason is
    /// printed.
    fn new(programs: &[(&str, &str)]) -> Option<Bundle> {
        if Command::new("python3").arg("--version").output().is_err() {
            eprintln!("gpu_check skipped: there is no python3");
            return None;
        }
        let bundle = Bundle(tempfile::tempdir().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check");
        for folder in ["scripts", "bin"] {
            fs::create_dir(bundle.path(folder)).unwrap();
        }
        fs::copy(script, bundle.path("scripts/gpu-check")).unwrap();
        fs::write(bundle.path("COMMIT"), "0123abcd\n").unwrap();
        fs::write(bundle.path("fingerprints.tsv"), "multiprocessors\t132\n").unwrap();
        let usual = [("maxmargin", PROGRAM), ("cuda", STEPS), ("ops", EQUAL), ("mma_step", STEP), ("python", PYTHON)];
        let suites = ["ptx", "reference", "gradients", "mma", "attacks"].map(|name| (name, PASSES));
        for (name, body) in usual.iter().chain(&suites).chain(programs) {
            bundle.replace(name, body);
        }
        Some(bundle)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn replace(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("{NOTE}{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn visit(&self, budget: u64, more: &[&str]) -> Child {
        let mut command = Command::new("python3");
        command.arg(self.path("scripts/gpu-check")).args(["--budget", &budget.to_string()]);
        command.arg("--python").arg(self.path("bin/python")).arg("--out").arg(self.path("results")).args(more);
        // The visit must not find this machine's own tools.
        command
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Exit code and output of a visit that ends within its budget.
    fn visited(&self, budget: u64, more: &[&str]) -> (Option<i32>, String) {
        let start = Instant::now();
        let output = self.visit(budget, more).wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(start.elapsed() < Duration::from_secs(budget + GRACE), "{:?}: {text}", start.elapsed());
        (output.status.code(), text.into_owned())
    }

    fn record(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("results/gpu-check.json")).unwrap()).unwrap()
    }

    /// Name and state of every item.
    fn states(&self) -> Vec<(String, String)> {
        let record = self.record();
        let items = record["items"].as_object().unwrap().iter();
        items.map(|(name, item)| (name.clone(), item["state"].as_str().unwrap().to_owned())).collect()
    }

    fn state(&self, item: &str) -> String {
        self.states().into_iter().find(|(name, _)| name == item).unwrap_or_else(|| panic!("{item} ran")).1
    }

    /// Commands of the programs that ran since the last call.
    fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("RUNS")).unwrap_or_default();
        let _ = fs::remove_file(self.path("RUNS"));
        text.lines().map(String::from).collect()
    }
}

#[test]
fn the_most_valuable_items_come_first_and_the_table_compares_with_pytorch() {
    let Some(bundle) = Bundle::new(&[]) else { return };
    let (code, text) = bundle.visited(60, &[]);
    assert_eq!(code, Some(0), "{text}");
    let order = [
        "devices",
        "ptx",
        "first step",
        "fingerprints",
        "ceilings",
        "step cifar10-linf fp16",
        "step cifar10-linf",
        "bench cifar10-linf fp16",
        "bench cifar10-linf",
        "pytorch cifar10-linf graph_fp16",
        "pytorch mnist-linf graph_fp32",
        "suite reference",
        "training of the wide ResNet",
        "autoattack",
        "compute-sanitizer memcheck",
        "ncu",
        "pytorch cifar10-linf eager_tf32",
        "pytorch cifar10-linf compiled_graph_fp16",
        "repeats",
    ];
    let begun = |item| text.lines().position(|line| line.starts_with(&format!("{item:41}")));
    let places: Vec<Option<usize>> = order.iter().map(begun).collect();
    assert!(places.is_sorted() && places[0].is_some(), "{places:?}: {text}");
    // Items whose tools or files are missing are skipped with the reason.
    for (item, reason) in
        [("training of the wide ResNet", "no images"), ("autoattack", "no checkpoint"), ("ncu", "not installed")]
    {
        assert_eq!(bundle.state(item), "skipped");
        assert!(text.contains(reason), "{text}");
    }
    assert!(text.contains("ours (fp32) 250.00 ms; PyTorch's graph_fp16 125.00 ms (ratio 2.00), graph_"), "{text}");
    for (name, times) in [
        ("step", "predicted 300.00 ms, measured 250.00 ms, error +20.0 %"),
        ("product + sum", "predicted 90.00 ms, measured 100.00 ms, error -10.0 %"),
        ("kernels below 1 % of the step", "predicted 0.00 ms, measured 0.00 ms, error +100.0 %"),
    ] {
        for step in ["cifar10-linf", "mnist-linf fp16"] {
            let line = format!("{step:17} {name:60} {times}");
            assert!(text.contains(&line), "no {line:?} in {text}");
        }
    }
    // The benchmarks of both networks, in both precisions, were given the ceilings.
    let runs = bundle.runs();
    let given = runs.iter().filter(|run| run.starts_with("maxmargin bench") && run.contains(" --ceilings "));
    assert_eq!(given.count(), 4, "{runs:?}");
    assert!(text.lines().rev().take(80).any(|line| line.starts_with("Stand-in GPU, driver ")), "{text}");
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children_and_the_record_is_complete_at_every_moment() {
    let Some(bundle) = Bundle::new(&[("cuda", HANGS), ("mma_step", HANGS)]) else { return };
    let start = Instant::now();
    let mut visit = bundle.visit(8, &[]);
    let mut seen = 0;
    while visit.try_wait().unwrap().is_none() {
        if let Ok(text) = fs::read_to_string(bundle.path("results/gpu-check.json")) {
            let record: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            seen = seen.max(record["items"].as_object().unwrap().len());
        }
        assert!(start.elapsed() < Duration::from_secs(8 + GRACE));
        sleep(Duration::from_millis(5));
    }
    assert!(seen >= 4, "the record grew as the visit went on: {seen}");
    assert_eq!(bundle.state("first step"), "cut");
    assert_eq!(bundle.state("step cifar10-linf"), "cut");
    assert_eq!(bundle.state("ptx"), "ok");
    let children = fs::read_to_string(bundle.path("CHILDREN")).unwrap();
    assert!(children.lines().count() >= 2, "{children}");
    for child in children.lines() {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "child {child} runs on: {stat}");
    }
}

#[test]
fn a_program_that_crashes_does_not_stop_the_others_and_its_output_is_kept() {
    let Some(bundle) = Bundle::new(&[("ops", CRASHES), ("gradients", FAILS)]) else {
        return;
    };
    let (code, text) = bundle.visited(60, &[]);
    assert_eq!(code, Some(1), "{text}");
    let failed: Vec<String> =
        bundle.states().into_iter().filter(|(_, state)| state == "failed").map(|(name, _)| name).collect();
    assert_eq!(failed, ["fingerprints", "repeats", "suite gradients"], "{text}");
    assert!(text.contains("FAILED: fingerprints, suite gradients, repeats; "), "{text}");
    assert_eq!(bundle.state("suite attacks"), "ok");
    assert_eq!(bundle.record()["items"]["suite gradients"]["failed"], serde_json::json!(["b"]));
    let log = fs::read_to_string(bundle.path("results/gpu-check.log")).unwrap();
    assert!(log.contains("test b ... FAILED"), "{log}");
    assert_eq!(bundle.record()["items"]["fingerprints"]["passed"], 1, "what had passed before the crash");
}

/// A step whose last bits differ because a GPU rounds `expf` otherwise is no failure, nor does its line read as one.
#[test]
fn first_steps_with_the_recorded_logits_are_named_with_their_differences() {
    let Some(bundle) = Bundle::new(&[("cuda", STEPS_OF_A_GPU)]) else { return };
    let (code, text) = bundle.visited(20, &["--only", "first-step"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("2 of 2 with the recorded logits; losses within 9e-08, changes of weights 8e-07"), "{text}");
}

#[test]
fn counters_of_the_most_expensive_kernels_of_both_networks_are_read_by_any_version_of_ncu() {
    let Some(bundle) = Bundle::new(&[("ncu", NCU)]) else { return };
    let (code, text) = bundle.visited(30, &["--only", "bench", "--only", "ncu"]);
    assert_eq!(code, Some(0), "{text}");
    let found = serde_json::json!({ "Registers Per Thread": "127 register/thread", "Block Size": "128" });
    let kernels = &bundle.record()["items"]["ncu"]["kernels"];
    let names = ["cifar10-linf", "mnist-linf"].map(|preset| ["product", "fill"].map(|name| format!("{preset} {name}")));
    let expected: serde_json::Map<_, _> =
        names.as_flattened().iter().map(|name| (name.clone(), found.clone())).collect();
    assert_eq!(*kernels, Value::Object(expected));
    assert!(text.contains("mnist-linf: product + sum "), "{text}");
}

#[test]
fn failed_tests_run_again_alone_so_that_the_kernel_that_crashed_is_named() {
    let Some(bundle) = Bundle::new(&[("ops", FAILS_TOGETHER)]) else { return };
    let (code, text) = bundle.visited(60, &["--only", "fingerprints"]);
    assert_eq!(code, Some(1), "{text}");
    let alone = &bundle.record()["items"]["fingerprints"]["failed_alone"];
    assert_eq!(*alone, serde_json::json!({ "b": "CUDA: kernel scale failed", "c": "ok" }));
}

#[test]
fn continue_runs_items_that_are_missing_were_cut_or_failed_and_no_others() {
    let Some(bundle) = Bundle::new(&[("ptx", "exit 101"), ("cuda", HANGS)]) else { return };
    bundle.visited(8, &["--only", "devices", "--only", "ptx", "--only", "first-step", "--only", "step"]);
    let states = ["devices", "ptx", "first step"].map(|item| bundle.state(item));
    assert_eq!(states, ["ok", "failed", "cut"]);
    bundle.runs();
    bundle.replace("ptx", PASSES);
    bundle.replace("cuda", STEPS);
    let parts = ["devices", "ptx", "first-step", "step", "bench"].map(|part| ["--only", part]).concat();
    let (code, text) = bundle.visited(60, &[&["--continue"], &parts[..]].concat());
    assert_eq!(code, Some(0), "{text}");
    let mut programs: Vec<String> =
        bundle.runs().iter().map(|run| run.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    programs.retain(|run| run != "maxmargin devices"); // each visit asks for the GPU's name
    let benches = ["maxmargin bench"; 4];
    assert_eq!(programs, [&["ptx --test-threads", "cuda published"], &benches[..]].concat(), "{text}");
    assert!(bundle.states().iter().all(|(_, state)| state == "ok"), "{:?}", bundle.states());
    assert_eq!(bundle.record()["visits"].as_array().unwrap().len(), 2);
}

#[test]
fn a_record_is_neither_overwritten_nor_continued_with_another_bundle() {
    let Some(bundle) = Bundle::new(&[]) else { return };
    let (code, text) = bundle.visited(20, &["--continue"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--continue: expected ") && text.contains("gpu-check.json"), "{text}");
    bundle.visited(20, &["--only", "devices"]);
    let (code, text) = bundle.visited(20, &["--only", "devices"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("gpu-check.json exists: use --continue, or name another folder"), "{text}");
    fs::write(bundle.path("COMMIT"), "ffff0000\n").unwrap();
    let (code, text) = bundle.visited(20, &["--continue"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("is of commit '0123abcd', this visit of 'ffff0000'"), "{text}");
    let (code, text) = bundle.visited(20, &["--budget", "0"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("expected seconds above 0; found 0"), "{text}");
}

#[test]
fn the_tests_for_compute_sanitizer_are_tests_of_the_op_suite() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(root.join("scripts/gpu-check")).unwrap();
    let list = script.split_once("SANITIZED = (").unwrap().1.split_once(')').unwrap().0;
    let tests: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(tests.len() > 5, "{tests:?}");
    for test in tests {
        let (file, name) = test.split_once("::").unwrap();
        let source = fs::read_to_string(root.join(format!("tests/ops/{file}.rs"))).unwrap();
        assert!(source.contains(&format!("#[test]\npub fn {name}()")), "{test}");
    }
}
