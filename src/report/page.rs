//! Whole page: overview, warnings, chapters, settings.
//!
//! A page is a function of the files: the same files give the same bytes. It has no script and loads nothing.

use std::path::{Path, PathBuf};

use super::escape::escape;
use super::examples::Pictures;
use super::html::{page, table, warning_box, words};
use super::paper::PaperTables;
use super::shown::{ShownEvaluation, look_of_source, method};
use super::sources::{RecordedRun, ReportSource};
use super::values::{UNKNOWN, count, grouped};
use super::{evaluations, training};
use crate::Result;
use crate::config::preset;

/// Page about the runs and evaluations in `folders`, beside the paper's figures in `paper`. Clean images are read from
/// the data sets in `data`.
///
/// # Errors
/// [`crate::Error::Usage`] where a folder is neither a run's nor an evaluation's; [`crate::Error::Io`] and
/// [`crate::Error::Format`] where a file of one cannot be read or has another form.
pub fn html(folders: &[PathBuf], data: &Path, paper: &PaperTables) -> Result<String> {
    let sources: Vec<ReportSource> = folders.iter().map(|folder| ReportSource::read(folder)).collect::<Result<_>>()?;
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    let mut body = String::from("<h1>maxmargin report</h1>\n");
    body += &overview(&sources);
    body += &warnings(&sources);
    body += &training::chapter(&sources)?;
    body += &evaluations::chapter(&sources, paper, &mut Pictures::from(data))?;
    body += &settings(&sources);
    let version = env!("CARGO_PKG_VERSION");
    body += &format!(
        "<footer>Written by <code>maxmargin report</code> {version} from the files of the folders above; this page needs \
         no network.</footer>\n"
    );
    Ok(page(&format!("maxmargin: {}", names.join(", ")), &body, sources.len()))
}

/// List of the sources, each in its colour with its marker.
fn overview(sources: &[ReportSource]) -> String {
    let mut text = String::from("<ul class=\"runs\">\n");
    for (i, source) in sources.iter().enumerate() {
        let mut said = source.run.as_ref().map_or("an evaluation of other weights".into(), describe);
        for name in &source.unfinished {
            said += &format!("; {} has no result yet", escape(name));
        }
        let look = look_of_source(i);
        let (colour, name) = (look.colour.css(), look.key(&format!("<b>{}</b>", escape(&source.name))));
        let path = escape(&source.path.display().to_string());
        text += &format!("<li style=\"border-color:{colour}\">{name} {said} <code>{path}</code></li>\n");
    }
    text + "</ul>\n"
}

/// Description of a run in a line.
fn describe(run: &RecordedRun) -> String {
    let config = &run.config;
    let mut parts = vec![
        format!("{}, {}, {}", method(config), config.dataset.entry().title, config.norm),
        crate::model::build(&config.architecture()).describe(),
        format!("preset {}, seed {}", escape(&config.preset), config.seed),
    ];
    let steps = u64::from(config.max_num_training_steps);
    parts.push(format!("{} of {}", grouped(run.steps_done()), count(steps, "step")));
    if run.trained_on_other_images() {
        parts.push("<b class=\"other\">trained on images that are NOT the published ones</b>".into());
    }
    if let Some(best) = run.metrics.epochs.iter().rfind(|line| line.best) {
        parts.push(format!("best checkpoint after step {}", grouped(best.step)));
    }
    parts.join("; ")
}

/// Warnings of all evaluations.
fn warnings(sources: &[ReportSource]) -> String {
    let warnings = ShownEvaluation::all(sources).into_iter().flat_map(|shown| {
        let source = format!("{} / {}", shown.source.name, shown.evaluation.name);
        shown.warnings().into_iter().map(move |warning| format!("{source}: {warning}"))
    });
    warning_box("Look into these warnings before you rely on the figures", &warnings.collect::<Vec<_>>())
}

/// Table of every setting of the runs, side by side. Settings that differ from the preset or between runs are marked.
fn settings(sources: &[ReportSource]) -> String {
    let runs: Vec<(&ReportSource, &RecordedRun)> =
        sources.iter().filter_map(|source| Some((source, source.run.as_ref()?))).collect();
    let Some((_, first)) = runs.first() else { return String::new() };
    let all: Vec<Vec<(&str, String)>> = runs.iter().map(|(_, run)| run.config.fields()).collect();
    let presets: Vec<_> = runs.iter().map(|(_, run)| preset(&run.config.preset).map(|p| p.config.fields())).collect();
    let value =
        |fields: &[(&str, String)], name: &str| fields.iter().find(|field| field.0 == name).map(|f| f.1.clone());
    let mut body = Vec::new();
    for (name, _) in first.config.fields() {
        let mut row = vec![escape(name)];
        for (fields, preset) in all.iter().zip(&presets) {
            let own = value(fields, name);
            let published = preset.as_ref().and_then(|preset| value(preset, name));
            let shown = escape(own.as_deref().unwrap_or(UNKNOWN));
            row.push(if published.is_some() && own != published { format!("<b>{shown}</b>") } else { shown });
        }
        let differ = all.windows(2).any(|pair| value(&pair[0], name) != value(&pair[1], name));
        body.push((if differ { "match" } else { "" }, row));
    }
    let names = runs.iter().map(|(source, _)| words(&escape(&source.name)));
    let head: Vec<_> = [words("setting")].into_iter().chain(names).collect();
    format!(
        "<h2>Settings</h2>\n<p class=\"note\">Bold: differs from the preset.</p>\n<details{}><summary>every setting</summary>\n\
         {}</details>\n",
        if runs.len() > 1 { " open" } else { "" },
        table(&head, &body)
    )
}
