//! Launches of kernels/half.cu.

use super::desc::Desc;
use crate::device::cuda::launch::{Arg, Launch, WARP};

/// A launch of a block for 32 filters by 32 channels of a tap.
pub(super) fn pack_filters(desc: &Desc) -> Launch {
    let dims = desc.input(0);
    let (&k, &c) = (dims.first().expect("a weight has filters"), dims.last().expect("a weight has channels"));
    let taps = dims.iter().product::<usize>() / (k * c);
    let operands = [Arg::Output(0), Arg::Output(1), Arg::Input(0)];
    let args = operands.into_iter().chain([k, taps, c].map(Arg::size)).collect();
    Launch::new("pack_filters", taps * c.div_ceil(WARP) * k.div_ceil(WARP), args, desc.cost(0))
}
