//! Chapter of a page about evaluations: robust accuracy beside the paper's, then the figures of each evaluation.

use super::colour::PageColour;
use super::comparison::{comparison, paper_figure};
use super::escape::escape;
use super::examples::Pictures;
use super::html::{facts, numbers, table, warning_box, wide_figure, words};
use super::marker::{Look, Stroke};
use super::paper::{PaperColumn, PaperTables, sources};
use super::plot::{Axis, Cell, Plot, Series};
use super::shown::{ShownEvaluation, method};
use super::sources::ReportSource;
use super::values::{UNKNOWN, count, decimal, distance, grouped, percent, percent_of};
use crate::Result;
use crate::catalog::DatasetKind;
use crate::data::Provenance;
use crate::evaluate::report::{AttackStatistics, MinimumNormResult, RobustAccuracy};
use crate::evaluate::strength::AttackStrength;
use crate::record::MarginCounts;
use crate::tape::Norm;
use crate::text::length;

/// Bins of the histogram of an evaluation's margins.
const BINS: usize = 42;

/// The chapter, beside the paper's figures in `paper`. `pictures` has the images of adversarial examples.
///
/// # Errors
/// A plot cannot be drawn, or a file beside an evaluation has another form.
pub fn chapter(sources: &[ReportSource], paper: &PaperTables, pictures: &mut Pictures) -> Result<String> {
    let all = ShownEvaluation::all(sources);
    let mut text = String::from("<h2>Accuracy under attack</h2>\n");
    if all.is_empty() {
        text += "<p>No evaluation was found. <code>maxmargin evaluate RUN</code> writes one into the run's folder; then \
                 write this page again.</p>\n";
        return Ok(text);
    }
    let kind = |shown: &ShownEvaluation| (shown.report().dataset, shown.report().norm);
    let present: Vec<_> = all.iter().copied().filter(|shown| shown.other_weights().is_none()).collect();
    if present.is_empty() {
        text += "<p>Every evaluation is of weights that the runs no longer have: nothing is compared.</p>\n";
    }
    let mut kinds: Vec<(DatasetKind, Norm)> = Vec::new();
    for kind in present.iter().map(kind) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for (dataset, norm) in kinds {
        let group: Vec<_> = present.iter().copied().filter(|shown| kind(shown) == (dataset, norm)).collect();
        text += &comparison(dataset, norm, &group, paper)?;
    }
    text += "<h2>Evaluations</h2>\n";
    for shown in &all {
        text += &evaluation(shown, paper)?;
        text += &pictures.of(shown)?;
    }
    Ok(text)
}

/// Figures of one evaluation.
fn evaluation(shown: &ShownEvaluation, paper: &PaperTables) -> Result<String> {
    let report = shown.report();
    let mut text = format!("<h3>{}</h3>\n", shown.look.key(&shown.name()));
    text += &warning_box("Figures of other weights", &Vec::from_iter(shown.other_weights()));
    text += &warning_box("Warnings about these figures (docs/checks.md explains each)", &report.warnings);
    text += &settings(shown);
    text += &at_each_eps(&report.robust, report.count as u64);
    text += &minimum_norm(shown, paper);
    text += &margins(shown)?;
    Ok(text)
}

