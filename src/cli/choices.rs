//! clap's view of the crate's [`Choice`]s: their names as the values of a flag, each with its help.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::catalog::{DatasetKind, ModelKind, WeightNames};
use crate::choice::Choice;
use crate::config::{Direction, L2Order, Method, OptimizerKind, SearchMode, SearchResult, TestSearchStart};
use crate::evaluate::{AttackName, Protocol, request::Split};
use crate::tape::{Loss, Norm};

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

value_enums!(AttackName, DatasetKind, Loss, Norm, Protocol, Split, WeightNames);
value_enums!(ModelKind, Method, OptimizerKind, SearchMode, SearchResult, TestSearchStart, Direction, L2Order);
