"""Runs AutoAttack's authors' program (`pyautoattack`, PyTorch, on the CPU) on a LeNet5 checkpoint of this project.

`standard` prints, as a JSON line, the clean accuracy and the robust accuracy after each attack of the standard
version, in its order, on the first test images of a folder of IDX files. `both` compares this with `maxmargin evaluate
--attack autoattack` for each of several seeds: the images that only one program finds an adversarial image for, and
the mean robust accuracies of both over the seeds.

`points` runs `cargo bench --bench auto_attack`, in which this project's APGD and FAB start at the image, then the
authors' from the same images. It compares the results: the numbers of adversarial images, the images that only one
program finds one for, the distances between the points, and the lengths of the smallest changes.

    benches/peers/auto_attack.py both CHECKPOINT --images 500 --norm linf --eps 0.3 --seeds 0 1 2 3
    benches/peers/auto_attack.py both CHECKPOINT --dataset mnist --data data/mnist --images 500 --norm l2 --eps 2.0
    benches/peers/auto_attack.py points CHECKPOINT --images 200 --norm l2 --eps 2.0
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import torch
from pyautoattack import AutoAttack
from safetensors import safe_open
from safetensors.torch import load_file

from lenet5 import LeNet5
from load_state_dict import read_idx

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
NORMS = {"linf": "Linf", "l2": "L2"}
TARGETS = 9


def network(checkpoint):
    state = load_file(checkpoint)
    model = LeNet5.shaped_like(state)
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def test_images(folder, n):
    """First test images and their labels, of MNIST or of the bundled digits."""
    names = ("t10k", "test")
    prefix = next((p for p in names if any(folder.glob(f"{p}-images-idx3-ubyte*"))), names[0])
    x = read_idx(folder, f"{prefix}-images-idx3-ubyte")[:n, None].float() / 255
    return x, read_idx(folder, f"{prefix}-labels-idx1-ubyte")[:n].long()


def length(norm, change):
    change = change.flatten(1)
    return change.abs().amax(1) if norm == "linf" else change.norm(dim=1)


def program(model, args, seed):
    return AutoAttack(model, norm=NORMS[args.norm], eps=args.eps, seed=seed, version="standard", device="cpu")


def authors_standard(args, seed):
    """Runs each attack on the images that the attacks before it left robust, so that each has its own time."""
    model = network(args.checkpoint)
    x, y = test_images(args.data, args.images)
    right = model(x).argmax(1) == y
    result = {"norm": args.norm, "eps": args.eps, "images": len(x), "seed": seed}
    result["clean"] = round(right.float().mean().item(), 6)
    result["after"], result["seconds"] = {}, {}
    authors = program(model, args, seed)
    result["broken_by"] = broken_by = ["" if r else "clean" for r in right.tolist()]
    for attack in ATTACKS:
        start = time.time()
        left = right.nonzero().flatten()
        if len(left):
            authors.attacks_to_run = [attack]
            adv, _ = authors.run_standard_evaluation(x[left], y[left], batch_size=args.batch)
            assert (length(args.norm, adv - x[left]) <= args.eps * (1 + 1e-5)).all(), f"{attack} left the ball"
            still = model(adv).argmax(1) == y[left]
            for i in left[~still].tolist():
                broken_by[i] = attack
            right[left] = still
        result["after"][attack] = round(right.float().mean().item(), 6)
        result["seconds"][attack] = round(time.time() - start, 1)
    return result


def our_standard(args, seed, maxmargin):
    """Result of `maxmargin evaluate` in the form of `authors_standard`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [maxmargin, "evaluate", args.checkpoint.resolve(), "--quiet", "--out", folder]
        command += ["--dataset", args.dataset, "--norm", args.norm, "--eps", str(args.eps), "--attack", "autoattack"]
        command += ["--test-size", str(args.images), "--threads", str(args.threads), "--seed", str(seed)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((Path(folder) / "evaluation.json").read_text())
        with open(Path(folder) / "images.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    wrong = lambda row: "clean" if row["clean_prediction"] != row["label"] else row["broken_by"]
    result = {"clean": found["clean_accuracy"] / 100, "after": {}, "seconds": {}}
    result["broken_by"] = [wrong(row) for row in rows]
    left = result["clean"]
    for attack in found["robust"][0]["attacks"]:
        left -= attack["broken"] / len(rows)
        result["after"][attack["name"]] = round(left, 6)
        result["seconds"][attack["name"]] = round(attack["seconds"], 1)
    return result


def standard(args):
    for seed in args.seeds:
        result = authors_standard(args, seed)
        if not args.each:
            del result["broken_by"]
        print(json.dumps(result), flush=True)


def both(args):
    subprocess.run(["cargo", "build", "--quiet", "--release"], cwd=ROOT, check=True)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        # A copy, so that every seed runs the same build.
        maxmargin = shutil.copy(ROOT / "target/release/maxmargin", folder)
        for seed in args.seeds:
            ours, theirs = our_standard(args, seed, maxmargin), authors_standard(args, seed)
            differ = [
                {"image": i, "ours": a, "theirs": b}
                for i, (a, b) in enumerate(zip(ours.pop("broken_by"), theirs.pop("broken_by")))
                if bool(a) != bool(b)
            ]
            runs.append({"theirs": theirs, "ours": ours, "broken_by_one_alone": differ})
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    mean = {
        who: {a: round(fmean(run[who]["after"][a] for run in runs), 6) for a in ATTACKS}
        for who in ("ours", "theirs")
    }
    print(json.dumps({"runs": runs, "mean_after": mean}))


def compared(norm, x, y, model, ours, theirs):
    """Compares the results of two programs on the same images, all of which are classified correctly."""
    broken = [model(adv).argmax(1) != y for adv in (ours, theirs)]
    apart = (ours - theirs).abs()
    lengths = [length(norm, adv - x) for adv in (ours, theirs)]
    both = broken[0] & broken[1]
    ratio = (lengths[0] / lengths[1].clamp_min(1e-12))[both]
    return {
        "broken_ours": broken[0].float().mean().item(),
        "broken_theirs": broken[1].float().mean().item(),
        "broken_by_one_alone": (broken[0] != broken[1]).float().mean().item(),
        "pixels_within_1e-5": (apart <= 1e-5).float().mean().item(),
        "images_within_1e-4": (apart.flatten(1).amax(1) <= 1e-4).float().mean().item(),
        "median_length_ours": lengths[0][broken[0]].median().item() if broken[0].any() else None,
        "median_length_theirs": lengths[1][broken[1]].median().item() if broken[1].any() else None,
        "median_length_ratio": ratio.median().item() if both.any() else None,
    }


def apgd(attack, x, y):
    attack.init_hyperparam(x)
    best, right, _, adversarial = attack.attack_single_run(x, y, x_init=x)
    return torch.where(right.view(-1, 1, 1, 1) == 0, adversarial, best)


def points(args):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "points.safetensors"
        command = ["cargo", "bench", "--quiet", "--bench", "auto_attack", "--", "--out", out]
        command += ["--weights", args.checkpoint.resolve(), "--dataset", args.dataset, "--images", str(args.images)]
        command += ["--norm", args.norm, "--eps", str(args.eps), "--threads", str(args.threads)]
        subprocess.run(command, cwd=ROOT, check=True)
        tensors = load_file(out)
        with safe_open(out, "pt") as file:
            metadata = file.metadata()
    model = network(args.checkpoint)
    # The file has channels last.
    image = lambda name: tensors[name].permute(0, 3, 1, 2).contiguous()
    x, y = image("x"), tensors["labels"].long()
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    authors = program(model, args, args.seeds[0])
    authors.apgd.n_restarts = authors.apgd_targeted.n_restarts = 1
    ranked = model(x).sort(dim=1)[1]
    result = {"norm": args.norm, "eps": args.eps, "images": len(right), "right": len(x)}
    seconds = {"ours": {k.removesuffix(".seconds"): float(v) for k, v in metadata.items() if k.endswith(".seconds")}}
    seconds["theirs"] = {}

    def timed(name, found):
        start = time.time()
        theirs = found()
        seconds["theirs"][name] = seconds["theirs"].get(name, 0) + time.time() - start
        return theirs

    for name, loss in (("apgd-ce", "ce"), ("apgd-dlr", "dlr")):
        authors.apgd.loss = loss
        theirs = timed(name, lambda: apgd(authors.apgd, x, y))
        result[name] = compared(args.norm, x, y, model, image(f"{name}.0")[right], theirs)
    nearest = [torch.full([len(x)], torch.inf) for _ in range(2)]
    for run in range(TARGETS):
        authors.apgd_targeted.y_target = ranked[:, -(run + 2)]
        theirs = timed("apgd-t", lambda: apgd(authors.apgd_targeted, x, y))
        result[f"apgd-t.{run}"] = compared(args.norm, x, y, model, image(f"apgd-t.{run}")[right], theirs)
        authors.fab.target_class = run + 2
        theirs = timed("fab-t", lambda: authors.fab.attack_single_run(x, y, use_rand_start=False, is_targeted=True))
        ours = image(f"fab-t.{run}")[right]
        result[f"fab-t.{run}"] = compared(args.norm, x, y, model, ours, theirs)
        for who, adv in enumerate((ours, theirs)):
            found = torch.where(model(adv).argmax(1) != y, length(args.norm, adv - x), torch.inf)
            nearest[who] = torch.minimum(nearest[who], found)
    theirs = timed("fab", lambda: authors.fab.attack_single_run(x, y, use_rand_start=False, is_targeted=False))
    result["fab"] = compared(args.norm, x, y, model, image("fab.0")[right], theirs)
    ratio = nearest[0] / nearest[1]
    result["fab-t nearest"] = {
        "median_ours": nearest[0].median().item(),
        "median_theirs": nearest[1].median().item(),
        "images_within_1_percent": ((ratio - 1).abs() <= 0.01).float().mean().item(),
        "within_eps_ours": (nearest[0] <= args.eps).float().mean().item(),
        "within_eps_theirs": (nearest[1] <= args.eps).float().mean().item(),
    }
    result["seconds"] = seconds
    print(json.dumps(result, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("standard", "both", "points"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--norm", choices=NORMS, default="linf")
    parser.add_argument("--eps", type=float, help="default 0.3 in linf, 2.0 in l2")
    parser.add_argument("--images", type=int, default=500, help="number of test images (default 500)")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "src/data/digits", help="standard, both: folder of IDX files"
    )
    parser.add_argument("--each", action="store_true", help="standard: print the successful attack of each image, too")
    parser.add_argument("--dataset", default="digits", help="both, points: digits or mnist (default digits)")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each (default 0); points: the first")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.eps = args.eps or (0.3 if args.norm == "linf" else 2.0)
    torch.set_num_threads(args.threads)
    {"standard": standard, "both": both, "points": points}[args.what](args)


if __name__ == "__main__":
    main()
