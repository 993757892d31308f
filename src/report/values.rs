//! Values in the tables of a page.

/// Text of a value that is not known.
pub const UNKNOWN: &str = "–";

/// Number with a fixed number of decimals, or in powers of ten if it would have many digits.
pub fn decimal(value: f64, decimals: usize) -> String {
    if value.abs() < 1e9 || !value.is_finite() { format!("{value:.decimals$}") } else { format!("{value:.1e}") }
}

/// Percentage with two digits.
pub fn percent(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.into(), |value| decimal(value, 2))
}

/// Percentage of `n` images with its 95 % confidence interval, as HTML.
pub fn percent_of(value: Option<f64>, n: u64) -> String {
    match value.and_then(|value| wilson(value, n)) {
        Some((low, high)) => format!("{} <small>{low:.1}–{high:.1}</small>", percent(value)),
        None => percent(value),
    }
}

/// Distance or margin with four digits.
pub fn distance(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.into(), |value| decimal(value, 4))
}

/// Number with its noun, which takes an `s` unless the number is 1: `1 image`, `1,000 images`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Duration, such as `98.8 s` and `3 h 25 min`.
pub fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round();
    match seconds {
        s if !(0.0..3.6e9).contains(&s) => format!("{} s", decimal(s, 1)),
        s if s < 300.0 => format!("{s:.1} s"),
        _ if minutes < 60.0 => format!("{minutes} min"),
        _ => format!("{} h {} min", grouped((minutes / 60.0).floor() as u64), minutes % 60.0),
    }
}

/// Wilson's 95 % confidence interval in percent of a percentage of `n` images; `None` if it is no percentage, or there
/// are no images. It tells how far the percentage of all such images may be; not what another attack would find.
pub fn wilson(percentage: f64, n: u64) -> Option<(f64, f64)> {
    /// Two-sided 95 % quantile of the normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    if n == 0 || !(0.0..=100.0).contains(&percentage) {
        return None;
    }
    let (n, p) = (n as f64, percentage / 100.0);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some((100.0 * (centre - half).max(0.0), 100.0 * (centre + half).min(1.0)))
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

    /// 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I.
    #[test]
    fn wilson_s_interval_has_the_published_ends() {
        let (low, high) = wilson(100.0 * 81.0 / 263.0, 263).unwrap();
        assert!((low - 25.53).abs() < 0.006 && (high - 36.62).abs() < 0.006, "{low} {high}");
        let (low, high) = wilson(0.0, 20).unwrap();
        assert!(low == 0.0 && (high - 16.11).abs() < 0.006, "{low} {high}");
        let (low, high) = wilson(100.0, 20).unwrap();
        assert!((low - 83.89).abs() < 0.006 && high == 100.0, "{low} {high}");
        assert_eq!([wilson(50.0, 0), wilson(f64::NAN, 5), wilson(101.0, 5), wilson(-1e308, 5)], [None; 4]);
        assert_eq!(percent_of(Some(50.0), 100), "50.00 <small>40.4–59.6</small>");
        assert_eq!([percent_of(None, 100), percent_of(Some(50.0), 0)], ["–", "50.00"]);
    }

    #[test]
    fn no_number_has_thirty_digits() {
        assert_eq!(
            [percent(Some(1e300)), distance(Some(-3.4e38)), distance(Some(0.25))],
            ["1.0e300", "-3.4e38", "0.2500"]
        );
        assert_eq!(distance(Some(f64::INFINITY)), "inf");
    }

    #[test]
    fn one_thing_is_in_the_singular() {
        assert_eq!([0, 1, 1000].map(|n| count(n, "image")), ["0 images", "1 image", "1,000 images"]);
    }

    #[test]
    fn durations_have_few_digits() {
        for (seconds, text) in
            [(98.76, "98.8 s"), (299.0, "299.0 s"), (3000.0, "50 min"), (12_300.0, "3 h 25 min"), (3599.0, "1 h 0 min")]
        {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(duration(1e300), "1.0e300 s");
    }
}
