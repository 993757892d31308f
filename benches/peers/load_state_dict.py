"""Shows that PyTorch and this project read each other's weights.

Loads a checkpoint (`best.safetensors` of a run) strictly into the PyTorch LeNet5 of its shapes. With `--mnist FOLDER`
it prints the accuracy on the first test images, clean and under PGD-40 (linf, eps 0.3, step 0.01, cross-entropy, start
at the image), for comparison with `maxmargin evaluate`. `--write OUT` saves a new model's state dict instead, for
`maxmargin evaluate` to read.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lenet5 import LeNet5

EPS, STEP, STEPS = 0.3, 0.01, 40


def read_idx(folder, name):
    """Array in the IDX file `name` of `folder`, plain or gzip."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            shape = np.frombuffer(raw, ">u4", raw[3], 4)
            return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())
    raise SystemExit(f"{folder / name}: no such file, nor with .gz")


def pgd(model, x, y):
    delta = torch.zeros_like(x)
    for _ in range(STEPS):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y, reduction="sum"), delta)
        delta = (delta.detach() + STEP * gradient.sign()).clamp(-EPS, EPS)
        delta = (x + delta).clamp(0, 1) - x
    return x + delta


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--mnist", type=Path, help="folder with t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte")
    parser.add_argument("--images", type=int, default=1000, help="number of test images (default 1000)")
    parser.add_argument("--write", type=Path, metavar="OUT", help="save a new model's state dict to this file")
    parser.add_argument("--width", type=float, default=1.0, help="with --write: multiple of 32, 64 and 1024")
    parser.add_argument("--small", action="store_true", help="with --write: 3x3 convolutions and 200 hidden units")
    parser.add_argument("--seed", type=int, default=0, help="with --write: seed of the weights")
    args = parser.parse_args()
    if (args.checkpoint is None) == (args.write is None):
        parser.error("give either a checkpoint or --write OUT")

    if args.write:
        torch.manual_seed(args.seed)
        filters = (round(32 * args.width), round(64 * args.width))
        hidden = round((200 if args.small else 1024) * args.width)
        model = LeNet5(filters, hidden, kernel=3 if args.small else 5)
        save_file(model.state_dict(), args.write)
        print(f"{args.write}: a new LeNet5")
    else:
        state = load_file(args.checkpoint)
        model = LeNet5.shaped_like(state)
        model.load_state_dict(state, strict=True)
        print(f"{args.checkpoint}: loaded, {sum(p.numel() for p in model.parameters())} parameters")
    model.eval().requires_grad_(False)

    if args.mnist:
        x = read_idx(args.mnist, "t10k-images-idx3-ubyte")[: args.images, None].float() / 255
        y = read_idx(args.mnist, "t10k-labels-idx1-ubyte")[: args.images].long()
        clean = robust = 0
        for some_x, some_y in zip(x.split(250), y.split(250)):
            clean += (model(some_x).argmax(1) == some_y).sum().item()
            robust += (model(pgd(model, some_x, some_y)).argmax(1) == some_y).sum().item()
        print(f"clean {clean / len(x):.2%}, PGD-{STEPS} at eps {EPS} {robust / len(x):.2%}, of {len(x)} images")


if __name__ == "__main__":
    main()
