//! Input layer: normalization of images before a network's first layer with parameters.

use std::fmt;
use std::str::FromStr;

use crate::Result;
use crate::device::Device;
use crate::tape::{BATCH_NORM_EPS, BatchNorm, Buffer, Memory, Tape, Value};

/// Normalization of images. Its text is `none`, `per-image`, or `MEAN,DEVIATION` with one value or one a channel
/// (`0.1307,0.3081`, `0.4914:0.4822:0.4465,0.247:0.2435:0.2616`).
#[derive(Clone, Debug, PartialEq)]
pub enum Normalization {
    /// Pixels in [0, 1] as they are.
    None,
    /// Each image less its mean, divided by its standard deviation ([`Op::Standardize`](crate::tape::Op::Standardize)).
    PerImage,
    /// Each channel less a mean, divided by a deviation: one value, or one a channel.
    Channels {
        /// Means.
        mean: Vec<f32>,
        /// Deviations, which are positive.
        deviation: Vec<f32>,
    },
}

/// Values as text: `0.4914:0.4822:0.4465`.
fn joined(values: &[f32]) -> String {
    values.iter().map(f32::to_string).collect::<Vec<_>>().join(":")
}

impl Normalization {
    /// Description of what a network does with an image, as a predicate.
    pub fn describe(&self) -> String {
        match self {
            Normalization::None => "takes pixels in [0, 1] as they are".into(),
            Normalization::PerImage => "standardizes each image".into(),
            Normalization::Channels { mean, deviation } if mean.len() == 1 && deviation.len() == 1 => {
                format!("normalizes pixels x in [0, 1] to (x - {}) / {}", joined(mean), joined(deviation))
            }
            Normalization::Channels { mean, deviation } => {
                let (mean, deviation) = (joined(mean), joined(deviation));
                format!("normalizes each channel in [0, 1]: less {mean}, divided by {deviation}")
            }
        }
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Normalization::None => f.write_str("none"),
            Normalization::PerImage => f.write_str("per-image"),
            Normalization::Channels { mean, deviation } => write!(f, "{},{}", joined(mean), joined(deviation)),
        }
    }
}

impl FromStr for Normalization {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Normalization, String> {
        /// A number, or a fraction such as `33.3/255`.
        fn value(text: &str) -> Option<f32> {
            let one = |part: &str| part.trim().parse::<f64>().ok();
            let value = match text.split_once('/') {
                None => one(text)?,
                Some((above, below)) => one(above)? / one(below)?,
            };
            Some(value as f32).filter(|value| value.is_finite())
        }
        let values = |text: &str| text.split(':').map(value).collect::<Option<Vec<f32>>>();
        match text {
            "none" => return Ok(Normalization::None),
            "per-image" => return Ok(Normalization::PerImage),
            _ => {}
        }
        let pair = text.split_once(',').and_then(|(mean, deviation)| values(mean).zip(values(deviation)));
        let pair = pair.filter(|(_, deviation)| deviation.iter().all(|deviation| *deviation > 0.0));
        let (mean, deviation) = pair.ok_or(
            "expected per-image, none, or MEAN,STD with a positive STD: one value each such as 0.1307,0.3081, or one a \
             channel such as 0.4914:0.4822:0.4465,0.247:0.2435:0.2616",
        )?;
        Ok(Normalization::Channels { mean, deviation })
    }
}

/// Layer that normalizes a batch of images.
#[derive(Clone, Debug)]
pub struct InputLayer {
    normalization: Normalization,
    channels: usize,
    /// [`InputLayer::operands`], `[4, channels]`.
    operands: Option<Buffer>,
}

impl InputLayer {
    /// Layer for images of `channels` channels.
    ///
    /// # Errors
    /// A message: the normalization has values for another number of channels.
    pub fn new(normalization: Normalization, channels: usize) -> std::result::Result<InputLayer, String> {
        if let Normalization::Channels { mean, deviation } = &normalization {
            for values in [mean, deviation] {
                if values.len() != 1 && values.len() != channels {
                    let one = if channels == 1 { "one value".into() } else { format!("one value, or {channels}") };
                    return Err(format!(
                        "expected {one}: the network's images have {channels} channel{}; found {}",
                        if channels == 1 { "" } else { "s" },
                        joined(values)
                    ));
                }
            }
        }
        Ok(InputLayer { normalization, channels, operands: None })
    }

