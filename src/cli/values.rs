//! Forms of values on the command line. The error of each function says which forms it reads.

pub use crate::config::value::{number, single, whole};

/// A whole number from 1.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "expected a whole number, at least 1".into())
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

    #[test]
    fn a_count_is_a_whole_number_from_1() {
        assert_eq!(count("3"), Ok(3));
        assert!(count("0").is_err() && count("-1").is_err() && count("1.5").is_err());
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
