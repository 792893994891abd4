"""The benchmark of precisions judges by the score of all held-out rows together."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.spec.tasks import CROPLAND
from tests.benchmarks.precision import _Held


def test_folds_are_scored_together_and_a_single_fold_beside() -> None:
    """A row that one fold wins and the other loses moves no pooled score, but each fold's."""
    held, sure = _Held([], [], []), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    target = np.array([0, 1, 0, 1])
    wrong = sure.copy()
    wrong[0] = 0.0, 1.0
    held.add(target, wrong, sure)
    held.add(target, sure, wrong)
    found = held.figures(CROPLAND)
    assert (found["rows"], found["folds"]) == (8, 2)
    assert found["moved_by"] == 0
    assert found["largest_change_of_a_fold"] == pytest.approx(1 - 11 / 15)
    assert found["agree"] == 6 / 8
