//! Numbers of the cases that a hash function generates, and conversions between layouts.

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

fn hashed(seed: u32, i: usize) -> u32 {
    mix((i as u32).wrapping_add(seed.wrapping_mul(0x9E37_79B9))) >> 8
}

/// Number `i` of stream `seed`, in [-1, 1).
pub fn hashed_signed(seed: u32, i: usize) -> f32 {
    hashed(seed, i) as f32 * 2f32.powi(-23) - 1.0
}

/// Number `i` of stream `seed`, in [0, 1).
pub fn hashed_unsigned(seed: u32, i: usize) -> f32 {
    hashed(seed, i) as f32 * 2f32.powi(-24)
}

/// Tensor number `t` of the weights `hash:seed`, in PyTorch's layout.
pub fn hashed_weights(seed: u32, t: usize, name: &str, shape: &[usize]) -> Vec<f32> {
    let (layer, part) = name.rsplit_once('.').unwrap_or_else(|| panic!("{name} names no layer"));
    let is_batch_norm = layer.rsplit('.').next().is_some_and(|layer| layer.starts_with("bn"));
    let (centre, factor) = match (shape, part) {
        ([_, inputs @ ..], _) if !inputs.is_empty() => {
            let fan_in: usize = inputs.iter().product();
            (0.0, 2f64.powf((3.0 / fan_in as f64).sqrt().log2().round_ties_even()) as f32)
        }
        (_, "running_var") => (1.0, 0.5),
        (_, "weight") => (1.0, 0.25),
        (_, "bias") if !is_batch_norm => (0.0, 1.0 / 16.0),
        (_, "bias" | "running_mean") => (0.0, 0.25),
        _ => panic!("{name} is no tensor of a known layer"),
    };
    let seed = seed.wrapping_mul(1000).wrapping_add(t as u32);
    (0..shape.iter().product()).map(|i| centre + factor * hashed_signed(seed, i)).collect()
}

/// Sum, l2 norm and eight entries of a tensor in PyTorch's layout.
pub fn digest(tensor: &[f32]) -> Vec<f64> {
    let values = || tensor.iter().map(|&v| f64::from(v));
    let mut out = vec![values().sum(), values().map(|v| v * v).sum::<f64>().sqrt()];
    out.extend((0..8).map(|j| f64::from(tensor[(j * 7919 + 13) % tensor.len()])));
    out
}

/// Converts `[n, c, h, w]`, which is `shape`, to `[n, h, w, c]`.
pub fn to_nhwc<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
    let &[n, c, h, w] = shape else { panic!("images have shape {shape:?}, expected [n, c, h, w]") };
    let pixels = h * w;
    let place = |i: usize| (i / (c * pixels) * c + i % c) * pixels + i / c % pixels;
    (0..n * c * pixels).map(|i| values[place(i)]).collect()
}

/// Converts `[n, h, w, c]` to `[n, c, h, w]`, which is `shape`.
pub fn to_nchw<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
    let &[n, c, h, w] = shape else { panic!("images have shape {shape:?}, expected [n, c, h, w]") };
    to_nhwc(values, &[n, h * w, c, 1])
}

#[test]
fn layouts_are_converted_there_and_back() {
    let shape = [2, 3, 2, 2];
    let torch: Vec<usize> = (0..24).collect();
    let ours = to_nhwc(&torch, &shape);
    assert_eq!(ours[..6], [0, 4, 8, 1, 5, 9]);
    assert_eq!(ours[12..15], [12, 16, 20]);
    assert_eq!(to_nchw(&ours, &shape), torch);
}
