//! Values in the tables of a page.

/// Text of a value that is not known.
pub const UNKNOWN: &str = "–";

/// Percentage with two digits.
pub fn percent(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.into(), |value| format!("{value:.2}"))
}

/// Distance or margin with four digits.
pub fn distance(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.into(), |value| format!("{value:.4}"))
}

/// Whole number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = [&digits[..first]].into_iter().chain(digits.as_bytes()[first..].chunks(3).map(|group| {
        // Digits are ASCII.
        std::str::from_utf8(group).unwrap_or_default()
    }));
    groups.filter(|group| !group.is_empty()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_number_has_commas() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678"), (123_456, "123,456")]
        {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }
}
