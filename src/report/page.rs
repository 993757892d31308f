//! The page as a whole: what it is of, what speaks against it, its chapters, the settings.
//!
//! A page is a function of the files: the same records give the same bytes. It is complete in itself: it has no script
//! and asks for nothing.

use std::path::{Path, PathBuf};

use super::html::{escape, page, table, words};
use super::plot::Colour;
use super::records::{RecordedRun, ReportSource};
use super::{attacks, examples, training};
use crate::Result;
use crate::config::preset;

/// The page about the runs and evaluations in `folders`. Clean images are looked for in `data`.
///
/// # Errors
/// [`crate::Error::Usage`] where a folder is neither a run's nor an evaluation's; [`crate::Error::Io`] and
/// [`crate::Error::Format`] where a file of one cannot be read or is not as it must be.
pub fn html(folders: &[PathBuf], data: &Path) -> Result<String> {
    let sources: Vec<ReportSource> = folders.iter().map(|folder| ReportSource::read(folder)).collect::<Result<_>>()?;
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    let mut body = String::from("<h1>maxmargin report</h1>\n");
    body += &overview(&sources);
    body += &suspicions(&sources);
    body += &training::chapter(&sources)?;
    body += &attacks::chapter(&sources, &mut examples::Pictures::from(data))?;
    body += &settings(&sources);
    let version = env!("CARGO_PKG_VERSION");
    body += &format!(
        "<footer>Written by <code>maxmargin report</code> {version} from the files of the folders above; this page needs \
         no network.</footer>\n"
    );
    Ok(page(&format!("maxmargin: {}", names.join(", ")), &body))
}

/// A line a source, in its colour.
fn overview(sources: &[ReportSource]) -> String {
    let mut text = String::from("<ul class=\"runs\">\n");
    for (i, source) in sources.iter().enumerate() {
        let mut said = source.run.as_ref().map_or("an evaluation of other weights".into(), describe);
        for name in &source.unfinished {
            said += &format!("; {} has no result yet", escape(name));
        }
        let (colour, name) = (Colour::Series(i).css(), escape(&source.name));
        let path = escape(&source.path.display().to_string());
        text += &format!("<li style=\"border-color:{colour}\"><b>{name}</b> {said} <code>{path}</code></li>\n");
    }
    text + "</ul>\n"
}

/// A run in a line.
fn describe(run: &RecordedRun) -> String {
    let config = &run.config;
    let mut parts = vec![
        format!("{}, {}, {}", attacks::method(config), config.dataset.entry().title, config.norm),
        crate::model::build(&config.architecture()).describe(),
        format!("preset {}, seed {}", escape(&config.preset), config.seed),
    ];
    let done = run
        .metrics
        .steps
        .iter()
        .map(|line| line.step)
        .chain(run.metrics.epochs.iter().map(|line| line.step))
        .max()
        .unwrap_or(0);
    parts.push(format!("{done} of {} steps", config.max_num_training_steps));
    if let Some(best) = run.metrics.epochs.iter().rfind(|line| line.best) {
        parts.push(format!("best checkpoint after step {}", best.step));
    }
    parts.join("; ")
}

/// All that evaluations say against their figures, before anything else.
fn suspicions(sources: &[ReportSource]) -> String {
    let of = |shown: attacks::Shown| {
        let whose = format!("{} / {}", shown.source.name, shown.evaluation.name);
        shown.evaluation.suspicious.iter().map(move |reason| format!("{whose}: {reason}")).collect::<Vec<_>>()
    };
    let reasons: Vec<_> = attacks::all(sources).into_iter().flat_map(of).collect();
    attacks::warning(&reasons, "Do not believe these figures before you have looked into this")
}

/// Every setting of the runs, side by side; those of a preset that were overridden, and those that differ, stand out.
fn settings(sources: &[ReportSource]) -> String {
    let runs: Vec<(&ReportSource, &RecordedRun)> =
        sources.iter().filter_map(|source| Some((source, source.run.as_ref()?))).collect();
    let Some((_, first)) = runs.first() else { return String::new() };
    let all: Vec<Vec<(&str, String)>> = runs.iter().map(|(_, run)| run.config.fields()).collect();
    let presets: Vec<_> = runs.iter().map(|(_, run)| preset(&run.config.preset).map(|p| p.config.fields())).collect();
    let value =
        |fields: &[(&str, String)], name: &str| fields.iter().find(|field| field.0 == name).map(|f| f.1.clone());
    let mut rows = Vec::new();
    for (name, _) in first.config.fields() {
        let mut row = vec![escape(name)];
        for (fields, preset) in all.iter().zip(&presets) {
            let own = value(fields, name);
            let published = preset.as_ref().and_then(|preset| value(preset, name));
            let shown = escape(own.as_deref().unwrap_or("–"));
            row.push(if published.is_some() && own != published { format!("<b>{shown}</b>") } else { shown });
        }
        let differ = all.windows(2).any(|pair| value(&pair[0], name) != value(&pair[1], name));
        rows.push((if differ { "match" } else { "" }, row));
    }
    let names = runs.iter().map(|(source, _)| words(&escape(&source.name)));
    let head: Vec<_> = [words("setting")].into_iter().chain(names).collect();
    format!(
        "<h2>Settings</h2>\n<p class=\"note\">Bold: other than the preset's.</p>\n<details{}><summary>every setting</summary>\n\
         {}</details>\n",
        if runs.len() > 1 { " open" } else { "" },
        table(&head, &rows)
    )
}
