//! Arguments of a launch as data, before their addresses are known.

use bytemuck::Pod;

/// A struct of plain data that a kernel takes by value.
pub(super) trait KernelStruct: Pod {
    /// Name in the kernel's source, where the layout is the same.
    const NAME: &'static str;
}

/// Number of counters that a launch may use: a block takes one for each group of blocks that it waits for.
pub const COUNTERS: usize = 1024;

/// Number of channels, at most, whose sums a launch may use (kernels/channel_sums.cuh).
pub const SUMMED_CHANNELS: usize = 1024;

/// An argument of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Address of an input of the node, by its number.
    Input(usize),
    /// Address of an output of the node, by its number.
    Output(usize),
    /// Address of the count of active rows; null if all rows are active.
    Rows,
    /// The null address, of a missing operand.
    Null,
    /// Address in the scratch memory that the launches of a node share, as an offset in bytes.
    Scratch(usize),
    /// Address of integers that are 0 before the launch and after it: [`COUNTERS`] of them, which all launches share.
    Counters,
    /// Address of sums of [`SUMMED_CHANNELS`] channels, which are 0 before the launch and after it.
    ChannelSums,
    /// An `int`.
    Int(i32),
    /// An `unsigned`.
    Unsigned(u32),
    /// A `float`.
    Float(f32),
    /// A struct of plain data: its name and its bytes.
    Struct(&'static str, Vec<u8>),
    /// A struct with addresses: its name and its members. Each member begins at a multiple of 8 bytes.
    Members(&'static str, Vec<Arg>),
}

impl Arg {
    /// A size, as an `int`.
    ///
    /// # Panics
    /// The size is 2^31 or more; no buffer of a supported model has such a dimension.
    pub(super) fn size(n: usize) -> Arg {
        Arg::Int(i32::try_from(n).expect("a size fits an int"))
    }

    /// A struct of plain data.
    pub(super) fn of<T: KernelStruct>(value: T) -> Arg {
        Arg::Struct(T::NAME, bytemuck::bytes_of(&value).to_vec())
    }

    /// Type of the kernel's parameter: `pointer`, or the type's name.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Arg::Input(_) | Arg::Output(_) | Arg::Rows | Arg::Null | Arg::Scratch(_) => "pointer",
            Arg::Counters | Arg::ChannelSums => "pointer",
            Arg::Int(_) => "int",
            Arg::Unsigned(_) => "unsigned",
            Arg::Float(_) => "float",
            Arg::Struct(name, _) | Arg::Members(name, _) => name,
        }
    }

    /// Size of the kernel's parameter in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const WORD: usize = 8;
        match self {
            Arg::Input(_) | Arg::Output(_) | Arg::Rows | Arg::Null | Arg::Scratch(_) => WORD,
            Arg::Counters | Arg::ChannelSums => WORD,
            Arg::Int(_) | Arg::Unsigned(_) | Arg::Float(_) => 4,
            Arg::Struct(_, bytes) => bytes.len(),
            Arg::Members(_, members) => members.iter().map(|member| member.bytes().next_multiple_of(WORD)).sum(),
        }
    }

    /// True if `other` is this argument or one of its members.
    #[cfg(test)]
    pub(super) fn has(&self, other: &Arg) -> bool {
        self == other || matches!(self, Arg::Members(_, members) if members.iter().any(|member| member.has(other)))
    }
}
