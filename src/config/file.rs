//! Settings as TOML, which is `config.toml` in a run folder.

use std::path::Path;

use super::kinds::Method;
use super::settings::Config;
use crate::tape::Precision;
use crate::{Error, Result, formats};

impl Config {
    /// Reads the settings of `file`. Settings that are newer than the file may be
    /// missing: it has the values that its run had.
    ///
    /// # Errors
    /// The file cannot be read; or a setting is missing, unknown, of a wrong type or out of its range.
    pub fn load(file: &Path) -> Result<Config> {
        let content = std::fs::read(file).map_err(|source| Error::io(file, "read", source))?;
        let text = formats::text(content)
            .map_err(|found| Error::format(file, format!("expected settings as TOML, found {found}")))?;
        let mut config: Config = toml::from_str(&text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text.as_bytes()[..span.start].iter().filter(|b| **b == b'\n').count());
            Error::format(file, format!("line {line}: {}", error.message()))
        })?;
        if config.method == Method::Mma {
            config.method = Method::with_clean_loss_coeff(config.clean_loss_coeff);
        }
        if config.loss_scale == 0.0 {
            // The file is older than half precision in training passes.
            config.loss_scale = Config::defaults().loss_scale;
            if config.precision == Precision::Fp16 {
                config.precision = Precision::Fp16Attack;
            }
        }
        config.validate().map_err(|error| Error::format(file, error.to_string()))?;
        Ok(config)
    }

    /// The settings as TOML. Reading it gives the same bits: a number is written with the fewest digits that do.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every setting has a TOML form")
    }
}
