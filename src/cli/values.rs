//! Forms of values on the command line. The error of each function says which forms it reads.

use std::str::FromStr;

use crate::config::ranges::Range;
pub use crate::config::value::{number, single, whole};

/// Parser of a whole number in a range.
pub fn within<T: FromStr + Clone + Send + Sync>(
    range: &'static Range<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    |text| {
        let number = text.parse().ok().filter(|number| (range.contains)(number));
        number.ok_or_else(|| format!("expected {}", range.expected))
    }
}

/// A percentage of the images.
pub fn percent(text: &str) -> Result<f64, String> {
    let share = number(text.trim_end_matches('%')).ok().filter(|share| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "expected a percentage from 0 to 100".into())
}

/// Least accuracy that is required at an eps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequiredAccuracy {
    /// Accuracy in percent.
    pub percent: f64,
    /// Eps of the attack.
    pub eps: f64,
}

/// Reads `PERCENT@EPS`, such as `60@0.3`.
pub fn percent_at_eps(text: &str) -> Result<RequiredAccuracy, String> {
    let parts = text.split_once('@').and_then(|(share, eps)| percent(share).ok().zip(number(eps).ok()));
    parts
        .map(|(percent, eps)| RequiredAccuracy { percent, eps })
        .ok_or_else(|| "expected PERCENT@EPS such as 60@0.3".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ranges::THREADS;

    #[test]
    fn a_number_beyond_its_range_is_refused_with_the_range() {
        let threads = within(&THREADS);
        assert_eq!((threads("1"), threads("1024")), (Ok(1), Ok(1024)));
        for text in ["0", "1025", "100000", "-1", "1.5", "", "99999999999999999999"] {
            assert_eq!(threads(text), Err("expected a whole number from 1 to 1024".into()), "{text}");
        }
    }

    #[test]
    fn a_required_accuracy_names_its_eps() {
        assert_eq!(percent_at_eps("60@0.3"), Ok(RequiredAccuracy { percent: 60.0, eps: 0.3 }));
        assert_eq!(percent_at_eps("60%@8/255"), Ok(RequiredAccuracy { percent: 60.0, eps: 8.0 / 255.0 }));
        for text in ["60", "60@", "@0.3", "101@0.3", "-1@0.3"] {
            assert!(percent_at_eps(text).unwrap_err().contains("60@0.3"), "{text}");
        }
    }
}
