"""One MMA training step in PyTorch, and its stages, timed on the CPU or a GPU.

LeNet5 (batch 50) or the wide ResNet 28-4 (batch 128), linf, with the published settings. The step has the structure
people give it (clean pass, PGD, bisection, pass at the boundary points, optimizer) and none of the work that the
released code wastes: the attack differentiates with respect to the input alone, the bisection records no graph, no
value of a single example travels to Python. As in the released code, PGD runs in the evaluation mode of batch norm and
all else in training mode. The timings need only the shape of the work, so the weights are random. The last bias of
label 0, which every example has, is raised until every example is classified correctly; LeNet5's last weights are
scaled so that the attack crosses the boundary. So every example is attacked and trained on.

Variants on a GPU, a process each:

- `eager_tf32`: the step as people write it, with PyTorch's defaults (NCHW, convolutions in TF32, linear layers in
  fp32, cuDNN's heuristics). A boolean mask picks the correct examples, so the host waits for their number.
- `graph_fp32`, `graph_tf32`, `graph_fp16`: the whole step is one CUDA graph, in channels_last, with cuDNN's benchmark.
  Every row is attacked and a mask keeps the correct ones; with batch norm that is the same work only while every
  example is correct. fp32 uses no tensor cores; fp16 runs the network under autocast, the loss and the attack in fp32.
- `compiled_graph_fp32`, `compiled_graph_tf32`, `compiled_graph_fp16`: the network, the loss and the attack's updates
  pass through torch.compile before the step is captured.

Prints one JSON object a line, as soon as it is known: an item's times, the peak memory, or the error that ended the
variant (then the exit code is 1).
"""

import argparse
import json
import resource
import statistics
import sys
import time
import traceback
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lenet5 import LeNet5
from wide_resnet import standardized


@dataclass
class Work:
    """A network and its training settings, under the released code's names."""

    network: callable
    image: tuple
    batch: int
    hinge_maxeps: float
    mineps: float
    attack_steps: int
    optimizer: callable
    last_scale: float
    last: str  # the last layer's name

    @property
    def max_eps(self):
        return 1.05 * self.hinge_maxeps


LEARNING_RATE = 0.0  # the optimizer does its work, and every step is the same step
EPS_ITER_SCALE = 2.5
SEARCH_STEPS = 10
CLEAN_COEFF = 1 / 3
LABEL_BIAS = 5.0  # every example is correct, and on LeNet5 so near the boundary that every search reaches it


def adam(parameters, device, lr):
    """Adam in one kernel. A CUDA graph wants it capturable: the number of steps is then on the GPU."""
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=device != "cpu")


def sgd(parameters, device, lr):
    """SGD in one kernel. A CUDA graph captures it as it is; the learning rate becomes a constant of the graph."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=2e-4, fused=True)


WORKS = {
    "lenet5": Work(LeNet5, (1, 28, 28), 50, 0.45, 0.1, 40, adam, 20.0, "linear2"),
    "wide_resnet": Work(standardized, (3, 32, 32), 128, 0.0471, 0.005, 10, sgd, 1.0, "1.fc"),
}

@dataclass
class Variant:
    """A way of running the step."""

    layout: torch.memory_format = torch.contiguous_format
    compiled: tuple = ()  # the methods of Step that torch.compile takes
    precision: str = "fp32"  # fp32, tf32, fp16, or defaults: PyTorch's own settings
    graph: bool = False  # True: the whole step is one CUDA graph


WITHOUT_GRADIENT = ("forward", "ascend", "probe")
WHOLE_STAGES = (*WITHOUT_GRADIENT, "attack_loss", "loss_at")
# Methods that share no part: the network is compiled once a mode, not again within each stage that calls it.
SEPARATE_PARTS = ("forward", "ascend", "halve", "margin", "weighted_loss")
NHWC = torch.channels_last
VARIANTS = {
    "cpu": {
        "eager": Variant(),
        "channels_last": Variant(NHWC),
        "compile": Variant(compiled=WHOLE_STAGES),
        "compile_channels_last": Variant(NHWC, WHOLE_STAGES),
        "compile_search_channels_last": Variant(NHWC, WITHOUT_GRADIENT),
    },
    "cuda": {
        "eager_tf32": Variant(precision="defaults"),
        "graph_fp32": Variant(NHWC, (), "fp32", graph=True),
        "graph_tf32": Variant(NHWC, (), "tf32", graph=True),
        "graph_fp16": Variant(NHWC, (), "fp16", graph=True),
        "compiled_graph_fp32": Variant(NHWC, SEPARATE_PARTS, "fp32", graph=True),
        "compiled_graph_tf32": Variant(NHWC, SEPARATE_PARTS, "tf32", graph=True),
        "compiled_graph_fp16": Variant(NHWC, SEPARATE_PARTS, "fp16", graph=True),
    },
}
SECONDS = {"cpu": 2.0, "cuda": 0.5}  # time an item is repeated for


def soft_logit_margin(logits, labels):
    """Logsumexp over the other labels less the label's logit, for each example; negative where p_label > 1/2."""
    label_logit = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - label_logit[:, 0]