    /// The normalization.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Declares the operands, if there are any.
    pub(super) fn declare(&mut self, memory: &mut Memory) {
        if let Normalization::Channels { .. } = self.normalization {
            self.operands = Some(memory.f32("normalization", &[4, self.channels]));
        }
    }

    /// Operands of the batch norm that normalizes channels, with their values, `[channels]` each: weight, bias, mean,
    /// variance. Empty without one, or if the layer was not declared.
    pub fn operands(&self) -> Vec<(Buffer, Vec<f32>)> {
        let (Normalization::Channels { mean, deviation }, Some(operands)) = (&self.normalization, &self.operands)
        else {
            return Vec::new();
        };
        // Batch norm divides by sqrt(variance + eps); with a variance of 1 its weight makes good for that.
        let root = f64::from(1.0 + BATCH_NORM_EPS).sqrt();
        let of_channel = |values: &[f32], c: usize| values[if values.len() == 1 { 0 } else { c }];
        let weight = |c: usize| (root / f64::from(of_channel(deviation, c))) as f32;
        let value = |row: usize, c: usize| match row {
            0 => weight(c),
            1 => 0.0,
            2 => of_channel(mean, c),
            _ => 1.0,
        };
        let operand = |(row, name): (usize, &&str)| {
            let part = operands.part(&format!("{}.{name}", operands.name), row * self.channels, &[self.channels]);
            (part, (0..self.channels).map(|c| value(row, c)).collect())
        };
        ["weight", "bias", "mean", "variance"].iter().enumerate().map(operand).collect()
    }

    /// Writes the operands to the device.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn load(&self, device: &mut dyn Device) -> Result<()> {
        self.operands().iter().try_for_each(|(buffer, values)| device.write_f32(buffer, values))
    }

    /// Records the normalized images x `[n, h, w, c]`. Panics if the layer was not declared.
    pub(super) fn record(&self, tape: &mut Tape, x: Value) -> Value {
        match &self.normalization {
            Normalization::None => x,
            Normalization::PerImage => tape.standardize(x),
            Normalization::Channels { .. } => {
                let operands = self.operands();
                let [(weight, _), (bias, _), (mean, _), (variance, _)] = &operands[..] else {
                    panic!("the model was declared");
                };
                let norm = BatchNorm {
                    weight: tape.leaf(weight),
                    bias: tape.leaf(bias),
                    running_mean: mean.clone(),
                    running_variance: variance.clone(),
                };
                tape.batch_norm(x, &norm)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normalization_is_read_from_its_text() {
        for text in ["none", "per-image", "0.1307,0.3081", "0.4914:0.4822:0.4465,0.247:0.2435:0.2616", "0.5,1:2:3"] {
            assert_eq!(text.parse::<Normalization>().unwrap().to_string(), text);
        }
        let fraction = "51/255,0.5".parse::<Normalization>().unwrap();
        assert_eq!(fraction, Normalization::Channels { mean: vec![0.2], deviation: vec![0.5] });
        for bad in ["", "None", "0.5", "0.5,0", "0.5,-1", "0.5,0.5,0.5", "a,b", "nan,1", "0.5,inf", "1/0,1", "0.5:,1"] {
            assert!(bad.parse::<Normalization>().unwrap_err().contains("0.1307,0.3081"), "{bad}");
        }
    }

    #[test]
    fn values_for_another_number_of_channels_are_refused() {
        let layer = |text: &str, channels| InputLayer::new(text.parse().unwrap(), channels);
        assert!(layer("0.5,0.5", 3).is_ok() && layer("0.5:0.4:0.3,0.5", 3).is_ok() && layer("none", 1).is_ok());
        let message = layer("0.5:0.5,0.5", 3).unwrap_err();
        assert_eq!(message, "expected one value, or 3: the network's images have 3 channels; found 0.5:0.5");
        let message = layer("0.5,1:2:3", 1).unwrap_err();
        assert_eq!(message, "expected one value: the network's images have 1 channel; found 1:2:3");
    }
}
