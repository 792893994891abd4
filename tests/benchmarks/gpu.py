"""The predict stage on a GPU beside its matrix peak and its bus; says so where there is none.

    python -m tests.benchmarks.gpu [--rounds N] [--json FILE]

Of the paper's network and of the shipped one: the network alone on inputs that are on the device;
from inputs in the machine's memory to outputs there, with the transfers, which should hide behind
it (``hidden`` is the share of the time that the network alone takes); and the whole stage, from a
composite to codes. Percent of peak are by nominal operations and the best square product in the
same precision.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.engine import branch_of
from models.flops import flops
from models.kernels import Precision, fastest
from pipeline.data.checkpoints import load_checkpoint
from pipeline.infer.feed import Feed
from pipeline.infer.predict import Predictor
from pipeline.infer.profile import machine
from pipeline.spec.tasks import task
from tests.benchmarks.network import paper, stage

SENSOR, STEPS = "s2", 12
SIZES = {"cuda": (4096, 8192, 16_384), "cpu": (256, 512)}  # of square products
TRANSFER_BYTES = 1 << 28
BATCHES = 8  # that go through at once
SIDE_PX = 1024  # of the composite


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args(argv)
    found: dict[str, Any] = {"machine": machine(), "gpu": None}
    if torch.cuda.is_available():
        device = torch.device("cuda")
        found["gpu"] = {"name": torch.cuda.get_device_name(device)} | measure(device, args.rounds)
        print("\n".join(rows(found["gpu"])))
    else:
        print("gpu: no CUDA device here, nothing to measure")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


def measure(device: torch.device, rounds: int, side: int = SIDE_PX) -> dict[str, Any]:
    """All figures of a device."""
    precision = fastest(device)
    card, arrays = load_checkpoint("cropland")
    predictor = Predictor(task(card.task), card, arrays, device.type, "default")
    entry = card.sensors[SENSOR]
    whole = seconds(stage(predictor, SENSOR, side), device, rounds)
    peak = product_rate(device, precision, rounds)
    return {
        "precision": precision, "peak_tflops": peak / 1e12, "bus": bus(device, rounds),
        "networks": {
            "paper": network(paper(), 14, device, precision, peak, rounds),
            "cropland": network(predictor.module, entry.channels, device, precision, peak, rounds),
        },
        "stage": {"pixels_per_s": side**2 / whole},
    }


def seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median time of a call and of all that it started; the first two calls warm up."""
    took = []
    for _ in range(rounds + 2):
        _wait(device)
        begun = time.perf_counter()
        run()
        _wait(device)
        took.append(time.perf_counter() - begun)
    return float(np.median(took[2:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, precision: Precision, rounds: int) -> float:
    """FLOP/s of the best square product."""
    rates = []
    for n in SIZES[device.type]:
        a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, precision))
                for _ in range(2))
        rates.append(2 * n**3 / seconds(lambda a=a, b=b: a @ b, device, rounds))
    return max(rates)


def bus(device: torch.device, rounds: int) -> dict[str, float]:
    """GB/s to the device and back, from and into pinned memory."""
    here = torch.empty(TRANSFER_BYTES // 4, pin_memory=device.type == "cuda")
    there = torch.empty_like(here, device=device)
    return {"to_gb_per_s": TRANSFER_BYTES / 1e9 / seconds(
                lambda: there.copy_(here, non_blocking=True), device, rounds),
            "from_gb_per_s": TRANSFER_BYTES / 1e9 / seconds(
                lambda: here.copy_(there, non_blocking=True), device, rounds)}


def network(
    module: nn.Module, channels: int, device: torch.device, precision: Precision, peak: float,
    rounds: int,
) -> dict[str, float]:
    """One network alone, and with its transfers."""
    module = module.eval().to(device)
    feed = Feed(branch_of(module, SENSOR, None, precision), (STEPS, channels), device)
    x = torch.randn(feed.batch, STEPS, channels, device=device)
    nominal = flops(module, SENSOR, x[:1])

    def alone() -> None:
        with torch.inference_mode():
            feed.slots[0].replay() if feed.slots else feed.branch(x)

    planes = np.random.default_rng(0).normal(size=(STEPS, channels, BATCHES * feed.batch))
    inputs = planes.astype(np.float32).transpose(2, 0, 1)  # as the stage gives them
    rate = feed.batch / seconds(alone, device, rounds)
    through = len(inputs) / seconds(lambda: feed(inputs), device, rounds)
    return {"mflop_a_pixel": nominal / 1e6, "batch": feed.batch, "pixels_per_s": rate,
            "of_peak": rate * nominal / peak, "with_transfers_pixels_per_s": through,
            "hidden": through / rate}


def rows(found: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    to, back = (found["bus"][k] for k in ("to_gb_per_s", "from_gb_per_s"))
    lines = [f"{found['name']}, {found['precision']}: {found['peak_tflops']:.0f} TFLOP/s, bus "
             f"{to:.1f} GB/s there, {back:.1f} back"]
    lines += [f"{name:<10}{n['pixels_per_s']:>14,.0f} px/s alone, {n['of_peak']:.0%} of peak"
              f"{n['with_transfers_pixels_per_s']:>14,.0f} px/s with transfers, "
              f"{n['hidden']:.0%} hidden" for name, n in found["networks"].items()]
    return [*lines, f"{'stage':<10}{found['stage']['pixels_per_s']:>14,.0f} px/s from a composite "
                    "to codes"]


if __name__ == "__main__":
    raise SystemExit(main())
