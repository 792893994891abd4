"""Training on another device than the CPU, without having one: tensors on torch's ``meta`` device
have no values, but refuse to be mixed with the CPU's as those of a GPU do."""

from __future__ import annotations

import pytest
import torch

import models
from pipeline.learn.augment import Augmentation, Layout, thin
from pipeline.spec.card import SensorCard

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
