//! The chapter of a page about evaluations: robust accuracy by eps beside the paper's, and each evaluation's figures.

use super::examples;
use super::html::{escape, facts, figure, numbers, table, words};
use super::paper::{self, PaperFigure, Transcription};
use super::plot::{Axis, Cell, Colour, Mark, Series, cells};
use super::records::{RecordedEvaluation, RecordedMinimumNorm, RecordedRobustAccuracy, ReportSource};
use super::training::key;
use crate::Result;
use crate::catalog::DatasetKind;
use crate::config::{Config, as_written};
use crate::record::MarginCounts;
use crate::tape::Norm;
use crate::text::length;

/// Bins of a histogram of an evaluation's margins.
const BINS: usize = 42;
/// What stands where nothing is known.
const NONE: &str = "–";

/// An evaluation with its source, and how they are shown.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The source's colour.
    pub colour: Colour,
    /// Its number among the source's evaluations.
    nth: usize,
    /// The source.
    pub source: &'a ReportSource,
    /// The evaluation.
    pub evaluation: &'a RecordedEvaluation,
}

impl Shown<'_> {
    /// The run's name and the evaluation's, as HTML.
    pub fn name(&self) -> String {
        let own = self.evaluation.name.strip_prefix("evaluation-").unwrap_or(&self.evaluation.name);
        match self.source.name == self.evaluation.name {
            true => escape(own),
            false => format!("{}, {}", escape(&self.source.name), escape(own)),
        }
    }

    /// How the weights were trained: by what, as the paper names methods, and with which d_max or eps. As the evaluation
    /// says, or the run that it is of.
    fn trained(&self) -> Option<(String, Option<f64>)> {
        let run = self.source.run.as_ref().map(|run| &run.config);
        match (&self.evaluation.method, run) {
            (Some(method), _) => Some((method.to_uppercase(), self.d_max())),
            (None, Some(config)) => Some((config.method.to_string().to_uppercase(), config.trained_with())),
            (None, None) => None,
        }
    }

    /// The d_max that they were trained with, or that bounds the margins.
    fn d_max(&self) -> Option<f64> {
        let of_run = || self.source.run.as_ref().map(|run| as_written(run.config.hinge_maxeps));
        self.evaluation.d_max.or_else(of_run)
    }

    /// The paper's name for the same model.
    fn paper_name(&self) -> Option<String> {
        let RecordedEvaluation { dataset, norm, .. } = *self.evaluation;
        // A length in another norm is another length.
        let same_norm = self.source.run.as_ref().is_none_or(|run| run.config.norm == norm);
        let (method, length) = self.trained().filter(|_| same_norm)?;
        match method.as_str() {
            "STD" | "TRADES" => Some(method),
            _ => Some(paper::model_name(dataset, norm, &method, length?)),
        }
    }
}

/// How a run is trained, in words.
pub fn method(config: &Config) -> String {
    let name = config.method.to_string().to_uppercase();
    match config.trained_with() {
        Some(d_max) if config.method.is_mma() => format!("{name}, d_max {}", length(d_max)),
        Some(eps) => format!("{name}, eps {}", length(eps)),
        None => name,
    }
}

/// Every evaluation of the sources.
pub fn all(sources: &[ReportSource]) -> Vec<Shown<'_>> {
    let mut all = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let of = |(nth, evaluation)| Shown { colour: Colour::Series(i), nth, source, evaluation };
        all.extend(source.evaluations.iter().enumerate().map(of));
    }
    all
}

