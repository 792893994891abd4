"""The training loop: resident tensors, Adam, early stopping on rows that are not scored."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from pipeline.learn.augment import Augmentation, augmentations
from pipeline.learn.table import Tensors

_CHUNK = 4096  # rows a forward pass when nothing is learnt
_WARM_UP = 0.1  # share of the steps in which the one-cycle learning rate rises
VALIDATION = "validation"  # name of the validation loss in a history


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the paper's values where it gives one (section 4.3).

    Attributes:
        epochs: at most (the paper: 100).
        patience: epochs without a lower validation loss before stopping; 0 = never stop early
            and keep the last weights. The paper's 5 ends a network on few samples before it
            converged; 20 lets every method converge.
        batch: samples a step.
        lr: learning rate of Adam, the highest one where it changes.
        drop: share of samples that lose observations in an epoch (``learn.augment``).
        jitter: whether levels are shifted.
        haze: whether they are shifted more, and by haze (``learn.haze``).
        hide: share of samples whose place features are withheld in an epoch.
        blur: noise on the place features (``Augmentation.blur``).
        schedule: ``constant``, or ``cycle`` (linear warm-up, then half a cosine to zero).
        ema: decay per step of the averaged weights that are kept instead of the last; 0 = none.
        decay: decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).
        bf16: run the products in bfloat16 where the machine is quick at it.
    """

    epochs: int = 100
    patience: int = 20
    batch: int = 128
    lr: float = 1e-3
    drop: float = 0.5
    jitter: bool = True
    hide: float = 0.0
    blur: float = 0.0
    schedule: str = "constant"
    ema: float = 0.0
    decay: float = 0.0
    bf16: bool = False
    haze: bool = False


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes:
        module: in evaluation mode, with its best weights.
        epochs: that its weights took.
        loss: validation loss of these weights; NaN without validation rows.
        history: per loss its value in each epoch.
    """

    module: nn.Module
    epochs: int
    loss: float
    history: Mapping[str, list[float]] = field(default_factory=dict)


def fit(
    module: nn.Module, data: Tensors, sample: np.ndarray, train: np.ndarray,
    validate: np.ndarray | None, settings: Settings, seed: int,
    soft: Tensor | None = None,
) -> Fitted:
    """Train a network; with validation rows and patience, end with the weights of its best epoch.

    Args:
        module: with ``losses`` and ``predict`` or ``predict_all``; trained in place, on the device
            that the data is on.
        data: all rows.
        sample: (N,) sample number of each row: an epoch takes one random row of each sample.
        train: (N,) bool.
        validate: (N,) bool, or None to train exactly ``settings.epochs`` epochs.
        settings: of the training.
        seed: of order and augmentation.
        soft: (N, K) class probabilities that the targets of a batch are drawn from, instead of
            ``data.target``: in the mean, cross-entropy against them.
    """
    module.to(data.target.device)
    generator = torch.Generator().manual_seed(seed)
    augment = augmentations(data.cards, drop=settings.drop, jitter=settings.jitter,
                            hide=settings.hide, blur=settings.blur, haze=settings.haze)
    first, count = _windows(sample, train)
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.lr, fused=True,
                                  weight_decay=settings.decay)
    steps = settings.epochs * max(len(_batches(first, settings.batch)), 1)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, rates(settings.schedule, steps))
    kept = _Average(module, settings.ema)
    history: dict[str, list[float]] = defaultdict(list)
    best, best_epoch, weights = math.inf, settings.epochs, None
    for epoch in range(1, settings.epochs + 1):
        module.train()
        logged: dict[str, list[Tensor]] = defaultdict(list)
        offset = torch.floor(torch.rand(len(first), generator=generator) * count).long()
        rows = (first + offset)[torch.randperm(len(first), generator=generator)]
        for batch in _batches(rows, settings.batch):
            if not (data.present[batch].sum(0) > 1).any():
                continue  # no sensor has the two rows that batch normalisation needs
            losses = _losses(module, data, batch, augment, generator, settings, soft)
            optimiser.zero_grad(set_to_none=True)
            losses["total"].backward()
            optimiser.step()
            rate.step()
            kept.update(module)
            for name, value in losses.items():
                logged[name].append(value.detach())  # read once an epoch: reading waits for a GPU
        for name, values in logged.items():
            history[name].append(float(torch.stack(values).double().mean()))
        if validate is None:
            continue
        loss = validation_loss(kept.module(module), data, validate)
        history[VALIDATION].append(loss)
        if settings.patience == 0:
            continue
        if loss < best:
            best, best_epoch = loss, epoch
            weights = copy.deepcopy(kept.module(module).state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    module.load_state_dict(weights if weights is not None else kept.module(module).state_dict())
    module.eval()
    final = history[VALIDATION][best_epoch - 1] if history[VALIDATION] else math.nan
    return Fitted(module, best_epoch, final, dict(history))


def _losses(
    module: nn.Module, data: Tensors, batch: Tensor, augment: Mapping[str, Augmentation],
    generator: torch.Generator, settings: Settings, soft: Tensor | None,
) -> dict[str, Tensor]:
    inputs = {k: augment[k](x[batch], data.seen[k][batch], generator)
              for k, x in data.inputs.items()}
    target = data.target[batch]
    if soft is not None:
        target = torch.multinomial(soft[batch].cpu(), 1, generator=generator)[:, 0].to(target)
    with torch.autocast(target.device.type, torch.bfloat16, enabled=settings.bf16):
        return module.losses(  # type: ignore[operator]
            inputs, data.present[batch], target, data.class_weights
        )


def rates(schedule: str, steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at each step (``Settings.schedule``)."""
    if schedule == "constant":
        return lambda step: 1.0
    warm = max(1, round(_WARM_UP * steps))

    def cycle(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return cycle


class _Average:
    """Exponential moving average of weights and buffers (Polyak & Juditsky 1992); off at 0."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.copy = copy.deepcopy(module) if decay else None

    def update(self, module: nn.Module) -> None:
        if self.copy is None:
            return
        self.count += 1
        keep = min(self.decay, self.count / (self.count + 9))  # forget the first weights sooner
        mine, new = self.copy.state_dict(), module.state_dict()
        with torch.no_grad():
            for name, value in mine.items():
                if value.is_floating_point():
                    value.lerp_(new[name], 1 - keep)
                else:
                    value.copy_(new[name])

    def module(self, module: nn.Module) -> nn.Module:
        """The network whose weights count."""
        return module if self.copy is None else self.copy


def validation_loss(module: nn.Module, data: Tensors, rows: np.ndarray) -> float:
    """Mean over the sensors of the prediction loss (equation 7), nothing augmented.

    For a fusion reference the loss of its one prediction, on the rows that have all sensors.
    """
    losses = []
    for sensor in outputs_of(module, data):
        pick = pick_rows(data, rows, sensor)
        if len(pick):
            output = predict(module, data, sensor, pick)
            losses.append(float(prediction_loss(data.target[pick], output, data.class_weights)))
    return float(np.mean(losses)) if losses else math.nan


FUSED = "all"  # name of the prediction from all sensors together


def outputs_of(module: nn.Module, data: Tensors) -> tuple[str, ...]:
    """What the network predicts from: each sensor alone, or all together."""
    return (FUSED,) if hasattr(module, "predict_all") else tuple(data.inputs)


def pick_rows(data: Tensors, rows: np.ndarray, sensor: str) -> Tensor:
    """Numbers of the rows ((N,) bool) that have the sensor, or for ``FUSED`` all of them."""
    pick = torch.from_numpy(np.flatnonzero(rows)).to(data.present.device)
    if sensor == FUSED:
        return pick[data.present[pick].all(1)]
    return pick[data.present[pick, list(data.inputs).index(sensor)]]


def predict(
    module: nn.Module, data: Tensors, sensor: str, rows: Tensor
) -> Tensor:
    """(n, K) raw outputs for row numbers (n,): of one sensor's branch, or of ``FUSED``."""
    if sensor != FUSED:
        return predict_from(module, sensor, data.inputs[sensor][rows])
    module.eval()
    with torch.inference_mode():
        parts = [module.predict_all({k: x[part] for k, x in data.inputs.items()})  # type: ignore[operator]
                 for part in rows.split(_CHUNK)]
    return torch.cat(parts)


def predict_from(module: nn.Module, sensor: str, x: Tensor) -> Tensor:
    """(N, T, C) -> (N, K) raw outputs of one sensor's branch."""
    module.eval()
    with torch.inference_mode():
        return torch.cat([module.predict(sensor, part) for part in x.split(_CHUNK)])  # type: ignore[operator]


def arrays(module: nn.Module) -> Mapping[str, np.ndarray]:
    """Weights and buffers by name, as NumPy arrays."""
    return {k: v.detach().cpu().numpy() for k, v in module.state_dict().items()}


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
