//! Numbers with a prefix instead of many digits.

/// A number that is not negative, with three digits and a prefix: `3.27 M`. Below 1,000 it is rounded to a whole
/// number where it is one, and has three digits otherwise.
pub fn si(value: f64) -> String {
    let prefixes = ["", " k", " M", " G", " T", " P"];
    let mut scaled = value;
    let mut at = 0;
    // 999.5 would be rounded to four digits.
    while scaled >= 999.5 && at + 1 < prefixes.len() {
        scaled /= 1000.0;
        at += 1;
    }
    let digits = match scaled {
        _ if at == 0 && scaled.fract() == 0.0 => 0,
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{}", prefixes[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_three_digits_and_a_prefix() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.50"),
            (999.0, "999"),
            (999.7, "1.00 k"),
            (1234.0, "1.23 k"),
            (99_960.0, "100 k"),
            (3_274_634.0, "3.27 M"),
            (4.2e15, "4.20 P"),
            (4.2e19, "42000 P"),
        ] {
            assert_eq!(si(value), text);
        }
    }
}
