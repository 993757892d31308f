//! Launches of kernels/half.cu.

use bytemuck::Zeroable;

use super::desc::Desc;
use crate::device::cuda::abi::{PACKED_FILTERS, PackedFilters, PackedSizes};
use crate::device::cuda::launch::{Arg, Launch, WARP};

/// A launch of a block for 32 filters by 32 channels of a tap of a weight; weight after weight.
pub(super) fn pack_filters(desc: &Desc) -> Launch {
    let (count, mut blocks) = (desc.inputs(), 0);
    assert!(count <= PACKED_FILTERS, "{count} weights of a launch");
    let mut sizes = PackedSizes { count: count as u32, ..PackedSizes::zeroed() };
    for at in 0..count {
        let dims = desc.input(at);
        let (&k, &c) = (dims.first().expect("a weight has filters"), dims.last().expect("a weight has channels"));
        let taps = dims.iter().product::<usize>() / (k * c);
        sizes.first[at] = u32::try_from(blocks).expect("blocks fit a grid");
        (sizes.k[at], sizes.taps[at], sizes.c[at]) = (k as i32, taps as i32, c as i32);
        blocks += taps * c.div_ceil(WARP) * k.div_ceil(WARP);
    }
    let pointers = |operand: &dyn Fn(usize) -> Arg| {
        let operand = |at| if at < count { operand(at) } else { Arg::Null };
        Arg::Members("pointers", (0..PACKED_FILTERS).map(operand).collect())
    };
    let filters = PackedFilters {
        w: pointers(&Arg::Input),
        plain: pointers(&|at| Arg::Output(2 * at)),
        turned: pointers(&|at| Arg::Output(2 * at + 1)),
    };
    Launch::new("pack_filters", blocks, vec![filters.into(), Arg::of(sizes)], desc.cost(0))
}
