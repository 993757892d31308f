//! The C++ side of `declarations.rs`: the text of `abi.cuh`. Part of `build.rs`.

use std::fmt::Write as _;

macro_rules! abi {
    (@each $header:ident) => {};
    (@each $header:ident $(#[doc = $doc:literal])* const $name:ident: $type:ty = $value:expr; $($rest:tt)*) => {
        const $name: $type = $value;
        $header.constant(&[$($doc),*], stringify!($name), $name);
        abi!(@each $header $($rest)*);
    };
    (@each $header:ident $(#[doc = $doc:literal])* enum $name:ident { $($variant:ident,)* } $($rest:tt)*) => {
        $header.numbers(&[$($doc),*], stringify!($name), &[$(stringify!($variant)),*]);
        abi!(@each $header $($rest)*);
    };
    (@each $header:ident $(#[doc = $doc:literal])* struct $name:ident {
        $($(#[doc = $member_doc:literal])* $member:ident: $type:ty,)*
    } $($rest:tt)*) => {
        abi!(@layout $name { $($member: $type,)* });
        $header.layout(&[$($doc),*], stringify!($name), size_of::<$name>(), &[$(Member {
            doc: &[$($member_doc),*],
            name: stringify!($member),
            declaration: <$type as CppType>::declare(stringify!($member)),
            offset: std::mem::offset_of!($name, $member),
        }),*]);
        abi!(@each $header $($rest)*);
    };
    (@each $header:ident $(#[doc = $doc:literal])* operands $name:ident {
        $($(#[doc = $member_doc:literal])* $member:ident: $type:ty,)*
    } $($rest:tt)*) => {
        abi!(@layout $name { $($member: $type,)* });
        let mut end = 0;
        let members = [$(Member {
            doc: &[$($member_doc),*],
            name: stringify!($member),
            declaration: <$type as CppType>::declare(stringify!($member)),
            offset: operand_offset(&mut end, size_of::<$type>()),
        }),*];
        $header.layout(&[$($doc),*], stringify!($name), end, &members);
        abi!(@each $header $($rest)*);
    };
    (@layout $name:ident { $($member:ident: $type:ty,)* }) => {
        #[repr(C)]
        #[allow(dead_code)] // only its layout is of use here
        struct $name { $($member: $type,)* }
        impl Named for $name {
            const NAME: &'static str = stringify!($name);
        }
    };
    ($($declarations:tt)*) => {{
        let mut header = Header::new();
        abi!(@each header $($declarations)*);
        header.0
    }};
}
/// Text of `abi.cuh`.
pub fn text() -> String {
    include!("declarations.rs")
}

struct Header(String);

/// A member of a C++ struct.
struct Member {
    doc: &'static [&'static str],
    name: &'static str,
    declaration: String,
    offset: usize,
}

/// Offset of an operand that follows others, as `Arg::Members` passes them: each begins on a word of its own.
fn operand_offset(end: &mut usize, size: usize) -> usize {
    const WORD: usize = 8;
    let start = *end;
    *end += size.next_multiple_of(WORD);
    start
}

impl Header {
    fn new() -> Header {
        Header(
            "// Constants and layouts that the kernels share with Rust. Made by build.rs from\n\
             // src/device/cuda/abi/declarations.rs: change them there.\n\
             #pragma once\n\n\
             #include <cstddef>\n"
                .into(),
        )
    }

    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.0, "{:indent$}{text}", "");
    }

    fn doc(&mut self, indent: usize, doc: &[&str]) {
        for line in doc {
            self.line(indent, &format!("//{line}"));
        }
    }

    fn constant(&mut self, doc: &[&str], name: &str, value: impl Literal) {
        self.0.push('\n');
        self.doc(0, doc);
        self.line(0, &format!("constexpr {} {name} = {};", value.type_name(), value.text()));
    }

    /// Numbers from 0, which convert to `unsigned`: `LossKind::XENT`.
    fn numbers(&mut self, doc: &[&str], name: &str, variants: &[&str]) {
        self.0.push('\n');
        self.doc(0, doc);
        self.line(0, &format!("struct {name} {{"));
        self.line(4, "enum : unsigned {");
        for variant in variants {
            self.line(8, &format!("{},", upper_case(variant)));
        }
        self.line(4, "};");
        self.line(0, "};");
    }

    fn layout(&mut self, doc: &[&str], name: &str, size: usize, members: &[Member]) {
        self.0.push('\n');
        self.doc(0, doc);
        self.line(0, &format!("struct {name} {{"));
        for member in members {
            self.doc(4, member.doc);
            self.line(4, &format!("{};", member.declaration));
        }
        self.line(0, "};");
        self.line(0, &format!("static_assert(sizeof({name}) == {size}, \"{name} has another size in Rust\");"));
        for Member { name: member, offset, .. } in members {
            let why = format!("{name}::{member} stands elsewhere in Rust");
            self.line(0, &format!("static_assert(offsetof({name}, {member}) == {offset}, \"{why}\");"));
        }
    }
}

/// `ReadElementU32` as `READ_ELEMENT_U32`.
fn upper_case(variant: &str) -> String {
    variant.char_indices().fold(String::new(), |mut text, (at, c)| {
        if at > 0 && c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
        text
    })
}

/// A type of a constant.
trait Literal: Copy {
    /// The type's name in C++.
    fn type_name(self) -> &'static str;
    /// The value in C++.
    fn text(self) -> String;
}

impl Literal for usize {
    fn type_name(self) -> &'static str {
        "int"
    }
    fn text(self) -> String {
        self.to_string()
    }
}

impl Literal for u32 {
    fn type_name(self) -> &'static str {
        "unsigned"
    }
    fn text(self) -> String {
        format!("{self:#x}u")
    }
}

impl Literal for u8 {
    fn type_name(self) -> &'static str {
        "unsigned char"
    }
    fn text(self) -> String {
        self.to_string()
    }
}

impl Literal for f32 {
    fn type_name(self) -> &'static str {
        "float"
    }
    fn text(self) -> String {
        format!("{self:?}f")
    }
}

/// A type that C++ names by one word.
trait Named {
    const NAME: &'static str;
}

impl Named for u32 {
    const NAME: &'static str = "unsigned";
}

impl Named for u64 {
    const NAME: &'static str = "unsigned long long";
}

impl Named for i32 {
    const NAME: &'static str = "int";
}

impl Named for f32 {
    const NAME: &'static str = "float";
}

/// A type of a member.
trait CppType {
    /// The declaration of a member called `name`.
    fn declare(name: &str) -> String;
}

impl<T: Named> CppType for T {
    fn declare(name: &str) -> String {
        format!("{} {name}", T::NAME)
    }
}

impl<T: Named> CppType for *const T {
    fn declare(name: &str) -> String {
        format!("const {}* {name}", T::NAME)
    }
}

impl<T: Named> CppType for *mut T {
    fn declare(name: &str) -> String {
        format!("{}* {name}", T::NAME)
    }
}

impl<T: CppType, const N: usize> CppType for [T; N] {
    fn declare(name: &str) -> String {
        T::declare(&format!("{name}[{N}]"))
    }
}
