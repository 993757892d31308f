//! TensorBoard's event file: known bytes, and agreement with `metrics.jsonl` wherever a run was stopped.

use std::fs;
use std::path::Path;

use maxmargin::record::events::EVENTS;
use maxmargin::record::run::METRICS;
use maxmargin::record::{Events, Kind, MarginCounts, Margins, Metrics, read_metrics};
use serde_json::{Value, json};

use crate::{names, temporary};

/// Records that TensorBoard 2.20's own writer makes of a version event, a scalar and a histogram.
const KNOWN: [&str; 3] = [
    "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
    "200000000000000029eda95009000000000000f83f10ac022a120a100a09737465702f6c6f7373150000803e82cb0d16",
    "70000000000000009429adcd09000000000000004010ad022a620a600a0d65706f63682f6d617267696e732a4f09000000000000d0bf11000000\
     000000e03f19000000000000104032180000000000000000000000000000d03f000000000000e03f3a18000000000000f03f000000000000f03f\
     00000000000000406f16708b",
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// Records of a file; each must be complete.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let mut rest = &file[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let (record, others) = rest.split_at(length + 16);
        records.push(record.to_vec());
        rest = others;
    }
    records
}

/// A line of `metrics.jsonl`.
fn line(kind: &str, step: u64, unix: f64, name: &str, figure: Value) -> Value {
    json!({"kind": kind, "step": step, name: figure, "clock": {"seconds": 0.1, "unix": unix}})
}

#[test]
fn records_have_the_bytes_that_tensorboard_writes() {
    let folder = temporary();
    let metrics = folder.path().join(METRICS);
    fs::write(folder.path().join(EVENTS), "").unwrap();
    let counts = json!({"max": 0.5, "wrong": 1, "bins": [1, 2]});
    let lines = [line("step", 300, 1.5, "loss", json!(0.25)), line("epoch", 301, 2.0, "margins", counts)];

    let expected = KNOWN.map(bytes);
    drop(Events::beside(&metrics, &lines).unwrap().expect("the file is there"));
    assert_eq!(records(&folder.path().join(EVENTS)), expected, "made from lines");
    let mut events = Events::beside(&metrics, &[]).unwrap().expect("the file is there");
    assert_eq!(fs::read(folder.path().join(EVENTS)).unwrap(), b"", "no line, no event");
    lines.iter().for_each(|line| events.append(line).unwrap());
    assert_eq!(records(&folder.path().join(EVENTS)), expected, "line by line");
}

#[test]
fn figures_that_are_no_numbers_are_left_out() {
    let folder = temporary();
    fs::write(folder.path().join(EVENTS), "").unwrap();
    let figures = json!({"kind": "step", "step": 300, "loss": 0.25, "lr": null, "best": true, "attack": "PGD",
                         "list": [1, 2], "clock": {"seconds": 0.1, "unix": 1.5}});
    drop(Events::beside(&folder.path().join(METRICS), &[figures]).unwrap());
    assert_eq!(records(&folder.path().join(EVENTS)), [bytes(KNOWN[0]), bytes(KNOWN[1])]);
}

#[test]
fn no_event_file_is_written_unless_requested() {
    let folder = temporary();
    let mut metrics = Metrics::create(&folder.path().join(METRICS)).unwrap();
    metrics.write(Kind::Step, 1, &json!({"loss": 1.0})).unwrap();
    assert_eq!(names(folder.path()), [METRICS]);
}

#[test]
fn after_a_resume_at_any_step_the_events_agree_with_the_lines() {
    let folder = temporary();
    let (path, events) = (folder.path().join(METRICS), folder.path().join(EVENTS));
    let measure = |metrics: &mut Metrics, from: u64| {
        for step in from..=6 {
            let margins = Margins::zero_if_misclassified(vec![0.0, 0.1, 0.2 * step as f32]);
            let margins = MarginCounts::of(&margins, 0.5, 4);
            metrics.write(Kind::Step, step, &json!({"loss": 1.0 / step as f32})).unwrap();
            metrics.write(Kind::Epoch, step, &json!({"margins": margins})).unwrap();
        }
    };
    let of_lines = || {
        let again = folder.path().join("again");
        fs::create_dir(&again).unwrap();
        fs::write(again.join(EVENTS), "").unwrap();
        drop(Events::beside(&again.join(METRICS), &read_metrics(&path).unwrap()).unwrap());
        let bytes = fs::read(again.join(EVENTS)).unwrap();
        fs::remove_dir_all(&again).unwrap();
        bytes
    };
    fs::write(&events, "").unwrap();
    measure(&mut Metrics::create(&path).unwrap(), 1);
    let (whole, metrics) = (fs::read(&events).unwrap(), fs::read(&path).unwrap());
    assert_eq!(records(&events).len(), 1 + 12);
    assert_eq!(whole, of_lines());
    for step in 0..=6 {
        // Possible states after a kill: a missing event, an incomplete one, one of a step that will run again.
        for left in [&whole[..], &whole[..whole.len() - 7], b"", b"torn"] {
            fs::write(&path, &metrics).unwrap();
            fs::write(&events, left).unwrap();
            measure(&mut Metrics::resume(&path, step, false).unwrap(), step + 1);
            assert_eq!(records(&events).len(), 1 + 12, "resumed at step {step}");
            assert_eq!(fs::read(&events).unwrap(), of_lines(), "resumed at step {step}");
        }
    }
}
