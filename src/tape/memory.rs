//! What lives from one program to the next: parameters, data sets, batches, margins.
//!
//! A [`Memory`] only counts: it gives each buffer its place in a region that a device allocates once.

/// Words (4 bytes) that every place is aligned to: 64 bytes, a cache line and a vector register.
pub const ALIGN_WORDS: usize = 16;

/// The type of a buffer's or value's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// Single precision.
    F32,
    /// Counts, labels, indices.
    U32,
    /// Pixels as they are stored; the code of a pooling choice.
    U8,
}

impl DType {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::U8 => 1,
        }
    }

    /// Name as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::U32 => "u32",
            DType::U8 => "u8",
        }
    }
}

/// A place in persistent memory, with a shape: a plain handle, good on every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Name as it is printed.
    pub name: String,
    /// First byte, counted from the start of the region.
    pub offset: usize,
    /// Dimensions, the slowest first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl Buffer {
    /// Elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// A part of this buffer: `dims` elements from element `start` on. 4-byte types only.
    pub fn part(&self, name: &str, start: usize, dims: &[usize]) -> Buffer {
        let len: usize = dims.iter().product();
        assert!(
            start + len <= self.len(),
            "{name}: elements {start}..{} of {}'s {}",
            start + len,
            self.name,
            self.len()
        );
        assert_ne!(self.dtype, DType::U8, "{name}: a part of bytes");
        Buffer { name: name.into(), offset: self.offset + 4 * start, dims: dims.to_vec(), dtype: self.dtype }
    }
}

/// The layout of persistent memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Every buffer, in the order it was asked for.
    pub buffers: Vec<Buffer>,
    bytes: usize,
}

impl Memory {
    /// A place for `dims` elements. Its content is zero until something writes it.
    pub fn buffer(&mut self, name: &str, dims: &[usize], dtype: DType) -> Buffer {
        let buffer = Buffer { name: name.into(), offset: self.bytes, dims: dims.to_vec(), dtype };
        self.bytes = (self.bytes + buffer.bytes()).next_multiple_of(4 * ALIGN_WORDS);
        self.buffers.push(buffer.clone());
        buffer
    }

    /// Single-precision elements: see [`Memory::buffer`].
    pub fn f32(&mut self, name: &str, dims: &[usize]) -> Buffer {
        self.buffer(name, dims, DType::F32)
    }

    /// Unsigned integers: see [`Memory::buffer`].
    pub fn u32(&mut self, name: &str, dims: &[usize]) -> Buffer {
        self.buffer(name, dims, DType::U32)
    }

    /// Bytes of the whole region.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
