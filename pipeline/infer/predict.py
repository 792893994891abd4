"""NumPy cube -> device -> NumPy predictions. One fixed batch shape, so that a pixel's value does
not depend on the tile that it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

import models
from models.domain import PREFIX, Domain
from pipeline.prep.features import cube_pixels, model_input
from pipeline.prep.place import place_rows
from pipeline.spec.card import CheckpointCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import BadRequest
from pipeline.spec.quality import QualityRules
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
        index: [Y, X] float32 dissimilarity to the training data (``models.domain``); NaN where
            there is no score, or the checkpoint cannot tell.
    """

    score: np.ndarray
    steps: np.ndarray
    index: np.ndarray


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
        self.rules = QualityRules.of(task, card)
        state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        try:
            own = {k: v for k, v in state.items() if not k.startswith(PREFIX)}
            _check_shapes(card, own)
            module = models.build(card.method, card.encoder, card.options)
            module.load_state_dict(own)
            domains = {k: _domain(state, k) for k in card.sensors
                       if self.rules.domain[k] is not None}
            for key, domain in domains.items():  # a domain of another network fails here
                some = torch.zeros(1, card.steps, card.sensors[key].channels)
                domain(module.eval().embed(key, some))  # type: ignore[operator]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BadRequest("the checkpoint's weights do not fit its card",
                             got=str(error)[:200],
                             then="train it again with python -m pipeline.train") from None
        self.module = module.eval().to(self.device)
        self.domains = {key: domain.to(self.device) for key, domain in domains.items()}

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
        index = np.full(wanted.size, np.nan, np.float32)
        months, card = np.array(cube.timeline.months), self.card.sensors[sensor]
        place = place_rows(cube.place, card.static, wanted.size) if card.static else None
        for start in range(0, use.size, BLOCK):
            rows = use[start : start + BLOCK]
            inputs = model_input(x[rows], valid[rows], months, cube.bands, card,
                                 None if place is None else place[rows])
            outputs, index[rows] = self.run(sensor, inputs)
            score[:, rows] = self._physical(sensor, outputs).T
        return Prediction(score.reshape(k, *wanted.shape), steps.reshape(wanted.shape),
                          index.reshape(wanted.shape))

    def run(self, sensor: str, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw outputs [N, K] (logits, or the standardised value) of model inputs [N, T, C], and
        their dissimilarity index [N]."""
        n = len(inputs)
        parts = []
        with torch.inference_mode():
            for start in range(0, n, BATCH):
                batch = inputs[start : start + BATCH]
                pad = BATCH - len(batch)
                if pad:
                    batch = np.concatenate([batch, np.zeros((pad, *batch.shape[1:]), np.float32)])
                both = self._forward(sensor, torch.from_numpy(batch).to(self.device))
                parts.append([part[: BATCH - pad].cpu().numpy() for part in both])
        if not parts:
            return np.empty((0, 1), np.float32), np.empty(0, np.float32)
        outputs, index = (np.concatenate(column) for column in zip(*parts, strict=True))
        return outputs, index

    def _forward(self, sensor: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and index of one batch; without a domain the features are not needed."""
        if (domain := self.domains.get(sensor)) is None:
            outputs = self.module.predict(sensor, x)  # type: ignore[operator]
            return outputs, x.new_full((len(x),), torch.nan)
        outputs, z = self.module.predict_and_embed(sensor, x)  # type: ignore[operator]
        return outputs, domain(z)

    def _physical(self, sensor: str, outputs: np.ndarray) -> np.ndarray:
        """[N, K] calibrated probabilities, or [N, 1] values in the task's unit."""
        if self.task.kind == "classification":
            return softmax(outputs / np.float32(self.card.sensors[sensor].temperature))
        return outputs * np.float32(self.card.target_std) + np.float32(self.card.target_mean)

    def encode(
        self, sensor: str, score: np.ndarray, steps: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes of ``map.tif``, ``confidence.tif`` and ``quality.tif``.

        Args:
            sensor: that made the score.
            score: [K, P] of a ``Prediction``, without NaN.
            steps: [P] steps with data.
            index: [P] dissimilarity index.

        Returns:
            [P] class codes and percent of the class's probability, or [P] values and half-widths
            of the 90 % interval, both in steps of ``task.scale``; [P] quality classes.
        """
        task = self.task
        if task.kind == "classification":
            codes = np.array([c.code for c in task.classes], task.dtype)
            percent = np.rint(100 * score.max(0)).astype(task.dtype)
            return codes[score.argmax(0)], percent, self.rules.codes(sensor, percent, steps, index)
        physical = np.clip(score[0], *task.valid_range)
        width = self.card.sensors[sensor].half_width(steps, physical)
        value = np.rint(physical / task.scale).astype(task.dtype)
        coded = np.clip(np.rint(width / task.scale), 0, task.nodata - 1).astype(task.dtype)
        return value, coded, self.rules.codes(sensor, width, steps, index)


def _domain(state: Mapping[str, torch.Tensor], sensor: str) -> Domain:
    """The training domain of a sensor, from a checkpoint's arrays."""
    own = f"{PREFIX}{sensor}."
    return Domain(**{k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})


def _check_shapes(card: CheckpointCard, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse a card whose network is not the one of the weights, before memory is taken for it."""
    with torch.device("meta"):
        wanted = models.build(card.method, card.encoder, card.options).state_dict()
    # NumPy makes a vector of a scalar
    shapes = {k: tuple(v.shape) or (1,) for k, v in wanted.items()}
    if wrong := [k for k in {*shapes, *state} if k not in state or k not in shapes
                 or (tuple(state[k].shape) or (1,)) != shapes[k]]:
        raise ValueError(f"{min(wrong)} is of another shape, or missing")


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
