//! kernels/optimizer.cu.

use super::Desc;
use crate::device::cuda::launch::Launch;
use crate::tape::OptimizerRule;

pub(super) fn adam(_desc: &Desc, _rule: &OptimizerRule) -> Launch {
    todo!()
}

pub(super) fn sgd(_desc: &Desc, _rule: &OptimizerRule) -> Launch {
    todo!()
}

pub(super) fn increment(_desc: &Desc) -> Launch {
    todo!()
}
