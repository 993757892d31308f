//! Chapter of a page about training: curves, the distribution of margins over the epochs, results before and after.

use super::escape::escape;
use super::html::{figure, key, numbers, table, words};
use super::plot::{Axis, Cell, Mark, PageColour, Series, cells, lines};
use super::sources::{RecordedRun, ReportSource};
use super::values::{distance, percent};
use crate::Result;
use crate::catalog::DatasetKind;
use crate::config::{Config, TestSearchStart, as_written};
use crate::record::{AtStep, EpochRecord, MarginCounts, StepRecord};
use crate::tape::Norm;
use crate::text::length;

/// Largest number of columns of the plot of margins over the epochs.
const COLUMNS: usize = 40;
/// Number of histograms that are drawn over each other.
const OUTLINES: usize = 4;
/// Height of the strip of misclassified images, as a fraction of the largest margin.
const STRIP: f64 = 0.07;

/// Run with its source.
#[derive(Clone, Copy)]
struct ShownRun<'a> {
    /// Colour of the source.
    colour: PageColour,
    source: &'a ReportSource,
    run: &'a RecordedRun,
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
        .filter_map(|(i, source)| Some(ShownRun { colour: PageColour::Series(i), source, run: source.run.as_ref()? }))
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
    text += "<h2>Margins during training</h2>\n";
    for shown in &runs {
        text += &margins(shown)?;
    }
    Ok(text)
}

/// Keys of the runs' colours.
fn keys(runs: &[ShownRun]) -> String {
    runs.iter().map(|shown| key(shown.colour, &escape(&shown.source.name))).collect()
}

/// Curves by step of runs on the same images in the same norm.
struct Curves<'a> {
    runs: &'a [ShownRun<'a>],
    x: Axis,
    keys: String,
}

