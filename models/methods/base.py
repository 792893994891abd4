"""What the methods share: an encoder a sensor, features of present samples, simulated absence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn


class EncoderFactory(Protocol):
    """What makes a method's encoders."""

    def __call__(self, channels: int, features: int, sensor: str | None = None) -> nn.Module:
        """Encoder of (N, T, channels) -> (N, features).

        Args:
            channels: C of its input.
            features: D of its output.
            sensor: whose steps and kind of encoder; None for one that all sensors share.

        Raises:
            ValueError: ``sensor`` is None and the sensors differ in steps or encoder.
        """


class Method(nn.Module):
    """One encoder a sensor. A method adds its heads and ``losses``.

    The interface: ``predict(sensor, x)`` gives (N, K) logits or (N, 1) standardised values from
    one sensor alone, ``embed(sensor, x)`` the (N, D) features that its head works on
    (``SingleSensor`` has both); ``losses(inputs, present, target, class_weights)`` gives scalars by
    name, ``total`` among them, and raises ValueError where no sensor has two samples.

    Targets are as ``models.losses.prediction_loss`` takes them: (N,) class indices, (N,) values, or
    (N, K) zeros and ones of labels that do not exclude each other.

    Attributes:
        OPTIONS: options of the method itself and their defaults.
        SINGLE_SENSOR: False for a fusion reference: it has no ``predict``; ``predict_all(inputs)``
            takes every sensor.
        REGRESSION: False where the method needs class probabilities.

    Args:
        make_encoder: (channels, features) -> encoder of (N, T, C) series.
        sensors: sensor key -> channels C.
        features: size of the features.
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    SINGLE_SENSOR: ClassVar[bool] = True
    REGRESSION: ClassVar[bool] = True

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], features: int
    ) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.encoder = nn.ModuleDict({s: make_encoder(c, features, s) for s, c in sensors.items()})

    def features(self, inputs: Mapping[str, Tensor], present: Tensor) -> dict[int, Tensor]:
        """Features (N_m, D) of the samples that have sensor m, for each usable sensor."""
        return {m: self.encoder[self.sensors[m]](inputs[self.sensors[m]][present[:, m]])
                for m in usable(present)}


class SingleSensor(Method):
    """A method whose head, one for all sensors or one for each, works on ``embed``."""

    head: nn.Module

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D): the features that the head works on."""
        return self.encoder[sensor](x)

    def predict(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, K) logits or (N, 1) standardised values; only this branch is run."""
        return self.predict_and_embed(sensor, x)[0]

    def predict_and_embed(self, sensor: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """``predict`` and ``embed`` in one pass through the encoder."""
        z = self.embed(sensor, x)
        return self.head_of(sensor)(z), z

    def head_of(self, sensor: str) -> nn.Module:
        """The sensor's own head, or the one of all."""
        return self.head[sensor] if isinstance(self.head, nn.ModuleDict) else self.head


def usable(present: Tensor) -> list[int]:
    """Sensors with the two samples that batch normalisation needs.

    Raises:
        ValueError: there is none.
    """
    found = [m for m in range(present.shape[1]) if int(present[:, m].sum()) >= 2]
    if not found:
        raise ValueError("a batch needs at least two samples of a sensor")
    return found


def spread(z: Mapping[int, Tensor], present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features side by side, for the samples that have any usable sensor.

    Args:
        z: per usable sensor m (N_m, D).
        present: (N, M).

    Returns:
        (R, M, D), zero where a sensor is absent; (R, M) bool: ``present`` without the sensors that
        are not usable; (R,) the number of the sample.
    """
    some = next(iter(z.values()))
    full = some.new_zeros(*present.shape, some.shape[1])
    has = torch.zeros_like(present)
    for m, part in z.items():
        full[present[:, m], m] = part
        has[:, m] = present[:, m]
    row = torch.nonzero(has.any(1)).squeeze(1)
    return full[row], has[row], row


def alone(z: Tensor, sensor: int, sensors: int) -> tuple[Tensor, Tensor]:
    """As ``spread`` gives it, when only one sensor was observed: (N, D) -> (N, M, D), (N, M)."""
    full = z.new_zeros(len(z), sensors, z.shape[1])
    full[:, sensor] = z
    has = torch.zeros(len(z), sensors, dtype=torch.bool, device=z.device)
    has[:, sensor] = True
    return full, has


def random_subset(has: Tensor) -> Tensor:
    """Simulated absence: of each sample's sensors a random number, at least one, at random.

    The number is uniform from 1 to what the sample has, then each choice of so many is equally
    likely.

    Args:
        has: (N, M) bool, at least one in a row.

    Returns:
        (N, M) bool, at least one in a row.
    """
    order = torch.rand(has.shape, device=has.device).masked_fill(~has, torch.inf)
    rank = order.argsort(1).argsort(1)  # absent sensors rank last
    count = has.sum(1, keepdim=True)
    keep = 1 + (torch.rand(len(has), 1, device=has.device) * count).long()
    return has & (rank < keep)


def pairs_of(z: Mapping[int, Tensor], present: Tensor) -> list[tuple[int, int, Tensor, Tensor]]:
    """Rows of the samples that have both, for each pair of usable sensors.

    Args:
        z: per usable sensor m something of length N_m; only its keys are used.
        present: (N, M).

    Returns:
        Per pair with at least two common samples (a, b, rows in z[a], rows in z[b]).
    """
    row = present.cumsum(0) - 1
    found, keys = [], list(z)
    for i, a in enumerate(keys):
        for b in keys[i + 1:]:
            both = present[:, a] & present[:, b]
            if int(both.sum()) >= 2:
                found.append((a, b, row[both, a], row[both, b]))
    return found


def head_mlp(features: int, outputs: int, dropout: float = 0.2) -> nn.Module:
    """One hidden layer with batch normalisation: the prediction head of Mena et al.'s methods."""
    return nn.Sequential(
        nn.Linear(features, features), nn.ReLU(), nn.BatchNorm1d(features), nn.Dropout(dropout),
        nn.Linear(features, outputs),
    )


def summed(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts and their plain sum as ``total``."""
    return {**parts, "total": torch.stack(list(parts.values())).sum()}


def mean(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean of scalars; zero (with no gradient) where a batch has none."""
    return torch.stack(list(terms)).mean() if terms else like.new_zeros(())
