//! Chapter of a page about training: curves, results before and after, costs, the distribution of margins over the
//! epochs.

use super::colour::PageColour;
use super::escape::escape;
use super::html::{figure, numbers, table, words};
use super::marker::{Look, Stroke};
use super::plot::{Axis, Cell, Plot, Series, ShadeScale};
use super::shown::look_of_source;
use super::sources::{RecordedRun, ReportSource};
use super::values::{UNKNOWN, count, distance, duration, grouped, percent_of};
use crate::Result;
use crate::catalog::DatasetKind;
use crate::config::{Config, TestSearchStart, as_written};
use crate::record::{AtStep, EpochRecord, MarginCounts, ResultRecord, StepRecord};
use crate::tape::Norm;
use crate::text::{length, si};

/// Largest number of columns of the plot of margins over the epochs.
const COLUMNS: usize = 40;
/// Lines of the histograms that are drawn over each other, the last one in the run's colour.
const OUTLINES: [Stroke; 4] = [Stroke::Solid, Stroke::Dashes, Stroke::Dots, Stroke::Thin];
/// Height of the strip of misclassified images, as a fraction of the largest margin.
const STRIP: f64 = 0.07;

/// Run with its source.
#[derive(Clone, Copy)]
struct ShownRun<'a> {
    /// Colour and marker of the source.
    look: Look,
    source: &'a ReportSource,
    run: &'a RecordedRun,
}

impl ShownRun<'_> {
    /// Look of a line.
    fn line(&self, stroke: Stroke) -> Look {
        Look { stroke: Some(stroke), ..self.look }
    }

    /// Key of the run.
    fn key(&self) -> String {
        self.line(Stroke::Solid).key(&escape(&self.source.name))
    }
}

/// Validation whose margins were recorded.
#[derive(Clone, Copy)]
struct RecordedMargins<'a> {
    epoch: &'a AtStep<EpochRecord>,
    counts: &'a MarginCounts,
}

/// The chapter; empty if no source is a run.
///
/// # Errors
/// A plot cannot be drawn.
pub fn chapter(sources: &[ReportSource]) -> Result<String> {
    let runs: Vec<ShownRun> = (sources.iter().enumerate())
        .filter_map(|(i, source)| Some(ShownRun { look: look_of_source(i), source, run: source.run.as_ref()? }))
        .collect();
    if runs.is_empty() {
        return Ok(String::new());
    }
    let mut text = String::from("<h2>Training</h2>\n");
    let kind = |shown: &ShownRun| (shown.run.config.dataset, shown.run.config.norm);
    let mut kinds: Vec<(DatasetKind, Norm)> = Vec::new();
    for kind in runs.iter().map(kind) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for (dataset, norm) in &kinds {
        if kinds.len() > 1 {
            text += &format!("<h3>{}, {norm}</h3>\n", dataset.entry().title);
        }
        let group: Vec<_> = runs.iter().copied().filter(|shown| kind(shown) == (*dataset, *norm)).collect();
        text += &Curves::new(&group).plots()?;
    }
    text += &results(&runs);
    text += &costs(&runs);
    text += "<h2>Margins during training</h2>\n";
    for shown in &runs {
        text += &margins(shown)?;
    }
    Ok(text)
}

/// Keys of lines that are the same for every run, in the colour of remarks.
fn strokes(meanings: &[(Stroke, &str)]) -> String {
    meanings.iter().map(|(stroke, meaning)| Look::line(PageColour::Muted, *stroke).key(meaning)).collect()
}

/// Curves by step of runs on the same images in the same norm.
struct Curves<'a> {
    runs: &'a [ShownRun<'a>],
    x: Axis,
}

