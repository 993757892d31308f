//! Arguments of a launch as data, before their addresses are known.

use bytemuck::Pod;

/// A struct that a kernel takes by value.
pub(super) trait KernelStruct: Pod {
    /// Its name in the kernel's source. The layout there is the same.
    const NAME: &'static str;
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// The address of a node's input.
    Input(usize),
    /// The address of a node's output.
    Output(usize),
    /// The address of the count of active rows; null where all are.
    Rows,
    /// The address of nothing, where a kernel's operand is missing.
    Null,
    /// An address in the scratch memory that launches of one node share: bytes from its start.
    Scratch(usize),
    /// An `int`.
    Int(i32),
    /// An `unsigned`.
    Unsigned(u32),
    /// A `float`.
    Float(f32),
    /// A struct: its name, its bytes.
    Struct(&'static str, Vec<u8>),
    /// A struct with addresses: its name, its members, each of which begins on a word of its own.
    Members(&'static str, Vec<Arg>),
}

impl Arg {
    /// A size, as an `int`.
    ///
    /// # Panics
    /// It does not fit: no buffer of a supported model has a dimension of 2^31.
    pub(super) fn size(n: usize) -> Arg {
        Arg::Int(i32::try_from(n).expect("a size fits an int"))
    }

    pub(super) fn of<T: KernelStruct>(value: T) -> Arg {
        Arg::Struct(T::NAME, bytemuck::bytes_of(&value).to_vec())
    }

    /// The type of the parameter that takes it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Arg::Input(_) | Arg::Output(_) | Arg::Rows | Arg::Null | Arg::Scratch(_) => "pointer",
            Arg::Int(_) => "int",
            Arg::Unsigned(_) => "unsigned",
            Arg::Float(_) => "float",
            Arg::Struct(name, _) | Arg::Members(name, _) => name,
        }
    }

    /// Bytes of that parameter.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const WORD: usize = 8;
        match self {
            Arg::Input(_) | Arg::Output(_) | Arg::Rows | Arg::Null | Arg::Scratch(_) => WORD,
            Arg::Int(_) | Arg::Unsigned(_) | Arg::Float(_) => 4,
            Arg::Struct(_, bytes) => bytes.len(),
            Arg::Members(_, members) => members.iter().map(|member| member.bytes().next_multiple_of(WORD)).sum(),
        }
    }

    /// Whether `other` is it, or one of its members.
    #[cfg(test)]
    pub(super) fn has(&self, other: &Arg) -> bool {
        self == other || matches!(self, Arg::Members(_, members) if members.iter().any(|member| member.has(other)))
    }
}