/// Figures and settings of an evaluation as a list.
fn settings(shown: &ShownEvaluation) -> String {
    let report = shown.report();
    let known = |value: &str| if value.is_empty() { UNKNOWN.into() } else { escape(value) };
    let code = |value: &str| if value.is_empty() { UNKNOWN.into() } else { format!("<code>{}</code>", escape(value)) };
    let optional = |value: &Option<String>| known(value.as_deref().unwrap_or_default());
    // Bundled images say so already.
    let provenance = report.provenance.filter(|provenance| *provenance != Provenance::Bundled);
    let origin = [&*report.images, &*report.split].into_iter().find(|text| !text.is_empty()).map(escape);
    let origin = origin.into_iter().chain(provenance.map(|provenance| provenance.describe().into()));
    let origin = origin.collect::<Vec<String>>().join("; ");
    let images = grouped(report.count as u64) + &if origin.is_empty() { origin } else { format!(" ({origin})") };
    let trained = match (&report.method, &shown.source.run) {
        (None, Some(run)) => method(&run.config),
        (method, _) => optional(&method.as_ref().map(|method| method.to_uppercase())),
    };
    facts(&[
        ("clean accuracy, %", percent_of(Some(report.clean_accuracy), report.count as u64)),
        ("AvgAcc, %", percent(report.average_accuracy)),
        ("AvgRobAcc, %", percent(report.average_robust_accuracy)),
        ("mean margin", distance(report.mean_margin)),
        ("images", images),
        ("protocol", optional(&report.protocol)),
        ("seed", report.seed.map_or(UNKNOWN.into(), |seed| seed.to_string())),
        ("forward passes of an image", grouped(report.forward_passes)),
        ("backward passes of an image", grouped(report.backward_passes)),
        ("seconds", report.seconds.map_or(UNKNOWN.into(), |seconds| decimal(seconds, 1))),
        ("network", known(&report.model)),
        ("normalization", known(&report.normalization)),
        ("trained by", trained),
        ("d_max", shown.d_max().map_or(UNKNOWN.into(), length)),
        ("weights", code(&report.weights)),
        ("SHA-256 of the weights begins", code(&report.weights_sha256.chars().take(16).collect::<String>())),
        ("SHA-256 of the images begins", code(&report.images_sha256.chars().take(16).collect::<String>())),
        ("precision", known(&report.precision)),
        ("ignored tensors", known(&report.ignored_tensors.join(", "))),
        ("remarks on the weights", known(&report.weights_remarks.join("; "))),
        ("maxmargin", known(&report.maxmargin)),
        ("commit", code(report.commit.as_deref().unwrap_or_default())),
        ("device", known(&report.device)),
    ])
}

/// Tables of the accuracy at each eps, and of each attack.
fn at_each_eps(robust: &[RobustAccuracy], n: u64) -> String {
    if robust.is_empty() {
        return String::new();
    }
    let row = |at: &RobustAccuracy| {
        let attack = if at.attack.is_empty() { UNKNOWN.into() } else { escape(&at.attack) };
        ("", vec![length(at.eps), percent_of(Some(at.accuracy), n), attack])
    };
    let body: Vec<_> = robust.iter().map(row).collect();
    let text = table(&[numbers("eps"), numbers("accuracy, %"), words("attack")], &body);
    let attacks = robust.iter().flat_map(|at| at.attacks.iter().enumerate().map(|(i, attack)| (at.eps, i, attack)));
    let attacks: Vec<_> =
        attacks.map(|(eps, i, attack)| (if i == 0 { "begin" } else { "" }, attack_row(eps, attack))).collect();
    if attacks.is_empty() {
        return text;
    }
    let others = ["runs", "attacked", "adversarial", "forward passes", "backward passes", "seconds"].map(numbers);
    let head: Vec<_> = [numbers("eps"), words("attack")].into_iter().chain(others).chain([words("strength")]).collect();
    text + &format!("<details open><summary>each attack</summary>\n{}</details>\n", table(&head, &attacks))
}

/// Row of an attack at an eps.
fn attack_row(eps: f64, attack: &AttackStatistics) -> Vec<String> {
    let AttackStatistics { name, runs, attacked, found, passes, seconds, strength: attack_strength, .. } = attack;
    let counts = [u64::from(*runs), *attacked as u64, *found as u64, passes.forward, passes.backward].map(grouped);
    let mut row = vec![length(eps), escape(name)];
    row.extend(counts);
    row.extend([decimal(*seconds, 1), strength(attack_strength)]);
    row
}

/// Strength of an attack, beside the published one where they differ.
fn strength(strength: &Option<AttackStrength>) -> String {
    strength.as_ref().map_or(UNKNOWN.into(), |strength| escape(&strength.to_string()))
}