impl<'a> Curves<'a> {
    fn new(runs: &'a [ShownRun<'a>]) -> Curves<'a> {
        let x = Axis::from_zero("step", runs.iter().map(|shown| shown.run.steps_done() as f64));
        Curves { runs, x, keys: keys(runs) }
    }

    fn plots(&self) -> Result<String> {
        let plots = [self.loss()?, self.accuracy()?, self.mean_margin()?, self.reached_d_max()?];
        Ok(format!("<div class=\"plots\">\n{}</div>\n", plots.concat()))
    }

    /// Loss by step.
    fn loss(&self) -> Result<String> {
        let attacked = |line: &StepRecord| line.margin_loss.or(line.adversarial_loss);
        let loss = [
            self.steps(attacked, Mark::Line),
            self.steps(|line| line.clean_loss, Mark::Dashes),
            self.steps(|line| line.kl, Mark::Specks),
        ];
        let loss = loss.concat();
        let plot = lines("loss by step", &self.x, &axis_of("loss", &loss), &loss)?;
        let mut caption = String::from("Loss during training. Line: the attacked batch. Dashes: the clean images.");
        if self.have(|line| line.kl) {
            caption += " Dotted: TRADES' divergence.";
        }
        Ok(figure(&plot, &format!("{}<br>{caption}", self.keys)))
    }

    /// Accuracy by step.
    fn accuracy(&self) -> Result<String> {
        let training = |line: &StepRecord| line.train_accuracy.or(line.train_adversarial_accuracy);
        let accuracy = [self.steps(training, Mark::Thin), self.epochs(|epoch| epoch.validation_accuracy)].concat();
        let plot = lines("accuracy by step", &self.x, &Axis::percent("accuracy, %"), &accuracy)?;
        let mut caption =
            String::from("Accuracy without an attack. Thin line: training images. Dots: validation images, by epoch.");
        if self.have(|line| line.train_adversarial_accuracy) {
            caption += " In PGD training the training images are the attacked ones.";
        }
        Ok(figure(&plot, &format!("{}<br>{caption}", self.keys)))
    }

    /// Mean margin by step, with each d_max.
    fn mean_margin(&self) -> Result<String> {
        let mut margin =
            [self.steps(|line| line.mean_margin, Mark::Thin), self.epochs(|epoch| epoch.validation_mean_margin)]
                .concat();
        let mut bounds: Vec<f64> = self.runs.iter().map(|shown| d_max(&shown.run.config)).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        margin.extend(bounds.into_iter().map(|d_max| level(d_max, self.x.range.end)));
        let plot = lines("mean margin by step", &self.x, &axis_of("mean margin", &margin), &margin)?;
        let caption = "Mean margin; misclassified images count as 0. Thin line: training images. Dots: validation images, \
                       by epoch. Grey: d_max.";
        Ok(figure(&plot, &format!("{}<br>{caption}", self.keys)))
    }

    /// Percentage of images that reached d_max by step; empty if no run measured it.
    fn reached_d_max(&self) -> Result<String> {
        if !self.have(|line| line.train_reached_d_max) {
            return Ok(String::new());
        }
        let reached = self.steps(|line| line.train_reached_d_max, Mark::Line);
        let y = axis_of("reached d_max, %", &reached);
        let plot = lines("images that reached d_max by step", &self.x, &y, &reached)?;
        let caption = "Training images whose margin reached d_max: they add nothing to the loss of the attacked batch.";
        let mma: Vec<_> = self.runs.iter().copied().filter(|shown| shown.run.config.method.is_mma()).collect();
        Ok(figure(&plot, &format!("{}<br>{caption}", keys(&mma))))
    }

    /// A series a run of a figure of its training steps; a missing figure is a gap.
    fn steps(&self, value: impl Fn(&StepRecord) -> Option<f32>, mark: Mark) -> Vec<Series> {
        let series = |shown: &ShownRun| {
            let point = |line: &AtStep<StepRecord>| (line.step as f64, value(line).map_or(f64::NAN, f64::from));
            Series { colour: shown.colour, mark, points: shown.run.metrics.steps.iter().map(point).collect() }
        };
        self.runs.iter().map(series).collect()
    }

    /// A series a run of a figure of its validations; a missing figure is a gap.
    fn epochs(&self, value: impl Fn(&EpochRecord) -> Option<f64>) -> Vec<Series> {
        let series = |shown: &ShownRun| {
            let point = |epoch: &AtStep<EpochRecord>| (epoch.step as f64, value(epoch).unwrap_or(f64::NAN));
            let points = shown.run.metrics.epochs.iter().map(point).collect();
            Series { colour: shown.colour, mark: Mark::Dots, points }
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
    Series { colour: PageColour::Muted, mark: Mark::Thin, points: vec![(0.0, value), (end, value)] }
}

/// d_max of a run.
fn d_max(config: &Config) -> f64 {
    as_written(config.hinge_maxeps)
}

/// Table of the results on the test images, before training and after it.
fn results(runs: &[ShownRun]) -> String {
    let mut body = Vec::new();
    for ShownRun { source, run, .. } in runs {
        for result in &run.metrics.results {
            let weights = match result.weights.as_str() {
                "initial" => "untrained".into(),
                _ => format!("best checkpoint, step {}", result.weights_step),
            };
            body.push((
                "",
                vec![
                    escape(&source.name),
                    weights,
                    result.test_images.to_string(),
                    percent(result.clean_accuracy),
                    percent(result.robust_accuracy),
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
    table(&head, &body)
}

/// Plots of the distribution of a run's validation margins over the epochs.
fn margins(shown: &ShownRun) -> Result<String> {
    let heading = format!("<h3>{}</h3>\n", key(shown.colour, &escape(&shown.source.name)));
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
    let caption = format!(
        "Margins of {} validation images, by step: the stronger the colour, the more images (by the square root). Line: \
         mean margin. Grey: d_max. Red strip below 0: misclassified images.{some}",
        last.counts.total()
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
    let (outlines, keys) = outlines(&recorded)?;
    let caption = format!("{keys}<br>Histograms of the margins; misclassified images below 0.{gap}");
    Ok(format!("{heading}<div class=\"plots\">\n{over_time}{}</div>\n", figure(&outlines, &caption)))
}

/// Plot of the fraction of images by step and margin.
fn margins_by_step(shown: &ShownRun, columns: &[RecordedMargins]) -> Result<String> {
    let fraction = |count: usize, counts: &MarginCounts| count as f64 / counts.total().max(1) as f64;
    let largest_bin = columns.iter().flat_map(|at| at.counts.bins.iter().map(|&count| fraction(count, at.counts)));
    let largest_bin = largest_bin.fold(f64::MIN_POSITIVE, f64::max);
    let largest = columns.iter().map(|at| f64::from(at.counts.max)).fold(1e-9, f64::max).min(1e12);
    let mut rectangles = Vec::new();
    let mut from = 0.0;
    for RecordedMargins { epoch, counts } in columns {
        let x = from..epoch.step as f64;
        from = x.end;
        let mut cell = |y, colour, shade| rectangles.push(Cell { x: x.clone(), y, colour, shade });
        if counts.misclassified > 0 {
            cell(
                -STRIP * largest..-0.01 * largest,
                PageColour::Misclassified,
                fraction(counts.misclassified, counts).sqrt(),
            );
        }
        for (bin, &count) in counts.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let y = f64::from(counts.edge(bin))..f64::from(counts.edge(bin + 1));
            cell(y, shown.colour, (fraction(count, counts) / largest_bin).sqrt());
        }
    }
    let mean = |at: &RecordedMargins| (at.epoch.step as f64, at.epoch.validation_mean_margin.unwrap_or(f64::NAN));
    let series = [
        level(d_max(&shown.run.config), from),
        Series { colour: PageColour::Ink, mark: Mark::Line, points: columns.iter().map(mean).collect() },
    ];
    let x = Axis { title: "step".into(), range: 0.0..from.clamp(1.0, 1e12) };
    let y = Axis { title: "margin".into(), range: -STRIP * largest..largest };
    cells("margins by step", false, &x, &y, &rectangles, &series)
}

/// Histograms of some validations as outlines, and their keys.
fn outlines(recorded: &[RecordedMargins]) -> Result<(String, String)> {
    let few = OUTLINES.min(recorded.len());
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
        series.push(Series { colour: PageColour::Series(i), mark: Mark::Line, points });
        keys += &key(PageColour::Series(i), &format!("epoch {}", epoch.epoch));
    }
    let x = Axis { title: "margin".into(), range: -width.min(1e12)..largest.min(1e12) };
    Ok((lines("histograms of margins", &x, &axis_of("images, %", &series), &series)?, keys))
}
