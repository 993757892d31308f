//! The chapter of a page about training: curves, margins over the epochs, what the network was worth before and after.

use super::html::{escape, figure, numbers, table, words};
use super::plot::{Axis, Cell, Colour, Mark, Series, cells, lines};
use super::records::{RecordedRun, ReportSource};
use crate::Result;
use crate::config::{TestSearchStart, as_written};
use crate::record::{AtStep, EpochRecord, MarginCounts, StepRecord};
use crate::text::length;

/// The plot of margins over the epochs has no more columns than this.
const COLUMNS: usize = 40;
/// So many histograms are drawn one over the other.
const OUTLINES: usize = 4;
/// How high the strip of wrong images is, as a part of the largest margin.
const STRIP: f64 = 0.07;

/// A run with its number among the sources, which is its colour's.
type Numbered<'a> = (usize, &'a ReportSource, &'a RecordedRun);

/// The chapter; empty where no source is a run.
///
/// # Errors
/// A plot cannot be drawn.
pub fn chapter(sources: &[ReportSource]) -> Result<String> {
    let runs: Vec<Numbered> =
        sources.iter().enumerate().filter_map(|(i, source)| Some((i, source, source.run.as_ref()?))).collect();
    if runs.is_empty() {
        return Ok(String::new());
    }
    let mut text = String::from("<h2>Training</h2>\n");
    let kind = |run: &RecordedRun| (run.config.dataset, run.config.norm);
    let mut kinds: Vec<_> = Vec::new();
    runs.iter().map(|(.., run)| kind(run)).for_each(|kind| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    });
    for of in &kinds {
        if kinds.len() > 1 {
            text += &format!("<h3>{}, {}</h3>\n", of.0.entry().title, of.1);
        }
        let group: Vec<_> = runs.iter().copied().filter(|(.., run)| kind(run) == *of).collect();
        text += &curves(&group)?;
    }
    text += &results(&runs);
    text += "<h2>Margins while training</h2>\n";
    for run in runs {
        text += &margins(run)?;
    }
    Ok(text)
}

/// A swatch of a colour and what has it, which is HTML already.
pub fn key(colour: Colour, of: &str) -> String {
    format!("<span class=\"key\"><i style=\"background:{}\"></i>{of}</span>", colour.css())
}

/// The keys of these runs.
fn keys(runs: &[Numbered]) -> String {
    runs.iter().map(|(i, source, _)| key(Colour::Series(*i), &escape(&source.name))).collect()
}

