//! kernels/rows.cu.

use super::Desc;
use crate::device::cuda::launch::Launch;

pub(super) fn gather_rows(_desc: &Desc) -> Launch {
    todo!()
}

pub(super) fn scatter_rows(_desc: &Desc) -> Launch {
    todo!()
}

pub(super) fn select_negative(_desc: &Desc) -> Launch {
    todo!()
}
