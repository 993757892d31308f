//! Numbers with few digits.

/// Number with three digits and a prefix, such as `3.27 M`. Whole numbers below 1,000 are written out; from a million
/// million million on there is an exponent instead of a prefix. The number is not negative.
pub fn si(value: f64) -> String {
    let prefixes = ["", " k", " M", " G", " T", " P"];
    let mut scaled = value;
    let mut at = 0;
    // 999.5 would be rounded to four digits.
    while scaled >= 999.5 && at + 1 < prefixes.len() {
        scaled /= 1000.0;
        at += 1;
    }
    if scaled >= 999.5 {
        return format!("{value:.2e}");
    }
    let digits = match scaled {
        _ if at == 0 && scaled.fract() == 0.0 => 0,
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{}", prefixes[at])
}

/// Seconds in a unit of their size, such as `27.30 us`, `9.008 ms` or `1.200 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.2} us", 1e6 * s),
        s if s < 1.0 => format!("{:.3} ms", 1e3 * s),
        s => format!("{s:.3} s"),
    }
}

/// Radius or distance in units of a pixel's value, such as `0.3`. A multiple of 1/255 with many digits is written as
/// `8/255`. Lengths below 0.0001 or from a million on have an exponent: `1.5e-7`.
pub fn length(eps: f64) -> String {
    let text = eps.to_string();
    let steps = (eps * 255.0).round();
    // The rounding error of single precision is a part in ten million.
    if text.len() > 6 && (1.0..1e6).contains(&steps) && (eps * 255.0 / steps - 1.0).abs() < 1e-6 {
        return format!("{steps}/255");
    }
    if eps != 0.0 && !(1e-4..1e6).contains(&eps.abs()) {
        let digits = format!("{eps:.5e}");
        let (digits, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
        return format!("{}e{exponent}", short(digits));
    }
    short(&format!("{eps:.6}"))
}

/// Decimals without zeros at their end.
fn short(decimals: &str) -> String {
    decimals.trim_end_matches('0').trim_end_matches('.').into()
}

/// Number with its noun, in the plural unless the number is 1: `1 image`, `200 images`, `2 passes`, `2 launches`.
pub fn counted(number: u64, noun: &str) -> String {
    let ending = match number {
        1 => "",
        _ if noun.ends_with(['s', 'h']) => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_short_number_or_a_multiple_of_1_255() {
        for (eps, text) in [
            (0.3, "0.3"),
            (1.0, "1"),
            (0.0314, "0.0314"),
            (0.2, "0.2"), // 51/255
            (8.0 / 255.0, "8/255"),
            (f64::from(8.0f32 / 255.0), "8/255"),
            (0.03137255, "8/255"),
            (0.1234567, "0.123457"),
            (0.0, "0"),
            (1e-30, "1e-30"), // 32 characters without an exponent
            (0.000015, "1.5e-5"),
            (1e30, "1e30"),
        ] {
            assert_eq!(length(eps), text);
        }
    }

    #[test]
    fn seconds_have_a_unit_of_their_size() {
        let texts = [0.0, 9.3e-7, 0.009_007_6, 0.2307, 61.5].map(seconds);
        assert_eq!(texts, ["0.00 us", "0.93 us", "9.008 ms", "230.700 ms", "61.500 s"]);
    }

    #[test]
    fn one_thing_is_not_called_several() {
        let texts = [0, 1, 2].map(|number| counted(number, "image"));
        assert_eq!(texts, ["0 images", "1 image", "2 images"]);
        assert_eq!([1, 2].map(|number| counted(number, "launch")), ["1 launch", "2 launches"]);
        assert_eq!(counted(3, "forward pass"), "3 forward passes");
    }

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
            (4.2e19, "4.20e19"),
        ] {
            assert_eq!(si(value), text);
        }
    }
}