impl<'a> Curves<'a> {
    fn new(runs: &'a [ShownRun<'a>]) -> Curves<'a> {
        let x = Axis::from_zero("step", runs.iter().map(|shown| shown.run.steps_done() as f64));
        Curves { runs, x }
    }

    fn plots(&self) -> Result<String> {
        let plots = [self.loss()?, self.accuracy()?, self.mean_margin()?, self.reached_d_max()?];
        Ok(format!("<div class=\"plots\">\n{}</div>\n", plots.concat()))
    }

    /// Plot with the keys of the runs and of what is the same for all.
    fn figure(&self, label: &str, y: &Axis, series: &[Series], keys: &str, caption: &str) -> Result<String> {
        let plot = Plot { series, ..Plot::default() }.draw(label, &self.x, y)?;
        let runs: String = self.runs.iter().map(ShownRun::key).collect();
        let keys = if keys.is_empty() { runs } else { format!("{runs}<br>{keys}") };
        Ok(figure(&plot, &format!("{keys}<br>{caption}")))
    }

    /// Loss by step.
    fn loss(&self) -> Result<String> {
        let attacked = |line: &StepRecord| line.margin_loss.or(line.adversarial_loss);
        let loss = [
            self.steps(attacked, Stroke::Solid),
            self.steps(|line| line.clean_loss, Stroke::Dashes),
            self.steps(|line| line.kl, Stroke::Dots),
        ];
        let mut keys = vec![(Stroke::Solid, "attacked batch"), (Stroke::Dashes, "clean images")];
        if self.have(|line| line.kl) {
            keys.push((Stroke::Dots, "TRADES' divergence"));
        }
        let loss = loss.concat();
        self.figure("loss by step", &axis_of("loss", &loss), &loss, &strokes(&keys), "Loss during training.")
    }

    /// Accuracy by step.
    fn accuracy(&self) -> Result<String> {
        let training = |line: &StepRecord| line.train_accuracy.or(line.train_adversarial_accuracy);
        let accuracy = [self.steps(training, Stroke::Thin), self.epochs(|epoch| epoch.validation_accuracy)].concat();
        let mut caption = String::from("Accuracy without an attack.");
        if self.have(|line| line.train_adversarial_accuracy) {
            caption += " In PGD training the training images are the attacked ones.";
        }
        let axis = Axis::percent("accuracy, %");
        self.figure("accuracy by step", &axis, &accuracy, &strokes(&Self::PARTS), &caption)
    }

    const PARTS: [(Stroke, &'static str); 2] =
        [(Stroke::Thin, "training images"), (Stroke::Solid, "validation images, by epoch")];

    /// Mean margin by step, with each d_max.
    fn mean_margin(&self) -> Result<String> {
        let mut margin =
            [self.steps(|line| line.mean_margin, Stroke::Thin), self.epochs(|epoch| epoch.validation_mean_margin)]
                .concat();
        let mut bounds: Vec<f64> = self.runs.iter().map(|shown| d_max(&shown.run.config)).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        margin.extend(bounds.iter().map(|d_max| level(*d_max, self.x.range.end)));
        let keys = strokes(&Self::PARTS) + &d_max_key(&bounds);
        let axis = axis_of("mean margin", &margin);
        self.figure(
            "mean margin by step",
            &axis,
            &margin,
            &keys,
            "Mean margin; misclassified training images count as 0.",
        )
    }

    /// Percentage of images that reached d_max by step; empty if no run measured it.
    fn reached_d_max(&self) -> Result<String> {
        if !self.have(|line| line.train_reached_d_max) {
            return Ok(String::new());
        }
        let mma: Vec<_> = self.runs.iter().copied().filter(|shown| shown.run.config.method.is_mma()).collect();
        let mma = Curves { runs: &mma, x: self.x.clone() };
        let reached = mma.steps(|line| line.train_reached_d_max, Stroke::Solid);
        let axis = axis_of("reached d_max, %", &reached);
        let caption = "Training images whose margin reached d_max: they add nothing to the loss of the attacked batch.";
        mma.figure("images that reached d_max by step", &axis, &reached, "", caption)
    }

    /// A series a run of a figure of its training steps; a missing figure is a gap.
    fn steps(&self, value: impl Fn(&StepRecord) -> Option<f32>, stroke: Stroke) -> Vec<Series> {
        let series = |shown: &ShownRun| {
            let point = |line: &AtStep<StepRecord>| (line.step as f64, value(line).map_or(f64::NAN, f64::from));
            Series::new(shown.line(stroke), shown.run.metrics.steps.iter().map(point).collect())
        };
        self.runs.iter().map(series).collect()
    }

    /// A series a run of a figure of its validations; a missing figure is a gap.
    fn epochs(&self, value: impl Fn(&EpochRecord) -> Option<f64>) -> Vec<Series> {
        let series = |shown: &ShownRun| {
            let point = |epoch: &AtStep<EpochRecord>| (epoch.step as f64, value(epoch).unwrap_or(f64::NAN));
            Series::new(shown.line(Stroke::Solid), shown.run.metrics.epochs.iter().map(point).collect())
        };
        self.runs.iter().map(series).collect()
    }

    /// True if a run has the figure.
    fn have(&self, value: impl Fn(&StepRecord) -> Option<f32>) -> bool {
        self.runs.iter().any(|shown| shown.run.metrics.steps.iter().any(|line| value(line).is_some()))
    }
}

/// Axis from 0 for the values of series.
fn axis_of(title: &str, series: &[Series]) -> Axis {
    let values: Vec<f64> = series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).collect();
    Axis::from_zero(title, values.into_iter())
}

