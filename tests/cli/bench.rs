//! `maxmargin bench` and `maxmargin explain kernels`: lists of items and launches, and sums that agree.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fake::{library, rung};
use crate::{PROGRAM, ProgramOutput, done_in, refused, refused_in, said};

/// A bench of a small step, each item measured once: the figures do not matter here.
pub const SMALL: &str = "--preset quick --width 0.125 --batch-size 4 --megabytes 1 --rotated-megabytes 1 --product 128 \
                         --rounds 1";

/// Figures that `bench` wrote to a file.
fn figures(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("figures")).expect("JSON")
}

fn list<'a>(figures: &'a Value, name: &str) -> &'a [Value] {
    figures[name].as_array().unwrap_or_else(|| panic!("a list of {name}"))
}

fn number(item: &Value, name: &str) -> f64 {
    item[name].as_f64().unwrap_or_else(|| panic!("a number as {name} of {item}"))
}

fn count(item: &Value, name: &str) -> u64 {
    item[name].as_u64().unwrap_or_else(|| panic!("a count as {name} of {item}"))
}

fn names<'a>(items: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    items.into_iter().map(|item| item["name"].as_str().expect("a name")).collect()
}

fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: expected {expected}; found {found}");
}

/// Asserts that the figures of a bench are complete and agree with each other.
pub fn assert_complete(path: &Path) {
    let figures = figures(path);
    assert_eq!(figures["complete"], true);
    assert!(list(&figures, "not_timed").is_empty());
    for rate in ["copy_bytes_per_s", "product_flops_per_s"] {
        assert!(number(&figures["own"], rate) > 0.0, "{rate}");
    }
    let items = list(&figures, "items");
    let mut groups: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut order = Vec::new();
    for item in items {
        let group = item["group"].as_str().expect("a group");
        order.push(group);
        groups.entry(group).or_default().push(item);
        assert!(number(item, "median_s") >= number(item, "least_s"), "{item}");
        assert!(number(item, "least_s") > 0.0, "{item}");
        assert!(count(item, "copies") > 0, "{item}");
    }
    order.dedup();
    assert_eq!(order, ["step", "program", "op", "attack"], "by what they are worth where a bench is cut");
    let of = |group: &str| groups[group].iter().copied();
    assert_eq!(
        names(of("attack")),
        ["pgd_step linf", "pgd_step l2", "project_hyperplane linf", "project_hyperplane l2"]
    );
    assert_eq!(names(of("step")), ["mma_step"]);
    for op in ["conv_pool", "conv_pool_backward_input", "linear_backward_weight", "adam", "select_negative"] {
        assert!(names(of("op")).contains(&op), "{op}");
    }
    // The programs with most of the work run several times a step: five iterations of PGD, nine probes of the search.
    let often: Vec<bool> = of("op").map(|op| count(op, "times_a_step") >= 5).collect();
    assert!(often.is_sorted_by(|a, b| a >= b), "ops of the programs with most of the work come first: {often:?}");
    // Every launch of a step is one of an op and one of a program: no part of the step is forgotten or counted twice.
    let step = groups["step"][0];
    for figure in ["launches", "bytes", "flops"] {
        for group in ["op", "program"] {
            let sum: u64 = of(group).map(|item| count(item, figure) * count(item, "times_a_step")).sum();
            assert_eq!(sum, count(step, figure), "{figure} of {group}s");
        }
    }
    assert_shares_agree(&figures, of("op").collect(), number(step, "median_s"));
}

