//! `maxmargin report`: the page has the figures of the files; missing and malformed files are named.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use maxmargin::catalog::DatasetKind;
use maxmargin::data;
use maxmargin::hash::sha256;
use maxmargin::record::{Tensor, read_metrics, write_tensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{done_in, refused_in};

/// Files of a short run of three epochs.
pub(super) fn files() -> &'static BTreeMap<String, Vec<u8>> {
    static RUN: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        done_in(
            folder.path(),
            "train --savepath run --quiet --width 0.125 --nb-iter 1 --lr 0.01 --steps 30 --train-size 500 --val-size 40 \
             --test-size 20 --disp-interval 5 --training-batch-size 50",
        );
        let entries = fs::read_dir(folder.path().join("run")).expect("a run").map(|entry| entry.expect("an entry").path());
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        entries.map(|path| (name(&path), fs::read(&path).expect("a file"))).collect()
    })
}

/// Folder with equal runs of these names.
pub(super) fn runs(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in names {
        fs::create_dir(folder.path().join(name)).expect("a folder");
        for (file, bytes) in files() {
            fs::write(folder.path().join(name).join(file), bytes).expect("a file");
        }
    }
    folder
}

/// Page that `report` with `flags` writes to `at`.
pub(super) fn page(folder: &Path, flags: &str, at: &str) -> String {
    let said = done_in(folder, &format!("report {flags}"));
    assert!(said.out.starts_with(&format!("wrote {at}: ")) && said.err.is_empty(), "{said:?}");
    fs::read_to_string(folder.join(at)).expect("a page")
}

/// Models of the paper whose rows are marked: they were trained as a run was.
pub(super) fn matches(page: &str) -> Vec<&str> {
    let rows = page.split("<tr class=\"match\">").skip(1).filter_map(|row| row.split("</tr>").next());
    rows.filter_map(|row| row.split_once("</svg>paper, ")?.1.split('<').next()).collect()
}

pub(super) fn has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "no {part:?} in the page");
    }
}

/// Report of an evaluation on the bundled digits, linf.
pub(super) fn evaluation() -> Value {
    json!({
        "schema_version": 2, "maxmargin": "0.1.0", "commit": "5aaeff8", "weights": "run/best.safetensors",
        "weights_sha256": "0123456789abcdef00", "model": "LeNet5 of the test", "dataset": "digits", "split": "test",
        "images": "bundled digits, test", "count": 12345, "norm": "linf", "protocol": "paper", "seed": 17,
        "device": "CPU of the test", "method": "mma", "d_max": 0.45, "clean_accuracy": 91.23,
        "average_robust_accuracy": 41.17, "average_accuracy": 55.55,
        "robust": [
            {"eps": 0.1, "accuracy": 80.08, "attack": "PGD-7 linf", "attacks": [
                {"name": "pgd-xent", "runs": 5, "attacked": 840, "broken": 190, "forward": 420000, "backward": 410000,
                 "seconds": 12.5}]},
            {"eps": 0.35, "accuracy": 2.26, "attack": "PGD-7 linf", "attacks": []}
        ],
        "minimum_norm": [{"name": "ddn", "found": 998, "mean": 1.3821, "quartiles": [1.1043, 1.3885, 1.6017],
                          "forward": 1000, "backward": 900, "seconds": 1.0}],
        "mean_margin": 0.2847, "margins": [0.0, 0.2, 0.3, 0.47], "max_eps": 0.4725,
        "forward_passes": 1234567, "backward_passes": 7654321, "seconds": 98.76, "warnings": []
    })
}

/// Writes an evaluation of a run's best checkpoint into the run.
pub(super) fn evaluate(run: &Path, name: &str, evaluation: &Value) {
    let mut evaluation = evaluation.clone();
    evaluation["weights_sha256"] = sha256(&fs::read(run.join("best.safetensors")).expect("weights")).into();
    evaluate_others(run, name, &evaluation);
}