/// Horizontal line from 0 to `end`.
fn level(value: f64, end: f64) -> Series {
    Series::new(Look::line(PageColour::Muted, Stroke::Dots), vec![(0.0, value), (end, value)])
}

/// Key of the levels of ascending d_max.
fn d_max_key(bounds: &[f64]) -> String {
    let lengths: Vec<String> = bounds.iter().map(|d_max| length(*d_max)).collect();
    let order = if bounds.len() > 1 { ", from below" } else { "" };
    Look::line(PageColour::Muted, Stroke::Dots).key(&format!("d_max {}{order}", lengths.join(", ")))
}

/// d_max of a run.
fn d_max(config: &Config) -> f64 {
    as_written(config.hinge_maxeps)
}

/// Table of the results on the test images, before training and after it.
fn results(runs: &[ShownRun]) -> String {
    let mut body = Vec::new();
    for shown in runs {
        for result in &shown.run.metrics.results {
            let weights = match result.weights.as_str() {
                "initial" => "untrained".into(),
                _ => format!("best checkpoint, step {}", grouped(result.weights_step)),
            };
            body.push((
                "",
                vec![
                    escape(&shown.source.name),
                    weights,
                    grouped(result.test_images),
                    percent_of(result.clean_accuracy, result.test_images),
                    percent_of(result.robust_accuracy, result.test_images),
                    escape(&result.robust_attack),
                    distance(result.mean_margin),
                ],
            ));
        }
    }
    if body.is_empty() {
        return "<p class=\"note\">No run has measured its network on the test images yet.</p>\n".into();
    }
    let head = [
        words("run"),
        words("weights"),
        numbers("test images"),
        numbers("clean, %"),
        numbers("under attack, %"),
        words("attack"),
        numbers("mean margin"),
    ];
    let note = "<p class=\"note\">Small: Wilson's 95 % confidence intervals of the accuracies, for the number of test \
                images. A stronger attack finds more: <code>maxmargin evaluate</code> measures with one.</p>\n";
    table(&head, &body) + note
}

