//! kernels/attack.cu.

use super::Desc;
use crate::device::cuda::launch::Launch;
use crate::rng::Purpose;
use crate::tape::op::Direction;
use crate::tape::{Norm, PgdRule};

pub(super) fn uniform(_desc: &Desc, _seed: u64, _purpose: Purpose, _signed: bool) -> Launch {
    todo!()
}

pub(super) fn pgd_start(_desc: &Desc, _norm: Norm) -> Launch {
    todo!()
}

pub(super) fn pgd_step(_desc: &Desc, _rule: PgdRule) -> Launch {
    todo!()
}

pub(super) fn along_direction(_desc: &Desc, _norm: Norm, _direction: Direction, _clamp: bool) -> Launch {
    todo!()
}

pub(super) fn bisect(_desc: &Desc, _max_eps: f32) -> Launch {
    todo!()
}
