"""What a training run is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.learn.evaluate import Protocol
from pipeline.learn.outcomes import Evaluation
from pipeline.learn.recipe import Row
from pipeline.spec.card import CheckpointCard
from pipeline.spec.tasks import Task


@dataclass(frozen=True)
class TrainRequest:
    """What to train, validated.

    Attributes:
        task: what is predicted.
        samples: folders of sample sets.
        sensors: keys, in order; empty = all that the sets have.
        out: folder of the checkpoint.
        row: method, encoder, inputs and settings.
        protocol: of the evaluation.
        rivals: also score Individual and trees in the same folds.
        evaluate: False = scores come from the split that stops the training, which is optimistic.
        per_set: most samples of each set (0 = all), drawn at random.
        derive_l8: train l8 on band-pass adjusted s2 where there is no l8.
        notes: put on the card first.
        device: where networks are trained: ``cpu`` or ``cuda``.
        student: also train a small network that learns from the trained one (``learn.student``).
    """

    task: Task
    samples: tuple[Path, ...]
    sensors: tuple[str, ...]
    out: Path
    row: Row
    protocol: Protocol
    rivals: bool = True
    evaluate: bool = True
    per_set: int = 0
    derive_l8: bool = False
    notes: tuple[str, ...] = ()
    device: str = "cpu"
    student: bool = False


@dataclass(frozen=True)
class TrainReport:
    """The card as written, the evaluation behind it, and the same of the student."""

    card: CheckpointCard
    evaluation: Evaluation
    student: TrainReport | None = None
