"""Cells made in several processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.learn.campaign import run
from pipeline.spec.errors import DataTrouble
from tests.support.evaluation import dying_cell, fake_cell, refusing_cell, toy_campaign


def test_workers_make_the_same_cells_as_one_process(tmp_path):
    many = run(toy_campaign(tmp_path / "a", "individual,esensi", seeds=1), jobs=2,
               train=refusing_cell)
    one = run(toy_campaign(tmp_path / "b", "individual,esensi", seeds=1), train=refusing_cell)
    assert many.empty == one.empty == {("esensi", "tempcnn"): "made-up trouble"}
    assert len(many.done) == len(one.done) == 4
    for a, b in zip(many.done, one.done, strict=True):
        np.testing.assert_array_equal(a.cell.found["s1"].raw, b.cell.found["s1"].raw)


def test_a_killed_worker_ends_the_run_with_advice_and_keeps_what_is_finished(tmp_path):
    campaign = toy_campaign(tmp_path, "individual,mdico", seeds=1)
    with pytest.raises(DataTrouble, match="fewer --jobs"):
        run(campaign, jobs=2, train=dying_cell)
    assert any(tmp_path.glob("*.npz"))
    left = run(campaign, train=fake_cell)
    assert len(left.done) == 8
    assert 4 <= left.trained < 8


def alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_run_leaves_its_cells_and_no_workers(tmp_path):
    code = ("from pathlib import Path\n"
            "from tests.support.evaluation import slow_cell, toy_campaign\n"
            "from pipeline.learn.campaign import run\n"
            "if __name__ == '__main__':\n"
            "    run(toy_campaign(Path('cells'), 'mdico', seeds=1), jobs=2, train=slow_cell)\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path,
                               env={**os.environ, "PYTHONPATH": root})
    until = time.monotonic() + 120
    while len(workers := list(tmp_path.glob("worker-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    process.wait()
    pids = [int(p.name.partition("-")[2]) for p in workers]
    assert len(pids) == 2
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, pids))
    outcome = run(toy_campaign(tmp_path / "cells", "mdico", seeds=1), train=fake_cell)
    assert (len(outcome.done), outcome.trained) == (4, 2)