/// Loss, accuracy and mean margin of runs on the same images in the same norm.
fn curves(runs: &[Numbered]) -> Result<String> {
    let steps = |figure: &dyn Fn(&StepRecord) -> Option<f32>, mark: Mark| {
        runs.iter()
            .map(|(i, _, run)| Series {
                colour: Colour::Series(*i),
                mark,
                points: (run.metrics.steps.iter())
                    .map(|line| (line.step as f64, figure(line).map_or(f64::NAN, f64::from)))
                    .collect(),
            })
            .collect::<Vec<_>>()
    };
    let epochs = |figure: &dyn Fn(&EpochRecord) -> Option<f64>| {
        runs.iter()
            .map(|(i, _, run)| Series {
                colour: Colour::Series(*i),
                mark: Mark::Dots,
                points: run
                    .metrics
                    .epochs
                    .iter()
                    .map(|line| (line.step as f64, figure(line).unwrap_or(f64::NAN)))
                    .collect(),
            })
            .collect::<Vec<_>>()
    };
    let last = |run: &RecordedRun| {
        let lines =
            run.metrics.steps.iter().map(|line| line.step).chain(run.metrics.epochs.iter().map(|line| line.step));
        lines.max().unwrap_or(0) as f64
    };
    let x = Axis::from_zero("step", runs.iter().map(|(.., run)| last(run)));
    let values = |series: &[Series]| {
        series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).collect::<Vec<_>>().into_iter()
    };
    let keys = keys(runs);
    let mut text = String::from("<div class=\"plots\">\n");

    let has = |figure: &dyn Fn(&StepRecord) -> Option<f32>| {
        runs.iter().any(|(.., run)| run.metrics.steps.iter().any(|line| figure(line).is_some()))
    };
    let attacked = |line: &StepRecord| line.margin_loss.or(line.adversarial_loss);
    let loss = [
        steps(&attacked, Mark::Line),
        steps(&|line| line.clean_loss, Mark::Dashes),
        steps(&|line| line.kl, Mark::Specks),
    ];
    let loss = loss.concat();
    let plot = lines("loss by step", &x, &Axis::from_zero("loss", values(&loss)), &loss)?;
    let mut said = String::from("Loss in training. Line: of the attacked batch. Dashes: of the clean images.");
    if has(&|line| line.kl) {
        said += " Dotted: TRADES' divergence.";
    }
    text += &figure(&plot, &format!("{keys}<br>{said}"));

    let percent = |line: &StepRecord| Some(100.0 * line.clean_accuracy.or(line.adversarial_accuracy)?);
    let accuracy = [steps(&percent, Mark::Thin), epochs(&|line| line.validation_accuracy)].concat();
    let plot = lines("accuracy by step", &x, &Axis::percent("right, %"), &accuracy)?;
    let mut said =
        String::from("Right without an attack. Thin line: training images. Dots: validation images, by epoch.");
    if has(&|line| line.adversarial_accuracy) {
        said += " In PGD training the training images are the attacked ones.";
    }
    text += &figure(&plot, &format!("{keys}<br>{said}"));

    let mut margin =
        [steps(&|line| line.mean_margin, Mark::Thin), epochs(&|line| line.validation_mean_margin)].concat();
    let mut bounds: Vec<f64> = runs.iter().map(|(.., run)| as_written(run.config.hinge_maxeps)).collect();
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    let bound =
        |d_max| Series { colour: Colour::Muted, mark: Mark::Thin, points: vec![(0.0, d_max), (x.range.end, d_max)] };
    margin.extend(bounds.into_iter().map(bound));
    let plot = lines("mean margin by step", &x, &Axis::from_zero("mean margin", values(&margin)), &margin)?;
    let said = "Mean margin, wrong images counting as 0. Thin line: as found in training. Dots: validation images, by \
                epoch. Grey: d_max.";
    text += &figure(&plot, &format!("{keys}<br>{said}"));

    if has(&|line| line.reached_d_max) {
        let reached = steps(&|line| Some(100.0 * line.reached_d_max?), Mark::Line);
        let y = Axis::from_zero("reached d_max, %", values(&reached));
        let plot = lines("images that reached d_max by step", &x, &y, &reached)?;
        let said = "Training images whose margin reached d_max: they add nothing to the loss of the attacked batch.";
        let of_mma: Vec<_> = runs.iter().copied().filter(|(.., run)| run.config.method.is_mma()).collect();
        text += &figure(&plot, &format!("{}<br>{said}", self::keys(&of_mma)));
    }
    Ok(text + "</div>\n")
}

/// What the networks were worth on the test images, before and after.
fn results(runs: &[Numbered]) -> String {
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
    let mut rows = Vec::new();
    for (_, source, run) in runs {
        for result in &run.metrics.results {
            let weights = match result.weights.as_str() {
                "initial" => "untrained".into(),
                _ => format!("best checkpoint, step {}", result.weights_step),
            };
            let margin = result.mean_margin.map_or("–".into(), |margin| format!("{margin:.4}"));
            rows.push((
                "",
                vec![
                    escape(&source.name),
                    weights,
                    result.test_images.to_string(),
                    percent(result.clean_accuracy),
                    percent(result.robust_accuracy),
                    escape(&result.robust_attack),
                    margin,
                ],
            ));
        }
    }
    if rows.is_empty() {
        return "<p class=\"note\">No run has measured its network on the test images yet.</p>\n".into();
    }
    let head = [
        words("run"),
        words("weights"),
        numbers("test images"),
        numbers("clean, %"),
        numbers("under attack, %"),
        words("that attack"),
        numbers("mean margin"),
    ];
    table(&head, &rows)
}

/// How the distribution of a run's validation margins moves.
fn margins((i, source, run): Numbered) -> Result<String> {
    let name = escape(&source.name);
    let heading = format!("<h3>{}</h3>\n", key(Colour::Series(i), &name));
    let recorded: Vec<(&AtStep<EpochRecord>, &MarginCounts)> =
        run.metrics.epochs.iter().filter_map(|line| Some((line, line.margins.as_ref()?))).collect();
    let Some(&(_, last)) = recorded.last() else {
        let why = match run.metrics.epochs.is_empty() {
            true => "The run has no validation yet.",
            false => "The distribution of margins was not recorded: the run is of an older version.",
        };
        return Ok(format!("{heading}<p class=\"note\">{why}</p>\n"));
    };
    let (over_time, columns) = over_time(i, run, &recorded)?;
    let every = if columns == recorded.len() { String::new() } else { format!(" {columns} validations are shown.") };
    let images = last.total();
    let mut text = heading + "<div class=\"plots\">\n";
    text += &figure(
        &over_time,
        &format!(
            "Margins of {images} validation images, by step: the stronger the colour, the more images (by the square \
             root). Line: their mean. Grey: d_max. Red strip below 0: wrong images.{every}"
        ),
    );
    let (outlines, keys) = outlines(&recorded)?;
    let config = &run.config;
    let gap = match config.fidelity.test_search_start {
        TestSearchStart::TestEps => String::new(),
        TestSearchStart::HalfMaxeps => format!(
            " A gap is the released code's: the search for an image's margin starts at {}, with a sign that was measured at \
             {}.",
            length(as_written(config.max_eps()) / 2.0),
            length(as_written(config.test_eps))
        ),
    };
    text += &figure(&outlines, &format!("{keys}<br>The same as histograms; wrong images below 0.{gap}"));
    Ok(text + "</div>\n")
}

