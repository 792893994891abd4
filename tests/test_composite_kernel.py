"""Composite kernels against NumPy in float64, over any stack, gaps, passes and scaling."""

from __future__ import annotations

import itertools
import warnings
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prep.composite import mean, median, median_of_numbers, strips
from pipeline.prep.network import as_codes, as_values, bits_where, middle_two, network, sort
from tests.support.composites import composite

U16 = np.dtype(np.uint16)
QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def stacks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N, Y, X] stored numbers with their ends, many equal ones; where they are gaps; passes."""
    n, h, w = draw(st.integers(1, 13)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    most = draw(st.sampled_from([3, 200, 65535]))
    numbers = rng.integers(0, most, (n, h, w), endpoint=True).astype(np.uint16)
    numbers[rng.random(numbers.shape) < 0.05] = 65535
    gaps = rng.random(numbers.shape) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    passes = rng.integers(0, n, n) if draw(st.booleans()) else rng.permutation(n)
    return numbers, gaps, passes


def by_pass(values: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """[P, Y, X]: of each pass the first that is there, pixel by pixel, the slow way."""
    out = []
    for number in sorted(set(passes.tolist())):
        pixel = np.full(values.shape[1:], np.nan, values.dtype)
        for image in values[passes == number]:
            pixel = np.where(np.isnan(pixel), image, pixel)
        out.append(pixel)
    return np.stack(out)


def plain(rule: str, values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of pixels without a value
        return getattr(np, rule)(values.astype(np.float64), axis=0)


@QUICK
@given(stacks(), st.sampled_from([(1e-4, 0.0), (1e-4, -0.1), (2.75e-5, -0.2)]))
def test_the_median_of_stored_numbers(
    stack: tuple[np.ndarray, np.ndarray, np.ndarray], scaling: tuple[float, float]
) -> None:
    """To float32 rounding that of float64; bit for bit that of the scaled values."""
    numbers, gaps, passes = stack
    scale, offset = (np.float32(v) for v in scaling)
    values = numbers * scale + offset
    values[gaps] = np.nan
    single = by_pass(values, passes)
    got, count = median_of_numbers(numbers, bits_where(gaps, U16), passes, scale, offset)
    np.testing.assert_allclose(got, plain("nanmedian", single), rtol=2e-7, atol=1e-9)
    np.testing.assert_array_equal(count, np.isfinite(single).sum(0))
    again, same = median(values, passes)
    np.testing.assert_array_equal(got.view(np.uint32), again.view(np.uint32))
    np.testing.assert_array_equal(count, same)


@QUICK
@given(stacks())
def test_the_mean_is_summed_in_float64(stack: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    numbers, gaps, passes = stack
    values = np.where(gaps, np.nan, numbers / 7 - 90).astype(np.float32)
    single = by_pass(values, passes)
    got, count = mean(values, passes)
    np.testing.assert_array_equal(got, plain("nanmean", single).astype(np.float32))
    np.testing.assert_array_equal(count, np.isfinite(single).sum(0))


@QUICK
@given(stacks(), st.integers(1, 4))
def test_strips_and_steps_do_not_matter(
    stack: tuple[np.ndarray, np.ndarray, np.ndarray], n_steps: int
) -> None:
    numbers, gaps, passes = stack
    values = np.where(gaps, np.nan, numbers / 7).astype(np.float32)
    steps = np.arange(len(passes)) % n_steps
    rules: dict[Literal["optical", "sar"], str] = {"optical": "nanmedian", "sar": "nanmean"}
    for kind, rule in rules.items():
        got, count = composite(values, steps, passes, n_steps + 1, kind)
        for step in set(steps.tolist()):
            single = by_pass(values[steps == step], passes[steps == step])
            np.testing.assert_allclose(got[step], plain(rule, single), rtol=1e-6)
            np.testing.assert_array_equal(count[step], np.isfinite(single).sum(0))
        assert np.isnan(got[n_steps]).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (513, 511), (3, 40_000), (0, 5)])
def test_strips_cover_all_rows_once(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape[0], int)
    for rows in strips(shape):
        seen[rows] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("n", range(1, 12))
def test_networks_sort(n: int) -> None:
    """The 0-1 principle: what sorts all zeros and ones sorts everything."""
    bits = np.array(list(itertools.product((0, 1), repeat=n)), np.uint16).T
    rows = [row.copy() for row in bits]
    sort(rows, tuple(range(n)))
    np.testing.assert_array_equal(rows, np.sort(bits, axis=0))
    for place in range(n):
        rows = [row.copy() for row in bits]
        sort(rows, (place,))
        np.testing.assert_array_equal(rows[place], np.sort(bits, axis=0)[place])
        assert len(network(n, (place,))) <= len(network(n, tuple(range(n))))


@pytest.mark.parametrize("n", range(1, 9))
def test_gaps_leave_the_middle_where_it_is(n: int) -> None:
    """All patterns of gaps, with the lowest and the highest number among the values."""
    patterns = np.array(list(itertools.product((False, True), repeat=n))).T
    pool = np.array([0, 65535, 7, 7, 65535, 0, 12, 3], np.uint16)[:n]
    codes = [np.full(patterns.shape[1], v, np.uint16) for v in pool]
    low, high = middle_two(codes, [bits_where(p, U16) for p in patterns])
    for at, pattern in enumerate(patterns.T):
        left = np.sort(pool[~pattern])
        if left.size:
            assert (low[at], high[at]) == (left[(left.size - 1) // 2], left[left.size // 2])


def test_codes_keep_the_order_of_values() -> None:
    values = np.array([-np.inf, -3e38, -1.5, -1e-45, 0, 1e-45, 2e-3, 1, 3e38, np.inf], np.float32)
    codes = as_codes(values)
    assert (np.diff(codes.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(as_values(codes), values)
    low, high = as_codes(np.array([-0.0, 0.0], np.float32))
    assert low < high


def test_images_are_not_written_into() -> None:
    """They may be blocks that others hold."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 9, (5, 4, 4)).astype(np.uint16)
    gaps = bits_where(numbers == 0, U16)
    for array in (numbers, gaps):
        array.flags.writeable = False
    for passes in (np.arange(5), np.array([0, 0, 1, 1, 1])):
        median_of_numbers(numbers, gaps, passes, np.float32(1), np.float32(0))
        values = numbers.astype(np.float32)
        values.flags.writeable = False
        median(values, passes)
        mean(values, passes)
