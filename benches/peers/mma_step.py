"""One MMA training step in PyTorch, on the CPU or a GPU, and its stages, timed.

LeNet5 (batch 50) or the wide ResNet 28-4 (batch 128), linf, with the published settings. The step has the structure
people give it (clean pass, PGD, bisection, pass at the boundary points, optimizer) and none of the work that the released
code wastes: the attack differentiates by the input alone, the bisection records no graph, no value of a single example
travels to Python. As in the released code PGD runs in evaluation mode of batch norm and all else in training mode. What the
timings need is the shape of the work, so the weights are random, and the last bias of label 0, which every example has,
is raised until all are right; LeNet5's last weights are scaled so that the attack crosses the boundary: all examples are
attacked, all are trained on.

On a GPU the step is run as people write it (`eager_*`: a boolean mask picks the right examples, so the host waits for
their number) and as well as PyTorch can be made to run it (`graph_*`: every row is attacked and a mask keeps the right
ones, parts are compiled, the whole step is one CUDA graph; with batch norm that is the same work only while all are
right). `fp32`: no tensor cores; `tf32`: products on tensor cores in TF32; `fp16`: the network under autocast, loss and
attack in fp32.

Prints one JSON object a line. `--variant all` tries each way of running it.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lenet5 import LeNet5
from wide_resnet import standardized


@dataclass
class Work:
    """A network and the settings it is trained with; the released code's names."""

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
LABEL_BIAS = 5.0  # label 0 for all: right, and on LeNet5 so near the boundary that every search reaches it


def adam(parameters, device, lr):
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=device != "cpu")


def sgd(parameters, device, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=2e-4, fused=True)


WORKS = {
    "lenet5": Work(LeNet5, (1, 28, 28), 50, 0.45, 0.1, 40, adam, 20.0, "linear2"),
    "wide_resnet": Work(standardized, (3, 32, 32), 128, 0.0471, 0.005, 10, sgd, 1.0, "1.fc"),
}

WITHOUT_GRADIENT = ("forward", "ascend", "probe")
EVERYTHING = (*WITHOUT_GRADIENT, "attack_loss", "loss_at")
NCHW, NHWC = torch.contiguous_format, torch.channels_last
# Ways of running it: memory format, which methods of Step torch.compile takes, precision, whether as a CUDA graph.
CPU_VARIANTS = {
    "eager": (NCHW, (), "fp32", False),
    "channels_last": (NHWC, (), "fp32", False),
    "compile": (NCHW, EVERYTHING, "fp32", False),
    "compile_channels_last": (NHWC, EVERYTHING, "fp32", False),
    "compile_search_channels_last": (NHWC, WITHOUT_GRADIENT, "fp32", False),
}
CUDA_VARIANTS = {
    "eager_fp32": (NCHW, (), "fp32", False),
    "eager_tf32": (NCHW, (), "tf32", False),
    "graph_fp32": (NCHW, EVERYTHING, "fp32", True),
    "graph_channels_last_fp32": (NHWC, EVERYTHING, "fp32", True),
    "graph_tf32": (NCHW, EVERYTHING, "tf32", True),
    "graph_channels_last_tf32": (NHWC, EVERYTHING, "tf32", True),
    "graph_channels_last_fp16": (NHWC, EVERYTHING, "fp16", True),
}
VARIANTS = {**CPU_VARIANTS, **CUDA_VARIANTS}


def soft_logit_margin(logits, labels):
    """logsumexp over the other labels - the label's logit, an example; negative where p_label > 1/2."""
    label_logit = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - label_logit[:, 0]


def images(eps):
    """[N] as [N, 1, 1, 1], to act on images."""
    return eps[:, None, None, None]


