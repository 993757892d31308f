//! Values of settings: their forms on the command line and in listings.

use std::str::FromStr;

use crate::choice::Choice;

/// A type of settings.
pub trait SettingValue: Sized + 'static {
    /// Reads a value as it is written on the command line.
    ///
    /// # Errors
    /// `text` has another form: the message says which ones are read.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value as [`SettingValue::parse`] reads it; empty if there is none.
    fn text(&self) -> String;

    /// Name and help of every value, where the values have names.
    fn names() -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
}

impl<T: Choice> SettingValue for T {
    fn parse(text: &str) -> Result<T, String> {
        let names = || T::ALL.iter().map(|value| value.name()).collect::<Vec<_>>().join(", ");
        T::from_name(text).ok_or_else(|| format!("expected one of {}", names()))
    }

    fn text(&self) -> String {
        self.name().into()
    }

    fn names() -> Vec<(&'static str, &'static str)> {
        T::ALL.iter().map(|value| (value.name(), value.help())).collect()
    }
}

impl SettingValue for bool {
    fn parse(text: &str) -> Result<bool, String> {
        text.to_ascii_lowercase().parse().map_err(|_| "expected true or false".into())
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn names() -> Vec<(&'static str, &'static str)> {
        vec![("true", ""), ("false", "")]
    }
}

macro_rules! whole_numbers {
    ($($Type:ty),+) => {$(
        impl SettingValue for $Type {
            fn parse(text: &str) -> Result<$Type, String> {
                whole(text)
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
whole_numbers!(u32, u64, usize);

impl SettingValue for Option<usize> {
    fn parse(text: &str) -> Result<Option<usize>, String> {
        whole(text).map(Some)
    }

    fn text(&self) -> String {
        self.map_or_else(String::new, |value| value.to_string())
    }
}

macro_rules! decimal_numbers {
    ($($Type:ty: $parse:path),+) => {$(
        impl SettingValue for $Type {
            fn parse(text: &str) -> Result<$Type, String> {
                $parse(text)
            }

            /// The fewest digits that give the number back, as in TOML: `4.0`, `0.0471`, `1e-6`, `nan`.
            fn text(&self) -> String {
                format!("{self:?}").to_lowercase()
            }
        }
    )+};
}
decimal_numbers!(f32: single, f64: number);

impl SettingValue for String {
    fn parse(text: &str) -> Result<String, String> {
        Ok(text.into())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

/// (From step, learning rate) pairs: `0:0.3,20000:0.09` on the command line, or one rate.
impl SettingValue for Vec<(u32, f32)> {
    fn parse(text: &str) -> Result<Vec<(u32, f32)>, String> {
        if let Ok(rate) = single(text) {
            return Ok(vec![(0, rate)]);
        }
        let pair = |entry: &str| {
            let (step, rate) = entry.split_once(':')?;
            Some((step.trim().parse().ok()?, single(rate).ok()?))
        };
        let pairs: Option<_> = text.split(',').map(pair).collect();
        pairs.ok_or_else(|| "expected one rate such as 0.0001, or step:rate pairs such as 0:0.3,20000:0.09".into())
    }

    fn text(&self) -> String {
        self.iter().map(|(step, rate)| format!("{step}:{rate}")).collect::<Vec<_>>().join(",")
    }
}

/// A number such as `0.0314`, or a fraction such as `8/255`, in double precision.
///
/// # Errors
/// `text` is neither, or not finite.
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

/// [`number`], rounded to single precision.
///
/// # Errors
/// As [`number`]; or the number is too large for single precision.
pub fn single(text: &str) -> Result<f32, String> {
    let rounded = number(text)? as f32;
    if rounded.is_finite() { Ok(rounded) } else { Err("expected a number that single precision can hold".into()) }
}

/// A whole number without a sign.
///
/// # Errors
/// `text` is none, or it does not fit the type.
pub fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a whole number of {} bits without a sign", 8 * size_of::<T>()))
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
    fn text_that_is_no_number_is_refused_with_the_forms_that_are_read() {
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
    fn a_number_is_written_with_the_fewest_digits_and_a_point() {
        let text = |value: f32| SettingValue::text(&value);
        assert_eq!([4.0, 0.0471, 8.0 / 255.0, 1e-6, -0.5].map(text), ["4.0", "0.0471", "0.03137255", "1e-6", "-0.5"]);
        assert_eq!([1e38, 1e-30].map(text), ["1e38", "1e-30"], "and not with 38 digits");
        assert_eq!([f32::NAN, f32::INFINITY].map(text), ["nan", "inf"]);
    }

    #[test]
    fn a_schedule_is_one_rate_or_pairs() {
        let rates = <Vec<(u32, f32)> as SettingValue>::parse;
        assert_eq!(rates("1e-4"), Ok(vec![(0, 1e-4)]));
        assert_eq!(rates("0:0.3,20000:0.09"), Ok(vec![(0, 0.3), (20000, 0.09)]));
        for text in ["", "0:", "0:0.3,", "0:0.3;5:0.1", "-1:0.3", "0.5:0.3", "a:b"] {
            assert!(rates(text).unwrap_err().contains("0:0.3,20000:0.09"), "{text}");
        }
    }

    #[test]
    fn whole_numbers_have_no_sign_and_no_fraction() {
        assert_eq!(whole("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(whole::<u32>("4294967296"), Err("expected a whole number of 32 bits without a sign".into()));
        assert!(whole::<u32>("-1").is_err() && whole::<u32>("1.5").is_err());
    }
}
