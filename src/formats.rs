//! Formats of files, recognized by their content, for messages about files that are not what was expected.
//!
//! Owns: the answer to "what is this file, and what is to be done?" for every reader of the crate. A reader asks after
//! it has found its file invalid, so a valid file is never taken for another one.
//!
//! Refuses: to read files, and to convert them.

/// Content that a reader expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedContent {
    /// Weights or other tensors in a safetensors file.
    Tensors,
    /// MNIST's images in an IDX file.
    IdxImages,
    /// MNIST's labels in an IDX file.
    IdxLabels,
    /// CIFAR10's records in a binary file.
    Cifar10,
    /// Text: TOML, JSON or CSV.
    Text,
}

/// Formats known by their first bytes alone, with their names.
const SIGNATURES: [(&[u8], &str); 16] = [
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"\x93NUMPY", NPY),
    (b"PAR1", "a Parquet file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"GGUF", "a GGUF file"),
    (b"SQLite format 3\0", "a SQLite data base"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", LFS),
    (b"BZh", "a file packed with bzip2"),
    (b"\xfd7zXZ\0", "a file packed with xz"),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
];

const HDF5: &str = "an HDF5 file, such as Keras's";
const NPY: &str = "an array of numpy's (.npy)";
const NPZ: &str = "an archive of numpy's (.npz)";
const LFS: &str = "a Git LFS pointer";
const PAGE: &str = "a web page";
const PYTORCH: &str = "a pickle of PyTorch's";
const PICKLE: &str = "a pickle of Python's";
const GZIP: &str = "a file packed with gzip";
const ONNX: &str = "an ONNX model";
const EMPTY: &str = "an empty file";
const SAFETENSORS: &str = "a safetensors file";
const JSON: &str = "JSON text";
const UTF_16: &str = "text in UTF-16";
const BYTE_ORDER_MARK: &str = "text with a byte order mark";

/// Describes a file of another format than `expected`, with what to do about it: "a web page: the download went wrong,
/// fetch the file again". `None` if the format is not known, or is the expected one.
pub fn mistaken_format(content: &[u8], expected: ExpectedContent) -> Option<String> {
    if let Some(idx) = IdxHeader::parse(content) {
        return idx.mistaken(expected);
    }
    let found = format_name(content)?;
    let own = match expected {
        ExpectedContent::Tensors => found == SAFETENSORS,
        ExpectedContent::Text => found == JSON,
        ExpectedContent::IdxImages | ExpectedContent::IdxLabels | ExpectedContent::Cifar10 => false,
    };
    (!own).then(|| match advice(found, expected) {
        "" => found.into(),
        advice => format!("{found}: {advice}"),
    })
}

/// Content of a text file, or a description of the file if it is none: "bytes that are no text, from byte 9".
///
/// # Errors
/// The content is empty, is not UTF-8, or is known to be another format.
pub fn text(content: Vec<u8>) -> Result<String, String> {
    match mistaken_format(&content, ExpectedContent::Text) {
        Some(found) => Err(found),
        None => String::from_utf8(content)
            .map_err(|error| format!("bytes that are no text, from byte {}", error.utf8_error().valid_up_to())),
    }
}

/// Describes damage by a program that took a binary file for text: line feeds that became CR LF, or bytes that were
/// decoded and encoded as UTF-8.
pub fn text_mode_damage(content: &[u8]) -> Option<&'static str> {
    let feeds: Vec<usize> = (0..content.len()).filter(|&i| content[i] == b'\n').take(1000).collect();
    if feeds.len() >= 4 && feeds.iter().all(|&i| i > 0 && content[i - 1] == b'\r') {
        return Some("each line feed follows a carriage return: the file went through text mode; copy it as binary");
    }
    let replaced = content.windows(3).filter(|bytes| *bytes == "\u{fffd}".as_bytes()).take(4).count();
    (replaced == 4).then_some("bytes were replaced by U+FFFD: the file was treated as text; copy it as binary")
}

