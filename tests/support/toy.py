"""A small valid checkpoint without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

import models
from pipeline.data.checkpoints import save_checkpoint
from pipeline.spec.card import FEATURE_PATH, CheckpointCard, SensorCard
from pipeline.spec.tasks import Task, task

# level and spread of a feature: decibels, else reflectance and indices
LEVEL = {"vv": (-11.0, 4.0), "vh": (-18.0, 4.0), "vh_vv": (-7.0, 3.0)}
ACCEPTS = {
    "s1": ("gamma0-rtc", "sigma0"), "s2": ("l2a",), "l8": ("landsat-c2-sr", "landsat-c1-sr"),
}


def sensor_card(kind: Task, key: str, score: tuple[float, float] = (0.5, 0.9)) -> SensorCard:
    """A plausible entry of one sensor; its score grows linearly with the valid steps."""
    names = kind.features[key]
    levels = [LEVEL.get(n, (0.2, 0.2)) for n in names]
    return SensorCard(
        features=names, mean=tuple(m for m, _ in levels), std=tuple(s for _, s in levels),
        radiometry=ACCEPTS[key][0], accepts=ACCEPTS[key], coverage_steps=(0, kind.steps),
        coverage_score=score,
        coverage_half_width=() if kind.classes else (50.0, 20.0), temperature=2.0,
    )


def toy_card(kind: Task, sensors: dict[str, SensorCard] | None = None) -> CheckpointCard:
    """A card of that task, for all of its sensors unless told otherwise."""
    entries = sensors or {key: sensor_card(kind, key) for key in kind.features}
    card = CheckpointCard(
        name=f"toy-{kind.key}", task=kind.key, method="mdico", encoder="tempcnn", options={},
        feature_path=FEATURE_PATH, steps=kind.steps, sensors=entries,
        metric="weighted F1" if kind.classes else "R2", protocol="untrained", baselines={},
        data=(), sha256="", target_mean=0.0 if kind.classes else 100.0,
        target_std=1.0 if kind.classes else 30.0,
    )
    channels = {key: s.channels for key, s in entries.items()}
    options = {"sensors": channels, "steps": kind.steps,
               "outputs": len(kind.classes) or 1, "features": 8, "width": 8}
    return dataclasses.replace(card, options=options)


def untrained(kind: Task, card: CheckpointCard | None = None
              ) -> tuple[CheckpointCard, dict[str, np.ndarray]]:
    """Card and arrays of a network with random weights, whose training domain is around random
    input: of map pixels some lie in it and some do not."""
    card = card or toy_card(kind)
    torch.manual_seed(0)
    module = models.build(card.method, card.encoder, card.options).eval()
    arrays, entries = {k: v.numpy() for k, v in module.state_dict().items()}, {}
    for key, entry in card.sensors.items():
        with torch.inference_mode():
            z = module.embed(key, torch.randn(64, kind.steps, entry.channels))
        arrays[f"domain.{key}.prototypes"] = z.numpy()
        arrays[f"domain.{key}.scale"] = torch.pdist(z).mean().numpy()
        entries[key] = dataclasses.replace(entry, domain_threshold=0.6)
    return dataclasses.replace(card, sensors=entries), arrays


def save_untrained(folder: Path, key: str) -> Path:
    """Write a checkpoint with random weights; returns its folder."""
    save_checkpoint(folder, *untrained(task(key)))
    return folder
