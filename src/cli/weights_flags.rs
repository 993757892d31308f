//! Flags that every command which reads weights shares.

use clap::Args;

use crate::model::Normalization;
use crate::model::state_dict::WeightsOptions;

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Weights")]
pub(super) struct WeightsFlags {
    /// Normalization of images before the network: none, per-image, or MEAN,STD of pixels in [0, 1] [default: the
    /// file's; or else none for a LeNet5, per-image for a wide ResNet]
    ///
    /// MEAN and STD are one value each or one a channel, such as 0.1307,0.3081 or
    /// 0.4914:0.4822:0.4465,0.247:0.2435:0.2616. `export --normalization` writes it into the file.
    #[arg(long, value_name = "HOW")]
    pub normalization: Option<Normalization>,
    /// Tensors to leave out although they belong to no parameter of the network; a name may end in *
    ///
    /// A name that ends in * stands for all that begin so. The figures are right only if the tensors change no output.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub ignore_tensors: Vec<String>,
}

impl WeightsFlags {
    /// Options of the reader.
    pub(super) fn options(self) -> WeightsOptions {
        WeightsOptions { ignored_tensors: self.ignore_tensors, normalization: self.normalization }
    }
}
