"""Checkpoints with random weights that use the place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

import models
from pipeline.data.checkpoints import save_checkpoint
from pipeline.spec.tasks import LFMC, Task
from tests.support.toy import sensor_card, toy_card

_MEAN = {"elevation": 500.0, "slope": 3.0}


def save_placed(folder: Path, kind: Task = LFMC) -> Path:
    """Write one with the place features of fuel moisture, whatever the task."""
    extra = {
        "static": LFMC.static, "static_mean": tuple(_MEAN.get(n, 0.3) for n in LFMC.static),
        "static_std": tuple(_MEAN.get(n, 0.9) / 3 for n in LFMC.static),
        "temperature": 0.1,  # random weights say little: let small differences be seen
    }
    card = toy_card(kind, {k: dataclasses.replace(sensor_card(kind, k), **extra)
                           for k in kind.features})
    card = dataclasses.replace(card, target_std=3000.0 * card.target_std)
    torch.manual_seed(1)
    module = models.build(card.method, card.encoder, card.options)
    save_checkpoint(folder, card, {k: v.numpy() for k, v in module.state_dict().items()})
    return folder