/// Asserts that percentages and sums follow from the ops' times in a step of `median` seconds.
fn assert_shares_agree(figures: &Value, ops: Vec<&Value>, median: f64) {
    let a_step = |op: &Value| number(op, "median_s") * number(op, "times_a_step");
    for op in &ops {
        assert_near(number(op, "share_of_step"), a_step(op) / median, "the op's share");
    }
    let sum: f64 = ops.iter().map(|op| a_step(op)).sum();
    let step = &figures["step"];
    assert_near(number(step, "median_s"), median, "the step");
    assert_near(number(step, "sum_of_ops_s"), sum, "the sum of ops");
    assert_near(number(step, "idle_share"), (median - sum) / median, "idle");
    let kernels = list(figures, "kernels");
    let times: Vec<f64> = kernels.iter().map(|kernel| number(kernel, "time_s")).collect();
    assert_near(times.iter().sum(), sum, "the sum of kernels");
    assert!(times.is_sorted_by(|a, b| a >= b), "the longest first: {times:?}");
    let shares = kernels.iter().map(|kernel| number(kernel, "share_of_step")).sum();
    assert_near(shares, sum / median, "the sum of the kernels' shares");
    let launches: u64 = kernels.iter().map(|kernel| count(kernel, "launches")).sum();
    assert_eq!(launches, count(step, "launches"), "launches of kernels");
    for kernel in kernels {
        assert!(!list(kernel, "kernels").is_empty(), "{kernel}");
    }
}

#[test]
fn bench_times_every_op_of_a_step_and_its_sums_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = done_in(folder.path(), &format!("bench --device cpu {SMALL} --quiet --json figures.json"));
    assert_complete(&folder.path().join("figures.json"));
    for part in [
        "; LeNet5, 4 and 8 filters 5x5, 128 hidden, 52506 parameters; takes pixels in [0, 1] as they are; batch 4; medians of 1\n",
        "B/s  our own copy of 1 MB, measured here\n",
        "FLOP/s  our own product 128 x 128 x 128 in fp32 (not the device's peak), measured here\n",
        "\npgd_step l2 ",
        "\nconv_pool ",
        "\npgd_iteration ",
        "\nmma_step ",
        "\nkernels of a step, the longest first\n",
        " in sum; idle ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    assert_eq!(said.err, "");
}

#[test]
fn bench_times_only_the_items_named_by_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = done_in(folder.path(), &format!("bench --device cpu {SMALL} --only linear_bias --json figures.json"));
    assert_eq!(said.err, "timing copy and matrix products\ntiming linear_bias_relu\n");
    let figures = figures(&folder.path().join("figures.json"));
    assert_eq!(figures["complete"], true, "all that was asked for");
    assert_eq!(names(list(&figures, "items")), ["linear_bias_relu"]);
    assert_eq!(figures["items"][0]["share_of_step"], Value::Null, "the step was not timed");
    assert_eq!(figures["step"]["idle_share"], Value::Null, "nor most of its ops");
    assert!(said.out.contains("\nlinear_bias_relu "), "{}", said.out);
    assert!(!said.out.contains("idle"), "{}", said.out);
}

/// Ceilings of a GPU as `benches/peers/ceilings.py` writes them.
fn ceilings(device: &str) -> Value {
    json!({
        "device": device,
        "torch": "2.9.0",
        "copy_bytes_per_s": {"8 MB": 4e12, "200 MB": 2.5e12, "4 GB": 2.8e12},
        "matmul_flops_per_s": {
            "fp16": {"1696": 4e14, "8192": 7e14},
            "tf32": {"1696": 2e14, "8192": 4e14},
            "fp32": {"1696": 4e13, "8192": 5e13},
        },
        "launch_s": {"stream": 4e-6, "graph_node": 1.5e-6},
    })
}

fn write(folder: &Path, ceilings: &Value) {
    fs::write(folder.join("ceilings.json"), ceilings.to_string()).expect("a file");
}

#[test]
fn items_are_compared_with_the_ceilings_of_pytorch() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &ceilings("CPU, 2 threads"));
    let line = format!("bench --device cpu --threads 2 {SMALL} --quiet --ceilings ceilings.json --json figures.json");
    let said = done_in(folder.path(), &line);
    for part in [
        " 2.50 TB/s  PyTorch's copy of 200 MB, measured with PyTorch on CPU, 2 threads\n",
        " 50.0 TFLOP/s  cuBLAS fp32 8192 x 8192 x 8192, measured with PyTorch on CPU, 2 threads\n",
        "\nlaunches that do nothing, 1.50 us each, would take ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let figures = figures(&folder.path().join("figures.json"));
    for item in list(&figures, "items") {
        let rate = |what: &str| number(item, what) / number(item, "median_s");
        assert_near(number(item, "of_copy"), rate("bytes") / 2.5e12, "the share of the copy");
        assert_near(number(item, "of_product"), rate("flops") / 5e13, "the share of the product");
    }
    let step = &figures["step"];
    assert_near(number(step, "launches_s"), 1.5e-6 * number(step, "launches"), "empty launches");
}