/// Writes an evaluation of other weights into a run.
pub(super) fn evaluate_others(run: &Path, name: &str, evaluation: &Value) {
    let folder = run.join(format!("evaluation-{name}"));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("evaluation.json"), evaluation.to_string()).expect("a file");
}

/// Number of plots of a page.
pub(super) fn plots(page: &str) -> usize {
    page.matches("<svg viewBox=\"0 0 960 600\" role=\"img\"").count()
        + page.matches("<svg viewBox=\"0 0 1920 640\" role=\"img\"").count()
}

/// Plot with this label, and its caption.
pub(super) fn plot<'a>(page: &'a str, label: &str) -> &'a str {
    let from = page.find(&format!("aria-label=\"{label}\"")).unwrap_or_else(|| panic!("no plot {label:?}"));
    page[from..].split("</figure>").next().unwrap_or_default()
}

#[test]
fn a_run_s_page_loads_nothing_and_is_written_to_its_folder() {
    let folder = runs(&["run"]);
    let page = page(folder.path(), "run", "run/report.html");
    has(
        &page,
        &[
            "<title>maxmargin: run</title>",
            "<b>run</b></span> MMA, d_max 0.45, digits, linf; LeNet5, 4 and 8 filters 5x5",
            "30 of 30 steps",
            "<h2>Training</h2>",
            "Margins of 40 validation images",
            "No evaluation was found. <code>maxmargin evaluate RUN</code>",
            "<h2>Settings</h2>",
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ],
    );
    assert_eq!(plots(&page), 6, "four curves, margins by step, histograms");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for other in
        ["http:", "https:", "<script", "<link", "<iframe", "url(", "@import", "src=\"/", "not recorded", "warning\""]
    {
        assert!(!page.contains(other), "{other} in the page");
    }
}

#[test]
fn figures_of_the_page_are_those_of_the_metrics() {
    let folder = runs(&["run"]);
    let page = page(folder.path(), "run", "run/report.html");
    let lines = read_metrics(&folder.path().join("run/metrics.jsonl")).expect("metrics");
    for line in lines.iter().filter(|line| line["kind"] == "result") {
        let figure =
            |name: &str, digits: usize| format!("<td>{:.digits$}</td>", line[name].as_f64().expect("a number"));
        let with_interval = |name: &str| figure(name, 2).replace("</td>", " <small>");
        has(&page, &[&with_interval("clean_accuracy"), &with_interval("robust_accuracy"), &figure("mean_margin", 4)]);
        has(&page, &["<td class=\"words\">PGD-40, eps 0.3, 2 starts (xent, cw)</td>", "<td>20</td>"]);
    }
    let best = lines.iter().rfind(|line| line["best"] == true).expect("a best epoch");
    has(&page, &[&format!("best checkpoint after step {}", best["step"]), "epoch 1</span>", "epoch 3</span>"]);
}

#[test]
fn the_same_records_give_the_same_page_and_a_former_one_is_replaced() {
    let folder = runs(&["run"]);
    let first = page(folder.path(), "run", "run/report.html");
    fs::write(folder.path().join("run/report.html"), "another").expect("a file");
    assert!(page(folder.path(), "run", "run/report.html") == first);
    assert!(page(folder.path(), "run --out here.html", "here.html") == first, "wherever it is written");
}

#[test]
fn several_runs_are_in_every_plot() {
    let folder = runs(&["first", "second", "third"]);
    let toml = folder.path().join("third/config.toml");
    let l2 = fs::read_to_string(&toml).expect("settings").replace("norm = \"linf\"", "norm = \"l2\"");
    fs::write(&toml, l2.replace("seed = 0", "seed = 5")).expect("settings");
    let two = page(folder.path(), "first second --out two.html", "two.html");
    has(&two, &["<title>maxmargin: first, second</title>", "var(--c5)", "<b>first</b>", "<b>second</b>"]);
    assert_eq!(plots(&two), 4 + 2 * 2, "curves together, margins each");
    assert!(!two.contains("<h3>digits, linf</h3>"));
    let three = page(folder.path(), "first second third", "first/report.html");
    has(&three, &["<h3>digits, linf</h3>", "<h3>digits, l2</h3>", "<b>5</b>"]);
    assert_eq!(plots(&three), 2 * 4 + 3 * 2, "lengths in another norm are not compared");
}

