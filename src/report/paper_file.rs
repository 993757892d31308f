//! Reader of files of the paper's figures, such as `paper.toml`, whose head explains the form.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::paper::{PaperColumn, PaperFigure, PaperModel, PaperTable, PaperTables, published};
use crate::catalog::DatasetKind;
use crate::choice::choices;
use crate::tape::Norm;
use crate::{Error, Result, formats};

/// Table that comes with the program.
const BUNDLED: &str = include_str!("paper.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PaperFile {
    tables: Vec<SourceTable>,
}

/// Figures of one source.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    dataset: DatasetKind,
    norm: Norm,
    figures: FigureKind,
    source: Spanned<String>,
    verified: bool,
    columns: Vec<Spanned<String>>,
    rows: Vec<Spanned<Vec<Spanned<String>>>>,
}

choices! {
    /// Kind of the figures of a table.
    pub enum FigureKind {
        /// Accuracy under the paper's attacks.
        Accuracy = "accuracy",
        /// Accuracy under AutoAttack.
        Autoattack = "autoattack",
        /// Distances of the nearest adversarial images.
        Distance = "distance",
    }
}

/// Refusal of a place in a file.
struct Refusal {
    at: Range<usize>,
    message: String,
}

/// Reads the text of a file, or says which line has another form.
fn parse(text: &str, unverified: bool) -> std::result::Result<PaperTables, String> {
    let line = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
    let file: PaperFile = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        format!("line {}: {}", line(at), error.message())
    })?;
    // Figures that are left out still collide with others.
    let mut all = PaperTables { tables: Vec::new(), unverified: true };
    for table in &file.tables {
        table.add_to(&mut all).map_err(|refusal| format!("line {}: {}", line(refusal.at.start), refusal.message))?;
    }
    Ok(if unverified { all } else { all.verified() })
}

impl PaperTables {
    /// Tables of `file`, or those that come with the program. Figures that were not verified are checked, but left out
    /// unless `unverified`.
    ///
    /// # Errors
    /// The file cannot be read or has another form (names line and field).
    pub fn load(file: Option<&Path>, unverified: bool) -> Result<PaperTables> {
        let Some(file) = file else {
            return parse(BUNDLED, unverified)
                .map_err(|message| Error::failed(format!("the paper's figures: {message}")));
        };
        let content = std::fs::read(file).map_err(|source| Error::io(file, "read", source))?;
        let text = formats::text(content)
            .map_err(|found| Error::format(file, format!("expected the paper's figures as TOML, found {found}")))?;
        parse(&text, unverified).map_err(|message| Error::format(file, message))
    }

    /// The verified figures alone.
    fn verified(mut self) -> PaperTables {
        for (_, _, table) in &mut self.tables {
            for models in [&mut table.models, &mut table.autoattack, &mut table.distances] {
                models.iter_mut().for_each(|model| model.figures.retain(|(_, figure)| figure.verified));
                models.retain(|model| !model.figures.is_empty());
            }
        }
        PaperTables { unverified: false, ..self }
    }

    /// Table for a data set in a norm, made if there is none.
    fn entry(&mut self, dataset: DatasetKind, norm: Norm) -> &mut PaperTable {
        let known = self.tables.iter().position(|(known, in_norm, _)| (*known, *in_norm) == (dataset, norm));
        let at = known.unwrap_or_else(|| {
            self.tables.push((dataset, norm, PaperTable::default()));
            self.tables.len() - 1
        });
        &mut self.tables[at].2
    }
}

impl SourceTable {
    fn add_to(&self, tables: &mut PaperTables) -> std::result::Result<(), Refusal> {
        if self.source.get_ref().trim().is_empty() {
            return Err(refusal(self.source.span(), "source: expected where the figures are from, found nothing"));
        }
        let columns = self.columns.iter().map(|column| self.column(column));
        let columns: Vec<PaperColumn> = columns.collect::<std::result::Result<_, _>>()?;
        let table = tables.entry(published(self.dataset), self.norm);
        let models = match self.figures {
            FigureKind::Accuracy => &mut table.models,
            FigureKind::Autoattack => &mut table.autoattack,
            FigureKind::Distance => &mut table.distances,
        };
        for row in &self.rows {
            let (name, words) = match row.get_ref().split_first() {
                Some((name, words)) if words.len() == columns.len() => (name.get_ref(), words),
                _ => {
                    let found = row.get_ref().len();
                    let message = format!("rows: expected a name and {} figures, found {found} words", columns.len());
                    return Err(refusal(row.span(), message));
                }
            };
            let at = models.iter().position(|model| model.name == *name).unwrap_or_else(|| {
                models.push(PaperModel { name: name.clone(), figures: Vec::new() });
                models.len() - 1
            });
            for ((column, title), word) in columns.iter().zip(&self.columns).zip(words) {
                let field = || format!("{name}, {}", title.get_ref());
                let Some(figure) = self.figure(word, *column, &field)? else { continue };
                if models[at].figure(*column).is_some() {
                    return Err(refusal(word.span(), format!("{}: the figure is in a table before", field())));
                }
                models[at].figures.push((*column, figure));
            }
        }
        Ok(())
    }

