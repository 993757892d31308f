//! Evaluations as a page shows them: name, colour, and the training that the paper's models are compared by.

use super::escape::escape;
use super::paper;
use super::plot::PageColour;
use super::sources::{RecordedEvaluation, ReportSource};
use crate::config::{Config, as_written};
use crate::evaluate::report::EvaluationReport;
use crate::text::length;

/// Evaluation with its source.
#[derive(Clone, Copy)]
pub struct ShownEvaluation<'a> {
    /// Colour of the source.
    pub colour: PageColour,
    /// Number among the source's evaluations.
    pub nth: usize,
    /// Source of the evaluation.
    pub source: &'a ReportSource,
    /// The evaluation.
    pub evaluation: &'a RecordedEvaluation,
}

impl<'a> ShownEvaluation<'a> {
    /// Every evaluation of the sources.
    pub fn all(sources: &'a [ReportSource]) -> Vec<ShownEvaluation<'a>> {
        let mut all = Vec::new();
        for (i, source) in sources.iter().enumerate() {
            let shown = |(nth, evaluation)| ShownEvaluation { colour: PageColour::Series(i), nth, source, evaluation };
            all.extend(source.evaluations.iter().enumerate().map(shown));
        }
        all
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
        // A length in another norm has another meaning.
        if run.is_some_and(|config| config.norm != *norm) {
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

/// Training method of a run with its d_max or eps, such as `MMA, d_max 0.45`.
pub fn method(config: &Config) -> String {
    let name = config.method.to_string().to_uppercase();
    match config.trained_with() {
        Some(d_max) if config.method.is_mma() => format!("{name}, d_max {}", length(d_max)),
        Some(eps) => format!("{name}, eps {}", length(eps)),
        None => name,
    }
}
