//! How values are written on the command line. Each function says what it accepts when it refuses; ranges are not
//! its business.

use std::str::FromStr;

/// A number such as `0.0314`, or a fraction such as `8/255`, in double precision.
pub fn number(text: &str) -> Result<f64, String> {
    let one = |part: &str| part.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        None => one(text),
        Some((above, below)) => one(above).zip(one(below)).map(|(above, below)| above / below),
    };
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| "expected a number such as 0.0314, or a fraction such as 8/255".into())
}

/// [`number`], then rounded to single precision.
pub fn single(text: &str) -> Result<f32, String> {
    let rounded = number(text)? as f32;
    if rounded.is_finite() { Ok(rounded) } else { Err("expected a number that single precision can hold".into()) }
}

/// A whole number.
pub fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a whole number of {} bits without a sign", 8 * size_of::<T>()))
}

/// A whole number that is not 0.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "expected a whole number, at least 1".into())
}

/// A learning rate for each step: (from step, rate).
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRates(pub Vec<(u32, f32)>);

/// One rate, or `step:rate` pairs such as `0:0.3,20000:0.09`.
pub fn schedule(text: &str) -> Result<LearningRates, String> {
    if let Ok(rate) = single(text) {
        return Ok(LearningRates(vec![(0, rate)]));
    }
    let pair = |entry: &str| {
        let (step, rate) = entry.split_once(':')?;
        Some((step.trim().parse().ok()?, single(rate).ok()?))
    };
    let pairs: Option<_> = text.split(',').map(pair).collect();
    pairs
        .map(LearningRates)
        .ok_or_else(|| "expected one rate such as 0.0001, or step:rate pairs such as 0:0.3,20000:0.09".into())
}

/// A share of the images, in percent.
pub fn percent(text: &str) -> Result<f64, String> {
    let share = number(text.trim_end_matches('%')).ok().filter(|share| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "expected a percentage from 0 to 100".into())
}

/// The least accuracy wanted at one eps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequiredAccuracy {
    /// In percent.
    pub percent: f64,
    /// The attack's eps.
    pub eps: f64,
}

/// `PERCENT@EPS`, such as `60@0.3`.
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
    fn an_eps_is_a_number_or_a_fraction_rounded_once() {
        assert_eq!(number("0.0314"), Ok(0.0314));
        assert_eq!(number("8/255"), Ok(8.0 / 255.0));
        assert_eq!(single("8/255"), Ok((8.0f64 / 255.0) as f32));
        assert_eq!(single("2."), Ok(2.0));
        assert_eq!(single("1e-3"), Ok(0.001));
        assert_eq!(number("-1"), Ok(-1.0));
    }

    #[test]
    fn what_is_no_number_is_refused_with_what_is_accepted() {
        for text in ["", "8/", "/255", "8/0", "0/0", "1/2/3", "eight", "0,3", "nan", "inf", "1e999", "8 / two"] {
            assert_eq!(
                number(text),
                Err("expected a number such as 0.0314, or a fraction such as 8/255".into()),
                "{text}"
            );
        }
        assert!(single("1e39").unwrap_err().contains("single precision"));
    }

    #[test]
    fn a_schedule_is_one_rate_or_pairs() {
        assert_eq!(schedule("1e-4"), Ok(LearningRates(vec![(0, 1e-4)])));
        assert_eq!(schedule("0:0.3,20000:0.09"), Ok(LearningRates(vec![(0, 0.3), (20000, 0.09)])));
        for text in ["", "0:", "0:0.3,", "0:0.3;5:0.1", "-1:0.3", "0.5:0.3", "a:b"] {
            assert!(schedule(text).unwrap_err().contains("0:0.3,20000:0.09"), "{text}");
        }
    }

    #[test]
    fn whole_numbers_have_no_sign_and_no_fraction() {
        assert_eq!(whole("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(whole::<u32>("4294967296"), Err("expected a whole number of 32 bits without a sign".into()));
        assert!(whole::<u32>("-1").is_err() && whole::<u32>("1.5").is_err());
        assert_eq!(count("3"), Ok(3));
        assert!(count("0").is_err());
    }

    #[test]
    fn a_wanted_accuracy_names_its_eps() {
        assert_eq!(percent_at_eps("60@0.3"), Ok(RequiredAccuracy { percent: 60.0, eps: 0.3 }));
        assert_eq!(percent_at_eps("60%@8/255"), Ok(RequiredAccuracy { percent: 60.0, eps: 8.0 / 255.0 }));
        for text in ["60", "60@", "@0.3", "101@0.3", "-1@0.3"] {
            assert!(percent_at_eps(text).unwrap_err().contains("60@0.3"), "{text}");
        }
    }
}
