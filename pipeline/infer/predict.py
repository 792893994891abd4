"""NumPy cube -> device -> NumPy predictions. One fixed batch shape, so that a pixel's value does
not depend on the tile that it came in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

import models
from pipeline.prep.features import cube_pixels, model_input
from pipeline.spec.card import CheckpointCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import BadRequest
from pipeline.spec.tasks import Task

# Pixels a batch. Small enough to stay in a core's cache (twice as fast as 16 384 there), and
# fixed: kernels choose their summation order by shape, so one shape gives one result.
BATCH = 1024
BLOCK = 64 * BATCH  # pixels whose model input is held at once


@dataclass(frozen=True)
class Prediction:
    """Predictions of one sensor over a window.

    Attributes:
        score: [K, Y, X] float32: calibrated class probabilities, or (K = 1) the value in the
            task's unit; NaN where the pixel was not wanted or has too few observations.
        steps: [Y, X] number of steps with data.
    """

    score: np.ndarray
    steps: np.ndarray


class Predictor:
    """A checkpoint on a device.

    Args:
        task: the task of the card.
        card: of the checkpoint.
        arrays: its weights by name.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BadRequest: the weights do not fit the card, or the device is not there.
    """

    def __init__(
        self, task: Task, card: CheckpointCard, arrays: Mapping[str, np.ndarray], device: str
    ) -> None:
        self.task, self.card, self.device = task, card, pick_device(device)
        try:
            module = models.build(card.method, card.encoder, card.options)
            state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
            module.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BadRequest("the checkpoint's weights do not fit its card",
                             got=str(error)[:200],
                             then="train it again with python -m pipeline.train") from None
        self.module = module.eval().to(self.device)
        self._forward: Callable[[str, torch.Tensor], torch.Tensor] = module.predict  # type: ignore[assignment]

    def __call__(self, sensor: str, cube: Cube, wanted: np.ndarray) -> Prediction:
        """Predict the wanted pixels of a cube from one sensor.

        Args:
            sensor: key; its branch alone is run.
            cube: of that sensor.
            wanted: [Y, X] bool.
        """
        x, valid = cube_pixels(cube)
        valid = valid & np.isfinite(x).all(-1)
        steps = valid.sum(1)
        use = np.flatnonzero(wanted.ravel() & (steps >= self.task.min_steps))
        k = len(self.task.classes) or 1
        score = np.full((k, wanted.size), np.nan, np.float32)
        months = np.array(cube.timeline.months)
        for start in range(0, use.size, BLOCK):
            rows = use[start : start + BLOCK]
            inputs = model_input(
                x[rows], valid[rows], months, cube.bands, self.card.sensors[sensor]
            )
            score[:, rows] = self._physical(sensor, self.outputs(sensor, inputs)).T
        return Prediction(score.reshape(k, *wanted.shape), steps.reshape(wanted.shape))

    def outputs(self, sensor: str, inputs: np.ndarray) -> np.ndarray:
        """Raw outputs [N, K] (logits, or the standardised value) of model inputs [N, T, C]."""
        n = len(inputs)
        parts = []
        with torch.inference_mode():
            for start in range(0, n, BATCH):
                batch = inputs[start : start + BATCH]
                pad = BATCH - len(batch)
                if pad:
                    batch = np.concatenate([batch, np.zeros((pad, *batch.shape[1:]), np.float32)])
                out = self._forward(sensor, torch.from_numpy(batch).to(self.device))
                parts.append(out[: BATCH - pad].cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    def _physical(self, sensor: str, outputs: np.ndarray) -> np.ndarray:
        """[N, K] calibrated probabilities, or [N, 1] values in the task's unit."""
        if self.task.kind == "classification":
            return softmax(outputs / np.float32(self.card.sensors[sensor].temperature))
        return outputs * np.float32(self.card.target_std) + np.float32(self.card.target_mean)

    def encode(
        self, sensor: str, score: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of ``map.tif`` and ``confidence.tif``.

        Args:
            sensor: that made the score.
            score: [K, P] of a ``Prediction``, without NaN.
            steps: [P] steps with data.

        Returns:
            [P] class codes and percent of the class's probability, or [P] values and half-widths
            of the 90 % interval, both in steps of ``task.scale``.
        """
        task = self.task
        if task.kind == "classification":
            codes = np.array([c.code for c in task.classes], task.dtype)
            return codes[score.argmax(0)], np.rint(100 * score.max(0)).astype(task.dtype)
        value = np.rint(np.clip(score[0], *task.valid_range) / task.scale).astype(task.dtype)
        entry = self.card.sensors[sensor]
        widths = np.array([entry.half_width_at(k) for k in range(self.card.steps + 1)])
        width = np.clip(np.rint(widths[steps] / task.scale), 0, task.nodata - 1)
        return value, width.astype(task.dtype)


def softmax(logits: np.ndarray) -> np.ndarray:
    """[N, K] probabilities of [N, K] logits, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def pick_device(name: str) -> torch.device:
    """The torch device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BadRequest: CUDA was asked for and is not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise BadRequest("no CUDA device is available", got=name, allowed="auto, cpu",
                         then="try --device cpu, or install a torch build with CUDA")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
