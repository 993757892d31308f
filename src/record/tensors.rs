//! Safetensors files: named arrays, and metadata as a table of strings.
//!
//! The `safetensors` crate checks files on reading; this module explains what the crate refused: which bytes, which
//! tensor, and which other format the file seems to have. This module does the writing, because equal contents shall
//! give equal bytes, and the crate keeps the metadata in a map with a random order. Any reader of the format reads the
//! files, such as PyTorch's `safetensors.torch.load_file`. The meaning of the tensors is not known here.
//!
//! Every written file has a seal in its metadata: the program's version, and the SHA-256 of all else in the file. It is
//! verified whenever the file is read. Files without a seal, of other programs and former versions, are read, too.

use std::any::type_name;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo};
use serde_json::json;

use super::atomic::write_atomic;
use crate::formats::{ExpectedContent, mistaken_format, text_mode_damage};
use crate::hash::sha256_of_parts;
use crate::{Error, Result};

const _: () = assert!(cfg!(target_endian = "little"), "safetensors files are little-endian");

/// Key of the metadata among the tensors' names.
const METADATA: &str = "__metadata__";
/// Key of the metadata for the version of the program that wrote the file.
const VERSION: &str = "maxmargin.version";
/// Key of the metadata for the SHA-256 of the tensors and the other metadata.
const CHECKSUM: &str = "maxmargin.sha256";
/// Number of bytes at the beginning of a file that hold the header's length.
const LENGTH: usize = 8;

/// Elements of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Single precision. Half precision (F16, BF16) is converted to it, without loss.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// Bytes. Truth values (BOOL) are read as bytes.
    U8(Vec<u8>),
    /// Signed integers of 32 bits.
    I32(Vec<i32>),
    /// Unsigned integers of 32 bits.
    U32(Vec<u32>),
    /// Signed integers of 64 bits.
    I64(Vec<i64>),
}

impl TensorData {
    /// Name of the type in the format, the elements as bytes, and the number of bytes of one element.
    fn stored(&self) -> (&'static str, &[u8], usize) {
        match self {
            TensorData::F32(v) => ("F32", bytemuck::cast_slice(v), 4),
            TensorData::F64(v) => ("F64", bytemuck::cast_slice(v), 8),
            TensorData::U8(v) => ("U8", v, 1),
            TensorData::I32(v) => ("I32", bytemuck::cast_slice(v), 4),
            TensorData::U32(v) => ("U32", bytemuck::cast_slice(v), 4),
            TensorData::I64(v) => ("I64", bytemuck::cast_slice(v), 8),
        }
    }

    /// Parses elements from `bytes`; `None` for an unsupported type. Copies them, because the bytes of a file are not
    /// aligned.
    fn parse(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        fn collect<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
            bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
        }
        Some(match dtype {
            Dtype::F32 => TensorData::F32(collect(bytes)),
            Dtype::F16 => TensorData::F32(collect::<f16>(bytes).into_iter().map(f16::to_f32).collect()),
            Dtype::BF16 => TensorData::F32(collect::<bf16>(bytes).into_iter().map(bf16::to_f32).collect()),
            Dtype::F64 => TensorData::F64(collect(bytes)),
            Dtype::U8 | Dtype::BOOL => TensorData::U8(bytes.to_vec()),
            Dtype::I32 => TensorData::I32(collect(bytes)),
            Dtype::U32 => TensorData::U32(collect(bytes)),
            Dtype::I64 => TensorData::I64(collect(bytes)),
            _ => return None,
        })
    }
}

/// Type of a tensor's elements.
pub trait Element: Copy + Sized + 'static {
    /// Name of the type in the format.
    const NAME: &'static str;
    /// Elements of `data`, if they have this type.
    fn of(data: &TensorData) -> Option<&[Self]>;
    /// Converts elements to [`TensorData`].
    fn into_data(elements: Vec<Self>) -> TensorData;
}

