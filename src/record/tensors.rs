//! Safetensors files: named arrays and a table of strings.
//!
//! Reading leaves the format's checks to the `safetensors` crate and explains what it refused: which bytes,
//! which tensor, and what the file looks like instead. Writing is done here, because the same content shall
//! give the same bytes: the crate keeps the table of strings in a map with a random order. What is written is
//! plain for any reader, PyTorch's `safetensors.torch.load_file` among them. What the tensors mean is not
//! known here.

use std::any::type_name;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo};
use serde_json::json;

use super::atomic::write_atomic;
use crate::{Error, Result};

const _: () = assert!(cfg!(target_endian = "little"), "safetensors files are little-endian");

/// The key of the table of strings among the tensors' names.
const METADATA: &str = "__metadata__";
/// The header's length stands in so many bytes at the beginning.
const LENGTH: usize = 8;

/// The elements of a tensor, the last index running fastest.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Single precision. Half precision (F16, BF16) is read as this, without loss.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// Bytes; truth values (BOOL) are read as this.
    U8(Vec<u8>),
    /// Signed, 32 bits.
    I32(Vec<i32>),
    /// Unsigned, 32 bits.
    U32(Vec<u32>),
    /// Signed, 64 bits.
    I64(Vec<i64>),
}

impl Data {
    /// The format's name of the type, the elements as bytes, and how many bytes one takes.
    fn stored(&self) -> (&'static str, &[u8], usize) {
        match self {
            Data::F32(v) => ("F32", bytemuck::cast_slice(v), 4),
            Data::F64(v) => ("F64", bytemuck::cast_slice(v), 8),
            Data::U8(v) => ("U8", v, 1),
            Data::I32(v) => ("I32", bytemuck::cast_slice(v), 4),
            Data::U32(v) => ("U32", bytemuck::cast_slice(v), 4),
            Data::I64(v) => ("I64", bytemuck::cast_slice(v), 8),
        }
    }

    /// The elements that `bytes` hold. Copies, because the bytes of a file are not aligned.
    fn parse(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        fn collect<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
            bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
        }
        Some(match dtype {
            Dtype::F32 => Data::F32(collect(bytes)),
            Dtype::F16 => Data::F32(collect::<f16>(bytes).into_iter().map(f16::to_f32).collect()),
            Dtype::BF16 => Data::F32(collect::<bf16>(bytes).into_iter().map(bf16::to_f32).collect()),
            Dtype::F64 => Data::F64(collect(bytes)),
            Dtype::U8 | Dtype::BOOL => Data::U8(bytes.to_vec()),
            Dtype::I32 => Data::I32(collect(bytes)),
            Dtype::U32 => Data::U32(collect(bytes)),
            Dtype::I64 => Data::I64(collect(bytes)),
            _ => return None,
        })
    }
}

/// A type that tensors can be made of.
pub trait Element: Copy + Sized + 'static {
    /// The format's name of the type.
    const NAME: &'static str;
    /// The elements, if they are of this type.
    fn of(data: &Data) -> Option<&[Self]>;
    /// The elements as [`Data`].
    fn into_data(elements: Vec<Self>) -> Data;
}

macro_rules! element {
    ($($type:ty => $variant:ident),*) => {$(
        impl Element for $type {
            const NAME: &'static str = stringify!($variant);
            fn of(data: &Data) -> Option<&[Self]> {
                if let Data::$variant(elements) = data { Some(elements) } else { None }
            }
            fn into_data(elements: Vec<Self>) -> Data {
                Data::$variant(elements)
            }
        }
    )*};
}
element!(f32 => F32, f64 => F64, u8 => U8, i32 => I32, u32 => U32, i64 => I64);

/// A named array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name, unique within a file.
    pub name: String,
    /// Its sizes; none for a single number.
    pub shape: Vec<usize>,
    /// As many elements as the product of the sizes.
    pub data: Data,
}

impl Tensor {
    /// A tensor of these elements. [`write_tensors`] checks that their number fits the shape.
    pub fn new<T: Element>(name: impl Into<String>, shape: &[usize], elements: Vec<T>) -> Self {
        Tensor { name: name.into(), shape: shape.to_vec(), data: T::into_data(elements) }
    }
}