/// The chapter. `pictures` gives the images of adversarial examples.
///
/// # Errors
/// A plot cannot be drawn, or a file beside an evaluation is not as it must be.
pub fn chapter(sources: &[ReportSource], pictures: &mut examples::Pictures) -> Result<String> {
    let all = all(sources);
    let mut text = String::from("<h2>Accuracy under attack</h2>\n");
    if all.is_empty() {
        text += "<p>No evaluation was found. <code>maxmargin evaluate RUN</code> writes one into the run's folder; then \
                 write this page again.</p>\n";
        return Ok(text);
    }
    let mut kinds: Vec<(DatasetKind, Norm)> = Vec::new();
    for kind in all.iter().map(|shown| (shown.evaluation.dataset, shown.evaluation.norm)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for (dataset, norm) in kinds {
        let group: Vec<_> =
            all.iter().copied().filter(|s| (s.evaluation.dataset, s.evaluation.norm) == (dataset, norm)).collect();
        text += &beside_the_paper(dataset, norm, &group)?;
    }
    text += "<h2>Evaluations</h2>\n";
    for shown in &all {
        text += &evaluation(shown)?;
        text += &pictures.of(shown)?;
    }
    Ok(text)
}

/// Whether two eps are meant to be the same: 0.0314 is 8/255.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-3 * a.abs().max(b.abs())
}

fn percent(value: Option<f64>) -> String {
    value.map_or(NONE.into(), |value| format!("{value:.2}"))
}

/// The plot and the table of robust accuracy.
fn beside_the_paper(dataset: DatasetKind, norm: Norm, group: &[Shown]) -> Result<String> {
    let published = paper::table(dataset, norm);
    let mut text = format!("<h3>{}, {norm}</h3>\n", dataset.entry().title);
    text += &curve(dataset, norm, group, &published)?;
    text += &figures(group, &published);
    let mut said = String::from(
        "In the paper an image counts as right if ten random starts of PGD and the examples transferred from the \
         paper's other models all fail, on all 10,000 test images. <b>Bold</b> figures are verified: seen in the \
         paper's review thread or in AutoAttack's table, or the mean of such. <span class=\"unsure\">The others</span> \
         are paper values, unverified transcriptions.",
    );
    if dataset == DatasetKind::Digits {
        said +=
            " The paper's are of the whole of MNIST and the LeNet5 of full width; the bundled digits are a part of it.";
    }
    if let Some((model, eps, accuracy)) = published.autoattack {
        let (eps, accuracy) = (length(eps), accuracy.text);
        said += &format!(
            " AutoAttack leaves <b>{accuracy}</b> % right of the published {model} at eps {eps} (verified: AutoAttack's \
             table): compare evaluations by it with that."
        );
    }
    Ok(text + &format!("<p class=\"note\">{said}</p>\n"))
}

/// Accuracy by eps; eps 0 is without an attack.
fn curve(dataset: DatasetKind, norm: Norm, group: &[Shown], published: &paper::PaperTable) -> Result<String> {
    let parts = dataset == DatasetKind::Cifar10 && norm == Norm::Linf;
    let (scale, title) = if parts { (255.0, "eps, in 1/255") } else { (1.0, "eps") };
    let (mut series, mut same_model) = (Vec::new(), Vec::new());
    for row in &published.rows {
        let value = |figure: &Option<PaperFigure>| figure.map_or(f64::NAN, |figure| figure.value);
        let robust = published.eps.iter().zip(&row.figures[3..]).map(|(eps, figure)| (eps * scale, value(figure)));
        let points = [(0.0, value(&row.figures[0]))].into_iter().chain(robust).collect::<Vec<_>>();
        series.push(Series { colour: Colour::Muted, mark: Mark::Thin, points: points.clone() });
        if let Some(shown) = group.iter().find(|shown| shown.paper_name().as_deref() == Some(row.name)) {
            same_model.push(Series { colour: shown.colour, mark: Mark::Specks, points });
        }
    }
    series.extend(same_model);
    let mut keys = String::new();
    for shown in group {
        let robust = shown.evaluation.robust.iter().map(|at| (at.eps * scale, at.accuracy));
        let points = [(0.0, shown.evaluation.clean_accuracy)].into_iter().chain(robust).collect();
        let mark = if shown.nth == 0 { Mark::Dots } else { Mark::Dashes };
        series.push(Series { colour: shown.colour, mark, points });
        keys += &key(shown.colour, &format!("{}{}", shown.name(), if shown.nth == 0 { "" } else { " (dashes)" }));
    }
    let x = Axis::from_zero(
        title,
        series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect::<Vec<_>>().into_iter(),
    );
    let plot = cells("accuracy by eps", true, &x, &Axis::percent("right, %"), &[], &series)?;
    let said = "Right under attack; eps 0 is without one. Thin lines: the paper's models; dotted, in a run's \
                colour, the one trained as the run was.";
    Ok(figure(&plot, &format!("{keys}<br>{said}")))
}

