//! Safetensors files: written files are read back unchanged, and invalid ones are refused with the reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use maxmargin::record::{Tensor, TensorData, TensorFile, write_tensors};
use serde_json::{Value, json};

use crate::{message, names, strings, temporary};

/// A tensor of every type, among them a scalar, and shapes with sizes of 0 and 1.
fn all_types() -> Vec<Tensor> {
    vec![
        Tensor::new("labels", &[3], vec![0u8, 9, 255]),
        Tensor::new("conv1.weight", &[2, 1, 1, 2], vec![0.5f32, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX]),
        Tensor::new("digest", &[1], vec![std::f64::consts::PI]),
        Tensor::new("index", &[2], vec![-1i32, i32::MAX]),
        Tensor::new("empty", &[0, 7], Vec::<f32>::new()),
        Tensor::new("margins.step", &[], vec![u32::MAX]),
        Tensor::new("bn.num_batches_tracked", &[], vec![i64::MIN]),
    ]
}

/// Writes a file of a header with this many zeros after it.
fn file_with(folder: &Path, header: &Value, zeros: usize) -> PathBuf {
    let path = folder.join("x.safetensors");
    let text = header.to_string();
    let bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &vec![0; zeros]].concat();
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn tensors_of_every_type_and_metadata_are_read_back_with_the_same_bits() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let metadata = strings(&[("step", "17"), ("note", "µ \"quoted\"\n")]);
    write_tensors(&path, &all_types(), &metadata).unwrap();
    let file = TensorFile::read(&path).unwrap();
    assert_eq!(file.metadata, metadata);
    assert_eq!(file.tensors.len(), all_types().len());
    for tensor in all_types() {
        assert_eq!(file.tensor(&tensor.name).unwrap(), &tensor);
    }
    let weights = file.get::<f32>("conv1.weight", &[2, 1, 1, 2]).unwrap();
    assert!(weights[1].is_sign_negative(), "-0 keeps its sign");
    assert_eq!(file.get::<u32>("margins.step", &[]).unwrap(), [u32::MAX]);
    assert_eq!(file.meta::<u64>("step").unwrap(), 17);
}

#[test]
fn nan_and_infinities_keep_their_bits() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let bits = [0x7fc0_1234, 0xff80_0000, 0x7f80_0000, 1];
    write_tensors(&path, &[Tensor::new("x", &[4], bits.map(f32::from_bits).to_vec())], &BTreeMap::new()).unwrap();
    let file = TensorFile::read(&path).unwrap();
    let found: Vec<u32> = file.get::<f32>("x", &[4]).unwrap().iter().map(|x| x.to_bits()).collect();
    assert_eq!(found, bits);
}

#[test]
fn other_readers_find_the_tensors_aligned_and_the_header_padded() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["step"], "17");
    for tensor in all_types() {
        let info = metadata.info(&tensor.name).unwrap();
        assert_eq!(info.shape, tensor.shape);
        assert_eq!(info.data_offsets.0 % (info.dtype.bitsize() / 8), 0, "{} is not aligned", tensor.name);
    }
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("digest").unwrap().data(), std::f64::consts::PI.to_le_bytes());
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let folder = temporary();
    let metadata = strings(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("f", "6")]);
    let written: Vec<Vec<u8>> = (0..4)
        .map(|i| {
            let path = folder.path().join(format!("{i}.safetensors"));
            write_tensors(&path, &all_types(), &metadata).unwrap();
            fs::read(path).unwrap()
        })
        .collect();
    assert!(written.iter().all(|bytes| bytes == &written[0]));
}

#[test]
fn half_precision_is_read_as_single() {
    let folder = temporary();
    let path = folder.path().join("half.safetensors");
    let halves: Vec<u8> = [0x3c00u16, 0xc100, 0x0001].iter().flat_map(|h| h.to_le_bytes()).collect();
    let brains: Vec<u8> = [0x3f80u16, 0xc020].iter().flat_map(|h| h.to_le_bytes()).collect();
    let header = json!({"h": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
                        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [6, 10]}});
    let text = header.to_string();
    fs::write(&path, [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &halves, &brains].concat()).unwrap();
    let file = TensorFile::read(&path).unwrap();
    assert_eq!(file.get::<f32>("h", &[3]).unwrap(), [1.0, -2.5, 2f32.powi(-24)]);
    assert_eq!(file.get::<f32>("b", &[2]).unwrap(), [1.0, -2.5]);
}

