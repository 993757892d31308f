#!/usr/bin/env python3
"""Replays a wide ResNet's reference case with the PyTorch step that is timed, and prints their differences.

Our tests replay the same case on our devices, so both sides of the comparison are shown to compute the same step. The
exit code is 1 if the step differs by more than single precision allows (the bounds of `tests/reference_cases/mma.rs`).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mma_step import CLEAN_COEFF, SEARCH_STEPS, Step, Work, images, sgd
from wide_resnet import standardized

CASES = Path(__file__).resolve().parents[2] / "tests/reference"
CASE = "mma-wide_resnet-linf-mma.safetensors"


def mix(x):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def signed(seed, shape):
    """Counter-based random numbers in [-1, 1): the case's noise."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    k = mix((i + seed * 0x9E3779B9) & 0xFFFFFFFF) >> 8
    return (k * 2.0**-23 - 1).float().reshape(shape)


class Replayed(Step):
    """The step with the case's noise at the correct examples in place of random numbers."""

    def start(self, x, eps):
        return (x + images(eps) * self.noise[self.correct]).clamp(0, 1) - x


def main():
    with safe_open(CASES / CASE, "pt") as file:
        said = file.metadata()
    case = load_file(CASES / CASE)
    work = Work(
        network=lambda: standardized(int(said["depth"]), int(said["widen"])),
        image=(3, 32, 32),
        batch=len(case["step0.labels"]),
        hinge_maxeps=float(said["hinge_max_eps"]),
        mineps=float(said["min_eps"]),
        attack_steps=int(said["attack_steps"]),
        optimizer=sgd,
        last_scale=1.0,
        last="1.fc",
    )
    step = Replayed(work, "eager", lr=float(said["lr"]))
    weights = {name: value.float() for name, value in load_file(CASES / said["weights"].removeprefix("file:")).items()}
    missing, unknown = step.model.load_state_dict(weights, strict=False)
    assert not unknown and all(name.endswith("num_batches_tracked") for name in missing), (missing, unknown)

    table, worst = {}, 0.0
    for k, seed in enumerate(said["noise"].split(",")):
        for after, rate in json.loads(said["lr_at"]).items():
            step.optimizer.param_groups[0]["lr"] = rate if k >= int(after) else float(said["lr"])
        part = {name: case[f"step{k}.{name}"] for name in ("images", "labels", "index", "right", "eps")}
        step.x, step.y = part["images"].float() / 255, part["labels"].long()
        step.margins = torch.tensor([table.get(int(i), 0.0) for i in part["index"]])
        step.noise = signed(int(seed.removeprefix("hash:")), step.x.shape)
        step.mma_step()
        table.update({int(i): float(eps) for i, eps in zip(part["index"], step.margins)})

        halving = work.max_eps * 0.5**SEARCH_STEPS
        eps_off = ((step.margins - part["eps"]).abs() / halving)[part["right"] == 1].sort().values
        differ = int((step.correct != part["right"].bool()).sum())
        clean = abs(float(step.clean_loss) / float(case[f"step{k}.clean_loss"]) - 1)
        margin = abs(float(step.margin_loss) / (1 - CLEAN_COEFF) / float(case[f"step{k}.mma_loss"]) - 1)
        most = float(eps_off[int(len(eps_off) * 0.75)]) if len(eps_off) else 0.0
        print(f"step {k}: {differ} examples differ in correctness; clean loss {clean:.1e}, margin loss {margin:.1e} "
              f"(relative); eps of three quarters within {most:.2g} search steps")
        allowed = (0, 1e-6, 0.1, 2.0) if k == 0 else (1, 0.1, 0.1, float("inf"))
        worst = max([worst, *(found > bound for found, bound in zip((differ, clean, margin, most), allowed))])
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
