//! clap's view of the crate's [`Choice`]s: their names as the values of a flag, each with its help.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::catalog::{DatasetKind, WeightNames};
use crate::choice::Choice;
use crate::config::FidelityPreset;
use crate::evaluate::{AttackName, Protocol, request::Split};
use crate::tape::{Loss, Norm, Precision};

macro_rules! value_enums {
    ($($Enum:ty),+) => {$(
        impl ValueEnum for $Enum {
            fn value_variants<'a>() -> &'a [Self] {
                Self::ALL
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(PossibleValue::new(self.name()).help(self.help()))
            }
        }
    )+};
}

/// Parser of the precision of an attack, where no network is trained.
pub(super) fn attack_precision() -> impl TypedValueParser<Value = Precision> {
    let names = [Precision::Fp32, Precision::Fp16].map(Precision::name);
    PossibleValuesParser::new(names).map(|name| Precision::from_name(&name).expect("one of the names"))
}

value_enums!(AttackName, DatasetKind, FidelityPreset, Loss, Norm, Precision, Protocol, Split, WeightNames);
