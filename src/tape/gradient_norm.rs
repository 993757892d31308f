//! The norm to which a gradient is brought before it is first stored in half precision, and the arithmetic of it. So
//! losses whose gradients nearly vanish (cross-entropy of a certain prediction) or are huge (DLR) are attacked as well
//! as in single precision.

use super::formula::Formula;

/// Norm (l1) to which each example's gradient is brought where it is first stored in half precision. The largest half
/// is 65,504, so a number may grow to 256 times the norm on the way to the image; numbers keep all their bits down to
/// 2^-22 of it. It lies in the middle of those that make no difference to both networks, 4 to 16,384.
pub const GRADIENT_NORM: f32 = 256.0;

/// Least norm that a gradient is divided by.
pub const LEAST_GRADIENT_NORM: f32 = 1e-30;

/// Quotient of a gradient whose norm is input 1 by the same gradient brought to the norm.
fn factor() -> Formula {
    Formula::input(1).max(LEAST_GRADIENT_NORM) / GRADIENT_NORM
}

/// Term of the norm of a gradient, input 0.
pub fn norm_term() -> Formula {
    Formula::input(0).abs()
}

/// A gradient, input 0, brought to the norm; input 1 is its own norm.
pub fn to_norm() -> Formula {
    Formula::input(0) / factor()
}

/// A gradient, input 0, brought back from the norm; input 1 is its own norm.
pub fn from_norm() -> Formula {
    Formula::input(0) * factor()
}