/// Table of the minimum-norm attacks' distances beside the paper's.
fn minimum_norm(shown: &ShownEvaluation, paper: &PaperTables) -> String {
    let report = shown.report();
    if report.minimum_norm.is_empty() {
        return String::new();
    }
    let own = |attack: &MinimumNormResult| {
        let MinimumNormResult { name, found, attacked, mean, quartiles, passes, seconds, strength: of_attack } = attack;
        // Files of former versions do not say how many were attacked.
        let attacked = if *attacked < *found { UNKNOWN.into() } else { grouped(*attacked as u64) };
        let mut row = vec![escape(name), percent_of(Some(report.clean_accuracy), report.count as u64)];
        row.push(format!("{} <small>of {} of {attacked} found</small>", distance(*mean), grouped(*found as u64)));
        row.extend(quartiles.map_or([None; 3], |quartiles| quartiles.map(Some)).map(distance));
        row.extend([grouped(passes.forward), grouped(passes.backward), decimal(*seconds, 1), strength(of_attack)]);
        ("ours", row)
    };
    let mut body: Vec<_> = report.minimum_norm.iter().map(own).collect();
    let published = match shown.other_images() {
        None => paper.of(report.dataset, report.norm).distances,
        Some(_) => Vec::new(),
    };
    let columns = [
        PaperColumn::Clean,
        PaperColumn::MeanDistance,
        PaperColumn::LowerQuartile,
        PaperColumn::Median,
        PaperColumn::UpperQuartile,
    ];
    for row in &published {
        let mut cells = vec![format!("paper, {}", escape(&row.name))];
        cells.extend(columns.map(|column| paper_figure(row.figure(column))));
        cells.extend([UNKNOWN; 4].map(String::from));
        body.push(("", cells));
    }
    let others = ["clean, %", "mean", "lower quartile", "median", "upper quartile"].map(numbers);
    let costs = ["forward passes", "backward passes", "seconds"].map(numbers);
    let head = [words("nearest adversarial examples")].into_iter().chain(others).chain(costs);
    let head: Vec<_> = head.chain([words("strength")]).collect();
    let mut note = String::from(
        "Mean and quartiles are of the images for which an adversarial one was found; they leave out images that may lie \
         farther.",
    );
    if let Some(other) = shown.other_images() {
        note += &format!(" The paper's distances are left out: {other}.");
    }
    if !published.is_empty() {
        note += &format!(
            " The paper's distances: Carlini and Wagner's attack on the first 1,000 test images; bold: verified ({}).",
            escape(&sources(&published))
        );
    }
    table(&head, &body) + &format!("<p class=\"note\">{note}</p>\n")
}

/// Histogram of the margins, if they were measured.
fn margins(shown: &ShownEvaluation) -> Result<String> {
    let report = shown.report();
    let measured = report.image_margins().filter(|margins| !margins.values.is_empty());
    let Some(margins) = measured else { return Ok(String::new()) };
    let largest = margins.values.iter().copied().filter(|margin| margin.is_finite()).fold(1e-9, f32::max);
    let max = if report.max_eps > 0.0 { report.max_eps } else { largest };
    let counts = MarginCounts::of(&margins, max.min(1e12), BINS);
    let percentage = |count: usize| 100.0 * count as f64 / margins.values.len() as f64;
    let width = f64::from(counts.max) / BINS as f64;
    let bar = |x, colour, count| Cell { x, y: 0.0..percentage(count), colour, shade: 0.85 };
    let mut bars = vec![bar(-width..-0.1 * width, PageColour::Misclassified, counts.misclassified)];
    for (bin, &count) in counts.bins.iter().enumerate() {
        bars.push(bar(f64::from(counts.edge(bin))..f64::from(counts.edge(bin + 1)), shown.look.colour, count));
    }
    let range = -width..f64::from(counts.max);
    let x = Axis { numbered_from: 0.0, ..Axis::new(&format!("margin, {}", report.norm), range) };
    let y = Axis::from_zero("images, %", bars.iter().map(|bar| bar.y.end));
    let look = Look::line(PageColour::Muted, Stroke::Dots);
    let level = shown.d_max().map(|d_max| Series::new(look, vec![(d_max, 0.0), (d_max, y.range.end)]));
    let key = shown.d_max().map_or(String::new(), |d_max| look.key(&format!("d_max {}", length(d_max))) + "<br>");
    let series = Vec::from_iter(level);
    let plot = Plot { cells: &bars, series: &series, wide: true, scale: None };
    let plot = plot.draw("histogram of margins", &x, &y)?;
    let beyond = match counts.above + counts.below + counts.nan {
        0 => String::new(),
        n => format!(" Not shown: {} of another value.", grouped(n as u64)),
    };
    let caption = format!(
        "{key}Margins of {} by AN-PGD{}; red, below 0: the {} misclassified.{beyond}",
        count(margins.values.len() as u64, "image"),
        report
            .margin_strength
            .as_ref()
            .map_or(String::new(), |strength| format!(" ({})", escape(&strength.to_string()))),
        grouped(counts.misclassified as u64)
    );
    Ok(wide_figure(&plot, &caption))
}
