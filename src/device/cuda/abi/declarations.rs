// Constants and argument layouts that the kernels and Rust share: the only place that declares them.
//
// Two macros read this file. The one in `abi/mod.rs` makes Rust items of it, the one in `abi/header.rs` makes the C++
// header `abi.cuh`, which every kernel includes through `prelude.cuh`. Forms of a declaration:
//
//     const     a constant; `usize` is `int` in C++, `u32` is `unsigned`
//     enum      numbers from 0; variant `LossKind::Xent` is `LossKind::XENT` in C++
//     struct    plain data that a kernel takes by value
//     operands  a struct with addresses that a kernel takes by value. Each member begins at a multiple of 8 bytes. In
//               Rust a member is an `Arg`, which gets its address when the kernel is launched
abi! {
    /// Threads of a warp.
    const WARP: usize = 32;
    /// Threads of a block, where a kernel does not declare another number.
    const THREADS: usize = 256;

    /// Rows of a block tile of a matrix product.
    const BLOCK_TILE_ROWS: usize = 64;
    /// Columns of a narrow block tile.
    const NARROW_TILE_COLUMNS: usize = 32;
    /// Columns of a square block tile.
    const SQUARE_TILE_COLUMNS: usize = 64;
    /// Terms of a sum (the k dimension) that a block tile takes at a time. A split of a sum is a multiple of it.
    const BLOCK_TILE_DEPTH: usize = 16;
    /// Rows of a thread tile: the results that a thread keeps in registers.
    const THREAD_TILE_ROWS: usize = 8;
    /// Columns of a thread tile.
    const THREAD_TILE_COLUMNS: usize = 4;

    /// Rows of a block tile of a product of halves, on tensor cores.
    const HALF_TILE_ROWS: usize = 64;
    /// Rows of a tall block tile of halves.
    const HALF_TILE_ROWS_TALL: usize = 128;
    /// Columns of a block tile of halves.
    const HALF_TILE_COLUMNS: usize = 64;
    /// Columns of a narrow block tile of halves.
    const HALF_TILE_COLUMNS_NARROW: usize = 32;
    /// Columns of a wide block tile of halves, for gradients with respect to weights.
    const HALF_TILE_COLUMNS_WIDE: usize = 128;
    /// Terms of a sum that a block tile of halves takes at a time. A split of a sum is a multiple of it.
    const HALF_TILE_DEPTH: usize = 32;

    /// Filters of a block of a 3 x 3 convolution of halves with a halo in shared memory (kernels/conv_halo.cuh).
    const HALO_COLUMNS: usize = 64;
    /// Pixels of a block for images of 32 pixels' width: whole rows.
    const HALO_PIXELS_32: usize = 256;
    /// Pixels of a block for images of 16 pixels' width: whole rows.
    const HALO_PIXELS_16: usize = 256;
    /// Pixels of a block for images of 8 x 8 pixels: whole images.
    const HALO_PIXELS_8: usize = 128;

    /// Side of the filters of two layers with pooling that one launch computes (kernels/layer_pair.cuh).
    const PAIR_SIDE: usize = 5;
    /// Filters of the first one, which reads one channel.
    const PAIR_FIRST: usize = 32;
    /// Filters of the second one.
    const PAIR_SECOND: usize = 64;
    /// Width of the images, at most.
    const PAIR_WIDTH: usize = 32;
    /// Windows of the first one whose sums a thread has in registers.
    const PAIR_WINDOWS: usize = 7;
    /// Rows of pooling windows of a block's part of an image, at most: forward.
    const PAIR_WINDOW_ROWS: usize = 4;
    /// Results of the first layer whose gradients a block computes, at most.
    const PAIR_PIXELS: usize = 128;

    /// The choice of a pooling window where ReLU is 0, so that no place was chosen.
    const NO_CHOICE: u8 = 4;

    /// Addend of a variance in batch norm.
    const BATCH_NORM_EPS: f32 = 1e-5;
    /// Weight of a batch's statistics in the running statistics after it.
    const BATCH_NORM_MOMENTUM: f32 = 0.1;

    /// Items of a channel, at most, whose sums a convolution adds (kernels/channel_sums.cuh).
    const MOST_SUMMED_ITEMS: usize = 4_194_304;
    /// Bytes of a channel's sums.
    const CHANNEL_SUMS_BYTES: usize = 32;

    /// Channels of images, at most, for which a step of PGD computes the first layer's input gradient.
    const MOST_STEP_CHANNELS: usize = 4;

    /// Filters of the first layer whose sums a thread has in registers.
    const FIRST_LAYER_FILTERS: usize = 16;

    /// Norm to which a gradient is brought before it is stored as halves.
    const GRADIENT_NORM: f32 = 256.0;
    /// Least norm that a gradient is divided by.
    const LEAST_GRADIENT_NORM: f32 = 1e-30;

    /// Rounds of Philox4x32-10.
    const PHILOX_ROUNDS: usize = 10;
    /// Multiplier of the first word of a Philox counter.
    const PHILOX_MULTIPLIER_0: u32 = 0xD251_1F53;
    /// Multiplier of the third word of a Philox counter.
    const PHILOX_MULTIPLIER_1: u32 = 0xCD9E_8D57;
    /// Addend of the first word of a Philox key after each round.
    const PHILOX_WEYL_0: u32 = 0x9E37_79B9;
    /// Addend of the second word of a Philox key after each round.
    const PHILOX_WEYL_1: u32 = 0xBB67_AE85;

    /// Divides numbers below 2^31 by a number known before the launch: a multiplication and a shift.
    struct Divisor {
        multiplier: u32,
        shift: u32,
    }

    /// Sizes of a convolution.
    struct ConvShape {
        /// Height of the input.
        h: i32,
        /// Width of the input.
        w: i32,
        /// Channels of the input.
        c: i32,
        /// Filters.
        k: i32,
        /// Height of a filter.
        kh: i32,
        /// Width of a filter.
        kw: i32,
        /// Height of the output, before pooling.
        out_h: i32,
        /// Width of the output, before pooling.
        out_w: i32,
        /// Rows or columns of zeros at each edge of the input.
        padding: i32,
        /// Pixels from one window to the next.
        stride: i32,
        /// Terms of a sum in one split.
        chunk: i32,
        /// Divides by `c`.
        by_c: Divisor,
        /// Divides by `k`.
        by_k: Divisor,
        /// Divides by `kw`.
        by_kw: Divisor,
        /// Divides by the outputs of an image; by the pooled outputs, if the op pools.
        by_image: Divisor,
        /// Divides by the outputs of a row of an image; by the pooled outputs, if the op pools.
        by_row: Divisor,
        /// Divides by the taps of a filter's row that lie `stride` apart: kw / stride, rounded up.
        by_more: Divisor,
        /// Divides by kw / stride rounded down, at least 1.
        by_less: Divisor,
    }

    /// Sizes of a shortcut: `[n, h, w, channels]` is its input, or the gradient of its output. All 0 without a
    /// shortcut.
    struct ShortcutShape {
        h: i32,
        w: i32,
        channels: i32,
        stride: i32,
    }

    /// A 1 x 1 convolution without padding whose results are added to another convolution's: a residual block's
    /// shortcut. For the gradient with respect to its input, `x` is the gradient of its output.
    operands Shortcut {
        x: *const f32,
        filters: *const f32,
        shape: ShortcutShape,
    }

    /// Steps between the sums of a matrix product and its results, in the order of the members. A step whose operand is
    /// null is left out.
    operands Epilogue {
        /// Adds a tensor of the results' shape.
        before: *const f32,
        /// Writes the results as they are now: the residual sum.
        sum: *mut f32,
        /// Multiplies a column by `weight / sqrt(variance + BATCH_NORM_EPS)`.
        weight: *const f32,
        /// Belongs to `weight`.
        variance: *const f32,
        /// Adds a number to each column.
        bias: *const f32,
        /// Subtracts `mean` times the column's scale from `bias`.
        mean: *const f32,
        /// Sets results to 0 where this tensor of their shape is not positive: the gradient of ReLU.
        y: *const f32,
        /// Adds a tensor of the results' shape.
        after: *const f32,
        /// 1: applies ReLU, before `y` and `after`.
        relu: i32,
    }

    /// Batch norm with ReLU of a convolution's operand. Null: the convolution reads the operand as it is.
    operands OperandNorm {
        weight: *const f32,
        bias: *const f32,
        mean: *const f32,
        variance: *const f32,
        /// Takes what the convolution reads, if it is a result.
        result: *mut f32,
    }

    /// Statistics of the results' channels, for batch norm in training mode. Null: none are computed.
    operands ChannelStatistics {
        mean: *mut f32,
        variance: *mut f32,
        running_mean: *mut f32,
        running_variance: *mut f32,
        /// Sums of each channel, 0 before the launch and after it.
        sums: *mut u64,
        /// Blocks that have added their sums, by group of channels; 0 before the launch and after it.
        counters: *mut u32,
    }

    /// Gradients of the weight and bias of batch norm in training mode with ReLU, whose results' gradients a launch
    /// computes. Null: none are computed.
    operands NormGradients {
        /// Operand of batch norm.
        x: *const f32,
        weight: *const f32,
        bias: *const f32,
        mean: *const f32,
        variance: *const f32,
        dweight: *mut f32,
        dbias: *mut f32,
        /// As in `ChannelStatistics`.
        sums: *mut u64,
        /// As in `ChannelStatistics`.
        counters: *mut u32,
    }

    /// Instructions of a formula, at most.
    const FORMULA_LENGTH: usize = 64;
    /// Numbers on a formula's stack, at most.
    const FORMULA_DEPTH: usize = 8;
    /// Inputs of a formula, at most.
    const FORMULA_INPUTS: usize = 8;
    /// Added to the number of an input that has a table for each row.
    const TABLE_BY_ROW: u32 = 256;

    /// Instructions of formulas, as `tape::formula::Instruction` defines them. An input is read by element, by row, or
    /// as one number for all; the variants that end in `U32` read integers. Everything up to `Number` pushes a number.
    enum Opcode {
        ReadElement,
        ReadRow,
        ReadOne,
        ReadElementU32,
        ReadRowU32,
        ReadOneU32,
        Old,
        Element,
        Number,
        At,
        Add,
        Sub,
        Mul,
        Div,
        Min,
        Max,
        Less,
        Neg,
        Abs,
        Sign,
        Sqrt,
        Exp,
        Ln,
        Tanh,
        Cos,
        Floor,
        Round,
        Select,
    }

    /// A formula's instructions.
    struct FormulaCode {
        /// Instructions in use.
        count: u32,
        /// `Opcode` of each instruction.
        opcode: [u32; FORMULA_LENGTH],
        /// Number of the input that an instruction reads.
        input: [u32; FORMULA_LENGTH],
        /// Constant of an instruction, or the length of its table.
        number: [f32; FORMULA_LENGTH],
    }

    /// Inputs of a formula: `float` or `unsigned` numbers.
    operands FormulaInputs {
        of: [*const f32; FORMULA_INPUTS],
    }

    /// Losses of an example, as `tape::Loss` defines them.
    enum LossKind {
        Xent,
        Slm,
        Lm,
        Cw,
        Dlr,
    }

    /// Places in the sums of a training step, as `tape::Metric` defines them.
    enum MetricPlace {
        Steps,
        Examples,
        MeanLoss,
        WeightedLoss,
        Correct,
        Eps,
        ZeroWeights,
        SkippedSteps,
    }

    /// Weights whose half-precision copies one launch writes, at most.
    const PACKED_FILTERS: usize = 32;

    /// Weights and their copies, which are halves.
    operands PackedFilters {
        w: [*const f32; PACKED_FILTERS],
        plain: [*mut f32; PACKED_FILTERS],
        turned: [*mut f32; PACKED_FILTERS],
    }

    /// Sizes of weights `[k, taps, c]`.
    struct PackedSizes {
        /// Weights in use.
        count: u32,
        /// First block of each weight.
        first: [u32; PACKED_FILTERS],
        /// Filters, or outputs.
        k: [i32; PACKED_FILTERS],
        /// Taps of a filter; 1 of a linear layer.
        taps: [i32; PACKED_FILTERS],
        /// Channels, or inputs.
        c: [i32; PACKED_FILTERS],
    }

    /// Steps of a row-wise op, at most.
    const ROW_WISE_STEPS: usize = 8;
    /// Operands of a row-wise op, at most.
    const ROW_WISE_OPERANDS: usize = 24;
    /// Operands of a step of a row-wise op, at most.
    const ROW_WISE_STEP_OPERANDS: usize = 5;
    /// Numbers of a step of a row-wise op, at most.
    const ROW_WISE_NUMBERS: usize = 5;

    /// Kernels whose work on a row is a step of a row-wise op.
    enum RowWiseKernel {
        GatherRowsBy1,
        GatherRowsBy4,
        GatherRowsBy16,
        ScatterRowsBy1,
        ScatterRowsBy4,
        ScatterRowsBy16,
        BytesToUnit,
        BytesToUnitX4,
        Copy,
        CopyX4,
        Fill,
        FillX4,
        Scale,
        ScaleX4,
        ClampMin,
        ClampMinX4,
        GlobalMean,
        GlobalMeanFromHalf,
        LinearWarp,
        LinearWarpFromHalf,
        Loss,
        LossBackward,
        MeanWeights,
        HingeWeights,
        Uniform,
        UniformX4,
        PgdStartLinf,
        PgdStartLinfX4,
        PgdStartL2,
        PgdStartL2X4,
        AlongDirectionEps,
        AlongDirectionEpsX4,
        Bisect,
    }

    /// A step of a row-wise op: the arguments of its kernel.
    struct RowWiseStepCode {
        /// Number of the `RowWiseKernel`.
        kernel: u32,
        /// 1: waits until the block's threads have done the steps before.
        waits: u32,
        /// Numbers of the step's operands among the op's, in the order of the kernel's arguments.
        operand: [u32; ROW_WISE_STEP_OPERANDS],
        /// Bits of the kernel's `int`, `unsigned` and `float` arguments, without the capacity in rows.
        number: [u32; ROW_WISE_NUMBERS],
    }

    /// Steps of a row-wise op.
    struct RowWiseCode {
        /// Steps in use.
        count: u32,
        /// The steps.
        steps: [RowWiseStepCode; ROW_WISE_STEPS],
    }

    /// Operands of a row-wise op, of any element type.
    operands RowWiseOperands {
        of: [*mut f32; ROW_WISE_OPERANDS],
    }

    /// Entries of a learning rate schedule, at most.
    const MAX_LEARNING_RATES: usize = 32;

    /// Learning rates by step.
    struct RateSchedule {
        /// Entries in use: at least one.
        count: u32,
        /// Step from which an entry's rate holds, ascending from 0.
        from: [u32; MAX_LEARNING_RATES],
        /// Learning rate of each entry.
        rate: [f32; MAX_LEARNING_RATES],
    }
}
