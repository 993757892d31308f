//! kernels/loss.cu.

use super::Desc;
use crate::device::cuda::launch::Launch;
use crate::tape::LossRule;

pub(super) fn loss(_desc: &Desc, _rule: LossRule) -> Launch {
    todo!()
}

pub(super) fn loss_backward(_desc: &Desc, _rule: LossRule) -> Launch {
    todo!()
}

pub(super) fn mean_weights(_desc: &Desc) -> Launch {
    todo!()
}

pub(super) fn hinge_weights(_desc: &Desc, _hinge: f32) -> Launch {
    todo!()
}

pub(super) fn accumulate_metrics(_desc: &Desc) -> Launch {
    todo!()
}