/// The table of robust accuracy: what was measured, then the paper's.
fn figures(group: &[Shown], published: &paper::PaperTable) -> String {
    let mut grid = published.eps.clone();
    for eps in group.iter().flat_map(|shown| shown.evaluation.robust.iter().map(|at| at.eps)) {
        if !grid.iter().any(|known| same(*known, eps)) {
            grid.push(eps);
        }
    }
    grid.sort_by(f64::total_cmp);
    let mut head = vec![words("model"), numbers("clean"), numbers("AvgAcc"), numbers("AvgRobAcc")];
    head.extend(grid.iter().map(|eps| numbers(&length(*eps))));
    head.push(words("standing"));
    let mut rows = Vec::new();
    for shown in group {
        let RecordedEvaluation { clean_accuracy, average_accuracy, average_robust_accuracy, robust, count, .. } =
            shown.evaluation;
        let mut row = vec![key(shown.colour, &shown.name()), percent(Some(*clean_accuracy))];
        row.extend([percent(*average_accuracy), percent(*average_robust_accuracy)]);
        row.extend(grid.iter().map(|&eps| percent(robust.iter().find(|at| same(at.eps, eps)).map(|at| at.accuracy))));
        row.push(format!("measured on {} images", grouped(*count)));
        rows.push(("ours", row));
    }
    let names: Vec<_> = group.iter().filter_map(Shown::paper_name).collect();
    for row in &published.rows {
        let standing = match row.standing() {
            Some(Transcription::Verified) => "verified",
            Some(Transcription::Unverified) => "paper value, unverified transcription",
            None => "bold: verified; others: paper values, unverified transcription",
        };
        let robust = grid.iter().map(|&eps| {
            let at = published.eps.iter().position(|known| same(*known, eps));
            published_figure(at.and_then(|at| row.figures[3 + at]))
        });
        let first = row.figures[..3].iter().map(|figure| published_figure(*figure));
        let mut shown = vec![format!("paper, {}", row.name)];
        shown.extend(first.chain(robust));
        shown.push(standing.into());
        rows.push((if names.iter().any(|name| name == row.name) { "match" } else { "" }, shown));
    }
    table(&head, &rows)
}

fn published_figure(figure: Option<PaperFigure>) -> String {
    match figure {
        Some(PaperFigure { text, standing: Transcription::Verified, .. }) => format!("<b>{text}</b>"),
        Some(PaperFigure { text, standing: Transcription::Unverified, .. }) => {
            format!("<span class=\"unsure\">{text}</span>")
        }
        None => NONE.into(),
    }
}

/// A whole number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = [&digits[..first]].into_iter().chain(digits.as_bytes()[first..].chunks(3).map(|group| {
        // Digits are ASCII.
        std::str::from_utf8(group).unwrap_or_default()
    }));
    groups.filter(|group| !group.is_empty()).collect::<Vec<_>>().join(",")
}

fn count(number: Option<u64>) -> String {
    number.map_or(NONE.into(), grouped)
}

fn seconds(time: Option<f64>) -> String {
    time.map_or(NONE.into(), |time| format!("{time:.1}"))
}