/// A safetensors file in memory.
#[derive(Clone, Debug)]
pub struct TensorFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its tensors, in the order in which they lie in the file.
    pub tensors: Vec<Tensor>,
    /// Its table of strings.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Reads the whole file. Takes twice the file's size in memory, whatever its header claims.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, and those of [`TensorFile::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        Self::parse(path, &bytes)
    }

    /// The content of a file; `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Format`] where it is truncated, is something else, or contradicts itself, with the byte or the
    /// tensor.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |error| Error::format(path, explain(bytes, error));
        let (header, declared) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
        let begin = LENGTH + header;
        let mut tensors = Vec::new();
        for name in declared.offset_keys() {
            let Some(info) = declared.info(&name) else { continue };
            let (first, end) = (begin + info.data_offsets.0, begin + info.data_offsets.1);
            let data = Data::parse(info.dtype, &bytes[first..end]).ok_or_else(|| {
                let can = "F32, F16, BF16, F64, U8, BOOL, I32, U32, I64";
                Error::format(
                    path,
                    format!("tensor `{name}`, byte {first}: expected one of {can}, found {}", info.dtype),
                )
            })?;
            tensors.push(Tensor { shape: info.shape.clone(), name, data });
        }
        let metadata = declared.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(TensorFile { path: path.to_owned(), tensors, metadata })
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::Format`] where there is none; lists the names most alike.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.iter().find(|t| t.name == name).ok_or_else(|| {
            let mut near: Vec<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
            near.sort_by_key(|other| Reverse(likeness(name, other)));
            near.truncate(5);
            let listed =
                if near.is_empty() { "it has none".into() } else { format!("near names: {}", near.join(", ")) };
            Error::format(&self.path, format!("no tensor `{name}` among its {}; {listed}", self.tensors.len()))
        })
    }

    /// The elements of the tensor of that name, which must have this type and this shape.
    ///
    /// # Errors
    /// [`Error::Format`] where it is missing or has another type or shape; names both.
    pub fn get<T: Element>(&self, name: &str, shape: &[usize]) -> Result<&[T]> {
        let tensor = self.tensor(name)?;
        T::of(&tensor.data).filter(|_| tensor.shape == shape).ok_or_else(|| {
            let (found, ..) = tensor.data.stored();
            let message = format!("tensor `{name}`: expected {} {shape:?}, found {found} {:?}", T::NAME, tensor.shape);
            Error::format(&self.path, message)
        })
    }

    /// An entry of the table of strings, as a `T`.
    ///
    /// # Errors
    /// [`Error::Format`] where the entry is missing or does not read as a `T`.
    pub fn meta<T: FromStr>(&self, key: &str) -> Result<T> {
        let refuse = |found: String| {
            let expected = type_name::<T>().rsplit("::").next().unwrap_or_default().to_lowercase();
            Error::format(&self.path, format!("metadata `{key}`: expected a value of type {expected}, found {found}"))
        };
        let text = self.metadata.get(key).ok_or_else(|| refuse("no such entry".into()))?;
        text.parse().map_err(|_| refuse(format!("`{text}`")))
    }
}

/// Writes a safetensors file, whole or not at all. The same content gives the same bytes.
///
/// # Errors
/// [`Error::Io`] as [`write_atomic`] does; [`Error::Format`] where a name occurs twice or is reserved, or a
/// shape does not fit its elements.
pub fn write_tensors(path: &Path, tensors: &[Tensor], metadata: &BTreeMap<String, String>) -> Result<()> {
    // Wide elements first: then every tensor is aligned to its elements, as readers that map files want it.
    let mut stored: Vec<_> = tensors.iter().map(|t| (t, t.data.stored())).collect();
    stored.sort_by_key(|(_, (.., width))| Reverse(*width));
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.into(), json!(metadata));
    }
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
    write_atomic(path, |out| {
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(&text)?;
        stored.iter().try_for_each(|(_, (_, bytes, _))| out.write_all(bytes))
    })
}

/// How many characters two names share at their beginnings and ends.
fn likeness(a: &str, b: &str) -> usize {
    let same = |pair: &(char, char)| pair.0 == pair.1;
    a.chars().zip(b.chars()).take_while(same).count() + a.chars().rev().zip(b.chars().rev()).take_while(same).count()
}

/// What is wrong with a file that the reader refused: what it looks like, or which bytes or tensor are wrong.
fn explain(bytes: &[u8], error: SafeTensorError) -> String {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return format!("byte 0: expected a safetensors file, which begins with 8 bytes; found {} bytes", bytes.len());
    };
    if let Some(found) = other_format(bytes) {
        return format!("byte 0: expected a safetensors file, found {found}");
    }
    let length = u64::from_le_bytes(*length);
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        return format!(
            "byte 0: the header is said to be {length} bytes long, but only {} follow: truncated, or no safetensors file",
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

/// The format that files passed off as safetensors often have.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    // A header of 60 bytes begins with `<` and seven zeros, so one character is not enough.
    let page = bytes[0] == b'<' && (bytes[1].is_ascii_alphabetic() || bytes[1] == b'!' || bytes[1] == b'?');
    Some(match bytes {
        _ if page => "a web page: the download went wrong",
        // Zip archives since PyTorch 1.6, bare pickles before.
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => {
            "a pickle of PyTorch's: load it there and save it with safetensors.torch.save_file"
        }
        [0x1f, 0x8b, ..] => "gzip: unpack it",
        _ if bytes.starts_with(b"version https://git-lfs") => "a Git LFS pointer: fetch the file it stands for",
        _ => return None,
    })
}

/// The first tensor whose type and shape do not fit its place in the file.
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
