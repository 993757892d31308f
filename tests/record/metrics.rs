//! `metrics.jsonl`: lines are readable as soon as they are written, and equal those of an uninterrupted run after a
//! resume.

use std::fs;
use std::path::Path;

use maxmargin::record::events::EVENTS;
use maxmargin::record::line::CLOCK;
use maxmargin::record::run::METRICS;
use maxmargin::record::{Kind, Metrics, RunMetrics, read_metrics};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{message, names, temporary};

#[derive(Serialize)]
struct Measured {
    loss: f32,
    accuracy: f64,
}

/// Writes the lines of a run of `steps` steps, with an epoch every 4, from step `first` on.
fn measure(metrics: &mut Metrics, first: u64, steps: u64) {
    for step in first..=steps {
        metrics.write(Kind::Step, step, &Measured { loss: 1.0 / step as f32, accuracy: 0.1 * step as f64 }).unwrap();
        if step % 4 == 0 {
            metrics.write(Kind::Epoch, step, &json!({"mean_margin": 0.1})).unwrap();
        }
    }
    metrics.write(Kind::Result, steps, &json!({"clean": 0.98})).unwrap();
}

fn without_clock(path: &Path) -> Vec<Value> {
    let mut lines = read_metrics(path).unwrap();
    for line in &mut lines {
        assert!(line.as_object_mut().unwrap().remove(CLOCK).unwrap()["seconds"].as_f64().unwrap() >= 0.0);
    }
    lines
}

fn untrained(metrics: &mut Metrics) {
    metrics.write(Kind::Result, 0, &json!({"clean": 0.1})).unwrap();
}

/// Metrics of a whole run of 12 steps.
fn whole_run(path: &Path) -> Vec<Value> {
    let mut metrics = Metrics::create(path).unwrap();
    untrained(&mut metrics);
    measure(&mut metrics, 1, 12);
    without_clock(path)
}

#[test]
fn a_line_has_its_kind_its_step_and_its_figures() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let lines = whole_run(&path);
    assert_eq!(lines.len(), 1 + 12 + 3 + 1);
    assert_eq!(lines[0], json!({"kind": "result", "step": 0, "clean": 0.1}));
    assert_eq!(lines[1], json!({"kind": "step", "step": 1, "loss": 1.0, "accuracy": 0.1}));
    assert_eq!(lines[5], json!({"kind": "epoch", "step": 4, "mean_margin": 0.1}));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(r#"{"kind":"result","step":0,"clean":0.1,"clock":{"#), "{text}");
    assert!(text.contains(r#""loss":0.33333334,"#), "single precision in its shortest form: {text}");
}

#[test]
fn a_line_can_be_read_as_soon_as_it_is_written() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let mut metrics = Metrics::create(&path).unwrap();
    assert!(read_metrics(&path).unwrap().is_empty());
    metrics.write(Kind::Step, 1, &json!({})).unwrap();
    assert_eq!(read_metrics(&path).unwrap().len(), 1);
}

#[test]
fn after_a_resume_at_any_step_the_file_is_that_of_an_uninterrupted_run() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let expected = whole_run(&path);
    let whole = fs::read(&path).unwrap();
    for step in 0..=12 {
        fs::write(&path, &whole).unwrap();
        let mut metrics = Metrics::resume(&path, step, false).unwrap();
        if step == 0 {
            untrained(&mut metrics);
        }
        measure(&mut metrics, step + 1, 12);
        assert_eq!(without_clock(&path), expected, "resumed at step {step}");
    }
}

#[test]
fn fractions_of_former_versions_are_not_shown_beside_percentages() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let former = json!({"kind": "step", "step": 1, "clean_accuracy": 0.5, "reached_d_max": 0.25, "clock": {}});
    let attacked = json!({"kind": "step", "step": 2, "adversarial_accuracy": 0.125, "clock": {}});
    let result = json!({"kind": "result", "step": 2, "clean_accuracy": 0.5, "clock": {}});
    fs::write(&path, format!("{former}\n{attacked}\n{result}\n")).unwrap();
    let lines = read_metrics(&path).unwrap();
    assert_eq!((&lines[0]["train_accuracy"], &lines[0]["train_reached_d_max"]), (&json!(50.0), &json!(25.0)));
    assert_eq!(lines[1]["train_adversarial_accuracy"], 12.5);
    assert_eq!(lines[2]["clean_accuracy"], 0.5, "results were percentages before");
    let metrics = RunMetrics::read(&path).unwrap();
    assert_eq!((metrics.steps[0].train_accuracy, metrics.results[0].clean_accuracy), (Some(50.0), Some(0.5)));
    // TensorBoard's events of a resumed run are made of lines of both versions.
    fs::write(folder.path().join(EVENTS), "").unwrap();
    drop(Metrics::resume(&path, 9, false).unwrap());
    let events = fs::read(folder.path().join(EVENTS)).unwrap();
    let has = |name: &str| events.windows(name.len()).any(|part| part == name.as_bytes());
    assert!(has("step/train_accuracy") && !has("step/clean_accuracy") && !has("step/reached_d_max"));
}

#[test]
fn an_incomplete_last_line_is_dropped_wherever_it_was_cut() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let expected = whole_run(&path);
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
    for end in last..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), expected.len() - 1, "read, cut at byte {end}");
        drop(Metrics::resume(&path, 99, false).unwrap());
        assert_eq!(without_clock(&path), expected[..expected.len() - 1], "cut at byte {end}");
        assert!(fs::read(&path).unwrap().ends_with(b"\n"), "the next line begins on its own");
    }
    assert_eq!(names(folder.path()), [METRICS]);
}

#[test]
fn an_invalid_line_is_refused_with_its_number() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let good = r#"{"kind":"step","step":1,"clock":{"seconds":0}}"#;
    for bad in ["", "{", "17", r#"{"step":2}"#, r#"{"kind":"step"}"#, r#"{"kind":"lunch","step":2}"#, "{}{}"] {
        fs::write(&path, format!("{good}\n{good}\n{bad}\n{good}\n")).unwrap();
        assert!(message(read_metrics(&path), &path).contains("line 3: expected a JSON object with kind and step"));
        assert!(message(Metrics::resume(&path, 9, false).map(drop), &path).contains("line 3: "), "{bad}");
    }
    fs::write(&path, [good.as_bytes(), b"\n\xff\xfe\n"].concat()).unwrap();
    assert!(message(read_metrics(&path), &path).contains("line 2: "));
}

#[test]
fn the_metrics_of_another_run_are_not_overwritten() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    whole_run(&path);
    let before = fs::read(&path).unwrap();
    message(Metrics::create(&path).map(drop), &path);
    assert_eq!(fs::read(&path).unwrap(), before);
    let none = folder.path().join("none");
    message(Metrics::resume(&none, 1, false).map(drop), &none);
}