/// What one evaluation found.
fn evaluation(shown: &Shown) -> Result<String> {
    let found = shown.evaluation;
    let mut text = format!("<h3>{}</h3>\n", key(shown.colour, &shown.name()));
    text += &warning(&found.suspicious, "These figures are suspicious");
    let text_of = |value: &Option<String>| value.as_deref().map_or(NONE.into(), escape);
    let code = |value: &Option<String>| value.as_deref().map_or(NONE.into(), |v| format!("<code>{}</code>", escape(v)));
    let hash = found.weights_sha256.as_ref().map(|hash| hash.chars().take(16).collect::<String>());
    let images =
        found.images.as_deref().or(found.split.as_deref()).map_or(String::new(), |of| format!(" ({})", escape(of)));
    let trained = match (&found.method, &shown.source.run) {
        (None, Some(run)) => method(&run.config),
        (method, _) => text_of(&method.as_ref().map(|method| method.to_uppercase())),
    };
    text += &facts(&[
        ("clean accuracy, %", percent(Some(found.clean_accuracy))),
        ("AvgAcc, %", percent(found.average_accuracy)),
        ("AvgRobAcc, %", percent(found.average_robust_accuracy)),
        ("mean margin", found.mean_margin.map_or(NONE.into(), |mean| format!("{mean:.4}"))),
        ("images", format!("{}{images}", grouped(found.count))),
        ("protocol", text_of(&found.protocol)),
        ("seed", found.seed.map_or(NONE.into(), |seed| seed.to_string())),
        ("passes forwards, in images", count(found.forward_passes)),
        ("passes backwards, in images", count(found.backward_passes)),
        ("seconds", seconds(found.seconds)),
        ("network", text_of(&found.model)),
        ("trained by", trained),
        ("d_max", shown.d_max().map_or(NONE.into(), length)),
        ("weights", format!("<code>{}</code>", escape(&found.weights))),
        ("their SHA-256 begins", code(&hash)),
        ("maxmargin", text_of(&found.maxmargin)),
        ("commit", code(&found.commit)),
        ("device", text_of(&found.device)),
    ]);
    text += &at_each_eps(&found.robust);
    text += &minimum_norm(found);
    text += &margins(shown)?;
    Ok(text)
}

/// What speaks against believing something; nothing where nothing does.
pub fn warning(reasons: &[String], what: &str) -> String {
    if reasons.is_empty() {
        return String::new();
    }
    let items: String = reasons.iter().map(|reason| format!("<li>{}</li>", escape(reason))).collect();
    format!("<div class=\"warning\" role=\"alert\"><b>{what}</b><ul>{items}</ul></div>\n")
}

fn at_each_eps(robust: &[RecordedRobustAccuracy]) -> String {
    if robust.is_empty() {
        return String::new();
    }
    let mut attacks = Vec::new();
    let mut rows = Vec::new();
    for at in robust {
        rows.push(("", vec![length(at.eps), percent(Some(at.accuracy)), escape(at.attack.as_deref().unwrap_or(NONE))]));
        for (i, attack) in at.attacks.iter().enumerate() {
            attacks.push((
                if i == 0 { "begin" } else { "" },
                vec![
                    length(at.eps),
                    escape(&attack.name),
                    count(attack.runs),
                    count(attack.attacked),
                    count(attack.broken),
                    count(attack.forward),
                    count(attack.backward),
                    seconds(attack.seconds),
                ],
            ));
        }
    }
    let mut text = table(&[numbers("eps"), numbers("right, %"), words("attack")], &rows);
    if !attacks.is_empty() {
        let others = ["runs", "images attacked", "broken", "forwards", "backwards", "seconds"].map(numbers);
        let head: Vec<_> = [numbers("eps"), words("attack")].into_iter().chain(others).collect();
        let attacks = table(&head, &attacks);
        text += &format!("<details open><summary>attack by attack</summary>\n{attacks}</details>\n");
    }
    text
}