macro_rules! element {
    ($($type:ty => $variant:ident),*) => {$(
        impl Element for $type {
            const NAME: &'static str = stringify!($variant);
            fn of(data: &TensorData) -> Option<&[Self]> {
                if let TensorData::$variant(elements) = data { Some(elements) } else { None }
            }
            fn into_data(elements: Vec<Self>) -> TensorData {
                TensorData::$variant(elements)
            }
        }
    )*};
}
element!(f32 => F32, f64 => F64, u8 => U8, i32 => I32, u32 => U32, i64 => I64);

/// A tensor with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name, unique within a file.
    pub name: String,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements; their number is the product of the shape.
    pub data: TensorData,
}

impl Tensor {
    /// Tensor of the given elements. [`write_tensors`] checks that their number fits the shape.
    pub fn new<T: Element>(name: impl Into<String>, shape: &[usize], elements: Vec<T>) -> Self {
        Tensor { name: name.into(), shape: shape.to_vec(), data: T::into_data(elements) }
    }
}

/// A safetensors file in memory.
#[derive(Clone, Debug)]
pub struct TensorFile {
    /// Path from which it was read.
    pub path: PathBuf,
    /// Tensors, in the order of their data in the file.
    pub tensors: Vec<Tensor>,
    /// Metadata, a table of strings, without the seal.
    pub metadata: BTreeMap<String, String>,
    /// Version of the program that sealed the file; `None`: it has no seal.
    pub sealed_by: Option<String>,
}

impl TensorFile {
    /// Reads a whole file. Takes twice the file's size in memory, whatever its header claims.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, and those of [`TensorFile::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        Self::parse(path, &bytes)
    }

    /// Parses the content of a file. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Format`] with the byte or the tensor if the content is truncated, of another format, or contradictory;
    /// or the file has a seal and another content than when it was written.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |error| Error::format(path, explain(bytes, error));
        let (header, declared) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
        let begin = LENGTH + header;
        let mut tensors = Vec::new();
        for name in declared.offset_keys() {
            let Some(info) = declared.info(&name) else { continue };
            let (first, end) = (begin + info.data_offsets.0, begin + info.data_offsets.1);
            let data = TensorData::parse(info.dtype, &bytes[first..end]).ok_or_else(|| {
                let can = "F32, F16, BF16, F64, U8, BOOL, I32, U32, I64";
                Error::format(
                    path,
                    format!("tensor `{name}`, byte {first}: expected one of {can}, found {}", info.dtype),
                )
            })?;
            tensors.push(Tensor { shape: info.shape.clone(), name, data });
        }
        let mut metadata: BTreeMap<_, _> = declared.metadata().clone().unwrap_or_default().into_iter().collect();
        let sealed_by = verify_seal(&tensors, &mut metadata).map_err(|message| Error::format(path, message))?;
        Ok(TensorFile { path: path.to_owned(), tensors, metadata, sealed_by })
    }

    /// Tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Format`] with the most similar names if there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        let tensor = self.tensors.iter().find(|t| t.name == name);
        tensor.ok_or_else(|| Error::format(&self.path, self.missing(name)))
    }

    /// Message that there is no tensor called `name`, with the most similar names.
    pub fn missing(&self, name: &str) -> String {
        let mut near: Vec<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        near.sort_by_key(|other| Reverse(likeness(name, other)));
        near.truncate(5);
        let listed = if near.is_empty() { "it has none".into() } else { format!("near names: {}", near.join(", ")) };
        format!("no tensor `{name}` among its {}; {listed}", self.tensors.len())
    }

    /// Elements of the tensor called `name`, which must have the type `T` and the shape `shape`.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing, or has another type or shape; the message names both.
    pub fn get<T: Element>(&self, name: &str, shape: &[usize]) -> Result<&[T]> {
        let tensor = self.tensor(name)?;
        T::of(&tensor.data).filter(|_| tensor.shape == shape).ok_or_else(|| {
            let (found, ..) = tensor.data.stored();
            let message = format!("tensor `{name}`: expected {} {shape:?}, found {found} {:?}", T::NAME, tensor.shape);
            Error::format(&self.path, message)
        })
    }

    /// Elements of the tensor called `name`, which counts something: of type I64, or U32 as former versions wrote it.
    ///
    /// # Errors
    /// As [`TensorFile::get`]; or an element is below 0 or above 2^32 - 1.
    pub fn get_counts(&self, name: &str, shape: &[usize]) -> Result<Vec<u32>> {
        if let TensorData::U32(_) = self.tensor(name)?.data {
            return Ok(self.get::<u32>(name, shape)?.to_vec());
        }
        let count = |(i, &value): (usize, &i64)| {
            let refusal = || format!("tensor `{name}`, element {i}: expected 0 to {}, found {value}", u32::MAX);
            u32::try_from(value).map_err(|_| Error::format(&self.path, refusal()))
        };
        self.get::<i64>(name, shape)?.iter().enumerate().map(count).collect()
    }

    /// Entry `key` of the metadata, parsed as a `T`.
    ///
    /// # Errors
    /// [`Error::Format`] if the entry is missing or cannot be parsed.
    pub fn meta<T: FromStr>(&self, key: &str) -> Result<T> {
        let refuse = |found: String| {
            let expected = type_name::<T>().rsplit("::").next().unwrap_or_default().to_lowercase();
            Error::format(&self.path, format!("metadata `{key}`: expected a value of type {expected}, found {found}"))
        };
        let text = self.metadata.get(key).ok_or_else(|| refuse("no such entry".into()))?;
        text.parse().map_err(|_| refuse(format!("`{text}`")))
    }
}

