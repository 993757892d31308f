//! Constants of the model of a launch's time: one table of GPUs, one of families of kernels. `cost_model` has the
//! formula.
//!
//! The constants of kernels are fitted to one visit, `benches/results/h200-2026-11-28/`, where each kernel ran alone on
//! operands in no cache. Constants of kernels that no visit has timed are guesses from `kernels/README.md`, from like
//! kernels, or from machine code. A visit's records say how wrong both are: correct them here.

/// Constants of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuConstants {
    /// Name in `explain cost --gpu`.
    pub name: &'static str,
    /// Full name, and the origin of the constants.
    pub description: &'static str,
    /// Part of the name that the driver gives.
    pub(super) driver_name: &'static str,
    /// Number of multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of shared memory of a multiprocessor.
    pub(super) shared: u32,
    /// Bytes a second that a copy reads and writes.
    pub(super) memory_bytes_per_s: f64,
    /// Bytes of the L2 cache.
    pub(super) l2_bytes: u64,
    /// Bytes a second between the L2 cache and the multiprocessors.
    pub(super) l2_bytes_per_s: f64,
    /// Single-precision operations a second at the highest clock; a fused multiply-add counts as two.
    pub(super) ffma_flops_per_s: f64,
    /// Operations a second of the tensor cores on halves with sums in single precision.
    pub(super) tensor_flops_per_s: f64,
    /// Seconds from an empty kernel to the next one within a graph.
    pub(super) node_s: f64,
}

/// GPUs that the model knows.
pub const GPUS: &[GpuConstants] = &[
    GpuConstants {
        name: "h100",
        description: "NVIDIA H100 SXM: the measured constants of an H200 with a slower memory",
        driver_name: "H100",
        multiprocessors: 132,
        shared: 228 * 1024,
        memory_bytes_per_s: 3.0e12,
        l2_bytes: 50_000_000,
        l2_bytes_per_s: 5.5e12,
        ffma_flops_per_s: 66.9e12,
        tensor_flops_per_s: 989e12,
        node_s: 0.93e-6,
    },
    GpuConstants {
        name: "h200",
        description: "NVIDIA H200: memory and launches as measured, peaks from its data sheet",
        driver_name: "H200",
        multiprocessors: 132,
        shared: 228 * 1024,
        memory_bytes_per_s: 4.2e12,
        l2_bytes: 62_900_000,
        l2_bytes_per_s: 5.5e12,
        ffma_flops_per_s: 66.9e12,
        tensor_flops_per_s: 989e12,
        node_s: 0.93e-6,
    },
    GpuConstants {
        name: "a100",
        description: "NVIDIA A100 SXM, 80 GB: its data sheet, and the launches and fractions of an H200",
        driver_name: "A100",
        multiprocessors: 108,
        shared: 164 * 1024,
        memory_bytes_per_s: 1.78e12,
        l2_bytes: 40_000_000,
        l2_bytes_per_s: 3.5e12,
        ffma_flops_per_s: 19.5e12,
        tensor_flops_per_s: 312e12,
        node_s: 0.93e-6,
    },
];

/// Unit that does the arithmetic of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MathUnit {
    /// Fused multiply-adds in single precision.
    Ffma,
    /// Tensor cores on halves.
    Tensor,
}

impl MathUnit {
    /// Warps with which a multiprocessor reaches a kernel's rate; with fewer it reaches a part.
    pub const fn warps(self) -> f64 {
        match self {
            MathUnit::Ffma => 8.0,
            MathUnit::Tensor => 5.0,
        }
    }
}

/// Kernels with the same constants.
pub(super) struct KernelFamily {
    /// Names. A name without `*` is a kernel that a visit has timed. A name with `*`, which stands for any text, is
    /// of kernels that are assumed to be like them.
    pub names: &'static [&'static str],
    pub unit: MathUnit,
    /// Fraction of the unit's peak that the launch's FLOPs reach. Those are the least of the op, so the fraction is
    /// small for a kernel that computes more, such as products with the zeros of a max-pool.
    pub of_peak: f64,
    /// Fraction of the memory's rate that the launch's bytes reach.
    pub of_memory: f64,
    /// Microseconds that a launch takes alone beyond an empty one, however little it does.
    pub latency_us: f64,
}

const fn ffma(names: &'static [&'static str], of_peak: f64, of_memory: f64, latency_us: f64) -> KernelFamily {
    KernelFamily { names, unit: MathUnit::Ffma, of_peak, of_memory, latency_us }
}

const fn tensor(names: &'static [&'static str], of_peak: f64, of_memory: f64, latency_us: f64) -> KernelFamily {
    KernelFamily { names, unit: MathUnit::Tensor, of_peak, of_memory, latency_us }
}

