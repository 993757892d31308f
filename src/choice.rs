//! Enums whose values have names: one declaration gives the enum, the names that files and flags know its values by,
//! and a line of help for each value.

/// An enum declared by `choices!`.
pub trait Choice: Copy + PartialEq + 'static {
    /// Every value, in the order of the declaration.
    const ALL: &'static [Self];

    /// Name of the value in files and on the command line.
    fn name(self) -> &'static str;

    /// Documentation of the value, without a full stop.
    fn help(self) -> &'static str;

    /// The value of this name, in any case.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.name().eq_ignore_ascii_case(name))
    }
}

/// Declares an enum and the name of each value, and implements [`Choice`], `Display` and serde's traits by those names.
/// A value's doc comment is also its help.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $Enum:ident { $($(#[doc = $help:literal])+ $Value:ident = $name:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $Enum {
            $($(#[doc = $help])+ #[serde(rename = $name)] $Value,)+
        }

        impl $crate::choice::Choice for $Enum {
            const ALL: &'static [Self] = &[$($Enum::$Value),+];

            fn name(self) -> &'static str {
                match self {
                    $($Enum::$Value => $name,)+
                }
            }

            fn help(self) -> &'static str {
                let text = match self {
                    $($Enum::$Value => concat!($($help),+),)+
                };
                text.trim().trim_end_matches('.')
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($crate::choice::Choice::name(*self))
            }
        }
    };
}
pub(crate) use choices;

#[cfg(test)]
mod tests {
    use super::*;

    choices! {
        /// A colour.
        pub enum Colour {
            /// Red, of a
            /// long wave.
            Red = "red",
            /// Light blue
            LightBlue = "light-blue",
        }
    }

    #[test]
    fn a_value_is_found_by_its_name_in_any_case() {
        assert_eq!(Colour::from_name("Light-Blue"), Some(Colour::LightBlue));
        assert_eq!(Colour::from_name("lightblue"), None);
    }

    #[test]
    fn files_messages_and_flags_use_one_name() {
        for colour in Colour::ALL {
            assert_eq!(colour.to_string(), colour.name());
            assert_eq!(serde_json::to_string(colour).unwrap(), format!("\"{}\"", colour.name()));
        }
    }

    #[test]
    fn help_is_the_doc_comment_in_one_line() {
        assert_eq!((Colour::Red.help(), Colour::LightBlue.help()), ("Red, of a long wave", "Light blue"));
    }
}
