//! Colours of a page, as CSS variables, so that they follow a light or dark theme.

use std::fmt::Write as _;

/// Colour of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageColour {
    /// Colour of misclassified images, and of warnings.
    Misclassified,
    /// Colour of text.
    Ink,
    /// Colour of remarks.
    Muted,
    /// Colour of lines in the background.
    Grid,
    /// Colour of a series by its number; no two series have the same.
    Series(usize),
}

/// Colours that have a meaning of their own, on a light and on a dark page.
const FIXED: [(&str, &str); 4] =
    [("#b42318", "#ff7b6e"), ("#1d232a", "#e7eaee"), ("#6b7580", "#97a2ae"), ("#dde1e6", "#333a43")];
/// Colours of the first series, on a light and on a dark page.
const SERIES: [(&str, &str); 8] = [
    ("#1f6fc5", "#6aaef5"),
    ("#d95f0e", "#ff9c56"),
    ("#138a60", "#4fcf9f"),
    ("#8b4db8", "#c79af0"),
    ("#b8860b", "#e8c14b"),
    ("#c62f63", "#ff84ab"),
    ("#4d781d", "#a5d05c"),
    ("#0e8295", "#4ecbdd"),
];

impl PageColour {
    /// Number of the colour's variable.
    pub(super) fn number(self) -> usize {
        match self {
            PageColour::Misclassified => 0,
            PageColour::Ink => 1,
            PageColour::Muted => 2,
            PageColour::Grid => 3,
            PageColour::Series(i) => FIXED.len() + i,
        }
    }

    /// CSS variable of the colour.
    pub fn css(self) -> String {
        variable(self.number())
    }
}

/// CSS variable of a number.
pub(super) fn variable(number: usize) -> String {
    format!("var(--c{number})")
}

/// Values of the variables for `series` series, on a light page and on a dark one.
pub fn variables(series: usize) -> [String; 2] {
    let colour = |i: usize| match SERIES.get(i) {
        Some((light, dark)) => [(*light).to_string(), (*dark).to_string()],
        // The golden angle keeps hues apart, however many there are; three shades set neighbours in hue apart.
        None => {
            let (hue, shade) = (i as f64 * 137.508 % 360.0, i % 3 * 7);
            [format!("hsl({hue:.1} 65% {}%)", 28 + shade), format!("hsl({hue:.1} 75% {}%)", 60 + shade)]
        }
    };
    let fixed = FIXED.iter().map(|(light, dark)| [(*light).to_string(), (*dark).to_string()]);
    let mut variables = [String::new(), String::new()];
    for (i, values) in fixed.chain((0..series.max(SERIES.len())).map(colour)).enumerate() {
        for (text, value) in variables.iter_mut().zip(values) {
            let _ = write!(text, "--c{i}:{value};");
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_series_have_the_same_colour() {
        for text in variables(60) {
            let values: Vec<&str> =
                text.split_terminator(';').filter_map(|part| Some(part.split_once(':')?.1)).collect();
            assert_eq!(values.len(), 4 + 60);
            assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len(), "{text}");
        }
        assert!(variables(60)[0].contains("--c63:") && PageColour::Series(59).css() == "var(--c63)");
    }
}
