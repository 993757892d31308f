//! `maxmargin bench` and `maxmargin explain kernels`: what they list, and that their sums agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{done_in, refused};

/// Small, and once: what the figures are does not matter here.
pub const SMALL: &str = "--preset quick --width 0.125 --batch-size 4 --megabytes 1 --product 128 --rounds 1";

/// The figures that `bench` writes.
fn figures(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("figures")).expect("JSON")
}

/// Asserts that the figures of a bench are complete and agree with each other.
pub fn assert_complete(path: &Path) {
    let figures = figures(path);
    for peak in ["copy_bytes_per_s", "product_flops_per_s"] {
        assert!(figures["peaks"][peak].as_f64().is_some_and(|rate| rate > 0.0), "{peak}");
    }
    let items = figures["items"].as_array().expect("items");
    let mut groups: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for item in items {
        groups.entry(item["group"].as_str().expect("a group")).or_default().push(item);
        assert!(item["median_s"].as_f64().expect("seconds") >= item["least_s"].as_f64().expect("seconds"), "{item}");
        assert!(item["least_s"].as_f64().expect("seconds") > 0.0, "{item}");
    }
    assert_eq!(groups.keys().copied().collect::<Vec<_>>(), ["attack", "op", "program", "step"]);
    let names =
        |group: &str| groups[group].iter().map(|item| item["name"].as_str().expect("a name")).collect::<Vec<_>>();
    assert_eq!(names("attack"), ["pgd_step linf", "pgd_step l2", "project_hyperplane linf", "project_hyperplane l2"]);
    assert_eq!(names("step"), ["mma_step"]);
    for op in ["conv_pool", "conv_pool_backward_input", "linear_backward_weight", "adam", "select_negative"] {
        assert!(names("op").contains(&op), "{op}");
    }
    // Every launch of a step is one of an op and one of a program: no part of the step is forgotten or counted twice.
    let step = groups["step"][0];
    for figure in ["launches", "bytes", "flops"] {
        let number = |item: &Value, name: &str| item[name].as_u64().expect("a count");
        for group in ["op", "program"] {
            let sum: u64 = groups[group].iter().map(|item| number(item, figure) * number(item, "times_a_step")).sum();
            assert_eq!(sum, number(step, figure), "{figure} of {group}s");
        }
    }
}

#[test]
fn bench_times_every_op_of_a_step_and_its_sums_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = done_in(folder.path(), &format!("bench --device cpu {SMALL} --quiet --json figures.json"));
    assert_complete(&folder.path().join("figures.json"));
    for part in [
        "; LeNet5, 4 and 8 filters 5x5, 128 hidden, 52506 parameters, batch 4; medians of 1\n",
        "\npeaks, measured here: copy of 1 MB ",
        "B/s, read and written; matrix product 128 x 128 x 128 ",
        "\npgd_step l2 ",
        "\nconv_pool ",
        "\npgd_iteration ",
        "\nmma_step ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    assert_eq!(said.err, "");
}

#[test]
fn bench_can_be_asked_for_some_ops_alone() {
    let said = done_in(Path::new("."), &format!("bench --device cpu {SMALL} --only linear_bias"));
    let items = said.out.lines().filter(|line| line.contains(" % "));
    let names: Vec<_> = items.map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(names, ["linear_bias_relu", "linear_bias"], "{}", said.out);
    assert_eq!(said.err, "timing copy and matrix products\ntiming linear_bias_relu\ntiming linear_bias\n");
}

#[test]
fn what_cannot_be_timed_is_refused() {
    refused("bench --product 100", &["--product: expected a power of two; found 100"]);
    refused("bench --megabytes 0", &["'0'", "--megabytes", "at least 1"]);
    refused("bench --width 0", &["--width: expected a number from 1/32 to 32; found 0"]);
    refused("bench --json nowhere/x.json", &["--json nowhere/x.json: there is no folder nowhere"]);
}

/// The number before `word` in a line.
fn before(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at =
        words.iter().position(|other| other.trim_end_matches(',') == word).unwrap_or_else(|| panic!("{word}: {line}"));
    words[at - 1].parse().unwrap_or_else(|_| panic!("a number of {word}: {line}"))
}

#[test]
fn explain_kernels_lists_every_launch_of_a_step_with_its_cost() {
    let said = done_in(Path::new("."), "explain kernels --preset mnist-linf").out;
    let lines: Vec<&str> = said.lines().collect();
    let mut in_all = 0;
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" x ") && line.contains(" launches, "))
    {
        let (times, launches) = (before(line, "x"), before(line, "launches"));
        // A header, the launches, an empty line.
        let listed = lines[at + 2..].iter().take_while(|line| !line.is_empty()).count();
        assert_eq!(listed as u64, launches, "{line}");
        in_all += times * launches;
    }
    let step = lines.last().expect("a sum");
    assert!(step.starts_with("a step: "), "{step}");
    assert_eq!(before(step, "launches"), in_all, "{said}");
    // 50 images of 28 x 28, 32 filters of 25 weights, a multiply-add two operations: 62.7 M beside bias, ReLU, pool.
    let line = lines.iter().find(|line| line.contains(" conv_pool ")).expect("a convolution");
    assert!(line.contains(" 62.7 M "), "{line}");
}
