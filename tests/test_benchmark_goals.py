"""The suite's last table says of each goal whether its figure meets it."""

from __future__ import annotations

from tests.benchmarks import goals
from tests.benchmarks.__main__ import numbers
from tests.benchmarks.reading import COMPOSITE, LOOK


def test_goals_are_met_missed_or_not_measured() -> None:
    results = {
        "stages": {"runs": [{"sensor": "s1", "ratio": 1.2}, {"sensor": "s2", "ratio": 1.3}]},
        "peer": {"sensors": {"s1": {"usual": {"wall": 9.0}, "ours": {"wall": 2.0}}}},
        "reading": {"sensors": {"s2": {"rows": {COMPOSITE: {"cpu": 3.0}, LOOK: {"cpu": 2.0}}}}},
        "cluster": {"killed": {"bit_identical": False}},
        "scale": {"runs": [{"sensor": "s1", "tiles": t, "peak_mib": p, "ms_per_tile": ms}
                           for t, p, ms in ((16, 1700, 90), (100, 2000, 100), (1089, 2561, 111))]},
    }
    said = {line[:64].strip(): line[64:].split()
            for line in goals.lines(dict(numbers(results)))}
    assert said["whole run: times its slowest stage, s1"] == ["1.2", "<=", "1.25", "met"]
    assert said["whole run: times its slowest stage, s2"] == ["1.3", "<=", "1.25", "MISSED"]
    assert said["the usual way: times ours, s1"] == ["4.5", ">=", "3", "met"]
    assert said["cluster: one of two killed, bit-identical"] == ["0", ">=", "1", "MISSED"]
    assert said["cluster: two workers of one"] == ["-", "not", "measured"]
    assert said["peak memory, MiB: s1, 100 tiles"][-1] == "met"
    assert said["peak memory, MiB: s1, 1089 tiles"][-1] == "MISSED"
    assert said["time of a tile: s1, 1089 tiles of 100"] == ["1.11", "0.9..1.1", "MISSED"]
    assert "time of a tile: s1, 100 tiles of 16" not in said
    assert said["composite: times a bare look at the same memory, s2"] == ["1.5"]
