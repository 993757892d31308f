//! Buffers: memory that lives from one program to the next, such as parameters, data sets, batches and margins.
//!
//! A [`Memory`] is a layout. It gives each buffer its place in a region that a device allocates once.

/// Alignment of every place in words of 4 bytes: 64 bytes, a cache line and a vector register.
pub const ALIGN_WORDS: usize = 16;

/// Element type of a buffer or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// Single-precision floating point.
    F32,
    /// Half-precision floating point: activations, gradients and copies of weights under attack.
    F16,
    /// Unsigned integers: counts, labels, indices.
    U32,
    /// Bytes: stored pixels, and choices of max-pooling.
    U8,
}

impl DType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// Name in prints and messages.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
            DType::U8 => "u8",
        }
    }
}

/// A shaped place in persistent memory: a plain handle, the same on every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Name in prints and messages.
    pub name: String,
    /// First byte, counted from the start of the region.
    pub offset: usize,
    /// Dimensions, the slowest first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl Buffer {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// `true`: the buffer has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Part of this buffer, of shape `dims`, from element `start` on.
    ///
    /// # Panics
    /// If the part ends beyond the buffer, or if the buffer's elements do not have four bytes.
    pub fn part(&self, name: &str, start: usize, dims: &[usize]) -> Buffer {
        let len: usize = dims.iter().product();
        assert!(
            start + len <= self.len(),
            "{name}: elements {start}..{} of {}'s {}",
            start + len,
            self.name,
            self.len()
        );
        assert_eq!(self.dtype.size(), 4, "{name}: a part of {}", self.dtype.name());
        Buffer { name: name.into(), offset: self.offset + 4 * start, dims: dims.to_vec(), dtype: self.dtype }
    }
}

/// Layout of persistent memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Every buffer, in the order of their declaration.
    pub buffers: Vec<Buffer>,
    bytes: usize,
}

impl Memory {
    /// Declares a buffer of shape `dims`. Its content is zero until it is written.
    pub fn buffer(&mut self, name: &str, dims: &[usize], dtype: DType) -> Buffer {
        let buffer = Buffer { name: name.into(), offset: self.bytes, dims: dims.to_vec(), dtype };
        self.bytes = (self.bytes + buffer.bytes()).next_multiple_of(4 * ALIGN_WORDS);
        self.buffers.push(buffer.clone());
        buffer
    }

    /// Declares a single-precision buffer: see [`Memory::buffer`].
    pub fn f32(&mut self, name: &str, dims: &[usize]) -> Buffer {
        self.buffer(name, dims, DType::F32)
    }

    /// Declares a buffer of unsigned integers: see [`Memory::buffer`].
    pub fn u32(&mut self, name: &str, dims: &[usize]) -> Buffer {
        self.buffer(name, dims, DType::U32)
    }

    /// Size of the whole region in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