/// Table of the costs of training.
fn costs(runs: &[ShownRun]) -> String {
    let row = |shown: &ShownRun| {
        let metrics = &shown.run.metrics;
        let mut devices: Vec<String> = Vec::new();
        for device in metrics.results.iter().map(|result| escape(&result.device)) {
            if !device.is_empty() && !devices.contains(&device) {
                devices.push(device);
            }
        }
        let last = |value: fn(&ResultRecord) -> Option<u64>| metrics.results.last().and_then(|result| value(result));
        // The passes before training are none.
        let passes = |value: fn(&ResultRecord) -> Option<u64>| last(value).filter(|passes| *passes > 0);
        let known = |text: Option<String>| text.unwrap_or(UNKNOWN.into());
        let skipped: u32 = metrics.steps.iter().filter_map(|line| line.skipped_steps).sum();
        let row = vec![
            escape(&shown.source.name),
            known(Some(devices.join(", then ")).filter(|devices| !devices.is_empty())),
            shown.run.config.precision.to_string(),
            grouped(shown.run.steps_done()),
            grouped(skipped.into()),
            known(Some(metrics.seconds).filter(|seconds| *seconds > 0.0).map(duration)),
            known(passes(|result| result.training_forward_passes).map(grouped)),
            known(passes(|result| result.training_backward_passes).map(grouped)),
            known(last(|result| result.device_bytes).map(|bytes| format!("{}B", si(bytes as f64)))),
        ];
        ("", row)
    };
    let head = [
        words("run"),
        words("device"),
        words("precision"),
        numbers("steps"),
        numbers("skipped steps"),
        numbers("time"),
        numbers("forward passes"),
        numbers("backward passes"),
        numbers("memory"),
    ];
    let note = "<p class=\"note\">Time: with validations and the measurements on the test images, of all parts of a run that \
                was resumed. Passes: of an image through the network in the training steps, as if the attack ran on every \
                image of a batch; MMA attacks the correct ones alone. Skipped steps: those whose gradients overflowed half \
                precision. A dash: the run has not ended, or is of an older version.</p>\n";
    table(&head, &runs.iter().map(row).collect::<Vec<_>>()) + note
}

/// Plots of the distribution of a run's validation margins over the epochs.
fn margins(shown: &ShownRun) -> Result<String> {
    let heading = format!("<h3>{}</h3>\n", shown.key());
    let epochs = &shown.run.metrics.epochs;
    let recorded: Vec<RecordedMargins> =
        (epochs.iter()).filter_map(|epoch| Some(RecordedMargins { epoch, counts: epoch.margins.as_ref()? })).collect();
    let Some(last) = recorded.last() else {
        let why = match epochs.is_empty() {
            true => "The run has no validation yet.",
            false => "The distribution of margins was not recorded: the run is of an older version.",
        };
        return Ok(format!("{heading}<p class=\"note\">{why}</p>\n"));
    };
    // The last validation is always shown.
    let every = recorded.len().div_ceil(COLUMNS).max(1);
    let columns: Vec<RecordedMargins> = recorded.iter().copied().rev().step_by(every).rev().collect();
    let some = match columns.len() == recorded.len() {
        true => String::new(),
        false => format!(" {} validations are shown.", columns.len()),
    };
    let keys = Look::line(PageColour::Ink, Stroke::Solid).key("mean margin") + &d_max_key(&[d_max(&shown.run.config)]);
    let caption = format!(
        "{keys}<br>Margins of {}, by step: the stronger the colour, the larger the part of the images in a cell, as the bar \
         on the right says. Red strip below 0: misclassified images.{some}",
        count(last.counts.total() as u64, "validation image")
    );
    let over_time = figure(&margins_by_step(shown, &columns)?, &caption);
    let config = &shown.run.config;
    let gap = match config.fidelity.test_search_start {
        TestSearchStart::TestEps => String::new(),
        TestSearchStart::HalfMaxeps => format!(
            " A gap comes from the released code: the search for an image's margin starts at {}, with a sign that was \
             measured at {}.",
            length(as_written(config.max_eps()) / 2.0),
            length(as_written(config.test_eps))
        ),
    };
    let (outlines, keys) = outlines(shown, &recorded)?;
    let caption = format!("{keys}<br>Histograms of the margins; misclassified images below 0.{gap}");
    Ok(format!("{heading}<div class=\"plots\">\n{over_time}{}</div>\n", figure(&outlines, &caption)))
}