#[test]
fn another_shape_type_or_name_is_refused_with_what_was_found() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "soon")])).unwrap();
    let file = TensorFile::read(&path).unwrap();
    let shape = message(file.get::<f32>("conv1.weight", &[32, 1, 5, 5]), &path);
    assert!(shape.contains("`conv1.weight`: expected F32 [32, 1, 5, 5], found F32 [2, 1, 1, 2]"), "{shape}");
    let kind = message(file.get::<f32>("labels", &[3]), &path);
    assert!(kind.contains("`labels`: expected F32 [3], found U8 [3]"), "{kind}");
    let name = message(file.get::<f32>("conv2.weight", &[1]), &path);
    assert!(name.contains("no tensor `conv2.weight` among its 7; near names: conv1.weight, "), "{name}");
    let text = message(file.meta::<u64>("step"), &path);
    assert!(text.contains("metadata `step`: expected a value of type u64, found `soon`"), "{text}");
    let entry = message(file.meta::<String>("epoch"), &path);
    assert!(entry.contains("metadata `epoch`: expected a value of type string, found no such entry"), "{entry}");
}

#[test]
fn counts_are_read_from_both_types_of_integers_that_versions_wrote() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let tensors = [
        Tensor::new("former", &[2], vec![0u32, u32::MAX]),
        Tensor::new("now", &[2], vec![0i64, i64::from(u32::MAX)]),
        Tensor::new("negative", &[2], vec![3i64, -1]),
        Tensor::new("real", &[1], vec![1f32]),
    ];
    write_tensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let file = TensorFile::read(&path).unwrap();
    assert_eq!(file.get_counts("former", &[2]).unwrap(), [0, u32::MAX]);
    assert_eq!(file.get_counts("now", &[2]).unwrap(), [0, u32::MAX]);
    let negative = message(file.get_counts("negative", &[2]), &path);
    assert!(negative.contains("tensor `negative`, element 1: expected 0 to 4294967295, found -1"), "{negative}");
    let real = message(file.get_counts("real", &[1]), &path);
    assert!(real.contains("tensor `real`: expected I64 [1], found F32 [1]"), "{real}");
    assert!(message(file.get_counts("now", &[3]), &path).contains("expected I64 [3], found I64 [2]"));
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_names_a_byte() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let whole = fs::read(&path).unwrap();
    let sixteenths = (0..16).map(|i| whole.len() * i / 16);
    for length in sixteenths.chain([1, 7, 8, 9, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        let text = message(TensorFile::read(&path), &path);
        assert!(text.contains("byte "), "{length} bytes: {text}");
    }
}

#[test]
fn a_header_with_any_one_byte_changed_never_panics() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let whole = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for place in 0..end {
        for byte in [0x00, 0xff, b'9', b'"', b'}'] {
            let mut bytes = whole.clone();
            bytes[place] = byte;
            refused += usize::from(TensorFile::parse(&path, &bytes).is_err());
        }
    }
    assert!(refused > end, "most such files are invalid, but only {refused} of {} were refused", end * 5);
}

#[test]
fn a_flipped_bit_anywhere_in_a_written_file_is_refused() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let whole = fs::read(&path).unwrap();
    let written = TensorFile::parse(&path, &whole).unwrap();
    assert_eq!(written.sealed_by.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // The spaces after the header and the case of an escape carry nothing.
        let Ok(file) = TensorFile::parse(&path, &bytes) else { continue };
        let same = (&file.tensors, &file.metadata) == (&written.tensors, &written.metadata);
        assert!(same, "bit {bit} of {}", String::from_utf8_lossy(&bytes));
    }
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    let text = message(TensorFile::parse(&path, &bytes), &path);
    assert!(text.contains("expected the content of SHA-256 ") && text.contains("restore it from a copy"), "{text}");
}

#[test]
fn files_without_a_seal_are_read_and_a_seal_without_its_checksum_is_refused() {
    let folder = temporary();
    let read = |metadata: Value| {
        let header = json!({"__metadata__": metadata, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}});
        TensorFile::read(&file_with(folder.path(), &header, 1))
    };
    let former = read(json!({"step": "17"})).unwrap();
    assert_eq!((former.sealed_by.as_deref(), former.meta::<u32>("step").unwrap()), (None, 17));
    let text = message(read(json!({"maxmargin.version": "0.1.0"})), folder.path());
    assert!(text.contains("expected a checksum beside `maxmargin.version`"), "{text}");
}