def images(eps):
    """Reshapes [N] to [N, 1, 1, 1], to act on images."""
    return eps[:, None, None, None]


class Step:
    """A model, its optimizer, one batch, and the stages of a training step on them."""

    def __init__(self, work, variant, device="cpu", lr=LEARNING_RATE):
        torch.manual_seed(0)
        self.work = work
        how = VARIANTS[device][variant]
        if how.precision != "defaults":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = how.precision == "tf32"
            torch.backends.cudnn.benchmark = True
        self.half = how.precision == "fp16"
        self.graph = how.graph
        self.device = device
        self.model = work.network().to(device, memory_format=how.layout)
        with torch.no_grad():
            last = self.model.get_submodule(work.last)
            last.bias[0] += LABEL_BIAS
            last.weight *= work.last_scale
        self.optimizer = work.optimizer(self.model.parameters(), device, lr)
        self.x = torch.rand(work.batch, *work.image).to(device).contiguous(memory_format=how.layout)
        self.y = torch.zeros(work.batch, dtype=torch.long, device=device)
        self.margins = torch.full((work.batch,), work.mineps, device=device)
        for part in how.compiled:
            setattr(self, part, torch.compile(getattr(self, part), fullgraph=True))

    def forward(self, x):
        # A CUDA graph must not meet casts of weights that autocast cached before the capture.
        with torch.autocast("cuda", torch.float16, enabled=self.half, cache_enabled=False):
            logits = self.model(x)
        return logits.float()

    def margin(self, logits, y):
        return soft_logit_margin(logits, y)

    def attack_loss(self, x, delta, y):
        return self.margin(self.forward(x + delta), y).sum()

    def ascend(self, x, delta, gradient, eps, step):
        """Takes one signed step and projects onto the eps-ball, then onto the box."""
        delta = delta + images(step) * gradient.sign()
        delta = torch.clamp(delta, -images(eps), images(eps))
        return (x + delta).clamp(0, 1) - x

    def pgd_iteration(self, x, delta, y, eps, step):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(self.attack_loss(x, delta, y), delta)
        return self.ascend(x, delta.detach(), gradient, eps, step)

    def halve(self, x, direction, low, high, eps, margin):
        """Halves the bracket by the sign of `margin`, found at `eps`; the new eps and the point there."""
        correct = margin < 0
        low, high = torch.where(correct, eps, low), torch.where(correct, high, eps)
        eps = (low + high) / 2
        return low, high, eps, (x + images(eps) * direction).clamp(0, 1)

    def probe(self, x, direction, y, low, high, eps, margin):
        """Halves the bracket once; the new bracket, the new eps and the margin there."""
        low, high, eps, point = self.halve(x, direction, low, high, eps, margin)
        return low, high, eps, self.margin(self.forward(point), y)

    def weighted_loss(self, logits, y, weight):
        return (weight * F.cross_entropy(logits, y, reduction="none")).sum() / len(logits)

    def loss_at(self, x, y, weight):
        return self.weighted_loss(self.forward(x), y, weight)

    def training_pass(self, x, y, weight):
        """Adds the gradient of the weighted mean cross-entropy to the parameters' gradients."""
        loss = self.loss_at(x, y, weight)
        loss.backward()
        # A loss that is kept must not keep its graph: the graph's nodes remember the stream of their making.
        return loss.detach()

    def start(self, x, eps):
        """PGD's first change: uniform in the ball, projected onto the box."""
        return (x + images(eps) * (2 * torch.rand_like(x) - 1)).clamp(0, 1) - x

    def boundary(self, x, y, eps):
        """AN-PGD: PGD within each example's `eps`, then bisection along the direction found."""
        self.model.requires_grad_(False).eval()
        step = EPS_ITER_SCALE * eps / self.work.attack_steps
        delta = self.start(x, eps)
        for _ in range(self.work.attack_steps):
            delta = self.pgd_iteration(x, delta, y, eps, step)
        self.model.requires_grad_(True).train()
        direction = delta / images(eps + 1e-12)
        with torch.no_grad():
            margin = self.margin(self.forward(x + delta), y)
            low, high = torch.zeros_like(eps), torch.full_like(eps, self.work.max_eps)
            for _ in range(SEARCH_STEPS):
                low, high, eps, margin = self.probe(x, direction, y, low, high, eps, margin)
        return x + images(eps) * direction, eps

    def mma_step(self):
        """One step of Algorithm 2. The clean loss and the clean margins come from one forward pass."""
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.forward(self.x)
        clean_loss = F.cross_entropy(logits, self.y)
        (CLEAN_COEFF * clean_loss).backward()
        self.clean_loss = clean_loss.detach()
        self.correct = correct = self.margin(logits.detach(), self.y) < 0
        x, margins = self.x.clone(), torch.zeros_like(self.margins)
        if self.graph:
            points, found = self.boundary(self.x, self.y, self.margins.clamp(min=self.work.mineps))
            x, margins = torch.where(images(correct), points, x), torch.where(correct, found, margins)
        elif correct.any():
            at = self.margins[correct].clamp(min=self.work.mineps)
            x[correct], margins[correct] = self.boundary(self.x[correct], self.y[correct], at)
        weight = (~correct | (margins < self.work.hinge_maxeps)).float() * (1 - CLEAN_COEFF)
        self.margin_loss = self.training_pass(x, self.y, weight)
        self.optimizer.step()
        self.margins.copy_(margins)


