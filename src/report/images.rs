//! Images in a page: PNG files as data URIs.

use crate::{Error, Result};

/// Digits of base 64 (RFC 4648).
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Data URI of an image `[height, width, channels]`, a byte a value, with 1 or 3 channels.
///
/// # Errors
/// The shape does not fit the number of bytes.
pub fn data_uri([height, width, channels]: [usize; 3], pixels: &[u8]) -> Result<String> {
    let mut file = Vec::new();
    let refuse = |e: png::EncodingError| Error::failed(format!("image {height} x {width} x {channels}: {e}"));
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(if channels == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(refuse)?;
    writer.write_image_data(pixels).and_then(|()| writer.finish()).map_err(refuse)?;
    Ok(format!("data:image/png;base64,{}", base64(&file)))
}

/// Base 64 of bytes, padded.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let value = (0..3).fold(0, |value, i| value << 8 | u32::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Values in [0, 1] as bytes.
pub fn bytes(values: &[f32]) -> Vec<u8> {
    // NaN becomes 0.
    values.iter().map(|value| (value * 255.0).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_agrees_with_rfc_4648() {
        let words = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(words.map(|word| base64(word.as_bytes())), expected);
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn an_image_becomes_a_png_unless_its_shape_does_not_fit() {
        let uri = data_uri([1, 2, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
        assert!(uri.starts_with("data:image/png;base64,iVBORw0KGgo"), "{uri}");
        assert!(data_uri([2, 2, 1], &[0]).is_err() && data_uri([0, 2, 1], &[]).is_err());
    }

    #[test]
    fn values_out_of_range_are_clamped() {
        assert_eq!(bytes(&[0.0, 1.0, 0.5, -1.0, 7.0, f32::NAN]), [0, 255, 128, 0, 255, 0]);
    }
}