#[test]
fn a_header_with_a_false_length_is_refused_at_once() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    for length in [u64::MAX, 1 << 62, 99_999_999, 17] {
        fs::write(&path, [&length.to_le_bytes()[..], b"{\"x\": 1}        "].concat()).unwrap();
        let text = message(TensorFile::read(&path), &path);
        assert!(text.contains(&format!("byte 0: the header is said to be {length} bytes long, but only 16")), "{text}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_file_are_named() {
    let folder = temporary();
    let tensor = |dtype: &str, shape: Value, first: u64, end: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [first, end]});
    let refused = |header: &Value, zeros: usize| {
        let path = file_with(folder.path(), header, zeros);
        message(TensorFile::read(&path), &path)
    };
    let misfit = refused(&json!({"a": tensor("F32", json!([2]), 0, 8), "b": tensor("F32", json!([3, 5]), 8, 16)}), 16);
    assert!(misfit.contains("tensor `b`: F32 [3, 5] does not fit its data_offsets 8 to 16"), "{misfit}");
    let huge = refused(&json!({"h": tensor("F32", json!([u64::MAX, 2]), 0, 8)}), 8);
    assert!(huge.contains("tensor `h`: F32"), "{huge}");
    let gap = refused(&json!({"a": tensor("U8", json!([4]), 0, 4), "b": tensor("U8", json!([4]), 8, 12)}), 12);
    assert!(gap.contains("tensor `b`: its data_offsets leave a gap or overlap"), "{gap}");
    let reversed = refused(&json!({"a": tensor("U8", json!([4]), 4, 0)}), 4);
    assert!(reversed.contains("tensor `a`"), "{reversed}");
    let far = refused(&json!({"a": tensor("U8", json!([1u64 << 60]), 0, 1 << 60)}), 4);
    assert!(far.contains("announces 1152921504606846976 bytes of tensors, found 4: truncated"), "{far}");
    let longer = refused(&json!({"a": tensor("U8", json!([4]), 0, 4)}), 5);
    assert!(longer.contains("announces 4 bytes of tensors, found 5: something was appended"), "{longer}");
    let kind = refused(&json!({"a": tensor("F8_E4M3", json!([4]), 0, 4)}), 4);
    assert!(kind.contains("tensor `a`, byte ") && kind.contains("expected one of F32, ") && kind.contains("F8_E4M3"));
    let text = refused(&json!({"a": "no tensor"}), 0);
    assert!(text.contains("header, bytes 8 to "), "{text}");
}

#[test]
fn files_of_other_formats_are_recognized() {
    let folder = temporary();
    let path = folder.path().join("x.safetensors");
    let cases: [(&[u8], &str); 7] = [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"<html>\n<head><title>Not found</title></head>", "a web page"),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0archive/data.pkl", "a pickle of PyTorch's"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle of PyTorch's"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03\0\0\0\0", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"", "found an empty file"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let text = message(TensorFile::read(&path), &path);
        assert!(text.contains("byte 0: expected a safetensors file") && text.contains(expected), "{text}");
    }
}

#[test]
fn a_header_of_sixty_bytes_is_not_taken_for_a_web_page() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let header = format!("{:60}", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#);
    fs::write(&path, [&60u64.to_le_bytes()[..], header.as_bytes(), &[7]].concat()).unwrap();
    assert_eq!(fs::read(&path).unwrap()[0], b'<');
    assert_eq!(TensorFile::read(&path).unwrap().get::<u8>("a", &[1]).unwrap(), [7]);
    fs::write(&path, [&60u64.to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    assert!(message(TensorFile::read(&path), &path).contains("byte 68: the header announces 1 bytes"));
}

#[test]
fn tensors_that_could_not_be_read_back_are_not_written() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let refused = |tensors: &[Tensor]| message(write_tensors(&path, tensors, &BTreeMap::new()), &path);
    let short = refused(&[Tensor::new("w", &[2, 3], vec![0f32; 5])]);
    assert!(short.contains("tensor `w`: shape [2, 3] does not fit 5 elements"), "{short}");
    refused(&[Tensor { name: "w".into(), shape: vec![usize::MAX, 2], data: TensorData::U8(vec![]) }]);
    let twice = refused(&[Tensor::new("w", &[1], vec![0f32]), Tensor::new("w", &[1], vec![1f32])]);
    assert!(twice.contains("tensor `w`"), "{twice}");
    refused(&[Tensor::new("__metadata__", &[1], vec![0f32])]);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_missing_file_is_named() {
    let folder = temporary();
    let path = folder.path().join("none.safetensors");
    assert!(message(TensorFile::read(&path), &path).contains("cannot read"));
}