#[test]
fn a_rate_that_is_missing_from_the_ceilings_is_our_own_and_labelled_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut some = ceilings("CPU, 2 threads");
    some["copy_bytes_per_s"] = Value::Null;
    some["matmul_flops_per_s"]["fp32"] = json!({"1696": 4e13});
    write(folder.path(), &some);
    let line = format!("bench --device cpu --threads 2 {SMALL} --quiet --only adam --ceilings ceilings.json");
    let said = done_in(folder.path(), &line).out;
    for part in [
        "our own copy of 1 MB, measured here: ceilings.json has no copy_bytes_per_s, 200 MB\n",
        " in fp32 (not the device's peak), measured here: ceilings.json has no matmul_flops_per_s, fp32, 8192\n",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn ceilings_of_another_form_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("bench --device cpu {SMALL} --ceilings ceilings.json --json figures.json");
    refused_in(folder.path(), &line, &["ceilings.json: cannot read"]);
    let expected = "ceilings.json: expected the JSON that benches/peers/ceilings.py writes; found ";
    for (content, found) in [
        ("device: H100", "expected value at line 1"),
        ("[1, 2]", "no \"device\""),
        (r#"{"device": 100}"#, "100 as \"device\""),
    ] {
        fs::write(folder.path().join("ceilings.json"), content).expect("a file");
        refused_in(folder.path(), &line, &[expected, found]);
    }
    let mut wrong = ceilings("NVIDIA H100");
    wrong["copy_bytes_per_s"]["200 MB"] = json!("fast");
    write(folder.path(), &wrong);
    refused_in(
        folder.path(),
        &line,
        &["ceilings.json: copy_bytes_per_s, 200 MB: expected a positive number; found \"fast\""],
    );
    assert!(!folder.path().join("figures.json").exists(), "nothing was timed");
}

/// Runs the program on the fake driver; `None` if no fake driver can be built.
fn on_fake_gpu(folder: &Path, line: &str) -> Option<ProgramOutput> {
    let library = rung("fake", library())?;
    let mut command = Command::new(PROGRAM);
    command.args(line.split_whitespace()).current_dir(folder).env("LD_LIBRARY_PATH", library);
    Some(said(command.output().expect("the program starts")))
}

#[test]
fn ceilings_are_those_of_the_gpu_that_is_timed() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("bench --device cuda {SMALL} --quiet --only adam --ceilings ceilings.json");
    write(folder.path(), &ceilings("NVIDIA A100-SXM4-80GB"));
    let Some(said) = on_fake_gpu(folder.path(), &line) else { return };
    assert_eq!(said.code, Some(2), "{said:?}");
    let message = "error: ceilings.json: device: expected ceilings of fake NVIDIA H100, which is timed here; found \
                   ceilings of NVIDIA A100-SXM4-80GB\n";
    assert_eq!(said.err, message);
    write(folder.path(), &ceilings("fake NVIDIA H100"));
    let said = on_fake_gpu(folder.path(), &line).expect("it was there");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.contains("cuBLAS fp32 8192 x 8192 x 8192, measured with PyTorch on fake NVIDIA H100\n"),
        "{said:?}"
    );
    assert!(said.out.contains("\npredicted times are those of explain cost for NVIDIA H100 SXM: "), "{said:?}");
    assert!(said.out.contains("        time    predicted  time a step "), "{said:?}");
}

#[test]
fn a_bench_past_its_budget_starts_nothing_and_lists_the_items_it_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("bench --device cpu {SMALL} --budget 0 --json figures.json");
    let said = done_in(folder.path(), &line);
    assert_eq!(said.err, "timing copy and matrix products\n");
    let figures = figures(&folder.path().join("figures.json"));
    assert_eq!(figures["complete"], false);
    assert!(list(&figures, "items").is_empty() && list(&figures, "kernels").is_empty());
    let left = list(&figures, "not_timed");
    assert_eq!(names(&left[..3]), ["mma_step", "clean_pass", "gather_correct"]);
    assert!(names(left).contains(&"conv_pool_backward_input"), "{left:?}");
    let sentence = format!("\n{} items not timed: the budget of 0 s was spent\n", left.len());
    assert!(said.out.ends_with(&sentence), "{}", said.out);
}