/// Families of kernels. A kernel's family is the one with its name, or else the first one with a name of a `*` that
/// stands for it. Columns: fraction of the arithmetic peak, fraction of the memory's rate, latency in microseconds.
pub(super) const FAMILIES: &[KernelFamily] = &[
    // Products in single precision.
    ffma(&["conv2d_square", "conv2d_square_*"], 0.595, 1.0, 3.0),
    ffma(&["conv2d_backward_input_square", "conv2d_backward_input_square_*"], 0.575, 1.0, 2.5),
    ffma(&["conv2d_backward_weight_square", "conv2d_backward_weight_square_*"], 0.58, 1.0, 2.0),
    ffma(&["conv2d_backward_input_narrow", "conv2d_backward_input_narrow_*"], 0.25, 1.0, 2.0),
    ffma(&["conv2d_backward_weight_narrow", "conv2d_backward_weight_narrow_*"], 0.49, 1.0, 2.0),
    ffma(&["conv2d_backward_input_scalar", "conv2d_backward_input_scalar_*"], 0.019, 1.0, 2.0),
    ffma(&["conv2d_backward_weight_scalar", "conv2d_backward_weight_scalar_*"], 0.092, 1.0, 2.0),
    ffma(&["conv2d_scalar", "conv2d_scalar_*"], 0.105, 1.0, 2.0),
    ffma(&["conv_pool_scalar", "conv_pool_scalar_*"], 0.22, 1.0, 1.5),
    ffma(&["conv_pool_narrow", "conv_pool_narrow_*", "conv_pool_square*"], 0.515, 1.0, 2.0),
    ffma(&["conv_pool_backward_input_narrow", "conv_pool_backward_input_narrow_*"], 0.085, 1.0, 2.0),
    ffma(&["conv_pool_backward_input_direct", "pgd_step_fused_pooled*"], 0.012, 1.0, 2.0),
    ffma(&["conv_pool_backward_weight_square", "conv_pool_backward_weight_square_*"], 0.094, 1.0, 2.0),
    ffma(&["conv_pool_backward_weight_scalar", "conv_pool_backward_weight_scalar_*"], 0.026, 1.0, 2.0),
    ffma(&["conv_pool_backward_bias", "conv_pool_backward_bias_*"], 1.0, 0.2, 4.5),
    ffma(
        &["linear_square", "linear_backward_input_square", "linear_backward_weight_square", "linear_*_narrow"],
        0.39,
        1.0,
        2.0,
    ),
    ffma(&["linear_warp", "linear_warp_*"], 0.02, 1.0, 2.1),
    ffma(&["linear_backward_input_scalar", "linear_backward_weight_scalar", "linear_*_scalar_*"], 0.06, 1.0, 1.3),
    // Two layers in one launch: 11,600 and 12,800 clocks a block of 100 (comments of the kernels).
    tensor(&["two_conv_pools*"], 0.215, 1.0, 2.0),
    tensor(&["pgd_step_fused_two_pooled*"], 0.048, 1.0, 2.0),
    // Tensor cores: 24 to 29 us for 9.7 GFLOP at 32 and 16 pixels' width, 24 to 40 us at 8 (`kernels/README.md`).
    tensor(&["*_half_halo*"], 0.45, 1.0, 2.0),
    tensor(&["conv_pool_backward_*_half_*"], 0.05, 1.0, 2.0),
    tensor(&["conv*_half_*", "linear*_half_*"], 0.25, 1.0, 2.0),
    // Other products.
    ffma(&["conv2d_*", "conv_pool_*"], 0.1, 1.0, 2.0),
    ffma(&["linear_*"], 0.06, 1.0, 1.3),
    // A network's first layer and its head in one launch each.
    ffma(&["standardize_conv2d*"], 0.20, 1.0, 3.0),
    ffma(&["pgd_step_fused*"], 0.15, 1.0, 3.0),
    ffma(&["head_backward*"], 0.05, 0.5, 4.0),
    // Sums over many blocks, and those of their parts.
    ffma(&["sum_splits", "sum_split_rows", "sum_split*"], 1.0, 0.75, 0.2),
    // Batch norm's sums as the visit has timed them: splits, and a launch that adds them. Since then the last block
    // adds them: its tail is estimated as 2.5 us.
    ffma(&["batch_norm_training_splits_x4", "batch_norm_backward_weight_splits_x4"], 1.0, 0.78, 2.4),
    ffma(&["batch_norm_training_statistics", "batch_norm_backward_weight"], 1.0, 1.0, 1.0),
    ffma(&["batch_norm_training_statistics_*", "batch_norm_backward_weight_*"], 1.0, 0.78, 4.9),
    ffma(&["batch_norm_training_backward_input_x4", "batch_norm_training_backward_*"], 1.0, 0.85, 3.2),
    // A pass over the operands.
    ffma(&["batch_norm_x4", "batch_norm_backward_input_x4", "batch_norm_*"], 1.0, 0.78, 0.5),
    ffma(&["add_x4", "copy_x4", "bytes_to_unit_x4", "sgd_x4", "adam_x4"], 1.0, 1.0, 1.0),
    ffma(&["pgd_step_linf_x4", "pgd_start_linf_x4", "along_direction_eps_x4", "uniform_x4"], 1.0, 1.0, 1.0),
    ffma(&["gather_rows_by16", "gather_rows_by4", "scatter_rows_by16"], 1.0, 1.0, 1.0),
    // A block an example.
    ffma(&["row_wise*"], 1.0, 1.0, 3.0),
    ffma(&["standardize_x4", "standardize_backward_x4", "standardize*"], 1.0, 1.0, 2.7),
    ffma(&["global_mean", "global_mean_backward_x4", "global_mean*"], 1.0, 1.0, 2.7),
    ffma(
        &[
            "loss",
            "loss_backward",
            "add_bias_backward_bias",
            "add_bias_backward_bias_*",
            "loss_*",
            "kl*",
            "targeted_loss*",
        ],
        1.0,
        1.0,
        1.7,
    ),
    // Launches whose time is their latency.
    ffma(&["gather_augmented", "accumulate_metrics"], 1.0, 1.0, 2.7),
    ffma(&["fill", "increment", "mean_weights"], 1.0, 1.0, 0.1),
    ffma(&["bisect", "copy", "scale", "clamp_min", "hinge_weights"], 1.0, 1.0, 0.5),
    ffma(&["scatter_rows_by4", "select_negative", "draw_augmentation"], 1.0, 1.0, 0.6),
    // Kernels that no other line names.
    ffma(&["*"], 0.3, 0.8, 1.5),
];
