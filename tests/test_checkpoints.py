"""Checkpoints: round trip, damage of every kind, names, nothing half-written."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data import checkpoints
from pipeline.data.checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from pipeline.infer.predict import Predictor
from pipeline.spec.card import CheckpointCard, SensorCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.tasks import task

S1 = SensorCard(("vv", "vh"), (-10.0, -17.0), (3.0, 3.5), "sigma0", ("sigma0", "gamma0-rtc"),
                (1, 12), (0.6, 0.8), temperature=1.3, score=0.8, score_std=0.02)
CARD = CheckpointCard(
    name="tiny", task="cropland", method="mdico", encoder="tempcnn",
    options={"sensors": {"s1": 5}, "steps": 12, "outputs": 2}, feature_path="1", steps=12,
    sensors={"s1": S1}, metric="weighted F1", protocol="none", baselines={"x": {"s1": 0.5}},
    data=({"name": "made up", "rows": 3},), sha256="", notes=("a note",),
)
ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
          "b.num_batches_tracked": np.array(7, dtype=np.int64)}


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "tiny", CARD, ARRAYS)
    return tmp_path / "tiny"


def test_round_trip(saved):
    card, arrays = load_checkpoint(saved)
    assert card == replace(CARD, sha256=card.sha256)
    assert len(card.sha256) == 64
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(arrays[name], value)
    assert sorted(p.name for p in saved.iterdir()) == ["card.json", "model.safetensors"]


def test_either_file_names_its_checkpoint(saved):
    for name in ("model.safetensors", "card.json"):
        assert find_checkpoint(saved / name) == saved


def test_a_truncated_model_is_refused(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(BadRequest, match="truncated or replaced"):
        load_checkpoint(saved)


def test_a_model_of_another_card_is_refused(saved, tmp_path):
    save_checkpoint(tmp_path / "other", CARD, {"a.weight": np.zeros(3, np.float32)})
    os.replace(tmp_path / "other" / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(BadRequest, match="not the file of its card"):
        load_checkpoint(saved)


def test_a_pickle_is_refused_even_with_its_sha_on_the_card(saved):
    import hashlib
    import pickle

    raw = pickle.dumps({"a": 1})
    (saved / "model.safetensors").write_bytes(raw)
    card = json.loads((saved / "card.json").read_text())
    card["sha256"] = hashlib.sha256(raw).hexdigest()
    (saved / "card.json").write_text(json.dumps(card))
    with pytest.raises(BadRequest, match="not a safetensors file"):
        load_checkpoint(saved)


@pytest.mark.parametrize(("change", "match"), [
    ({"feature_path": "0"}, "another feature path"),
    ({"schema": 99}, "another schema"),
    ({"surprise": 1}, "missing or unknown fields"),
])
def test_a_foreign_card_is_refused(saved, change, match):
    path = saved / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadRequest, match=match):
        load_checkpoint(saved)


def test_a_card_that_is_not_json_is_refused(saved):
    (saved / "card.json").write_bytes(b"\xff\x00{")
    with pytest.raises(BadRequest, match="is not JSON"):
        load_checkpoint(saved)


def test_a_missing_model_is_refused(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(BadRequest, match="cannot be read"):
        load_checkpoint(saved)


@pytest.mark.parametrize("limit", ["MAX_WEIGHTS", "MAX_CARD"])
def test_oversized_files_are_refused_before_they_are_read(saved, monkeypatch, limit):
    monkeypatch.setattr(checkpoints, limit, 10)
    with pytest.raises(BadRequest, match="too large"):
        load_checkpoint(saved)


def test_names_are_folders_of_the_store(saved, monkeypatch):
    monkeypatch.setattr(checkpoints, "STORE", saved.parent)
    assert checkpoints.checkpoint_names() == ("tiny",)
    assert load_checkpoint("tiny")[0].name == "tiny"
    with pytest.raises(BadRequest, match=r"no such checkpoint.*'tyni'.*tiny"):
        load_checkpoint("tyni")
    with pytest.raises(BadRequest, match="no such checkpoint"):
        load_checkpoint("../" + saved.parent.name + "/no")


def test_a_failed_write_leaves_the_old_checkpoint_whole(saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadRequest, match="No space left"):
        save_checkpoint(saved, CARD, {"a.weight": np.ones(3, np.float32)})
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_an_interrupted_write_leaves_the_old_checkpoint_whole(saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, CARD, {"a.weight": np.ones(3, np.float32)})
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "file" / "below", CARD, ARRAYS)


def test_a_score_that_is_not_a_number_is_never_written(tmp_path):
    bad = replace(CARD, sensors={"s1": replace(S1, score=float("nan"))})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(tmp_path / "tiny", bad, ARRAYS)
    assert not (tmp_path / "tiny" / "card.json").exists()


@pytest.mark.parametrize("name", checkpoints.checkpoint_names())
def test_shipped_checkpoints_load_fit_their_card_and_are_small(name):
    card, arrays = load_checkpoint(name)
    predictor = Predictor(task(card.task), card, arrays, "cpu")
    assert set(predictor.domains) == set(card.sensors)  # it can say what it has not seen
    assert card.name == name
    assert (checkpoints.STORE / name / "model.safetensors").stat().st_size < 12e6
    assert min(len(card.baselines), len(card.data), len(card.notes), len(card.protocol)) > 0
    for sensor, s in card.sensors.items():
        assert card.options["sensors"][sensor] == s.channels
        assert 0 < s.score < 1