class Step:
    """A model, its optimizer, one batch, and the stages of a step on it."""

    def __init__(self, work, variant, device="cpu", lr=LEARNING_RATE):
        torch.manual_seed(0)
        self.work = work
        layout, compiled, precision, self.graph = VARIANTS[variant]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        self.half = precision == "fp16"
        self.device = device
        self.model = work.network().to(device, memory_format=layout)
        with torch.no_grad():
            last = self.model.get_submodule(work.last)
            last.bias[0] += LABEL_BIAS
            last.weight *= work.last_scale
        self.optimizer = work.optimizer(self.model.parameters(), device, lr)
        self.x = torch.rand(work.batch, *work.image).to(device).contiguous(memory_format=layout)
        self.y = torch.zeros(work.batch, dtype=torch.long, device=device)
        self.margins = torch.full((work.batch,), work.mineps, device=device)
        for part in compiled:
            setattr(self, part, torch.compile(getattr(self, part), fullgraph=True))

    def forward(self, x):
        with torch.autocast("cuda", torch.float16, enabled=self.half):
            logits = self.model(x)
        return logits.float()

    def attack_loss(self, x, delta, y):
        return soft_logit_margin(self.forward(x + delta), y).sum()

    def ascend(self, x, delta, gradient, eps, step):
        """One signed step; into the eps-ball, then into the box."""
        delta = delta + images(step) * gradient.sign()
        delta = torch.clamp(delta, -images(eps), images(eps))
        return (x + delta).clamp(0, 1) - x

    def pgd_iteration(self, x, delta, y, eps, step):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(self.attack_loss(x, delta, y), delta)
        return self.ascend(x, delta.detach(), gradient, eps, step)

    def probe(self, x, direction, y, low, high, eps, margin):
        """Halve the bracket by the sign of `margin`, found at `eps`; the new eps and the margin there."""
        right = margin < 0
        low, high = torch.where(right, eps, low), torch.where(right, high, eps)
        eps = (low + high) / 2
        return low, high, eps, soft_logit_margin(self.forward((x + images(eps) * direction).clamp(0, 1)), y)

    def loss_at(self, x, y, weight):
        return (weight * F.cross_entropy(self.forward(x), y, reduction="none")).sum() / len(x)

    def training_pass(self, x, y, weight):
        """Add the gradient of the weighted mean cross-entropy to the parameters' gradients."""
        loss = self.loss_at(x, y, weight)
        loss.backward()
        return loss

    def start(self, x, eps):
        """PGD's first change: uniform in the ball, back into the box."""
        return (x + images(eps) * (2 * torch.rand_like(x) - 1)).clamp(0, 1) - x

    def boundary(self, x, y, eps):
        """AN-PGD: PGD within `eps` an example, then bisection along the direction found."""
        self.model.requires_grad_(False).eval()
        step = EPS_ITER_SCALE * eps / self.work.attack_steps
        delta = self.start(x, eps)
        for _ in range(self.work.attack_steps):
            delta = self.pgd_iteration(x, delta, y, eps, step)
        self.model.requires_grad_(True).train()
        direction = delta / images(eps + 1e-12)
        with torch.no_grad():
            margin = soft_logit_margin(self.forward(x + delta), y)
            low, high = torch.zeros_like(eps), torch.full_like(eps, self.work.max_eps)
            for _ in range(SEARCH_STEPS):
                low, high, eps, margin = self.probe(x, direction, y, low, high, eps, margin)
        return x + images(eps) * direction, eps

    def mma_step(self):
        """One step of Algorithm 2; the clean logits come from the pass that the clean loss is taken from."""
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.forward(self.x)
        self.clean_loss = F.cross_entropy(logits, self.y)
        (CLEAN_COEFF * self.clean_loss).backward()
        self.right = right = soft_logit_margin(logits.detach(), self.y) < 0
        x, margins = self.x.clone(), torch.zeros_like(self.margins)
        if self.graph:
            points, found = self.boundary(self.x, self.y, self.margins.clamp(min=self.work.mineps))
            x, margins = torch.where(images(right), points, x), torch.where(right, found, margins)
        elif right.any():
            at = self.margins[right].clamp(min=self.work.mineps)
            x[right], margins[right] = self.boundary(self.x[right], self.y[right], at)
        weight = (~right | (margins < self.work.hinge_maxeps)).float() * (1 - CLEAN_COEFF)
        self.margin_loss = self.training_pass(x, self.y, weight)
        self.optimizer.step()
        self.margins.copy_(margins)


def stages(s):
    """The items: name -> what to time, and whether the parameters want gradients meanwhile."""
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
        "forward": torch.no_grad()(lambda: s.forward(s.x)),
        "pgd_iteration": lambda: s.pgd_iteration(s.x, delta, s.y, eps, step),
        "probe": torch.no_grad()(lambda: s.probe(s.x, direction, s.y, low, high, eps, margin)),
        "training_pass": training_pass,
        "optimizer": s.optimizer.step,
    }


def captured(run):
    """`run` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timed(run, seconds, wait):
    """Wall times of `run`, after two calls to warm up: at least 5, and for about `seconds`.

    On a GPU, where `wait` waits for it, each is the mean of so many calls that waiting does not count.
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
    """The CPU is done when a call returns."""


def peak_bytes(device="cpu"):
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(work, variant, args, about, loaded):
    """Time and print the items of one variant; `loaded`: peak memory before the first."""
    step = Step(work, variant, args.device)
    wait = no_wait if args.device == "cpu" else torch.cuda.synchronize
    for name, run in stages(step).items():
        if args.item and name not in args.item:
            continue
        # Evaluation mode is PGD's, and that in which a trained network answers.
        step.model.requires_grad_(name != "pgd_iteration").train(name not in ("forward", "pgd_iteration"))
        times = timed(captured(run) if step.graph else run, args.seconds, wait)
        if name == "mma_step" and not step.right.all():
            raise SystemExit("an example was not right: the step did less than the work to be timed")
        result = {"name": name, "variant": variant, "median_s": statistics.median(times), "min_s": min(times)}
        print(json.dumps({**result, "n": len(times), **about}), flush=True)
        if name == "mma_step" and args.variant != "all":
            memory = {"name": "peak_memory", "variant": variant, "peak_bytes": peak_bytes(args.device)}
            print(json.dumps({**memory, "before_bytes": loaded, **about}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=WORKS, default="lenet5")
    parser.add_argument("--batch", type=int, help="images a step (default: the published batch)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=(*VARIANTS, "all"), help="default: eager, with TF32 on a GPU")
    parser.add_argument("--item", action="append", help="only this item; may be given several times")
    parser.add_argument("--seconds", type=float, default=2.0, help="time an item is repeated for (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = {"threads": args.threads, "torch": torch.__version__, "device": args.device}
    if args.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    work = WORKS[args.model]
    work.batch = args.batch or work.batch
    loaded = peak_bytes(args.device)
    if args.variant is None:
        args.variant = "eager" if args.device == "cpu" else "eager_tf32"

    every = CPU_VARIANTS if args.device == "cpu" else CUDA_VARIANTS
    for variant in every if args.variant == "all" else (args.variant,):
        torch.compiler.reset()
        try:
            measure(work, variant, args, about, loaded)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:  # torch.compile wants a C++ compiler
            if args.variant != "all":
                raise
            print(f"{variant} does not run here: {str(error).splitlines()[0]}", file=sys.stderr)


if __name__ == "__main__":
    main()