/// Plot of the fraction of images by step and margin.
fn margins_by_step(shown: &ShownRun, columns: &[RecordedMargins]) -> Result<String> {
    let part = |count: usize, counts: &MarginCounts| 100.0 * count as f64 / counts.total().max(1) as f64;
    let cells = |at: &RecordedMargins| at.counts.bins.iter().copied().max().unwrap_or(0).max(at.counts.misclassified);
    let full = columns.iter().map(|at| part(cells(at), at.counts)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = ShadeScale { full, unit: " %", colours: vec![shown.look.colour, PageColour::Misclassified] };
    let largest = columns.iter().map(|at| f64::from(at.counts.max)).fold(1e-9, f64::max).min(1e12);
    let mut rectangles = Vec::new();
    let mut from = 0.0;
    for RecordedMargins { epoch, counts } in columns {
        let x = from..epoch.step as f64;
        from = x.end;
        let mut cell = |y, colour, count| {
            rectangles.push(Cell { x: x.clone(), y, colour, shade: scale.shade(part(count, counts)) });
        };
        if counts.misclassified > 0 {
            cell(-STRIP * largest..-0.01 * largest, PageColour::Misclassified, counts.misclassified);
        }
        for (bin, &count) in counts.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let y = f64::from(counts.edge(bin))..f64::from(counts.edge(bin + 1));
            cell(y, shown.look.colour, count);
        }
    }
    let mean = |at: &RecordedMargins| (at.epoch.step as f64, at.epoch.validation_mean_margin.unwrap_or(f64::NAN));
    let mean = columns.iter().map(mean).collect();
    let series = [level(d_max(&shown.run.config), from), Series::new(Look::line(PageColour::Ink, Stroke::Solid), mean)];
    let x = Axis::new("step", 0.0..from.clamp(1.0, 1e12));
    let y = Axis { numbered_from: 0.0, ..Axis::new("margin", -STRIP * largest..largest) };
    let plot = Plot { cells: &rectangles, scale: Some(scale), series: &series, wide: false };
    plot.draw("margins by step", &x, &y)
}

/// Histograms of some validations as outlines, and their keys.
fn outlines(shown: &ShownRun, recorded: &[RecordedMargins]) -> Result<(String, String)> {
    let few = OUTLINES.len().min(recorded.len());
    let at = |i: usize| if few == 1 { recorded.len() - 1 } else { i * (recorded.len() - 1) / (few - 1) };
    let mut series = Vec::new();
    let mut keys = String::new();
    let (mut largest, mut width) = (1e-9f64, 0.0f64);
    for (i, RecordedMargins { epoch, counts }) in (0..few).map(|i| (i, recorded[at(i)])) {
        let bins = counts.bins.len().max(1) as f64;
        (largest, width) = (largest.max(f64::from(counts.max)), width.max(f64::from(counts.max) / bins));
        let percentage = |count: usize| 100.0 * count as f64 / counts.total().max(1) as f64;
        let mut points = Vec::new();
        let mut bar = |from: f64, to: f64, count| points.extend([(from, percentage(count)), (to, percentage(count))]);
        bar(-f64::from(counts.max) / bins, 0.0, counts.misclassified);
        for (bin, &count) in counts.bins.iter().enumerate() {
            bar(f64::from(counts.edge(bin)), f64::from(counts.edge(bin + 1)), count);
        }
        // The last one stands out, in the colour of the run.
        let later = few - 1 - i;
        let colour = if later == 0 { shown.look.colour } else { PageColour::Ink };
        let look = Look::line(colour, OUTLINES[later]);
        series.push(Series::new(look, points));
        keys += &look.key(&format!("epoch {}", epoch.epoch));
    }
    let x = Axis { numbered_from: 0.0, ..Axis::new("margin", -width.min(1e12)..largest.min(1e12)) };
    let y = axis_of("images, %", &series);
    let plot = Plot { series: &series, ..Plot::default() }.draw("histograms of margins", &x, &y)?;
    Ok((plot, keys))
}