/// Takes the seal out of `metadata` and verifies it. Returns the version that sealed the file, if it has a seal.
fn verify_seal(
    tensors: &[Tensor],
    metadata: &mut BTreeMap<String, String>,
) -> std::result::Result<Option<String>, String> {
    let Some(checksum) = metadata.remove(CHECKSUM) else {
        return match metadata.contains_key(VERSION) {
            true => {
                Err(format!("metadata `{CHECKSUM}`: expected a checksum beside `{VERSION}`, found none; {RESTORE}"))
            }
            false => Ok(None),
        };
    };
    let found = content_sha256(tensors, metadata);
    if found != checksum {
        return Err(format!(
            "expected the content of SHA-256 {checksum} that metadata `{CHECKSUM}` names, found {found}: the file was \
             damaged or changed after it was written; {RESTORE}"
        ));
    }
    Ok(metadata.remove(VERSION))
}

/// Advice about a file whose seal does not fit.
const RESTORE: &str = "restore it from a copy";

/// SHA-256 of the metadata, of names, types and shapes of the tensors in the order of their names, and of their elements
/// in that order.
fn content_sha256(tensors: &[Tensor], metadata: &BTreeMap<String, String>) -> String {
    let mut by_name: Vec<_> = tensors.iter().map(|tensor| (tensor, tensor.data.stored())).collect();
    by_name.sort_by_key(|(tensor, _)| &tensor.name);
    let declared: Vec<_> = by_name.iter().map(|(tensor, (dtype, ..))| (&tensor.name, dtype, &tensor.shape)).collect();
    let declared = json!([metadata, declared]).to_string();
    let elements = by_name.iter().map(|&(_, (_, elements, _))| elements);
    sha256_of_parts(&[declared.as_bytes()].into_iter().chain(elements).collect::<Vec<_>>())
}

/// Writes a sealed safetensors file, whole or not at all. Equal contents give equal bytes.
///
/// # Errors
/// [`Error::Io`] as [`write_atomic`]; [`Error::Format`] if a name occurs twice or is reserved, or a shape does not fit
/// its elements.
pub fn write_tensors(path: &Path, tensors: &[Tensor], metadata: &BTreeMap<String, String>) -> Result<()> {
    write_atomic(path, encode_tensors(path, tensors, metadata)?)
}