/// Name of a format that is recognized; IDX has its own type.
fn format_name(content: &[u8]) -> Option<&'static str> {
    if content.is_empty() {
        return Some(EMPTY);
    }
    if let Some((_, name)) = SIGNATURES.iter().find(|(signature, _)| content.starts_with(signature)) {
        return Some(name);
    }
    let contains = |text: &[u8]| content[..content.len().min(4096)].windows(text.len()).any(|bytes| bytes == text);
    Some(match content {
        [b'P', b'K', 3, 4, ..] if contains(b".npy") => NPZ,
        [b'P', b'K', 3, 4, ..] if contains(b"data.pkl") => PYTORCH,
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "a zip archive",
        // Files of PyTorch before 1.6 begin with this number.
        [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, ..] => PYTORCH,
        [0x80, 2..=5, ..] => PICKLE,
        [0x1f, 0x8b, ..] => GZIP,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if content.len().is_multiple_of(2) => UTF_16,
        [0xef, 0xbb, 0xbf, ..] => BYTE_ORDER_MARK,
        // Fields 1 (version of the format) and 2 (name of the program that wrote the file) of a protobuf message.
        [0x08, 1..=16, 0x12, 1..=32, name, ..] if name.is_ascii_alphabetic() => ONNX,
        _ if content.get(257..262) == Some(b"ustar") => "a tar archive",
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => SAFETENSORS,
        _ => return text_name(content),
    })
}

/// Name of a format of text.
fn text_name(content: &[u8]) -> Option<&'static str> {
    let text = content[..content.len().min(512)].trim_ascii_start();
    // Eight bytes, because a safetensors header of 60 bytes begins with `<` and seven zeros.
    let printable = text.iter().take(8).all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'));
    match text {
        _ if !printable => None,
        [b'<', b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', ..] => Some(PAGE),
        [b'{' | b'[', ..] => Some(JSON),
        _ => None,
    }
}

/// Advice for a file of the format `found` in the place of `expected`; empty if there is none.
fn advice(found: &str, expected: ExpectedContent) -> &'static str {
    use ExpectedContent::{Cifar10, Tensors};
    match (found, expected) {
        (PAGE, _) => "the download went wrong, fetch the file again",
        (EMPTY, _) => "fetch or copy it again",
        (LFS, _) => "fetch the file it stands for with `git lfs pull`",
        (PYTORCH, Tensors) => "load it there and save it with safetensors.torch.save_file",
        (PICKLE, Tensors) => "load it in Python and save its tensors with safetensors.torch.save_file",
        (NPZ, Tensors) => {
            "convert it with safetensors.numpy.save_file(dict(numpy.load(FILE)), \"weights.safetensors\")"
        }
        (NPY, Tensors) => "a file of weights needs every tensor by name, as safetensors.numpy.save_file writes them",
        (HDF5 | ONNX, Tensors) => "save its tensors by PyTorch's names and layouts with safetensors.numpy.save_file",
        (PICKLE | PYTORCH, Cifar10) => "CIFAR10's version for Python; the version in binary files is needed",
        (UTF_16 | BYTE_ORDER_MARK, _) => "save it as UTF-8 without a byte order mark",
        (SAFETENSORS, _) => "weights or other tensors",
        (_, Cifar10) if found == GZIP => "unpack the archive first",
        (GZIP, _) => "unpack it",
        _ if found.starts_with("a file packed") || found.ends_with("archive") => "unpack it",
        _ => "",
    }
}

/// Header of an IDX file: type and number of elements.
#[derive(Debug)]
struct IdxHeader {
    /// Name of the elements' type.
    elements: &'static str,
    /// Sizes, as far as the content has them.
    sizes: Vec<u32>,
    /// Number of sizes that the header announces.
    rank: usize,
}