/// Runs of eight names and more, of which the last ones had the colours of the first.
#[test]
fn the_heat_map_of_margins_has_a_scale_with_numbers() {
    let folder = runs(&["run"]);
    let page = page(folder.path(), "run", "run/report.html");
    let map = plot(&page, "margins by step");
    assert!(map.matches(" %\n").count() >= 4, "{map}");
    has(map, &["as the bar on the right says", "</svg>mean margin</span>", "</svg>d_max 0.45</span>"]);
}

#[test]
fn device_time_and_passes_of_training_are_shown() {
    let folder = runs(&["run"]);
    let costs = |page: &str| {
        let table =
            page.split("<th>forward passes</th><th>backward passes</th><th>memory</th>").nth(1).expect("a table");
        table.split("</table>").next().expect("its end").to_owned()
    };
    let shown = costs(&page(folder.path(), "run", "run/report.html"));
    has(&shown, &["<td class=\"words\">CPU, ", ">fp32</td>", "<td>30</td><td>0</td>", " s</td>", "B</td>"]);
    assert!(!shown.contains('–'), "{shown}");
    // Runs of former versions did not record them. Steps that were skipped are added up.
    let path = folder.path().join("run/metrics.jsonl");
    let without = |mut line: Value| {
        let fields = line.as_object_mut().expect("an object");
        if fields["kind"] == "step" {
            fields.insert("skipped_steps".into(), 2.into());
        }
        ["device", "training_forward_passes", "training_backward_passes"]
            .iter()
            .for_each(|name| drop(fields.remove(*name)));
        format!("{line}\n")
    };
    let lines = read_metrics(&path).expect("metrics");
    let skipped = 2 * lines.iter().filter(|line| line["kind"] == "step").count();
    fs::write(&path, lines.into_iter().map(without).collect::<String>()).expect("metrics");
    let shown = costs(&page(folder.path(), "run", "run/report.html"));
    assert_eq!(shown.matches(">–<").count(), 3, "{shown}");
    has(&shown, &[&*format!("<td>30</td><td>{skipped}</td>")]);
}

/// A page of 400 pixels: words have a least width, and what is wider scrolls in a box of its own.
#[test]
fn nothing_is_wrapped_letter_by_letter_on_a_narrow_screen() {
    let folder = runs(&["run"]);
    evaluate(&folder.path().join("run"), "paper", &evaluation());
    let page = page(folder.path(), "run", "run/report.html");
    has(
        &page,
        &[
            "td.words { text-align: left; min-width: 9rem;",
            ".scroll { overflow-x: auto;",
            ".plot { overflow-x: auto; }",
        ],
    );
    assert!(!page.contains("td, dd, p, li { overflow-wrap: anywhere"), "which lets a cell be as narrow as a letter");
    let boxed = page.matches("<div class=\"scroll\"><table>").count();
    assert_eq!(page.matches("<table>").count(), boxed);
    assert_eq!(
        plots(&page),
        page.matches("<div class=\"plot\"><svg").count() + page.matches("<div class=\"plot wide\"><svg").count()
    );
}

#[test]
fn an_evaluation_of_the_necessary_fields_is_shown() {
    let folder = runs(&["run"]);
    let least = json!({"weights": "w", "dataset": "digits", "count": 3, "norm": "linf", "clean_accuracy": 66.67});
    evaluate(&folder.path().join("run"), "x", &least);
    fs::create_dir(folder.path().join("run/evaluation-y")).expect("a folder");
    let page = page(folder.path(), "run", "run/report.html");
    has(&page, &[">66.67 <small>20.8–93.9<", "run, x", "evaluation-y has no result yet"]);
}

