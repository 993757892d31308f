//! Robust accuracy by eps, of the evaluations on a data set in a norm and of the paper's models.

use super::colour::PageColour;
use super::distances::ImageDistances;
use super::escape::escape;
use super::html::{numbers, table, wide_figure, words};
use super::marker::{Look, Marker};
use super::paper::{PaperColumn, PaperFigure, PaperModel, PaperTable, PaperTables, same_eps, sources};
use super::plot::{Axis, Plot, Series};
use super::shown::ShownEvaluation;
use super::values::{UNKNOWN, count, percent, percent_of, wilson};
use crate::Result;
use crate::catalog::DatasetKind;
use crate::evaluate::report::{EvaluationReport, RobustAccuracy};
use crate::tape::Norm;
use crate::text::length;

/// Evaluations on a data set in a norm, beside the paper's models.
struct Comparison<'a> {
    dataset: DatasetKind,
    norm: Norm,
    group: &'a [ShownEvaluation<'a>],
    published: PaperTable,
}

/// Plot and table of the evaluations `group` beside the paper's models.
///
/// # Errors
/// The plot cannot be drawn, or the records of an evaluation's images have another form.
pub fn comparison(dataset: DatasetKind, norm: Norm, group: &[ShownEvaluation], tables: &PaperTables) -> Result<String> {
    // Accuracy on other images is not beside the paper's at all if there is no other.
    let comparable = group.iter().any(|shown| shown.other_images().is_none());
    let published = if comparable { tables.of(dataset, norm) } else { PaperTable::default() };
    let comparison = Comparison { dataset, norm, group, published };
    let mut text = format!("<h3>{}, {norm}</h3>\n", dataset.entry().title);
    text += &comparison.curves()?;
    text += &comparison.figures();
    let mut note = String::from(
        "Small: Wilson's 95 % confidence intervals for the number of images. They say how far the accuracy on all such \
         images may be, not what a stronger attack would find. ",
    );
    note += &match comparable {
        true => comparison.about_the_paper(tables.unverified),
        false => format!(
            "The paper's figures are left out: these evaluations are of images, or of training images, other than the \
             published {}.",
            dataset.entry().title
        ),
    };
    Ok(text + &format!("<p class=\"note\">{note}</p>\n"))
}

