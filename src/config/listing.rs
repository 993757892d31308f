//! Settings as text for a person.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::presets::preset;
use super::settings::{Config, Setting};

impl Config {
    /// Name and value of every setting, in the order of the file, each value as its flag takes it. A size without a
    /// limit reads `all`, the depth of a network without one `none`.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        Setting::all().map(|setting| (setting.name, (setting.text)(self))).collect()
    }

    /// The preset's value of every setting that has another value here, by name.
    pub fn overridden(&self) -> BTreeMap<&'static str, String> {
        let of_preset = preset(&self.preset).map_or_else(Vec::new, |preset| preset.config.fields());
        let own = self.fields();
        of_preset.into_iter().filter(|field| !own.contains(field)).collect()
    }

    /// Aligned lines of `name = value`, with the preset's value where it was overridden.
    pub fn describe(&self) -> String {
        let overridden = self.overridden();
        let fields = self.fields();
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &fields {
            let _ = write!(text, "{name:width$} = {value}");
            if let Some(preset) = overridden.get(name) {
                let _ = write!(text, "   ({}: {preset})", self.preset);
            }
            text.push('\n');
        }
        text
    }
}
