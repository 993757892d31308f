//! One comparison, and how far apart numbers are.

/// A measured error beside the largest that is allowed.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was compared.
    pub what: String,
    /// How far it was off.
    pub error: f64,
    /// How far it may be off.
    pub allowed: f64,
}

impl Comparison {
    /// A comparison's outcome.
    pub fn new(what: impl Into<String>, error: f64, allowed: f64) -> Comparison {
        Comparison { what: what.into(), error, allowed }
    }

    /// Whether the error is allowed; an error that is no number is not.
    pub fn passes(&self) -> bool {
        self.error <= self.allowed
    }

    /// The error as a share of what is allowed: the worst check of a case has the largest.
    pub fn share(&self) -> f64 {
        match self.error {
            0.0 => 0.0,
            error if error.is_nan() => f64::INFINITY,
            error => error / self.allowed,
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} off by {:.1e}, allowed {:.0e}", self.what, self.error, self.allowed)
    }
}

/// `norm(found - expected) / norm(expected)`; just `norm(found)` where `expected` is 0.
pub fn relative(found: &[f32], expected: &[f64]) -> f64 {
    let found: Vec<f64> = found.iter().map(|&v| f64::from(v)).collect();
    relative_f64(&found, expected)
}

/// [`relative`] of numbers in double precision.
pub fn relative_f64(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers found and expected");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let size = norm(&mut expected.iter().copied());
    if size == 0.0 { off } else { off / size }
}

/// The largest difference; NaN counts as infinite.
pub fn largest(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers found and expected");
    let off = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs());
    off.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max)
}

/// The share of numbers that are further apart than `distance`.
pub fn share_beyond(found: &[f32], expected: &[f64], distance: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers found and expected");
    let near = found.iter().zip(expected).filter(|&(&f, e)| (f64::from(f) - e).abs() <= distance).count();
    1.0 - near as f64 / found.len() as f64
}