impl Comparison<'_> {
    /// Text about the paper's figures.
    fn about_the_paper(&self, unverified: bool) -> String {
        if self.published.models.is_empty() {
            let more =
                if unverified { "" } else { "; <code>--unverified</code> adds transcriptions that nobody could check" };
            return format!("No verified accuracy of the paper is known here{more}.");
        }
        let mut note = String::from(
            "In the paper an image counts as correct if ten random starts of PGD and the examples transferred from the \
             paper's other models all fail, on all 10,000 test images. ",
        );
        let verified = escape(&sources(&self.published.models));
        note += &match unverified {
            true => format!(
                "<b>Bold</b> figures are verified ({verified}). <span class=\"unsure\">Grey</span> ones are unverified: \
                 transcriptions that nobody could check."
            ),
            false => format!(
                "Its figures are verified ({verified}). <code>--unverified</code> adds transcriptions that nobody could \
                 check."
            ),
        };
        if self.dataset == DatasetKind::Digits {
            note += " The paper's figures are for the whole of MNIST and the LeNet5 of full width; the bundled digits are \
                     a part of MNIST.";
        }
        for model in &self.published.autoattack {
            for (column, figure) in &model.figures {
                let PaperColumn::Eps(eps) = column else { continue };
                note += &format!(
                    " The accuracy of the published {} under AutoAttack is {} % at eps {}; compare it with evaluations \
                     by AutoAttack.",
                    escape(&model.name),
                    paper_figure(Some(figure)),
                    length(*eps)
                );
            }
        }
        note
    }

    /// Look of the paper's model of a number: its letter, in the colour of the run that was trained in the same way.
    fn look_of_model(&self, number: usize, model: &PaperModel) -> Look {
        let same = |shown: &&ShownEvaluation| shown.paper_name().as_deref() == Some(&*model.name);
        let colour = self.group.iter().find(same).map_or(PageColour::Muted, |shown| shown.look.colour);
        Look::points(colour, Marker::Letter(number))
    }

    /// Every eps at which an accuracy is known, ascending.
    fn grid(&self) -> Vec<f64> {
        let mut grid = self.published.eps();
        for eps in self.group.iter().flat_map(|shown| shown.report().robust.iter().map(|at| at.eps)) {
            if !grid.iter().any(|known| same_eps(*known, eps)) {
                grid.push(eps);
            }
        }
        grid.sort_by(f64::total_cmp);
        grid
    }

    /// Plot of accuracy by eps; eps 0 is the clean accuracy.
    fn curves(&self) -> Result<String> {
        let parts = self.dataset == DatasetKind::Cifar10 && self.norm == Norm::Linf;
        let (scale, unit) = if parts { (255.0, "/255") } else { (1.0, "") };
        let mut keys = String::new();
        let (mut series, mut lines) = (Vec::<Series>::new(), Vec::new());
        for (number, model) in self.published.models.iter().enumerate() {
            let look = self.look_of_model(number, model);
            series.push(Series::new(look, model.points()));
            keys += &look.key(&format!("paper, {}", escape(&model.name)));
        }
        for shown in self.group {
            let EvaluationReport { clean_accuracy, robust, count, .. } = shown.report();
            let robust = robust.iter().map(|RobustAccuracy { eps, accuracy, .. }| (*eps, *accuracy));
            let points: Vec<(f64, f64)> = [(0.0, *clean_accuracy)].into_iter().chain(robust).collect();
            let bar = |(_, accuracy): &(f64, f64)| wilson(*accuracy, *count as u64).unwrap_or((f64::NAN, f64::NAN));
            let bars = points.iter().map(bar).collect();
            series.push(Series { look: shown.look, points, bars });
            keys += &shown.look.key(&shown.name());
            if let Some(distances) = ImageDistances::of(shown)? {
                lines.push((shown, distances));
            }
        }
        let grid = self.grid();
        let last = grid.last().copied().filter(|last| last.is_finite()).unwrap_or(0.0).clamp(0.0, 1e6);
        let longest = lines.iter().map(|(_, distances)| distances.largest()).fold(0.0, f64::max);
        // Far beyond the eps of the attacks few images are left.
        let end = if last > 0.0 { longest.clamp(last, 2.0 * last) } else { longest };
        let end = scale * if end > 0.0 { end } else { 1.0 };
        let own = series.split_off(self.published.models.len());
        let mut groups = [series, own];
        let gap = least_gap(&grid).unwrap_or(end / scale) * scale;
        let mut edge = 0.02 * end;
        for group in &mut groups {
            let step = (0.01 * end).min(0.7 * gap / group.len().max(1) as f64);
            let middle = (group.len() as f64 - 1.0) / 2.0;
            for (k, series) in group.iter_mut().enumerate() {
                series.points.iter_mut().for_each(|(eps, _)| *eps = *eps * scale + (k as f64 - middle) * step);
            }
            edge = f64::max(edge, (middle + 1.0) * step);
        }
        let mut series = groups.concat();
        let mut caption = String::from(
            "Accuracy under attack; at eps 0 without an attack. Points are measured, and no line joins them, for nothing \
             was measured between; those of one eps lie side by side, the runs' around it. Bars: Wilson's 95 % \
             confidence intervals.",
        );
        if !self.published.models.is_empty() {
            caption += " Letters: the paper's models, in the colour of a run that was trained in the same way.";
        }
        if !lines.is_empty() {
            caption += " Lines: the percentage of images whose nearest adversarial image, of those that minimum-norm \
                        attacks found, lies farther than eps; robust accuracy is at most as large.";
        }
        for (shown, distances) in &lines {
            let points = distances.curve(end / scale).into_iter().map(|(eps, accuracy)| (eps * scale, accuracy));
            series.insert(0, Series::new(shown.curve, points.collect()));
            let attacks: Vec<_> = shown.report().minimum_norm.iter().map(|attack| attack.name.as_str()).collect();
            let attacks = escape(&attacks.join(", "));
            keys += &shown.curve.key(&format!("{}: distances by {attacks}", shown.name()));
        }
        let x = Axis { unit, numbered_from: 0.0, ..Axis::new(&format!("eps, {}", self.norm), -edge..end + edge) };
        let plot = Plot { series: &series, wide: true, ..Plot::default() };
        let plot = plot.draw("accuracy by eps", &x, &Axis::percent("accuracy, %"))?;
        Ok(wide_figure(&plot, &format!("{keys}<br>{caption}")))
    }

    /// Table of accuracy by eps: the evaluations, then the paper's models.
    fn figures(&self) -> String {
        let grid = self.grid();
        let mut head = vec![words("model"), numbers("clean"), numbers("AvgAcc"), numbers("AvgRobAcc")];
        head.extend(grid.iter().map(|eps| numbers(&length(*eps))));
        head.push(words("source"));
        let mut body = Vec::new();
        for shown in self.group {
            let EvaluationReport {
                clean_accuracy, average_accuracy, average_robust_accuracy, robust, count: n, ..
            } = shown.report();
            let n = *n as u64;
            let mut row = vec![shown.look.key(&shown.name()), percent_of(Some(*clean_accuracy), n)];
            row.extend([percent(*average_accuracy), percent(*average_robust_accuracy)]);
            row.extend(grid.iter().map(|&eps| {
                let at = robust.iter().find(|at| same_eps(at.eps, eps));
                percent_of(at.map(|at| at.accuracy), n)
            }));
            let other = shown.other_images().map_or(String::new(), |other| format!("; <b class=\"other\">{other}</b>"));
            row.push(format!("measured on {}{other}", count(n, "image")));
            body.push(("ours", row));
        }
        let names: Vec<_> = self.group.iter().filter_map(ShownEvaluation::paper_name).collect();
        for (number, model) in self.published.models.iter().enumerate() {
            let columns = [PaperColumn::Clean, PaperColumn::AverageAccuracy, PaperColumn::AverageRobustAccuracy];
            let columns = columns.into_iter().chain(grid.iter().map(|eps| PaperColumn::Eps(*eps)));
            let name = format!("paper, {}", escape(&model.name));
            let mut cells = vec![self.look_of_model(number, model).key(&name)];
            cells.extend(columns.map(|column| paper_figure(model.figure(column))));
            cells.push(standing(model).into());
            body.push((if names.contains(&model.name) { "match" } else { "" }, cells));
        }
        table(&head, &body)
    }
}

