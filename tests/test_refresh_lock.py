"""The lock of a refresh: one owner, dead owners are found out, killing anyone harms nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.refresh import lock as module
from pipeline.refresh.lock import LOCK, Busy, locked

HOLD = """
import sys, time
from pathlib import Path
from pipeline.refresh.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock of ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def owner(folder: Path) -> dict:
    return json.loads((folder / LOCK).read_text())


def forge(folder: Path, **fields: object) -> None:
    """Change the owner's record; its time of writing stays the present."""
    (folder / LOCK).write_text(json.dumps(owner(folder) | fields))


def test_the_owner_is_named_and_the_lock_goes_with_the_block(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b") as held:
        told = owner(tmp_path / "a" / "b")
        assert (told["host"], told["pid"]) == (socket.gethostname(), os.getpid())
        assert told["boot"]
        assert told["start"]
        assert told["heartbeat"].endswith("+00:00")
        held.check()
    assert not (tmp_path / "a" / "b" / LOCK).exists()
    with pytest.raises(RuntimeError, match="inside"), locked(tmp_path):
        raise RuntimeError("inside")
    assert not (tmp_path / LOCK).exists()


def test_a_second_run_leaves_with_the_owner_named_and_code_3(tmp_path: Path, holder) -> None:
    before = (tmp_path / LOCK).read_bytes()
    with pytest.raises(Busy, match=f"process {holder.pid} on {socket.gethostname()}") as caught, \
            locked(tmp_path):
        pytest.fail("two owners")
    assert caught.value.exit_code == 3
    assert (tmp_path / LOCK).read_bytes() == before  # the second run took nothing with it


def test_a_killed_owner_is_found_out_at_once(tmp_path: Path, holder) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path) as held:
        assert owner(tmp_path)["pid"] == os.getpid()
        held.check()
    assert not (tmp_path / LOCK).exists()


def test_a_second_run_waits_for_the_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    inside, leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with locked(tmp_path):
            inside.set()
            leave.wait(30)
            order.append("first leaves")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    threading.Timer(0.1, leave.set).start()
    with locked(tmp_path, wait_s=30):
        order.append("second enters")
    thread.join()
    assert order == ["first leaves", "second enters"]


@pytest.mark.parametrize(("fields", "dead"), [
    ({"start": "1"}, True),  # another process with that number
    ({"boot": "another"}, True),  # the machine was started anew
    ({"host": "elsewhere", "start": "1"}, False),  # cannot be looked at from here
    ({"space": "pid:[1]", "start": "1"}, False),  # another container
    ({}, False),
])
def test_who_counts_as_dead(tmp_path: Path, holder, fields: dict, dead: bool) -> None:
    forge(tmp_path, **fields)
    if dead:
        with locked(tmp_path):
            assert owner(tmp_path)["pid"] == os.getpid()
    else:
        with pytest.raises(Busy), locked(tmp_path):
            pytest.fail("two owners")


def test_a_silent_owner_elsewhere_is_dead_by_the_disks_clock(tmp_path: Path, holder) -> None:
    forge(tmp_path, host="elsewhere", heartbeat="2099-01-01T00:00:00+00:00")
    past = time.time() - module.STALE_S - 5
    os.utime(tmp_path / LOCK, (past, past))
    with locked(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()


def test_the_heart_beats(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    with locked(tmp_path):
        first = (tmp_path / LOCK).stat().st_ino
        end = time.monotonic() + 30
        while (tmp_path / LOCK).stat().st_ino == first and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / LOCK).stat().st_ino != first  # written anew
        assert owner(tmp_path)["pid"] == os.getpid()


def test_an_owner_whose_lock_was_taken_notices_and_leaves_it_alone(tmp_path: Path) -> None:
    with locked(tmp_path) as held:
        forge(tmp_path, token="of another", host="elsewhere")
        with pytest.raises(Busy, match="taken over"):
            held.check()
    assert owner(tmp_path)["token"] == "of another"


def test_a_damaged_lock_file_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text('{"token": "abc')
    with locked(tmp_path) as held:
        held.check()


def test_many_at_once_are_one_after_the_other(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.005)
    inside, most, entered = [0], [0], []

    def enter(number: int) -> None:
        with locked(tmp_path, wait_s=60):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            entered.append(number)
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=enter, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert sorted(entered) == list(range(6))
