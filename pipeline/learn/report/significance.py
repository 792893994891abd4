"""Is one method better than another in the same folds? Paired tests over cross-validation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """A method against a reference, both scored in the same J folds.

    Attributes:
        folds: J, over all repetitions.
        difference: mean of method minus reference; above zero = the method is better.
        p_t: two-sided, corrected resampled t-test (``corrected_t``).
        p_wilcoxon: two-sided, Wilcoxon signed-rank test. It takes the folds as independent, which
            folds that share training samples are not: too small rather than too large.
        wins: folds in which the method is better; a tie counts half.
        p_places: two-sided, paired permutation of places (``permutation.Places``), which takes the
            trained models as given; NaN where nothing was kept to permute.
    """

    folds: int
    difference: float
    p_t: float
    p_wilcoxon: float
    wins: float
    p_places: float = math.nan


def compare(method: np.ndarray, reference: np.ndarray, test_share: float) -> Comparison:
    """Compare two methods.

    Args:
        method: (J,) score of each fold, higher is better.
        reference: (J,) score of the other method in the same folds.
        test_share: test samples for each training sample, e.g. 1/9 in ten folds.
    """
    difference = np.asarray(method, float) - np.asarray(reference, float)
    if difference.size == 0:
        return Comparison(0, math.nan, math.nan, math.nan, 0.0)
    wins = float((difference > 0).sum() + 0.5 * (difference == 0).sum())
    return Comparison(difference.size, float(difference.mean()),
                      corrected_t(difference, test_share), wilcoxon(difference), wins)


def corrected_t(difference: np.ndarray, test_share: float) -> float:
    """Two-sided p of the corrected resampled t-test.

    Nadeau & Bengio 2003, doi:10.1023/A:1024068626366, section 3: the variance of the mean over J
    resamplings is (1/J + n_test/n_train) s^2, not s^2/J, since training sets overlap; t has J - 1
    degrees of freedom. For repeated cross-validation as in Bouckaert & Frank 2004,
    doi:10.1007/978-3-540-24775-3_3: J counts the folds of all repetitions.

    Args:
        difference: (J,) paired differences.
        test_share: n_test / n_train.

    Returns:
        p; NaN for fewer than two folds, 1 where nothing differs.
    """
    count = difference.size
    if count < 2:
        return math.nan
    if np.allclose(difference, 0, atol=1e-12):
        return 1.0
    error = math.sqrt((1 / count + test_share) * float(difference.var(ddof=1)))
    if error == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(float(difference.mean())) / error, count - 1))


def wilcoxon(difference: np.ndarray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test; NaN for fewer than two folds.

    Pratt's treatment of zeros: they rank, so that many ties do not look like evidence.
    """
    if difference.size < 2:
        return math.nan
    if np.allclose(difference, 0, atol=1e-12):
        return 1.0
    return float(stats.wilcoxon(difference, zero_method="pratt").pvalue)