def stages(s):
    """The items: each name with the function to time."""
    eps = torch.full((s.work.batch,), s.work.hinge_maxeps / 2, device=s.device)
    step = EPS_ITER_SCALE * eps / s.work.attack_steps
    direction = torch.sign(torch.rand_like(s.x) - 0.5)
    delta = images(eps) * direction
    low, high = torch.zeros_like(eps), torch.full_like(eps, s.work.max_eps)
    margin, weight = torch.full_like(eps, -1.0), torch.ones_like(eps)

    def training_pass():
        s.optimizer.zero_grad()
        s.training_pass(s.x, s.y, weight)

    training_pass()  # leaves the gradients that the optimizer's item works on
    return {
        "mma_step": s.mma_step,
        "pgd_iteration": lambda: s.pgd_iteration(s.x, delta, s.y, eps, step),
        "probe": torch.no_grad()(lambda: s.probe(s.x, direction, s.y, low, high, eps, margin)),
        "training_pass": training_pass,
        "optimizer": s.optimizer.step,
        # Last, because the step never runs the network in this mode, for which it is compiled again.
        "forward": torch.no_grad()(lambda: s.forward(s.x)),
    }


def captured(run):
    """Captures `run` as one CUDA graph and returns the function that replays it.

    Three runs before, on the stream of the capture, leave what a capture must not do itself: cuDNN's choices of
    algorithms, compiled kernels, the optimizer's state. Gradients that are set to None within `run` are allocated anew
    in the graph's own memory.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay


def timed(run, seconds, wait):
    """Wall times of `run`, after two calls to warm up: at least 5, and for about `seconds`.

    On a GPU `wait` waits until its work is done. Each time is then the mean of enough calls to make waiting negligible.
    """
    for _ in range(2):
        run()
    wait()
    times, calls, end = [], 1, time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        took = time.perf_counter() - start
        if wait is not no_wait and took < 0.05:
            calls *= 2
        else:
            times.append(took / calls)
    return times


def no_wait():
    """Does nothing: on the CPU the work is done when a call returns."""


def peak_bytes(device="cpu"):
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(work, args, about, loaded):
    """Times and prints the items of one variant; `loaded` is the peak memory before the first."""
    step = Step(work, args.variant, args.device)
    wait = no_wait if args.device == "cpu" else torch.cuda.synchronize
    for name, run in stages(step).items():
        if args.item and name not in args.item:
            continue
        # PGD and inference run in evaluation mode.
        step.model.requires_grad_(name != "pgd_iteration").train(name not in ("forward", "pgd_iteration"))
        times = timed(captured(run) if step.graph else run, args.seconds, wait)
        if name == "mma_step" and not step.correct.all():
            raise RuntimeError("an example was misclassified: the step did less than the work to be timed")
        result = {"name": name, "variant": args.variant, "median_s": statistics.median(times), "min_s": min(times)}
        print(json.dumps({**result, "n": len(times), **about}), flush=True)
        if name == "mma_step":
            memory = {"name": "peak_memory", "variant": args.variant, "peak_bytes": peak_bytes(args.device)}
            print(json.dumps({**memory, "before_bytes": loaded, **about}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=VARIANTS, default="cpu")
    parser.add_argument("--model", choices=WORKS, default="lenet5")
    parser.add_argument("--batch", type=int, help="images a step (default: the published batch)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", help="a way of running the step (default: eager, or eager_tf32 on a GPU)")
    parser.add_argument("--list-variants", action="store_true", help="print the device's variants, one a line, and end")
    parser.add_argument("--item", action="append", help="only this item; may be given several times")
    parser.add_argument("--seconds", type=float, help="time an item is repeated for (default 2, or 0.5 on a GPU)")
    args = parser.parse_args()
    variants = VARIANTS[args.device]
    if args.list_variants:
        print(*variants, sep="\n")
        return 0
    args.variant = args.variant or next(iter(variants))
    if args.variant not in variants:
        parser.error(f"--variant {args.variant}: expected {', '.join(variants)}")
    args.seconds = SECONDS[args.device] if args.seconds is None else args.seconds

    try:
        torch.set_num_threads(args.threads)
        about = {"threads": args.threads, "torch": torch.__version__, "device": args.device}
        if args.device == "cuda":
            about["device"] = torch.cuda.get_device_name()
        work = WORKS[args.model]
        work.batch = args.batch or work.batch
        measure(work, args, about, peak_bytes(args.device))
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip() or "no message").splitlines()[0]
        print(json.dumps({"variant": args.variant, "error": f"{type(error).__name__}: {reason}"}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