#[test]
fn a_bench_that_is_killed_leaves_its_finished_items() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = format!("bench --device cpu {SMALL} --json figures.json");
    let mut command = Command::new(PROGRAM);
    command.args(line.split_whitespace()).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let second = lines.map(|line| line.expect("a line")).any(|line| line == "timing clean_pass");
    child.kill().expect("the program was running");
    child.wait().expect("the program ends");
    assert!(second, "the second item was begun");
    let figures = figures(&folder.path().join("figures.json"));
    let (items, left) = (names(list(&figures, "items")), names(list(&figures, "not_timed")));
    assert_eq!(items[0], "mma_step");
    // The bench may have run on for a moment.
    assert_eq!(figures["complete"], left.is_empty());
}

#[test]
fn the_help_of_bench_explains_its_percentages() {
    let help = done_in(Path::new("."), "bench --help").out.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "those of PyTorch with --ceilings, or else our own, which are below the device's peaks",
        "negative if the ops lose more time to operands outside of the caches",
        "Start no further item after this many seconds",
        "operand, in millions of bytes: more than the device's caches [default: 256]",
    ] {
        assert!(help.contains(part), "no {part:?} in {help}");
    }
}

#[test]
fn values_out_of_range_are_refused() {
    refused("bench --product 100", &["--product: expected a power of two; found 100"]);
    refused("bench --megabytes 0", &["'0'", "--megabytes", "a whole number from 1 to 4096"]);
    refused("bench --rotated-megabytes 5000", &["'5000'", "--rotated-megabytes", "a whole number from 1 to 4096"]);
    refused("bench --budget -1", &["--budget: expected seconds, 0 or more; found -1"]);
    refused("bench --width 0", &["--width: expected a number from 1/32 to 32; found 0"]);
    refused("bench --json nowhere/x.json", &["--json nowhere/x.json: there is no folder nowhere"]);
}

/// Number before `word` in a line.
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
    let is_header = |line: &str| line.contains(" x ") && line.contains(" launch");
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_header(line)) {
        let unit = if line.contains(" launch, ") { "launch" } else { "launches" };
        let (times, launches) = (before(line, "x"), before(line, unit));
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

#[test]
fn explain_says_what_is_half_and_why_a_result_is_not() {
    let tape = done_in(Path::new("."), "explain --precision fp16").out;
    for part in [
        "1 x pack_filters: 1 ops\n",
        "conv2.weight.half f16, conv2.weight.half_turned f16, linear1.weight.half f16, ",
        " [32, 5, 5, 16] = pack_filters(conv2.weight, linear1.weight)\n",
        "5 x pgd_iteration: ",
        " of linear_bias, loss, bisect for attacked.rows rows\n",
    ] {
        assert!(tape.contains(part), "no {part:?} in {tape}");
    }
    let tape = done_in(Path::new("."), "explain --precision fp16 --preset mnist-linf-trades").out;
    assert!(tape.contains("; f32: kl_backward_q reads it\n"), "{tape}");
    let half_programs = |precision: &str| -> Vec<String> {
        let tape = done_in(Path::new("."), &format!("explain --precision {precision}")).out;
        let programs = tape.split("\n\n").filter(|text| text.contains("f16") || text.contains("f32:"));
        programs.map(|text| text.split([' ', ':']).nth(2).expect("a name").to_owned()).collect()
    };
    let attack = ["pack_filters", "pgd_iteration", "search_start", "search_probe"];
    assert!(half_programs("fp32").is_empty());
    assert_eq!(half_programs("fp16-attack"), attack);
    assert_eq!(half_programs("fp16"), [&attack[..1], &["clean_pass"], &attack[1..], &["margin_pass"]].concat());
}