#[test]
fn warnings_stand_before_everything_else() {
    let folder = runs(&["run"]);
    let mut current = evaluation();
    current["warnings"] = json!(["no-passes: apgd-ce <at all>"]);
    let mut former = evaluation();
    let fields = former.as_object_mut().expect("an object");
    ["schema_version", "warnings"].iter().for_each(|name| drop(fields.remove(*name)));
    fields.insert("suspicious".into(), json!(["no-passes: apgd-ce <at all>"]));
    for evaluation in [current, former] {
        evaluate(&folder.path().join("run"), "autoattack", &evaluation);
        let page = page(folder.path(), "run", "run/report.html");
        let first = page.find("run / evaluation-autoattack: no-passes: apgd-ce &lt;at all&gt;").expect("a warning");
        assert!(first < page.find("<h2>").expect("a chapter"));
        assert_eq!(page.matches("class=\"warning\"").count(), 2, "above the chapters, and at the evaluation");
    }
}

/// Adversarial images of the first `n` bundled test digits: `distance` is added to each pixel.
fn adversarial(folder: &Path, n: usize, distance: f32) {
    let digits = data::load(DatasetKind::Digits, Path::new("nowhere"), 1).expect("the digits").test.take(n);
    let pixels: Vec<f32> = digits.images.iter().map(|&v| (f32::from(v) / 255.0 + distance).min(1.0)).collect();
    let tensors = [
        Tensor::new("adversarial", &[n, 28, 28, 1], pixels),
        Tensor::new("index", &[n], (0..n as u32).collect()),
        Tensor::new("labels", &[n], digits.labels.iter().map(|&label| u32::from(label)).collect()),
        Tensor::new("eps", &[n], vec![distance; n]),
    ];
    let metadata = BTreeMap::from([("attack".to_string(), "the <attack>".to_string())]);
    write_tensors(&folder.join("adversarial.safetensors"), &tensors, &metadata).expect("a file");
}

#[test]
fn adversarial_examples_are_shown_beside_the_clean_ones_with_their_facts() {
    let folder = runs(&["run"]);
    evaluate(&folder.path().join("run"), "paper", &evaluation());
    let at = folder.path().join("run/evaluation-paper");
    adversarial(&at, 4, 0.1);
    // One of four images is misclassified without an attack, and one is robust.
    let lines = "0,7,7,0.2,,0.1,pgd-cw\n1,2,2,0.05,,0.1,pgd-xent\n2,1,8,0,0,0,clean\n3,0,0,0.4,,,\n";
    let header = "index,label,clean_prediction,margin,distance,broken_eps,broken_by\n";
    fs::write(at.join("images.csv"), format!("{header}{lines}")).expect("a file");
    let shown = page(folder.path(), "run", "run/report.html");
    has(
        &shown,
        &[
            "Adversarial examples by the &lt;attack&gt;: 2 of 4",
            "their difference times 5",
            "image 0 · label <b>7</b> · predicted 7 · eps 0.1 · adversarial at 0.1 by pgd-cw",
            "image 1 · label <b>2</b> · predicted 2 · eps 0.1 · adversarial at 0.1 by pgd-xent",
        ],
    );
    assert_eq!(shown.matches("<img src=\"data:image/png;base64,iVBORw0KGgo").count(), 6, "three of each");

    fs::remove_file(at.join("images.csv")).expect("a file");
    let shown = page(folder.path(), "run", "run/report.html");
    has(&shown, &["4 of 4", "image 2 · label <b>1</b> · eps 0.1"]);
}

#[test]
fn adversarial_examples_of_other_data_are_shown_alone_with_the_reason() {
    let folder = runs(&["run"]);
    let mut found = evaluation();
    found["dataset"] = "mnist".into();
    evaluate(&folder.path().join("run"), "paper", &found);
    adversarial(&folder.path().join("run/evaluation-paper"), 3, 0.1);
    let page = page(folder.path(), "run --data nowhere", "run/report.html");
    has(&page, &["3 of 3", "the clean ones are not shown (nowhere: none of "]);
    assert_eq!(page.matches("<img ").count(), 3);
}