impl IdxHeader {
    fn parse(content: &[u8]) -> Option<IdxHeader> {
        let [0, 0, code, rank @ 1..=8, sizes @ ..] = content else { return None };
        let elements = match code {
            0x08 => "bytes",
            0x09 => "signed bytes",
            0x0b => "16-bit integers",
            0x0c => "32-bit integers",
            0x0d => "32-bit floating-point numbers",
            0x0e => "64-bit floating-point numbers",
            _ => return None,
        };
        let rank = usize::from(*rank);
        let sizes = sizes.chunks_exact(4).take(rank).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        Some(IdxHeader { elements, sizes, rank })
    }

    /// Description of the file with advice; `None` if it is the expected one as far as type and rank tell.
    fn mistaken(&self, expected: ExpectedContent) -> Option<String> {
        use ExpectedContent::{IdxImages, IdxLabels};
        let sizes: Vec<_> = self.sizes.iter().map(u32::to_string).collect();
        let found = format!("an IDX file of {}, {}", self.elements, sizes.join("x"));
        let bytes = self.elements == "bytes";
        let advice = match (expected, self.rank) {
            (IdxImages, 3) | (IdxLabels, 1) if bytes => return None,
            (IdxImages, 1) => "labels: the files of images and labels are swapped",
            (IdxLabels, 3) => "images: the files of images and labels are swapped",
            (IdxLabels, 2) if self.sizes.contains(&10) => {
                "one-hot labels; one number from 0 to 9 for each image is needed, [count]"
            }
            (IdxLabels, _) if self.rank > 1 => "labels are needed as one number from 0 to 9 for each image, [count]",
            (IdxImages, rank) if rank != 3 => "images are needed as [count, height, width]",
            (IdxImages | IdxLabels, _) => "bytes from 0 to 255 are needed",
            _ => return Some("an IDX file, such as MNIST's".into()),
        };
        Some(format!("{found}: {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::ExpectedContent::{Cifar10, IdxImages, IdxLabels, Tensors, Text};
    use super::*;

    /// Asserts that `content` is described with each of `parts` in the place of `expected`.
    #[track_caller]
    fn described(content: &[u8], expected: ExpectedContent, parts: &[&str]) {
        let text = mistaken_format(content, expected).expect("a description");
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
    }

    #[test]
    fn a_wrong_file_is_named_with_what_to_do_for_every_reader() {
        for expected in [Tensors, IdxImages, IdxLabels, Cifar10, Text] {
            described(b"\n<!DOCTYPE html><html>404", expected, &["a web page: the download went wrong"]);
            described(b"<?xml version='1.0'?><Error>", expected, &["a web page"]);
            described(
                b"version https://git-lfs.github.com/spec/v1\n",
                expected,
                &["a Git LFS pointer", "git lfs pull"],
            );
            described(b"PK\x03\x04\x14\0\0\0\0\0mnist/images", expected, &["a zip archive: unpack it"]);
            described(b"\x1f\x8b\x08\0", expected, &["a file packed with gzip: unpack"]);
            described(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", expected, &["a PNG picture"]);
            described(b"", expected, &["an empty file: fetch or copy it again"]);
        }
    }

    #[test]
    fn numpy_s_archive_is_not_taken_for_pytorch_s_which_is_a_zip_archive_too() {
        let numpy =
            b"PK\x03\x04\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x10\0\x14\0conv1.weight.npy";
        described(
            numpy,
            Tensors,
            &["an archive of numpy's (.npz)", "safetensors.numpy.save_file(dict(numpy.load(FILE))"],
        );
        described(b"\x93NUMPY\x01\0", Tensors, &["an array of numpy's (.npy)"]);
        let zipped = b"PK\x03\x04\0\0\x08\x08\0\0\0\0archive/data.pkl";
        for pytorch in [&zipped[..], b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."] {
            described(pytorch, Tensors, &["a pickle of PyTorch's: load it there", "safetensors.torch.save_file"]);
        }
        described(b"\x80\x04\x95\0\0", Tensors, &["a pickle of Python's"]);
        described(b"\x89HDF\r\n\x1a\n\0", Tensors, &["an HDF5 file"]);
        described(b"\x08\x07\x12\x07pytorch\x1a\x05", Tensors, &["an ONNX model"]);
    }

    #[test]
    fn cifar10_for_python_is_named_where_the_binary_files_are_needed() {
        described(b"\x80\x02}q\x01(U\x0bbatch_label", Cifar10, &["the version in binary files is needed"]);
    }

    #[test]
    fn swapped_transposed_and_one_hot_idx_files_are_named() {
        let idx = |code: u8, sizes: &[u32]| {
            let mut file = vec![0, 0, code, sizes.len() as u8];
            sizes.iter().for_each(|size| file.extend(size.to_be_bytes()));
            file
        };
        let swapped = "the files of images and labels are swapped";
        described(&idx(8, &[60_000]), IdxImages, &["an IDX file of bytes, 60000: labels", swapped]);
        described(&idx(8, &[60_000, 28, 28]), IdxLabels, &["60000x28x28: images", swapped]);
        described(&idx(8, &[60_000, 10]), IdxLabels, &["one-hot labels"]);
        described(&idx(8, &[10, 60_000]), IdxLabels, &["one-hot labels"]);
        described(&idx(8, &[1, 60_000]), IdxLabels, &["one number from 0 to 9 for each image, [count]"]);
        described(&idx(8, &[60_000, 784]), IdxImages, &["images are needed as [count, height, width]"]);
        described(&idx(0x0d, &[60_000, 28, 28]), IdxImages, &["32-bit floating-point numbers", "bytes from 0 to 255"]);
        described(&idx(0x0c, &[60_000]), IdxLabels, &["32-bit integers", "bytes from 0 to 255"]);
        described(&idx(8, &[60_000, 28, 28]), Cifar10, &["an IDX file, such as MNIST's"]);
        assert_eq!(mistaken_format(&idx(8, &[60_000, 28, 28]), IdxImages), None);
        assert_eq!(mistaken_format(&idx(8, &[60_000]), IdxLabels), None);
    }

    #[test]
    fn text_in_another_encoding_is_named() {
        described(b"\xff\xfe[\0r\0", Text, &["text in UTF-16: save it as UTF-8"]);
        described(b"\xef\xbb\xbf{}", Text, &["text with a byte order mark: save it as UTF-8"]);
        assert_eq!(text(b"seed\xff".to_vec()), Err("bytes that are no text, from byte 4".into()));
    }

    #[test]
    fn a_file_of_the_expected_format_is_not_given_another_name() {
        assert_eq!(mistaken_format(b"{\"kind\": 1}", Text), None);
        assert_eq!(text(b"seed = 1".to_vec()).as_deref(), Ok("seed = 1"));
        // A header of 60 bytes begins with `<`.
        assert_eq!(mistaken_format(b"\x3c\0\0\0\0\0\0\0{\"a\":{}}", Tensors), None);
        assert_eq!(mistaken_format(&[7; 100], Cifar10), None);
    }

    #[test]
    fn binary_files_that_went_through_text_mode_are_recognized() {
        let content: Vec<u8> = (0..200u8).cycle().take(2000).collect();
        let crlf: Vec<u8> =
            content.iter().flat_map(|&b| if b == b'\n' { vec![b'\r', b'\n'] } else { vec![b] }).collect();
        assert!(text_mode_damage(&crlf).is_some_and(|text| text.contains("carriage return")));
        let utf8 = String::from_utf8_lossy(&content).into_owned();
        assert!(text_mode_damage(utf8.as_bytes()).is_some_and(|text| text.contains("U+FFFD")));
        assert_eq!(text_mode_damage(&content), None);
    }
}
