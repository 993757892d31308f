"""Times attacks of other libraries on a LeNet5 and MNIST's test images on the CPU, for comparison with this project's.

`pgd` is PGD in linf from the image itself, by adv_lib and by torchattacks. `ddn`, `fmn` and `cw` are minimum-norm
attacks in l2 by adv_lib; unlike in DDN's first release, its sphere does not grow beyond the box. The network has this
project's weights (`maxmargin export`, or a run's `best.safetensors`), so accuracies and distances can be compared with
those of `maxmargin evaluate`, too.

Needs adv-lib and torchattacks beside what benches/peers/setup installs:

    .venv/bin/pip install torchvision tqdm && .venv/bin/pip install --no-deps adv-lib torchattacks

Prints one JSON object a line.
"""

import argparse
import gzip
import json
import statistics
import sys
import time
import types
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file

from lenet5 import LeNet5

sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # adv_lib imports it for plots, which are not used

import adv_lib.attacks  # noqa: E402
import torchattacks  # noqa: E402


def idx(folder, name):
    """Array in one of MNIST's files, plain or .gz."""
    path = folder / name
    data = path.read_bytes() if path.is_file() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    dims = numpy.frombuffer(data, ">u4", data[3], 4)
    return torch.from_numpy(numpy.frombuffer(data, "u1", offset=4 + 4 * data[3]).reshape(dims.tolist()).copy())


def attacks(args):
    """Attacks by name and library: functions from images and labels to adversarial images."""

    def adv_lib_pgd(model, x, y):
        step = {"absolute_step_size": args.eps_iter, "random_init": False}
        return adv_lib.attacks.pgd_linf(model, x, y, ε=args.eps, steps=args.iterations, **step)

    def torchattacks_pgd(model, x, y):
        attack = torchattacks.PGD(model, args.eps, args.eps_iter, args.iterations, random_start=False)
        return attack(x, y)

    def adv_lib_ddn(model, x, y):
        return adv_lib.attacks.ddn(model, x, y, steps=args.iterations)

    def adv_lib_fmn(model, x, y):
        return adv_lib.attacks.fmn(model, x, y, norm=2, steps=args.iterations)

    def adv_lib_cw(model, x, y):
        return adv_lib.attacks.carlini_wagner_l2(model, x, y, max_iterations=args.iterations)

    return {
        "pgd": {"adv_lib": adv_lib_pgd, "torchattacks": torchattacks_pgd},
        "ddn": {"adv_lib": adv_lib_ddn},
        "fmn": {"adv_lib": adv_lib_fmn},
        "cw": {"adv_lib": adv_lib_cw},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="a LeNet5's weights, safetensors")
    parser.add_argument("--data", type=Path, default=Path("data/mnist"), help="folder of MNIST's IDX files")
    parser.add_argument("--attack", action="append", choices=("pgd", "ddn", "fmn", "cw"), help="default: all")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--eps-iter", type=float, default=0.01)
    parser.add_argument("--images", type=int, default=200, help="number of test images, from the first on")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    state = load_file(args.weights)
    model = LeNet5.shaped_like(state).eval().requires_grad_(False)
    model.load_state_dict(state)
    x = idx(args.data, "t10k-images-idx3-ubyte")[: args.images, None] / 255
    y = idx(args.data, "t10k-labels-idx1-ubyte")[: args.images].long()
    with torch.no_grad():
        correct = model(x).argmax(1) == y
    about = {"iterations": args.iterations, "images": len(x), "batch": args.batch, "threads": args.threads}
    about["torch"] = torch.__version__

    for name, libraries in attacks(args).items():
        if args.attack and name not in args.attack:
            continue
        seconds, found = {library: [] for library in libraries}, {}
        for _ in range(args.rounds):
            for library, attack in libraries.items():
                start = time.perf_counter()
                batches = zip(x.split(args.batch), y.split(args.batch))
                found[library] = torch.cat([attack(model, *batch).detach() for batch in batches])
                seconds[library].append(time.perf_counter() - start)
        for library, adv in found.items():
            with torch.no_grad():
                robust = correct & (model(adv).argmax(1) == y)
            result = {"accuracy": 100 * robust.double().mean().item()}
            if name != "pgd":
                lengths = (adv - x).flatten(1).norm(dim=1)[correct & ~robust]
                quartiles = lengths.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
                result = {"found": len(lengths), "mean_l2": lengths.mean().item(), "quartiles_l2": quartiles}
            times = {"median_s": statistics.median(seconds[library]), "min_s": min(seconds[library])}
            print(json.dumps({"name": name, "library": library, **result, **times, **about}), flush=True)


if __name__ == "__main__":
    main()