#[test]
fn text_from_files_is_escaped() {
    let name = "run'<img src=x onerror=alert(1)>&\"";
    let folder = runs(&[]);
    let run = folder.path().join(name);
    fs::create_dir(&run).expect("a folder with such a name");
    files().iter().for_each(|(file, bytes)| fs::write(run.join(file), bytes).expect("a file"));
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    fs::write(run.join("metrics.jsonl"), metrics.replace("PGD-40", "<script>alert(2)</script>")).expect("metrics");
    let evil = "\"><svg onload=alert(3)>'";
    let mut found = evaluation();
    for field in
        ["maxmargin", "commit", "weights", "weights_sha256", "model", "split", "images", "protocol", "device", "method"]
    {
        found[field] = evil.into();
    }
    found["robust"][0]["attack"] = evil.into();
    found["robust"][0]["attacks"][0]["name"] = evil.into();
    found["minimum_norm"][0]["name"] = evil.into();
    found["warnings"] = json!([evil]);
    evaluate_others(&run, evil, &found);
    let at = run.join(format!("evaluation-{evil}"));
    adversarial(&at, 1, 0.1);
    let header = "index,label,clean_prediction,margin,distance,broken_eps,broken_by";
    fs::write(at.join("images.csv"), format!("{header}\n0,7,7,0.2,,0.1,{evil}\n")).expect("a file");
    fs::create_dir(run.join("evaluation-<b>")).expect("a folder");

    let command =
        std::process::Command::new(crate::PROGRAM).arg("report").arg(&run).output().expect("the program starts");
    assert!(command.status.success(), "{command:?}");
    let page = fs::read_to_string(run.join("report.html")).expect("a page");
    for raw in ["<img src=x", "<script", "<svg onload", "evaluation-<b>"] {
        assert!(!page.contains(raw), "{raw} is in the page");
    }
    has(
        &page,
        &["run&#39;&lt;img src=x onerror=alert(1)&gt;&amp;&quot;", "&quot;&gt;&lt;svg onload=alert(3)&gt;&#39;"],
    );
    assert!(page.matches("&quot;&gt;&lt;svg onload=alert(3)&gt;&#39;").count() >= 12);
}

#[test]
fn absurd_figures_make_a_page_too() {
    let folder = runs(&["run"]);
    let mut found = evaluation();
    found["robust"][0]["eps"] = json!(1e300);
    found["robust"][1]["eps"] = json!(-5.0);
    found["robust"][1]["accuracy"] = json!(-1e308);
    found["margins"] = json!([1e38, -1e38, 0.0, 1e-40]);
    found["max_eps"] = json!(0.0);
    evaluate(&folder.path().join("run"), "x", &found);
    let absurd = json!({"kind": "epoch", "step": u64::MAX, "epoch": u64::MAX, "validation_accuracy": 1e308,
                        "validation_mean_margin": null, "best": true, "margins": {"max": 3e38, "wrong": 0, "bins": []}});
    let path = folder.path().join("run/metrics.jsonl");
    let text = fs::read_to_string(&path).expect("metrics");
    fs::write(&path, format!("{text}{absurd}\n")).expect("metrics");
    page(folder.path(), "run", "run/report.html");
}

#[test]
fn a_run_that_did_not_record_its_margins_has_a_page_that_says_so() {
    let folder = runs(&["run"]);
    let path = folder.path().join("run/metrics.jsonl");
    let without = |line: Value| {
        let mut line = line;
        line.as_object_mut().expect("an object").remove("margins");
        format!("{line}\n")
    };
    let lines: String = read_metrics(&path).expect("metrics").into_iter().map(without).collect();
    fs::write(&path, lines).expect("metrics");
    let page = page(folder.path(), "run", "run/report.html");
    has(&page, &["The distribution of margins was not recorded: the run is of an older version."]);
    assert_eq!(plots(&page), 4);
}

#[test]
fn a_run_that_was_killed_has_a_page_of_what_it_measured() {
    let folder = runs(&["run"]);
    let path = folder.path().join("run/metrics.jsonl");
    let text = fs::read_to_string(&path).expect("metrics");
    let torn: String = text.split_inclusive('\n').take(3).chain(["{\"kind\":\"st"]).collect();
    fs::write(&path, torn).expect("metrics");
    let page = page(folder.path(), "run", "run/report.html");
    has(&page, &["10 of 30 steps", "The run has no validation yet."]);
}

