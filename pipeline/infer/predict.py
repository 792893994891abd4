"""NumPy cube -> device -> encoded NumPy tile. One fixed batch shape, so that a pixel's value does
not depend on the tile that it came in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

import models
from pipeline.prep.features import CONTEXT, cube_pixels, model_input
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
    """Encoded predictions of the P pixels asked for.

    Attributes:
        value: [P] codes of ``map.tif``.
        confidence: [P] codes of ``confidence.tif``: percent of the calibrated class probability,
            or the half-width of the 90 % interval in steps of ``task.scale``.
        ok: [P] bool, the pixel had enough observations to be predicted.
    """

    value: np.ndarray
    confidence: np.ndarray
    ok: np.ndarray


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

        Returns:
            Prediction of the ``wanted.sum()`` pixels, row by row.
        """
        x, valid = cube_pixels(cube)
        pick = np.flatnonzero(wanted.ravel())
        x, valid = x[pick], valid[pick] & np.isfinite(x[pick]).all(-1)
        ok = valid.sum(1) >= self.task.min_steps
        value = np.full(pick.size, self.task.nodata, self.task.dtype)
        confidence = np.full(pick.size, self.task.nodata, self.task.dtype)
        use = np.flatnonzero(ok)
        months = np.array(cube.timeline.months)
        for start in range(0, use.size, BLOCK):
            rows = use[start : start + BLOCK]
            inputs = model_input(
                x[rows], valid[rows], months, cube.bands, self.card.sensors[sensor]
            )
            outputs = self.outputs(sensor, inputs)
            value[rows], confidence[rows] = self._encode(sensor, outputs, valid[rows].sum(1))
        return Prediction(value, confidence, ok)

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

    def _encode(
        self, sensor: str, outputs: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of map and confidence from raw outputs and the number of valid steps."""
        task, entry = self.task, self.card.sensors[sensor]
        if task.kind == "classification":
            probability = softmax(outputs / np.float32(entry.temperature))
            codes = np.array([c.code for c in task.classes], task.dtype)
            percent = np.rint(100 * probability.max(1)).astype(task.dtype)
            return codes[outputs.argmax(1)], percent
        physical = outputs[:, 0] * self.card.target_std + self.card.target_mean
        value = np.rint(np.clip(physical, *task.valid_range) / task.scale).astype(task.dtype)
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


def input_channels(card: CheckpointCard) -> dict[str, int]:
    """Channels of each sensor's model input, as ``models.build`` wants them."""
    return {key: len(s.features) + len(CONTEXT) for key, s in card.sensors.items()}
