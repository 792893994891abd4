"""NumPy cube -> device -> NumPy predictions of the pixels that have enough observations."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

import models
from models.domain import PREFIX, Domain
from models.engine import branch_of, known
from models.kernels import Precision, fastest
from pipeline.infer.feed import Feed
from pipeline.infer.memory import keep_freed
from pipeline.prep.features import cube_planes, input_planes
from pipeline.prep.place import place_rows
from pipeline.spec.card import CheckpointCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import BadRequest
from pipeline.spec.quality import QualityRules
from pipeline.spec.request import DEVICES, Speed
from pipeline.spec.tasks import Task


@dataclass(frozen=True)
class Prediction:
    """Predictions of one sensor over a window.

    Attributes:
        score: [K, Y, X] float32: calibrated class probabilities, or (K = 1) the value in the
            task's unit; NaN where the pixel was not wanted or has too few observations.
        steps: [Y, X] number of steps with data.
        index: [Y, X] float32 dissimilarity to the training data (``models.domain``), infinite
            where the place is unknown and training always knew it; NaN where there is no score,
            or the checkpoint cannot tell.
    """

    score: np.ndarray
    steps: np.ndarray
    index: np.ndarray


class Halted(Exception):
    """Nobody waits for the prediction any more."""


class Predictor:
    """A checkpoint on a device.

    Args:
        task: the task of the card.
        card: of the checkpoint.
        arrays: its weights by name.
        device: ``auto``, ``cpu`` or ``cuda``.
        speed: ``exact`` computes in float32, everything else in what the device is best at.

    Attributes:
        precision: what its encoders compute in; float32 where the engine does not know them.
        halted: set it, and what is being predicted in other threads ends with ``Halted``.

    Raises:
        BadRequest: the weights do not fit the card, or the device is not there.
    """

    def __init__(
        self, task: Task, card: CheckpointCard, arrays: Mapping[str, np.ndarray], device: str,
        speed: Speed = "exact",
    ) -> None:
        keep_freed()
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
        native = all(known(module, key) for key in card.sensors)
        self.precision = precision_of(speed, device) if native else "float32"
        self.domains = {key: domain.to(self.device) for key, domain in domains.items()}
        self._feeds: dict[str, Feed] = {}
        self._lock = threading.Lock()
        self.halted = threading.Event()

    def feed(self, sensor: str) -> Feed:
        """A sensor's branch, set up when it is first used: a GPU's memory is for what is."""
        with self._lock:
            if sensor not in self._feeds:
                branch = branch_of(self.module, sensor, self.domains.get(sensor), self.precision)
                shape = (self.card.steps, self.card.sensors[sensor].channels)
                self._feeds[sensor] = Feed(branch, shape, self.device)
            return self._feeds[sensor]

    def __call__(self, sensor: str, cube: Cube, wanted: np.ndarray) -> Prediction:
        """Predict the wanted pixels of a cube from one sensor.

        Args:
            sensor: key; its branch alone is run.
            cube: of that sensor.
            wanted: [Y, X] bool.
        """
        x, valid = cube_planes(cube)
        valid = valid & np.isfinite(x).all(1)
        steps = valid.sum(0)
        use = np.flatnonzero(wanted.ravel() & (steps >= self.task.min_steps))
        k = len(self.task.classes) or 1
        score = np.full((k, wanted.size), np.nan, np.float32)
        index = np.full(wanted.size, np.nan, np.float32)
        months, card = np.array(cube.timeline.months), self.card.sensors[sensor]
        place = place_rows(cube.place, card.static, wanted.size) if card.static else None
        block = self.feed(sensor).block
        for start in range(0, use.size, block):
            if self.halted.is_set():
                raise Halted
            rows = use[start : start + block]
            planes = input_planes(x.take(rows, 2), valid.take(rows, 1), months, cube.bands, card,
                                  None if place is None else place[rows])
            outputs, index[rows] = self.run(sensor, planes.transpose(2, 0, 1))
            if card.static and card.place_needed:
                index[rows[planes[0, -1] == 0]] = np.inf  # of an unknown place
            score[:, rows] = self._physical(sensor, outputs).T
        return Prediction(score.reshape(k, *wanted.shape), steps.reshape(wanted.shape),
                          index.reshape(wanted.shape))

    def run(self, sensor: str, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw outputs [N, K] (logits, or the standardised value) of model inputs [N, T, C], and
        their dissimilarity index [N]."""
        return self.feed(sensor)(inputs)

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


def precision_of(speed: Speed, device: str) -> Precision:
    """What ``exact``, ``default`` or ``fast`` computes in on ``auto``, ``cpu`` or ``cuda`` here.

    Raises:
        BadRequest: see ``pick_device``.
    """
    return "float32" if speed == "exact" else fastest(pick_device(device))


def pick_device(name: str) -> torch.device:
    """The torch device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BadRequest: there is no such device, or CUDA was asked for and is not there.
    """
    if name not in DEVICES:
        raise BadRequest("unknown device", got=name, allowed=", ".join(DEVICES),
                         then="try --device auto")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise BadRequest("no CUDA device is available", got=name, allowed="auto, cpu",
                         then="try --device cpu, or install a torch build with CUDA")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
