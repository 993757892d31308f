//! Evaluations as a page shows them: name, look, and the training that the paper's models are compared by.

use super::colour::PageColour;
use super::escape::escape;
use super::marker::{Look, Marker, Stroke};
use super::paper;
use super::sources::{RecordedEvaluation, RecordedRun, ReportSource};
use crate::config::{Config, as_written};
use crate::data::Provenance;
use crate::evaluate::report::EvaluationReport;
use crate::text::length;

/// Evaluation with its source.
#[derive(Clone, Copy)]
pub struct ShownEvaluation<'a> {
    /// Colour of the source, and a marker of the evaluation's own: the source's for its first evaluation.
    pub look: Look,
    /// Look of the curve of its distances, with another marker.
    pub curve: Look,
    /// Source of the evaluation.
    pub source: &'a ReportSource,
    /// The evaluation.
    pub evaluation: &'a RecordedEvaluation,
}

impl<'a> ShownEvaluation<'a> {
    /// Every evaluation of the sources.
    pub fn all(sources: &'a [ReportSource]) -> Vec<ShownEvaluation<'a>> {
        let mut all: Vec<ShownEvaluation> = Vec::new();
        let mut further = sources.len()..;
        for (i, source) in sources.iter().enumerate() {
            for (nth, evaluation) in source.evaluations.iter().enumerate() {
                let first = look_of_source(i);
                let look = match nth {
                    0 => first,
                    _ => Look { marker: further.next().map(Marker::Shape), ..first },
                };
                let curve = match evaluation.report.minimum_norm.is_empty() {
                    true => look,
                    false => Look { marker: further.next().map(Marker::Shape), stroke: Some(Stroke::Thin), ..first },
                };
                all.push(ShownEvaluation { look, curve, source, evaluation });
            }
        }
        all
    }

    /// Sentence about an evaluation of other weights than the run's best checkpoint; `None` for all others.
    pub fn other_weights(&self) -> Option<String> {
        let best = self.evaluation.best_now.as_ref()?;
        Some(format!(
            "these figures are of weights that the run no longer has: their SHA-256 begins with {:.12}, that of \
             best.safetensors with {best:.12}; they are not compared with others. `maxmargin evaluate {}` measures the \
             present weights",
            self.report().weights_sha256,
            self.source.path.display()
        ))
    }

    /// Words about images that are not the published ones, of the evaluation or of the training; `None` if they are, or
    /// if it is not known.
    pub fn other_images(&self) -> Option<&'static str> {
        if self.report().provenance == Some(Provenance::Other) {
            return Some("images that are NOT the published ones");
        }
        let trained = self.source.run.as_ref().is_some_and(RecordedRun::trained_on_other_images);
        trained.then_some("trained on images that are NOT the published ones")
    }

    /// Warnings about the figures: those of the checks, and of other weights.
    pub fn warnings(&self) -> Vec<String> {
        self.other_weights().into_iter().chain(self.report().warnings.iter().cloned()).collect()
    }

    /// Report of the evaluation.
    pub fn report(&self) -> &'a EvaluationReport {
        &self.evaluation.report
    }

    /// Names of the run and of the evaluation, as HTML.
    pub fn name(&self) -> String {
        let own = self.evaluation.name.strip_prefix("evaluation-").unwrap_or(&self.evaluation.name);
        match self.source.name == self.evaluation.name {
            true => escape(own),
            false => format!("{}, {}", escape(&self.source.name), escape(own)),
        }
    }

    /// d_max of the training, or d_max that bounds the margins.
    pub fn d_max(&self) -> Option<f64> {
        let of_run = || self.source.run.as_ref().map(|run| as_written(run.config.hinge_maxeps));
        self.report().d_max.or_else(of_run)
    }

    /// Name of the paper's model that was trained in the same way.
    pub fn paper_name(&self) -> Option<String> {
        let EvaluationReport { dataset, norm, method, .. } = self.report();
        let run = self.source.run.as_ref().map(|run| &run.config);
        // A length in another norm has another meaning, and other images make another model.
        if self.other_images().is_some() || run.is_some_and(|config| config.norm != *norm) {
            return None;
        }
        let (method, length) = match (method, run) {
            (Some(method), _) => (method.to_uppercase(), self.d_max()),
            (None, Some(config)) => (config.method.to_string().to_uppercase(), config.trained_with()),
            (None, None) => return None,
        };
        match method.as_str() {
            "STD" | "TRADES" => Some(method),
            _ => Some(paper::model_name(*dataset, *norm, &method, length?)),
        }
    }
}

/// Look of a source by its number.
pub fn look_of_source(number: usize) -> Look {
    Look::points(PageColour::Series(number), Marker::Shape(number))
}

/// Training method of a run with its d_max or eps, such as `MMA, d_max 0.45`.
pub fn method(config: &Config) -> String {
    let name = config.method.to_string().to_uppercase();
    match config.trained_with() {
        Some(d_max) if config.method.is_mma() => format!("{name}, d_max {}", length(d_max)),
        Some(eps) => format!("{name}, eps {}", length(eps)),
        None => name,
    }
}
