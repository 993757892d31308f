//! Settings of a run, as one flat record: the content of `config.toml` in a run folder.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `settings` | each setting, declared once: field, key, flag, help, default, range |
//! | `kinds` | settings whose values have names |
//! | [`value`] | forms of values |
//! | [`ranges`] | ranges of numbers, those of other flags too |
//! | `presets`, `method_presets` | the published settings as one table, with their sources |
//! | `validate` | ranges, and rules between settings |
//! | `rules` | values that follow from several settings |
//! | `file`, `listing` | TOML; text for a person |
//!
//! It starts no run, opens no device and records no model.

mod file;
mod kinds;
mod listing;
mod method_presets;
mod presets;
pub mod ranges;
mod rules;
mod settings;
mod validate;
pub mod value;

pub use crate::attack::SearchResult;
pub use crate::tape::{Direction, L2Order};
pub use kinds::{
    FidelityPreset, Method, OptimizerKind, SearchMode, TestAttackLoss, TestAttacked, TestSearchStart, TestStarts,
};
pub use presets::{DEFAULT_PRESET, Preset, preset, presets};
pub use rules::as_written;
pub use settings::{Config, FIDELITY_SETTINGS, Fidelity, RUN_SETTINGS, Setting};

#[cfg(test)]
mod tests;
