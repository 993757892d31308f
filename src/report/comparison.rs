//! Robust accuracy by eps, of the evaluations on a data set in a norm and of the paper's models.

use super::html::{figure, key, numbers, table, words};
use super::paper::{self, PaperAutoAttack, PaperFigure, PaperTable, Transcription};
use super::plot::{Axis, Mark, PageColour, Series, cells};
use super::shown::ShownEvaluation;
use super::values::{UNKNOWN, grouped, percent};
use crate::Result;
use crate::catalog::DatasetKind;
use crate::evaluate::report::EvaluationReport;
use crate::tape::Norm;
use crate::text::length;

/// Plot and table of the evaluations `group` beside the paper's models.
///
/// # Errors
/// The plot cannot be drawn.
pub fn comparison(dataset: DatasetKind, norm: Norm, group: &[ShownEvaluation]) -> Result<String> {
    let published = paper::table(dataset, norm);
    let mut text = format!("<h3>{}, {norm}</h3>\n", dataset.entry().title);
    text += &curves(dataset, norm, group, &published)?;
    text += &figures(group, &published);
    let mut note = String::from(
        "In the paper an image counts as correct if ten random starts of PGD and the examples transferred from the \
         paper's other models all fail, on all 10,000 test images. <b>Bold</b> figures are verified: seen in the \
         paper's review thread or in AutoAttack's table, or the mean of such figures. <span class=\"unsure\">The \
         others</span> are paper values, unverified transcriptions.",
    );
    if dataset == DatasetKind::Digits {
        note += " The paper's figures are for the whole of MNIST and the LeNet5 of full width; the bundled digits are a \
                 part of MNIST.";
    }
    if let Some(PaperAutoAttack { model, eps, accuracy }) = published.autoattack {
        note += &format!(
            " The accuracy of the published {model} under AutoAttack is <b>{}</b> % at eps {} (verified: AutoAttack's \
             table); compare it with evaluations by AutoAttack.",
            accuracy.text,
            length(eps)
        );
    }
    Ok(text + &format!("<p class=\"note\">{note}</p>\n"))
}

/// True if two eps are equal up to the rounding of written numbers, as 0.0314 and 8/255.
fn same_eps(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-3 * a.abs().max(b.abs())
}

/// Plot of accuracy by eps; eps 0 is the clean accuracy.
fn curves(dataset: DatasetKind, norm: Norm, group: &[ShownEvaluation], published: &PaperTable) -> Result<String> {
    let parts = dataset == DatasetKind::Cifar10 && norm == Norm::Linf;
    let (scale, title) = if parts { (255.0, "eps, in 1/255") } else { (1.0, "eps") };
    let (mut series, mut same_model) = (Vec::new(), Vec::new());
    for model in &published.models {
        let value = |figure: &Option<PaperFigure>| figure.map_or(f64::NAN, |figure| figure.value);
        let robust = published.eps.iter().zip(&model.figures[3..]).map(|(eps, figure)| (eps * scale, value(figure)));
        let points = [(0.0, value(&model.figures[0]))].into_iter().chain(robust).collect::<Vec<_>>();
        series.push(Series { colour: PageColour::Muted, mark: Mark::Thin, points: points.clone() });
        if let Some(shown) = group.iter().find(|shown| shown.paper_name().as_deref() == Some(model.name)) {
            same_model.push(Series { colour: shown.colour, mark: Mark::Specks, points });
        }
    }
    series.extend(same_model);
    let mut keys = String::new();
    for shown in group {
        let robust = shown.report().robust.iter().map(|at| (at.eps * scale, at.accuracy));
        let points = [(0.0, shown.report().clean_accuracy)].into_iter().chain(robust).collect();
        let mark = if shown.nth == 0 { Mark::Dots } else { Mark::Dashes };
        series.push(Series { colour: shown.colour, mark, points });
        keys += &key(shown.colour, &format!("{}{}", shown.name(), if shown.nth == 0 { "" } else { " (dashes)" }));
    }
    let eps = series.iter().flat_map(|series| series.points.iter().map(|point| point.0)).collect::<Vec<_>>();
    let x = Axis::from_zero(title, eps.into_iter());
    let plot = cells("accuracy by eps", true, &x, &Axis::percent("accuracy, %"), &[], &series)?;
    let caption = "Accuracy under attack; at eps 0 without an attack. Thin lines: the paper's models. Dotted, in the \
                   colour of a run: the paper's model that was trained in the same way.";
    Ok(figure(&plot, &format!("{keys}<br>{caption}")))
}

/// Table of accuracy by eps: the evaluations, then the paper's models.
fn figures(group: &[ShownEvaluation], published: &PaperTable) -> String {
    let mut grid = published.eps.clone();
    for eps in group.iter().flat_map(|shown| shown.report().robust.iter().map(|at| at.eps)) {
        if !grid.iter().any(|known| same_eps(*known, eps)) {
            grid.push(eps);
        }
    }
    grid.sort_by(f64::total_cmp);
    let mut head = vec![words("model"), numbers("clean"), numbers("AvgAcc"), numbers("AvgRobAcc")];
    head.extend(grid.iter().map(|eps| numbers(&length(*eps))));
    head.push(words("source"));
    let mut body = Vec::new();
    for shown in group {
        let EvaluationReport { clean_accuracy, average_accuracy, average_robust_accuracy, robust, count, .. } =
            shown.report();
        let mut row = vec![key(shown.colour, &shown.name()), percent(Some(*clean_accuracy))];
        row.extend([percent(*average_accuracy), percent(*average_robust_accuracy)]);
        row.extend(grid.iter().map(|&eps| {
            let at = robust.iter().find(|at| same_eps(at.eps, eps));
            percent(at.map(|at| at.accuracy))
        }));
        row.push(format!("measured on {} images", grouped(*count as u64)));
        body.push(("ours", row));
    }
    let names: Vec<_> = group.iter().filter_map(ShownEvaluation::paper_name).collect();
    for model in &published.models {
        let source = match model.transcription() {
            Some(Transcription::Verified) => "verified",
            Some(Transcription::Unverified) => "paper value, unverified transcription",
            None => "bold: verified; others: paper values, unverified transcription",
        };
        let robust = grid.iter().map(|&eps| {
            let at = published.eps.iter().position(|known| same_eps(*known, eps));
            paper_figure(at.and_then(|at| model.figures[3 + at]))
        });
        let averages = model.figures[..3].iter().map(|figure| paper_figure(*figure));
        let mut cells = vec![format!("paper, {}", model.name)];
        cells.extend(averages.chain(robust));
        cells.push(source.into());
        body.push((if names.iter().any(|name| name == model.name) { "match" } else { "" }, cells));
    }
    table(&head, &body)
}

/// Figure of the paper as HTML: bold if it is verified.
pub fn paper_figure(figure: Option<PaperFigure>) -> String {
    match figure {
        Some(PaperFigure { text, transcription: Transcription::Verified, .. }) => format!("<b>{text}</b>"),
        Some(PaperFigure { text, transcription: Transcription::Unverified, .. }) => {
            format!("<span class=\"unsure\">{text}</span>")
        }
        None => UNKNOWN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_eps_are_the_same() {
        assert!(same_eps(0.0314, 8.0 / 255.0) && same_eps(0.3, f64::from(0.3f32)) && same_eps(0.0, 0.0));
        assert!(!same_eps(0.1, 0.11) && !same_eps(0.0, 0.1) && !same_eps(12.0 / 255.0, 16.0 / 255.0));
    }
}