/// Least distance between two neighbours of 0 and the ascending eps of a grid; `None` if there is no other than 0.
fn least_gap(grid: &[f64]) -> Option<f64> {
    let from_zero = [0.0].into_iter().chain(grid.iter().copied()).collect::<Vec<_>>();
    let gaps = from_zero.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| gap.is_finite() && *gap > 0.0);
    gaps.min_by(f64::total_cmp)
}

/// Reliability of a model's figures in words.
fn standing(model: &PaperModel) -> &'static str {
    let verified = model.figures.iter().filter(|(_, figure)| figure.verified).count();
    match verified {
        0 => "unverified",
        n if n == model.figures.len() => "verified",
        _ => "bold verified, grey unverified",
    }
}

/// Figure of the paper as HTML: bold if it is verified, grey if not.
pub fn paper_figure(figure: Option<&PaperFigure>) -> String {
    match figure {
        Some(PaperFigure { text, verified: true, .. }) => format!("<b>{text}</b>"),
        Some(PaperFigure { text, .. }) => format!("<span class=\"unsure\">{text}</span>"),
        None => UNKNOWN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_many_series_stay_at_their_eps() {
        assert!((least_gap(&[0.1, 0.2, 0.4]).unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(least_gap(&[]), None);
        assert_eq!(least_gap(&[0.0, f64::NAN]), None);
    }
}
