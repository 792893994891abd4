"""The training loop: resident tensors, Adam, early stopping on rows that are not scored."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from pipeline.learn.augment import augmentations
from pipeline.learn.table import Tensors

_CHUNK = 4096  # rows a forward pass when nothing is learnt


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the paper's values where it gives one (section 4.3).

    Attributes:
        epochs: at most (the paper: 100).
        patience: epochs without a lower validation loss before stopping. The paper's 5 ends a
            network on few samples before it converged; 20 lets every method converge.
        batch: samples a step.
        lr: learning rate of Adam.
        drop: share of samples that lose observations in an epoch (``learn.augment``).
        jitter: whether levels are shifted.
    """

    epochs: int = 100
    patience: int = 20
    batch: int = 128
    lr: float = 1e-3
    drop: float = 0.5
    jitter: bool = True


@dataclass(frozen=True)
class Fitted:
    """A trained network: ``epochs`` that its weights took, its validation loss (NaN if none)."""

    module: nn.Module
    epochs: int
    loss: float


def fit(
    module: nn.Module, data: Tensors, sample: np.ndarray, train: np.ndarray,
    validate: np.ndarray | None, settings: Settings, seed: int,
) -> Fitted:
    """Train a network; with validation rows, end with the weights of its best epoch.

    Args:
        module: with ``predict`` and ``losses``; trained in place.
        data: all rows.
        sample: (N,) sample number of each row: an epoch takes one random row of each sample.
        train: (N,) bool.
        validate: (N,) bool, or None to train exactly ``settings.epochs`` epochs.
        settings: of the training.
        seed: of order and augmentation.
    """
    generator = torch.Generator().manual_seed(seed)
    augment = augmentations(data.cards, drop=settings.drop, jitter=settings.jitter)
    first, count = _windows(sample, train)
    optimiser = torch.optim.Adam(module.parameters(), lr=settings.lr)
    best, best_epoch, weights = float("inf"), settings.epochs, None
    for epoch in range(1, settings.epochs + 1):
        module.train()
        offset = torch.floor(torch.rand(len(first), generator=generator) * count).long()
        rows = (first + offset)[torch.randperm(len(first), generator=generator)]
        for batch in _batches(rows, settings.batch):
            if not (data.present[batch].sum(0) > 1).any():
                continue  # no sensor has the two rows that batch normalisation needs
            inputs = {k: augment[k](x[batch], generator) for k, x in data.inputs.items()}
            losses = module.losses(  # type: ignore[operator]
                inputs, data.present[batch], data.target[batch], data.class_weights
            )
            optimiser.zero_grad(set_to_none=True)
            losses["total"].backward()
            optimiser.step()
        if validate is None:
            continue
        loss = validation_loss(module, data, validate)
        if loss < best:
            best, best_epoch = loss, epoch
            weights = copy.deepcopy(module.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    if weights is not None:
        module.load_state_dict(weights)
    module.eval()
    return Fitted(module, best_epoch, best if validate is not None else float("nan"))


def validation_loss(module: nn.Module, data: Tensors, rows: np.ndarray) -> float:
    """Mean over the sensors of the prediction loss (equation 7), nothing augmented."""
    losses = []
    for m, sensor in enumerate(data.inputs):
        pick = torch.from_numpy(np.flatnonzero(rows))
        pick = pick[data.present[pick, m]]
        if len(pick):
            output = predict(module, sensor, data.inputs[sensor][pick])
            losses.append(float(prediction_loss(data.target[pick], output, data.class_weights)))
    return float(np.mean(losses))


def predict(module: nn.Module, sensor: str, x: Tensor) -> Tensor:
    """(N, T, C) -> (N, K) raw outputs of one sensor's branch."""
    module.eval()
    with torch.inference_mode():
        parts = [module.predict(sensor, x[k : k + _CHUNK])  # type: ignore[operator]
                 for k in range(0, len(x), _CHUNK)]
    return torch.cat(parts)


def arrays(module: nn.Module) -> Mapping[str, np.ndarray]:
    """Weights and buffers by name, as NumPy arrays."""
    return {k: v.detach().numpy() for k, v in module.state_dict().items()}


def _windows(sample: np.ndarray, train: np.ndarray) -> tuple[Tensor, Tensor]:
    """First row and number of rows of each training sample.

    Raises:
        ValueError: the rows of a sample are not neighbours.
    """
    rows = np.flatnonzero(train)
    _, start, own, count = np.unique(
        sample[rows], return_index=True, return_inverse=True, return_counts=True
    )
    if (rows - rows[start][own] >= count[own]).any():
        raise ValueError("the rows of a sample are not neighbours")
    return torch.from_numpy(rows[start]), torch.from_numpy(count)


def _batches(rows: Tensor, size: int) -> list[Tensor]:
    """Batches of an epoch. A small rest is left out: its statistics would be noise (a single row
    has none), and the next epoch is in another order."""
    parts = list(rows.split(size))
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < max(size // 2, 2) else parts