fn minimum_norm(found: &RecordedEvaluation) -> String {
    if found.minimum_norm.is_empty() {
        return String::new();
    }
    let distance = |value: Option<f64>| value.map_or(NONE.into(), |value| format!("{value:.4}"));
    let own = |attack: &RecordedMinimumNorm| {
        let quartiles = attack.quartiles.unwrap_or_default();
        let mut row = vec![escape(&attack.name), count(attack.found), count(attack.attacked)];
        row.push(percent(Some(found.clean_accuracy)));
        row.push(distance(attack.mean));
        row.extend(quartiles.map(distance));
        row.extend([count(attack.forward), count(attack.backward), seconds(attack.seconds)]);
        ("ours", row)
    };
    let mut rows: Vec<_> = found.minimum_norm.iter().map(own).collect();
    let published = paper::table(found.dataset, found.norm).distances;
    for row in &published {
        let mut shown = vec![format!("paper, {}", row.name), NONE.into(), NONE.into()];
        shown.extend(row.figures.iter().map(|figure| published_figure(*figure)));
        shown.extend([NONE; 3].map(String::from));
        rows.push(("", shown));
    }
    let others = ["found", "of", "clean, %", "mean", "lower quartile", "median", "upper quartile"].map(numbers);
    let costs = ["forwards", "backwards", "seconds"].map(numbers);
    let head: Vec<_> = [words("nearest adversarial examples")].into_iter().chain(others).chain(costs).collect();
    let said = match published.is_empty() {
        true => String::new(),
        false => {
            "<p class=\"note\">The paper's distances: Carlini and Wagner's attack on the first 1,000 test images; \
                  verified (the paper's review thread).</p>\n"
                .into()
        }
    };
    table(&head, &rows) + &said
}

/// The histogram of the margins that were measured.
fn margins(shown: &Shown) -> Result<String> {
    let found = shown.evaluation;
    let Some(margins) = found.margins.as_ref().filter(|margins| !margins.is_empty()) else { return Ok(String::new()) };
    let largest = margins.iter().copied().filter(|margin| margin.is_finite()).fold(1e-9, f32::max);
    let counts = MarginCounts::of(margins, found.max_eps.filter(|&max| max > 0.0).unwrap_or(largest).min(1e12), BINS);
    let share = |count: usize| 100.0 * count as f64 / margins.len() as f64;
    let width = f64::from(counts.max) / BINS as f64;
    let bar = |x, colour, count| Cell { x, y: 0.0..share(count), colour, shade: 0.85 };
    let mut bars = vec![bar(-width..-0.1 * width, Colour::Wrong, counts.wrong)];
    for (bin, &count) in counts.bins.iter().enumerate() {
        bars.push(bar(f64::from(counts.edge(bin))..f64::from(counts.edge(bin + 1)), shown.colour, count));
    }
    let x = Axis { title: format!("margin, {}", found.norm), range: -width..f64::from(counts.max) };
    let y = Axis::from_zero("images, %", bars.iter().map(|bar| bar.y.end));
    let d_max = shown.d_max().map(|d_max| Series {
        colour: Colour::Muted,
        mark: Mark::Thin,
        points: vec![(d_max, 0.0), (d_max, y.range.end)],
    });
    let plot = cells("histogram of margins", true, &x, &y, &bars, &Vec::from_iter(d_max))?;
    let beyond = match counts.above + counts.below + counts.nan {
        0 => String::new(),
        n => format!(" {n} of another value are not shown."),
    };
    let said = format!(
        "Margins of {} images by AN-PGD; red, below 0: the {} wrong ones. Grey: d_max.{beyond}",
        grouped(margins.len() as u64),
        grouped(counts.wrong as u64)
    );
    Ok(figure(&plot, &said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_number_has_commas() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678"), (123_456, "123,456")]
        {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn rounded_eps_are_the_same() {
        assert!(same(0.0314, 8.0 / 255.0) && same(0.3, f64::from(0.3f32)) && same(0.0, 0.0));
        assert!(!same(0.1, 0.11) && !same(0.0, 0.1) && !same(12.0 / 255.0, 16.0 / 255.0));
    }
}
