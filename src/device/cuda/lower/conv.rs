//! kernels/conv.cu.

use super::{Desc, Lowered};
use crate::tape::Window;

pub(super) fn conv2d(_desc: &Desc, _window: Window) -> Lowered {
    todo!()
}

pub(super) fn conv2d_backward_input(_desc: &Desc, _window: Window) -> Lowered {
    todo!()
}

pub(super) fn conv2d_backward_weight(_desc: &Desc, _window: Window) -> Lowered {
    todo!()
}

pub(super) fn conv_pool(_desc: &Desc, _window: Window) -> Lowered {
    todo!()
}

pub(super) fn conv_pool_backward_input(_desc: &Desc, _window: Window) -> Lowered {
    todo!()
}

pub(super) fn conv_pool_backward_weight(_desc: &Desc, _window: Window) -> Lowered {
    todo!()
}
