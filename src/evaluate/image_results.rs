//! `images.csv`: the result of each image of an evaluation, a line an image.

/// First line of the file.
pub const HEADER: &str = "index,label,clean_prediction,margin,distance,broken_eps,broken_by";

/// First line of files of former versions, where `margin` is the distance if no margins were measured.
pub const FORMER_HEADER: &str = "index,label,clean_prediction,margin,broken_eps,broken_by";

/// Name in [`ImageResult::found_by`] of images that are misclassified without an attack.
pub const CLEAN: &str = "clean";

/// Result of one image. Values that are not known are absent, and empty in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageResult {
    /// Index of the image in its part of the data set.
    pub index: usize,
    /// Class of the image.
    pub label: u8,
    /// Class that the network predicts without an attack.
    pub clean_prediction: Option<u32>,
    /// Margin by AN-PGD, or else the least adversarial distance that a minimum-norm attack found.
    pub margin: Option<f32>,
    /// Least distance of an adversarial image that a minimum-norm attack found; 0 if the image is misclassified without
    /// an attack.
    pub distance: Option<f32>,
    /// Least eps at which an adversarial image was found; 0 if the image is misclassified without an attack.
    pub found_eps: Option<f64>,
    /// Name of the attack that found it, or [`CLEAN`].
    pub found_by: Option<String>,
}

impl ImageResult {
    /// Line of the file, without its end.
    pub fn to_csv(&self) -> String {
        fn shown<T: ToString>(value: Option<&T>) -> String {
            value.map(T::to_string).unwrap_or_default()
        }
        let ImageResult { index, label, clean_prediction, margin, distance, found_eps, found_by } = self;
        let prediction = shown(clean_prediction.as_ref());
        let [margin, distance] = [margin, distance].map(|length| shown(length.as_ref()));
        let (eps, by) = (shown(found_eps.as_ref()), shown(found_by.as_ref()));
        format!("{index},{label},{prediction},{margin},{distance},{eps},{by}")
    }

    /// Row of a line of a file that begins with [`HEADER`], or with [`FORMER_HEADER`] if `former`; `None` if the line has
    /// another form.
    pub fn from_csv(line: &str, former: bool) -> Option<ImageResult> {
        /// An empty field is absent; `None` if the text is not a `T`.
        fn optional<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
            if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
        }
        // The name of an attack may contain commas.
        let mut fields = line.splitn(if former { 6 } else { 7 }, ',');
        Some(ImageResult {
            index: fields.next()?.parse().ok()?,
            label: fields.next()?.parse().ok()?,
            clean_prediction: optional(fields.next()?)?,
            margin: optional(fields.next()?)?,
            distance: if former { None } else { optional(fields.next()?)? },
            found_eps: optional(fields.next()?)?,
            found_by: Some(fields.next()?.trim_matches('"').to_owned()).filter(|name| !name.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_may_lack_what_is_not_known() {
        let row = |index, label, clean_prediction, [margin, distance]: [Option<f32>; 2], found_eps, found_by: &str| {
            let found_by = Some(found_by.to_owned()).filter(|name| !name.is_empty());
            ImageResult { index, label, clean_prediction, margin, distance, found_eps, found_by }
        };
        for (line, expected) in [
            ("4,7,7,0.25,0.2,0.3,pgd-cw", row(4, 7, Some(7), [Some(0.25), Some(0.2)], Some(0.3), "pgd-cw")),
            ("5,1,,,,,", row(5, 1, None, [None; 2], None, "")),
            ("6,2,3,0,,0,clean", row(6, 2, Some(3), [Some(0.0), None], Some(0.0), CLEAN)),
        ] {
            assert_eq!(ImageResult::from_csv(line, false).as_ref(), Some(&expected));
            assert_eq!(expected.to_csv(), line);
        }
        let quoted = row(7, 2, Some(3), [Some(0.5), None], Some(0.1), "PGD-100, 10 starts");
        assert_eq!(ImageResult::from_csv("7,2,3,0.5,0.1,\"PGD-100, 10 starts\"", true), Some(quoted));
    }

    #[test]
    fn a_line_of_another_form_is_no_row() {
        for bad in ["", "1,2,3", "x,1,,,,,", "1,1,a,,,,", "1,1,,b,,,", "1,1,,,c,,", "1,1,,,,d,", "-1,1,,,,,", "1,1,,,,"]
        {
            assert_eq!(ImageResult::from_csv(bad, false), None, "{bad:?}");
        }
    }
}
