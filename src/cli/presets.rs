//! `maxmargin presets`: the published settings as a table, or one preset as a file.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::output::{Outcome, print};
use crate::config::{self, DEFAULT_PRESET, Preset};
use crate::{Error, Result};

/// Print the published settings
///
/// Without a name: the presets of MMA side by side, the changes that presets of other methods make to them, and the
/// sources of the values. With a name: that preset as TOML, which `train --config FILE` reads.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  maxmargin presets mnist-l2 > mine.toml; maxmargin train --config mine.toml")]
pub(super) struct PresetsArgs {
    /// Preset to print as TOML
    #[arg(value_name = "NAME", value_parser = names())]
    name: Option<String>,
}

/// Values of `--preset`.
pub(super) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(config::presets().into_iter().map(|preset| preset.name))
}

pub(super) fn run(args: PresetsArgs) -> Result<Outcome> {
    let text = match args.name {
        None => table(),
        Some(name) => {
            let preset = config::preset(&name).ok_or_else(|| Error::usage(format!("no preset is called {name}")))?;
            format!("# {}\n# {}\n{}", preset.summary, preset.source, preset.config.to_toml())
        }
    };
    print(&text)?;
    Ok(Outcome::Done)
}

/// Settings of MMA's presets, a line for each setting and a column for each preset; then purposes and sources.
fn table() -> String {
    let (presets, others): (Vec<_>, Vec<_>) = config::presets().into_iter().partition(|preset| preset.base.is_none());
    let columns: Vec<Vec<(&str, String)>> = presets.iter().map(|preset| preset.config.fields()).collect();
    let name_width = columns.iter().flatten().map(|field| field.0.len()).max().unwrap_or(0);
    let widths: Vec<_> = columns.iter().map(|fields| fields.iter().map(|f| f.1.len()).max().unwrap_or(0)).collect();

    let mut text = String::new();
    for (row, (name, _)) in columns[0].iter().enumerate() {
        let _ = write!(text, "{name:name_width$}");
        for (fields, width) in columns.iter().zip(&widths) {
            let _ = write!(text, "  {:width$}", fields[row].1);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for preset in &presets {
        let default = if preset.name == DEFAULT_PRESET { " (the default)" } else { "" };
        let _ = write!(text, "\n{}{default}: {}\n  {}\n", preset.name, preset.summary, preset.source);
    }
    text += "\nOther methods: the settings of the preset in their name, with these changes:\n";
    for Preset { name, summary, source, base, config } in &others {
        let base = presets.iter().position(|preset| Some(preset.name) == *base).expect("a preset with a base");
        let fields = config.fields().into_iter().zip(&columns[base]);
        let changed = fields.filter(|(own, of_base)| own != *of_base && own.0 != "preset");
        let changed: Vec<_> = changed.map(|((name, value), _)| format!("{name} = {value}")).collect();
        let _ = write!(text, "\n{name}: {summary}\n  {}\n  {source}\n", changed.join(", "));
    }
    text
}