#[test]
fn folders_of_another_kind_and_malformed_files_are_refused_with_what_was_expected() {
    let folder = runs(&["run"]);
    let run = folder.path().join("run");
    let refused = |parts: &[&str]| refused_in(folder.path(), "report run", parts);
    refused_in(folder.path(), "report", &["<RUN>"]);
    refused_in(folder.path(), "report nowhere", &["error: nowhere: expected the folder of a run or an evaluation"]);
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    refused_in(
        folder.path(),
        "report run empty",
        &["error: empty: expected", "config.toml", "evaluation.json", "neither"],
    );
    refused_in(folder.path(), "report run --out nowhere/x.html", &["--out nowhere/x.html: there is no folder nowhere"]);

    let metrics = fs::read(run.join("metrics.jsonl")).expect("metrics");
    fs::remove_file(run.join("metrics.jsonl")).expect("metrics");
    refused(&["error: run: the run has no metrics.jsonl"]);
    fs::write(run.join("metrics.jsonl"), "").expect("metrics");
    refused(&["run/metrics.jsonl: expected at least one line of figures", "nothing yet"]);
    fs::write(run.join("metrics.jsonl"), "{\"kind\":\"step\",\"step\":1}\n{\"kind\"\n").expect("metrics");
    refused(&["run/metrics.jsonl: line 2: expected a JSON object with kind and step"]);
    let text = "{\"kind\":\"step\",\"step\":1,\"clean_loss\":\"low\"}\n";
    fs::write(run.join("metrics.jsonl"), text).expect("metrics");
    refused(&["run/metrics.jsonl: line 1: ", "string \"low\", expected f32"]);
    fs::write(run.join("metrics.jsonl"), metrics).expect("metrics");

    let at = run.join("evaluation-paper");
    evaluate(&run, "paper", &evaluation());
    fs::write(at.join("evaluation.json"), "{\"weights\": \"w\",\n \"count\": 3").expect("a file");
    let expected = "run/evaluation-paper/evaluation.json: expected an evaluation as `maxmargin evaluate` writes it, of schema_version 2 \
         or less; found: ";
    refused(&[expected, "line 2"]);
    let mut lacking = evaluation();
    lacking.as_object_mut().expect("an object").remove("norm");
    evaluate(&run, "paper", &lacking);
    refused(&[expected, "missing field `norm`"]);
    let mut newer = evaluation();
    newer["schema_version"] = json!(3);
    evaluate(&run, "paper", &newer);
    refused(&["run/evaluation-paper/evaluation.json: expected schema_version 2 or less, found 3", "newer maxmargin"]);
    evaluate(&run, "paper", &evaluation());
    adversarial(&at, 1, 0.1);
    fs::write(at.join("images.csv"), "index,label\n").expect("a file");
    refused(&[
        "run/evaluation-paper/images.csv: line 1: expected index,label,clean_prediction,",
        "found \"index,label\"",
    ]);
    let header = "index,label,clean_prediction,margin,distance,broken_eps,broken_by";
    fs::write(at.join("images.csv"), format!("{header}\n0,7,7,0.2,,0.1,pgd\n1,7,x\n")).expect("a file");
    refused(&["run/evaluation-paper/images.csv: line 3: expected", "found \"1,7,x\""]);
    fs::remove_file(at.join("images.csv")).expect("a file");
    let tensor = Tensor::new("adversarial", &[1, 28, 28], vec![0f32; 28 * 28]);
    write_tensors(&at.join("adversarial.safetensors"), &[tensor], &BTreeMap::new()).expect("a file");
    refused(&["adversarial.safetensors: tensor `adversarial`: expected [n, height, width, 1 or 3], found [1, 28, 28]"]);
    fs::write(run.join("config.toml"), "preset = 1").expect("settings");
    refused(&["run/config.toml: line 1: "]);
    assert!(!run.join("report.html").exists());
}
