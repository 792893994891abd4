"""Training on another device than the CPU, without having one: tensors on torch's ``meta`` device
have no values, but refuse to be mixed with the CPU's as those of a GPU do. And ``--device``."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import models
from pipeline import cli, evaluate
from pipeline import train as train_command
from pipeline.learn import campaign as campaigns
from pipeline.learn import student
from pipeline.learn.augment import Augmentation, Layout, thin
from pipeline.learn.recipe import parse_row
from pipeline.spec.card import SensorCard
from tests.support.evaluation import fake_cell, toy_campaign, toy_table

CARD = SensorCard(
    features=("vv", "vh", "vh_vv"), mean=(-11.0, -18.0, -7.0), std=(2.0, 2.0, 1.0),
    radiometry="sigma0", accepts=("sigma0",), coverage_steps=(4,), coverage_score=(0.0,),
    static=("elevation",), static_mean=(500.0,), static_std=(100.0,),
)


def test_the_stand_in_refuses_to_mix_devices() -> None:
    with pytest.raises(RuntimeError, match="device cpu"):
        torch.ones(3, device="meta") + torch.rand(3)


@pytest.mark.parametrize("shape", [(5, 4, CARD.channels), (5, 4, CARD.channels, 3, 3)])
def test_augmentation_stays_on_the_device_of_its_input(shape: tuple[int, ...]) -> None:
    augment = Augmentation.of("s1", CARD, drop=0.5, jitter=True, hide=0.5, blur=0.5)
    generator = torch.Generator().manual_seed(1)
    x = torch.ones(shape, device="meta")
    seen = torch.ones(shape[:2], dtype=torch.bool, device="meta")
    got = augment(x, seen, generator)
    few = thin(x, seen, Layout.of(CARD), torch.full((5,), 2), generator)
    assert (got.device.type, few.device.type) == ("meta", "meta")
    assert got.shape == few.shape == shape


@pytest.mark.parametrize("encoder", ["tempcnn", "mlp", "lstm", "transformer", "convtran"])
def test_encoders_train_where_their_weights_are(encoder: str) -> None:
    module = models.build("mdico", encoder, {
        "sensors": {"s1": 5}, "steps": 4, "outputs": 3}).to("meta").train()
    z = module.encode("s1", torch.ones(6, 4, 5, device="meta"))
    assert {part.device.type for part in z} == {"meta"}


@pytest.mark.parametrize("method", ["mdico", "individual", "decur", "dml", "discom-kd", "fcom-av"])
def test_losses_and_gradients_stay_on_the_device(method: str) -> None:
    module = models.build(method, "tempcnn", {
        "sensors": {"s1": 5, "l8": 6}, "steps": 4, "outputs": 3}).to("meta").train()
    inputs = {"s1": torch.ones(6, 4, 5, device="meta"), "l8": torch.ones(6, 4, 6, device="meta")}
    present = torch.ones(6, 2, dtype=torch.bool)  # decides what is computed: needs its values
    target = torch.zeros(6, dtype=torch.long, device="meta")
    losses = module.losses(inputs, present, target, torch.ones(3, device="meta"))
    losses["total"].backward()
    assert {v.device.type for v in losses.values()} == {"meta"}


# ---- --device

COMMANDS = {
    "train": (train_command.command, ["--task", "lfmc", "--samples", "none", "--out", "none"]),
    "evaluate": (evaluate.command, ["--benchmark", "lfmc", "--out", "none"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command, arguments = COMMANDS[name]
    for device, words in (("gpu", "unknown device; got 'gpu'; allowed: auto, cpu, cuda"),
                          ("cuda", "no CUDA device is available")):
        assert cli.run(command, [*arguments, "--device", device]) == 2
        assert words in capsys.readouterr().err


def test_cells_are_trained_on_the_device_and_are_others_there(tmp_path, monkeypatch) -> None:
    used = []

    def cell(table, split, row, *, features, device):
        used.append(device)
        return fake_cell(table, split, row, features=features)

    monkeypatch.setattr(campaigns, "run_cell", cell)
    here = toy_campaign(tmp_path)
    there = dataclasses.replace(here, device="cuda")
    for campaign in (here, there, there):
        campaigns.run(campaign)
    assert used == ["cpu"] * len(here.work()) + ["cuda"] * len(there.work())


def test_teachers_are_trained_on_the_device(monkeypatch) -> None:
    used = []
    monkeypatch.setattr(student, "train_row", lambda *a, device: used.append(device))
    row = parse_row("mdico")
    student.School(row, student.Lesson(), "cuda").teacher(toy_table(), row, None, "site", 0)
    assert used == ["cuda"]