/// Writer of the bytes of a sealed safetensors file. `path` is for messages.
///
/// # Errors
/// [`Error::Format`] as [`write_tensors`].
pub(super) fn encode_tensors(
    path: &Path,
    tensors: &[Tensor],
    metadata: &BTreeMap<String, String>,
) -> Result<impl FnOnce(&mut dyn Write) -> io::Result<()>> {
    let mut metadata = metadata.clone();
    metadata.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
    metadata.insert(CHECKSUM.into(), content_sha256(tensors, &metadata));
    // Wide elements first, so that every tensor is aligned to its elements, as readers that map files require.
    let mut stored: Vec<_> = tensors.iter().map(|t| (t, t.data.stored())).collect();
    stored.sort_by_key(|(_, (.., width))| Reverse(*width));
    let mut header = serde_json::Map::from_iter([(METADATA.to_owned(), json!(metadata))]);
    let mut end = 0;
    for (tensor, (dtype, bytes, width)) in &stored {
        let (name, shape) = (&tensor.name, &tensor.shape);
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if elements != Some(bytes.len() / width) {
            let message = format!("tensor `{name}`: shape {shape:?} does not fit {} elements", bytes.len() / width);
            return Err(Error::format(path, message));
        }
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes.len()]});
        if name == METADATA || header.insert(name.clone(), entry).is_some() {
            return Err(Error::format(path, format!("tensor `{name}`: expected a name of its own, found it taken")));
        }
        end += bytes.len();
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(LENGTH), b' ');
    Ok(move |out: &mut dyn Write| {
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(&text)?;
        stored.iter().try_for_each(|(_, (_, bytes, _))| out.write_all(bytes))
    })
}

/// Number of characters that two names share at their beginnings and ends.
fn likeness(a: &str, b: &str) -> usize {
    let same = |pair: &(char, char)| pair.0 == pair.1;
    a.chars().zip(b.chars()).take_while(same).count() + a.chars().rev().zip(b.chars().rev()).take_while(same).count()
}

/// Explains why the crate refused a file: the format that it seems to have, or the bytes or the tensor in error.
fn explain(bytes: &[u8], error: SafeTensorError) -> String {
    if let Some(found) = mistaken_format(bytes, ExpectedContent::Tensors) {
        return format!("byte 0: expected a safetensors file, found {found}");
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return format!("byte 0: expected a safetensors file, which begins with 8 bytes; found {} bytes", bytes.len());
    };
    if let Some(damage) = text_mode_damage(bytes) {
        return format!("damaged: {damage}");
    }
    let length = u64::from_le_bytes(*length);
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        return format!(
            "byte 0: the header is said to be {length} bytes long, but only {} follow: truncated, or no safetensors \
             file",
            rest.len()
        );
    };
    let begin = LENGTH + header.len();
    match error {
        SafeTensorError::InvalidHeader(e) => format!("byte {}: the header is not UTF-8", LENGTH + e.valid_up_to()),
        SafeTensorError::InvalidHeaderDeserialization(e) => format!("header, bytes 8 to {begin}: {e}"),
        SafeTensorError::InvalidOffset(name) => {
            format!("header, tensor `{name}`: its data_offsets leave a gap or overlap another tensor's")
        }
        SafeTensorError::TensorInvalidInfo | SafeTensorError::ValidationOverflow => match misfit(header) {
            Some((name, info)) => {
                let (dtype, shape, (first, end)) = (info.dtype, info.shape, info.data_offsets);
                format!("header, tensor `{name}`: {dtype} {shape:?} does not fit its data_offsets {first} to {end}")
            }
            None => format!("header, bytes 8 to {begin}: {error}"),
        },
        SafeTensorError::MetadataIncompleteBuffer => {
            let declared = serde_json::from_slice::<Metadata>(header).map_or(0, |m| m.data_len());
            format!(
                "byte {begin}: the header announces {declared} bytes of tensors, found {}: {}",
                bytes.len() - begin,
                if bytes.len() - begin < declared { "truncated" } else { "something was appended" }
            )
        }
        other => format!("header, bytes 8 to {begin}: {other}"),
    }
}

/// First tensor whose type and shape do not fit its `data_offsets`.
fn misfit(header: &[u8]) -> Option<(String, TensorInfo)> {
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let infos = entries.into_iter().filter(|(name, _)| name != METADATA);
    infos.filter_map(|(name, value)| Some((name, serde_json::from_value::<TensorInfo>(value).ok()?))).find(
        |(_, info)| {
            let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |product, &size| product.checked_mul(size));
            bits.map(|bits| bits / 8) != info.data_offsets.1.checked_sub(info.data_offsets.0)
        },
    )
}