    fn column(&self, title: &Spanned<String>) -> std::result::Result<PaperColumn, Refusal> {
        let distance = self.figures == FigureKind::Distance;
        let found = match title.get_ref().as_str() {
            "clean" => Some(PaperColumn::Clean),
            "AvgAcc" if !distance => Some(PaperColumn::AverageAccuracy),
            "AvgRobAcc" if !distance => Some(PaperColumn::AverageRobustAccuracy),
            "mean" if distance => Some(PaperColumn::MeanDistance),
            "lower quartile" if distance => Some(PaperColumn::LowerQuartile),
            "median" if distance => Some(PaperColumn::Median),
            "upper quartile" if distance => Some(PaperColumn::UpperQuartile),
            eps if !distance => eps_of(eps).map(PaperColumn::Eps),
            _ => None,
        };
        found.ok_or_else(|| {
            let expected = match distance {
                true => "\"clean\", \"mean\", \"lower quartile\", \"median\" or \"upper quartile\"",
                false => "\"clean\", \"AvgAcc\", \"AvgRobAcc\" or an eps such as \"0.3\" or \"8/255\"",
            };
            refusal(title.span(), format!("columns: expected {expected}, found {:?}", title.get_ref()))
        })
    }

    /// Figure of a word; `None` for `-`.
    fn figure(
        &self,
        word: &Spanned<String>,
        column: PaperColumn,
        field: &dyn Fn() -> String,
    ) -> std::result::Result<Option<PaperFigure>, Refusal> {
        let text = word.get_ref();
        if text == "-" {
            return Ok(None);
        }
        let percent = !matches!(
            column,
            PaperColumn::MeanDistance | PaperColumn::LowerQuartile | PaperColumn::Median | PaperColumn::UpperQuartile
        );
        let digits = text.strip_prefix('~').unwrap_or(text);
        // No sign, no exponent, no NaN: text that a page can show as it is.
        let plain =
            digits.starts_with(|c: char| c.is_ascii_digit()) && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
        match digits.parse() {
            Ok(value) if plain && (!percent || value <= 100.0) => {
                let source = self.source.get_ref().trim().to_owned();
                Ok(Some(PaperFigure { text: text.clone(), value, source, verified: self.verified }))
            }
            _ => {
                let expected = if percent { "a percentage such as \"47.18\"" } else { "a distance such as \"1.57\"" };
                let field = field();
                Err(refusal(word.span(), format!("{field}: expected {expected}, or \"-\" for none, found {text:?}")))
            }
        }
    }
}

fn refusal(at: Range<usize>, message: impl Into<String>) -> Refusal {
    Refusal { at, message: message.into() }
}

/// Eps of a text such as `0.3` or `8/255`.
fn eps_of(text: &str) -> Option<f64> {
    let eps: f64 = match text.split_once('/') {
        Some((steps, whole)) => steps.parse::<f64>().ok()? / whole.parse::<f64>().ok()?,
        None => text.parse().ok()?,
    };
    (eps.is_finite() && eps > 0.0).then_some(eps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
[[tables]]
dataset = \"mnist\"
norm = \"linf\"
figures = \"accuracy\"
source = \"table 3\"
verified = true
columns = [\"clean\", \"0.3\"]
rows = [
  [\"MMA-0.45\", \"98.95\", \"92.59\"],
  [\"STD\", \"~99.2\", \"-\"],
]
";

    #[test]
    fn figures_keep_their_digits() {
        let table = parse(FILE, false).unwrap().of(DatasetKind::Digits, Norm::Linf);
        assert_eq!(table.models.len(), 2);
        assert_eq!(table.eps(), [0.3]);
        let clean = table.models[1].figure(PaperColumn::Clean).unwrap();
        assert_eq!((clean.text.as_str(), clean.value, clean.verified), ("~99.2", 99.2, true));
        assert_eq!(table.models[1].figure(PaperColumn::Eps(0.3)), None);
        let unseen = FILE.replace("verified = true", "verified = false");
        assert!(parse(&unseen, false).unwrap().of(DatasetKind::Mnist, Norm::Linf).models.is_empty());
        assert_eq!(parse(&unseen, true).unwrap().of(DatasetKind::Mnist, Norm::Linf).models.len(), 2);
    }

    #[test]
    fn a_mistake_in_a_table_is_named_by_line_and_field() {
        for (from, to, expected) in [
            ("\"92.59\"", "\"92,59\"", "line 9: MMA-0.45, 0.3: expected a percentage such as \"47.18\""),
            ("\"92.59\"", "\"192.59\"", "line 9: MMA-0.45, 0.3: expected a percentage"),
            ("\"92.59\"", "\"-1\"", "line 9: MMA-0.45, 0.3: expected a percentage"),
            ("\"92.59\"", "92.59", "line 9: invalid type: floating point"),
            (", \"92.59\"", "", "line 9: rows: expected a name and 2 figures, found 2 words"),
            ("\"STD\"", "\"MMA-0.45\"", "line 10: MMA-0.45, clean: the figure is in a table before"),
            ("\"0.3\"", "\"0,3\"", "line 7: columns: expected \"clean\", \"AvgAcc\", \"AvgRobAcc\" or an eps"),
            ("\"0.3\"", "\"median\"", "line 7: columns: expected"),
            ("\"table 3\"", "\" \"", "line 5: source: expected where"),
            ("\"linf\"", "\"l1\"", "line 3: unknown variant `l1`"),
            ("verified = true", "seen = true", "line 6: unknown field `seen`"),
            ("[[tables]]", "[[table]]", "line 1: unknown field `table`"),
        ] {
            let message = parse(&FILE.replacen(from, to, 1), false).expect_err(to);
            assert!(message.starts_with(expected), "{to}: {message}");
        }
    }
}
