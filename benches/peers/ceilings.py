#!/usr/bin/env python3
"""Measures with PyTorch alone the speed that a GPU and its vendor's libraries reach on this project's work.

    python3 benches/peers/ceilings.py OUT.json [--budget SECONDS] [--smoke]

Parts, the most valuable first: facts of the device; the time of a kernel launch; copies; products by cuBLAS;
convolutions of the wide ResNet 28-4 by cuDNN, each with its two gradients, at batch 128 in NHWC.

OUT.json is complete JSON after every figure, and a line is printed for each. A part that fails is recorded in "errors",
and the others go on. No part begins after the budget; "not_reached" names the parts that were not begun. "complete" is
true if every part was measured.

Times are medians by CUDA events. A group of calls is captured as one CUDA graph, so that Python's time does not count,
and the calls take their operands in turn from more memory than the L2 cache holds. A group that cannot be captured is
launched from Python, and "errors" says so. The figure "stream" of "launch_s" alone contains PyTorch's own work a
launch.

`--smoke` runs the same code with tiny sizes on the CPU, to test the script; its figures mean nothing.
"""

import time

BEGAN = time.monotonic()  # importing PyTorch counts

import argparse
import json
import math
import os
import statistics
import sys
import traceback
from pathlib import Path

import torch

BATCH = 128
# Input channels, output channels, kernel, stride, input height and width. First the shapes with the most layers.
CONVOLUTIONS = (
    (64, 64, 3, 1, 32),
    (128, 128, 3, 1, 16),
    (256, 256, 3, 1, 8),
    (64, 128, 3, 2, 32),
    (128, 256, 3, 2, 16),
    (16, 64, 3, 1, 32),
    (16, 64, 1, 1, 32),
    (64, 128, 1, 2, 32),
)
PASSES = ("forward_s", "backward_input_s", "backward_weight_s")
PRECISIONS = {"fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
COPIES = {"8 MB": 8_000_000, "200 MB": 200_000_000, "4 GB": 4_000_000_000}  # bytes read, and as many written
PRODUCTS = (1696, 8192)
LAUNCHES = 1000
GROUP = 10  # calls between two events, at least
GROUP_SECONDS = 0.002  # time between two events, at least
PART_SECONDS = 0.1  # time that a figure's groups take together, about


class Timer:
    """Times calls on a GPU by events, or on the CPU by the clock."""

    def __init__(self, smoke):
        self.smoke = smoke
        self.device = "cpu" if smoke else "cuda"
        self.l2_bytes = 0
        self.uncaptured = None  # why the last group was not captured
        if smoke:
            torch.set_num_threads(1)
        else:
            # One stream for all: a capture cannot be on the default stream, and nothing must wait for another stream.
            self.stream = torch.cuda.Stream()
            torch.cuda.set_stream(self.stream)

    def copies(self, bytes_each):
        """Number of sets of operands, of `bytes_each`, that together exceed the L2 cache twice."""
        return max(2, math.ceil(2 * self.l2_bytes / bytes_each))

    def random(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, device=self.device, dtype=torch.float32).to(dtype)

    def captured(self, calls):
        """Captures calls as one CUDA graph. Results are kept, so that no call overwrites another's in the L2 cache."""
        graph, results = torch.cuda.CUDAGraph(), []
        with torch.cuda.graph(graph, stream=self.stream):
            for call in calls:
                results.append(call())
        return graph, results

    def group_seconds(self, run, repeats):
        """Seconds that each of `repeats` runs takes."""
        if self.smoke:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats

    def median_seconds(self, run):
        """Median seconds of `run`, which is warmed up by two groups; at least 5 groups, and at most 20."""
        self.group_seconds(run, 1)
        once = self.group_seconds(run, 1)
        repeats = 1 if self.smoke else max(1, math.ceil(GROUP_SECONDS / once))
        groups = 2 if self.smoke else min(20, max(5, math.ceil(PART_SECONDS / (once * repeats))))
        return statistics.median(self.group_seconds(run, repeats) for _ in range(groups))

    def in_graph(self, calls):
        """Median seconds of a call in a CUDA graph of all `calls`."""
        graph, results = self.captured(calls)
        seconds = self.median_seconds(graph.replay) / len(calls)
        del results
        return seconds

    def in_stream(self, calls):
        """Median seconds of a call, all `calls` launched from Python one after the other."""

        def run():
            for call in calls:
                call()

        return self.median_seconds(run) / len(calls)

    def seconds(self, calls):
        """Median seconds of a call, in a CUDA graph if the calls can be captured."""
        for call in calls:
            call()
        if self.smoke:
            return self.in_stream(calls)
        try:
            return self.in_graph(calls)
        except RuntimeError as error:
            self.uncaptured = describe(error)
        torch.cuda.synchronize()
        return self.in_stream(calls)


def describe(error):
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def allow_tf32(allowed):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def device_facts(timer, record):
    record |= {"torch": torch.__version__, "cuda": torch.version.cuda}
    said = "cpu"
    if timer.smoke:
        record["device"] = said
    else:
        facts = torch.cuda.get_device_properties(0)
        timer.l2_bytes = facts.L2_cache_size
        record |= {
            "device": facts.name,
            "multiprocessors": facts.multi_processor_count,
            "l2_bytes": facts.L2_cache_size,
            "memory_bytes": facts.total_memory,
        }
        said = f"{facts.name}, {facts.multi_processor_count} multiprocessors, L2 {facts.L2_cache_size / 1e6:.0f} MB"
    record["cudnn"] = torch.backends.cudnn.version()
    return said


def launch(timer, record, kind):
    """Seconds of one of many dependent kernels so small that only their launches take time."""
    x = torch.zeros(1024, device=timer.device)
    calls = [lambda: x.add_(1)] * (10 if timer.smoke else LAUNCHES)
    with torch.inference_mode():
        timer.in_stream(calls[:3])
        if kind == "stream":
            seconds = timer.in_stream(calls)
        else:
            seconds = None if timer.smoke else timer.in_graph(calls)
    record["launch_s"][kind] = seconds
    return "needs a GPU" if seconds is None else f"{seconds * 1e6:.3f} us"


def copy(timer, record, size):
    """Bytes read and written a second, by the faster of PyTorch's copy and an elementwise kernel."""
    length = COPIES[size] // (100_000 if timer.smoke else 4)  # floats
    # 16 pairs of 8 MB are 256 MB; a pair of 4 GB exceeds every L2 cache.
    pairs = max(16 if size == "8 MB" else 1, 1 if size == "4 GB" else timer.copies(8 * length))
    operands = [(timer.random(length), torch.empty(length, device=timer.device)) for _ in range(pairs)]
    number = max(pairs, 1 if size == "4 GB" else GROUP)
    in_turn = [operands[i % pairs] for i in range(number)]
    copies = [lambda a=a, b=b: b.copy_(a) for a, b in in_turn]
    kernels = [lambda a=a, b=b: torch.neg(a, out=b) for a, b in in_turn]
    rate = 8 * length / min(timer.seconds(copies), timer.seconds(kernels))
    record["copy_bytes_per_s"][size] = rate
    return f"{rate / 1e12:.3f} TB/s"


def product(timer, record, precision, n):
    """FLOP/s of the product of two square matrices."""
    dtype = PRECISIONS[precision]
    allow_tf32(precision == "tf32")
    rows = n // 100 if timer.smoke else n
    sets = timer.copies(3 * rows * rows * dtype.itemsize)
    operands = [tuple(timer.random(rows, rows, dtype=dtype) for _ in range(2)) for _ in range(sets)]
    number = max(sets, GROUP if n < 4096 else 2)
    seconds = timer.seconds([lambda i=i: torch.mm(*operands[i % sets]) for i in range(number)])
    rate = 2 * rows**3 / seconds
    record["matmul_flops_per_s"].setdefault(precision, {})[str(n)] = rate
    return f"{rate / 1e12:.2f} TFLOP/s"


def shape_name(shape):
    channels, to, kernel, stride, side = shape
    return f"{channels}->{to} {kernel}x{kernel} s{stride} @{side}"


def convolution(timer, record, shape, precision, which):
    """Seconds of one pass of a convolution: forward, or the gradient with respect to the input or the weight."""
    channels, to, kernel, stride, side = shape
    batch, padding, out = (2 if timer.smoke else BATCH), kernel // 2, side // stride
    flops = 2 * batch * out * out * to * channels * kernel * kernel
    key = {"shape": shape_name(shape), "batch": batch, "precision": precision, "flops": flops}
    entry = next((found for found in record["conv"] if key.items() <= found.items()), None)
    if entry is None:
        record["conv"].append(entry := key)

    dtype = PRECISIONS[precision]
    allow_tf32(precision == "tf32")
    torch.backends.cudnn.benchmark = True
    x, w, y = (batch, channels, side, side), (to, channels, kernel, kernel), (batch, to, out, out)
    sets = timer.copies(dtype.itemsize * sum(map(math.prod, (x, w, y))))
    operands = [
        tuple(timer.random(*of, dtype=dtype).contiguous(memory_format=torch.channels_last) for of in (x, w, y))
        for _ in range(sets)
    ]
    options = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    mask = [which == "backward_input_s", which == "backward_weight_s", False]

    def call(i):
        image, weight, gradient = operands[i % sets]
        if which == "forward_s":
            return torch.ops.aten.convolution(image, weight, None, *options)
        return torch.ops.aten.convolution_backward(gradient, image, weight, None, *options, mask)

    number = max(sets, 2 if timer.smoke else GROUP)
    seconds = timer.seconds([lambda i=i: call(i) for i in range(number)])
    entry[which] = seconds
    return f"{seconds * 1e6:.1f} us, {flops / seconds / 1e12:.2f} TFLOP/s"


def parts():
    """Parts by name, with their functions and the arguments after the timer and the record."""
    yield "device", device_facts, ()
    for kind in ("stream", "graph_node"):
        yield f"launch {kind}", launch, (kind,)
    for size in COPIES:
        yield f"copy {size}", copy, (size,)
    for precision in PRECISIONS:
        for n in PRODUCTS:
            yield f"matmul {precision} {n}", product, (precision, n)
    # fp32, which cuDNN computes without tensor cores, last: it takes the longest.
    for precisions in (("fp16", "tf32"), ("fp32",)):
        for shape in CONVOLUTIONS:
            for precision in precisions:
                for which in PASSES:
                    yield f"conv {precision} {shape_name(shape)} {which}", convolution, (shape, precision, which)


def write(path, record):
    """Replaces the file at once, so that a reader never finds a part of it."""
    record["seconds"] = round(time.monotonic() - BEGAN, 2)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds after which no part begins (default 40)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, to test the script")
    args = parser.parse_args()
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("ceilings: expected a GPU that PyTorch can use; --smoke tests the script on the CPU")

    todo = list(parts())
    names = [name for name, _, _ in todo]
    record = {
        "kind": "ceilings",
        "command": f"benches/peers/ceilings.py {args.out.name} --budget {args.budget:g}" + " --smoke" * args.smoke,
        **({"smoke": True} if args.smoke else {}),
        **dict.fromkeys(("device", "torch", "cuda", "cudnn", "multiprocessors", "l2_bytes", "memory_bytes")),
        "seconds": 0.0,
        "complete": False,
        "not_reached": names,
        "errors": {},
        "launch_s": {},
        "copy_bytes_per_s": {},
        "matmul_flops_per_s": {},
        "conv": [],
    }
    timer = Timer(args.smoke)
    failed = False
    for k, (name, measure, arguments) in enumerate(todo):
        if time.monotonic() - BEGAN > args.budget:
            print(f"the budget of {args.budget:g} s is used up: {len(todo) - k} parts were not reached", flush=True)
            break
        timer.uncaptured = None
        try:
            said = measure(timer, record, *arguments)
        except Exception as error:  # one part must not cost the others
            traceback.print_exc()
            failed = True
            said = record["errors"][name] = describe(error)
        if timer.uncaptured:
            record["errors"][f"{name}, as a CUDA graph"] = timer.uncaptured
        record["not_reached"] = names[k + 1 :]
        record["complete"] = not failed and not record["not_reached"]
        write(args.out, record)
        print(f"{record['seconds']:6.1f} s  {name}: {said}", flush=True)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