/// Shares of images by step and margin, and how many validations are shown.
fn over_time(
    i: usize,
    run: &RecordedRun,
    recorded: &[(&AtStep<EpochRecord>, &MarginCounts)],
) -> Result<(String, usize)> {
    let many = recorded.len().div_ceil(COLUMNS).max(1);
    // The last validation is always shown.
    let shown: Vec<_> = recorded.iter().rev().step_by(many).rev().collect();
    let share = |count: usize, counts: &MarginCounts| count as f64 / counts.total().max(1) as f64;
    let most = shown.iter().flat_map(|(_, counts)| counts.bins.iter().map(|&count| share(count, counts)));
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let largest = shown.iter().map(|(_, counts)| f64::from(counts.max)).fold(1e-9, f64::max).min(1e12);
    let mut rectangles = Vec::new();
    let mut from = 0.0;
    for (line, counts) in &shown {
        let x = from..line.step as f64;
        from = x.end;
        let mut cell = |y, colour, shade| rectangles.push(Cell { x: x.clone(), y, colour, shade });
        if counts.wrong > 0 {
            cell(-STRIP * largest..-0.01 * largest, Colour::Wrong, share(counts.wrong, counts).sqrt());
        }
        for (bin, &count) in counts.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let y = f64::from(counts.edge(bin))..f64::from(counts.edge(bin + 1));
            cell(y, Colour::Series(i), (share(count, counts) / most).sqrt());
        }
    }
    let d_max = as_written(run.config.hinge_maxeps);
    let mean = |(line, _): &(&AtStep<EpochRecord>, &MarginCounts)| {
        (line.step as f64, line.validation_mean_margin.unwrap_or(f64::NAN))
    };
    let series = [
        Series { colour: Colour::Muted, mark: Mark::Thin, points: vec![(0.0, d_max), (from, d_max)] },
        Series { colour: Colour::Ink, mark: Mark::Line, points: recorded.iter().map(mean).collect() },
    ];
    let x = Axis { title: "step".into(), range: 0.0..from.clamp(1.0, 1e12) };
    let y = Axis { title: "margin".into(), range: -STRIP * largest..largest };
    Ok((cells("margins by step", false, &x, &y, &rectangles, &series)?, shown.len()))
}

/// Histograms of some validations as outlines, and their keys.
fn outlines(recorded: &[(&AtStep<EpochRecord>, &MarginCounts)]) -> Result<(String, String)> {
    let few = OUTLINES.min(recorded.len());
    let at = |i: usize| if few == 1 { recorded.len() - 1 } else { i * (recorded.len() - 1) / (few - 1) };
    let mut series = Vec::new();
    let mut keys = String::new();
    let (mut largest, mut width) = (1e-9f64, 0.0f64);
    for (i, (line, counts)) in (0..few).map(|i| (i, recorded[at(i)])) {
        let bins = counts.bins.len().max(1) as f64;
        (largest, width) = (largest.max(f64::from(counts.max)), width.max(f64::from(counts.max) / bins));
        let percent = |count: usize| 100.0 * count as f64 / counts.total().max(1) as f64;
        let mut points = Vec::new();
        let mut step = |from: f64, to: f64, count: usize| points.extend([(from, percent(count)), (to, percent(count))]);
        step(-f64::from(counts.max) / bins, 0.0, counts.wrong);
        for (bin, &count) in counts.bins.iter().enumerate() {
            step(f64::from(counts.edge(bin)), f64::from(counts.edge(bin + 1)), count);
        }
        series.push(Series { colour: Colour::Series(i), mark: Mark::Line, points });
        keys += &key(Colour::Series(i), &format!("epoch {}", line.epoch));
    }
    let y = Axis::from_zero(
        "images, %",
        series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect::<Vec<_>>().into_iter(),
    );
    let x = Axis { title: "margin".into(), range: -width.min(1e12)..largest.min(1e12) };
    Ok((lines("histograms of margins", &x, &y, &series)?, keys))
}
