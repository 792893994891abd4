"""What ``build`` takes: steps and encoders of single sensors, images, names, a toy rival."""

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from torch import nn

import models
from models import registry
from models.encoders.lstm import LSTM
from models.encoders.mlp import MLP
from models.encoders.resnet import ResNet18
from models.losses import prediction_loss
from models.methods.base import Method, summed
from tests.support.networks import ABSENT, FUSION, D, batch, losses, make

BASE = {"sensors": {"s1": 2, "s2": 3}, "steps": 4, "outputs": 2, "features": D}


def build(method="mdico", encoder="mlp", **more):
    torch.manual_seed(0)
    return models.build(method, encoder, {**BASE, **more})


# ---- names and options


@pytest.mark.parametrize(("change", "match"), [
    ({"wdth": 3}, "wdth"), ({"sensors": None}, "sensors"), ({"outputs": None}, "outputs"),
])
def test_unknown_and_missing_options_are_refused(change, match):
    given = {k: v for k, v in {**BASE, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=match):
        models.build("mdico", "tempcnn", given)


@pytest.mark.parametrize(("method", "encoder"), [("medico", "tempcnn"), ("mdico", "tempcnm")])
def test_unknown_names_are_refused(method, encoder):
    with pytest.raises(ValueError, match=r"mdico.*tempcnn"):
        models.build(method, encoder, BASE)
    with pytest.raises(ValueError, match=r"mdico.*tempcnn"):
        models.complete(encoder, BASE, method)


def test_complete_writes_every_default_down():
    assert models.complete("tempcnn", {}) == {
        "features": 128, "temperature": 0.07, "memory": 0, "width": 128, "layers": 2, "dense": 512,
        "kernel": 5, "dropout": 0.2, "projection_dropout": 0.2}
    full = models.complete("mlp", {"encoders": {"s1": "lstm", "s2": {"name": "lstm", "width": 4}}})
    own = {"name": "lstm", **LSTM.OPTIONS}
    assert full["encoders"] == {"s1": own, "s2": {**own, "width": 4}}
    assert models.complete("mlp", full) == full


def test_methods_without_a_single_sensor_or_a_regression_say_so():
    assert FUSION == ["mmgf", "inputfu"]
    assert not registry.single_sensor("omnisat")
    assert [m for m in registry.METHODS if not registry.regression(m)] == ["dml"]


# ---- steps


def test_steps_of_each_sensor():
    module = build(steps={"s1": 4, "s2": 7})
    x = {"s1": torch.randn(5, 4, 2), "s2": torch.randn(5, 7, 3)}
    module.losses(x, torch.ones(5, 2, dtype=torch.bool), torch.tensor([0, 1, 0, 1, 1]))
    assert [module.predict(s, x[s]).shape for s in x] == [(5, 2)] * 2


@pytest.mark.parametrize(("steps", "match"), [
    ({"s1": 4}, r"no steps of \['s2'\]"),
    ({"s1": 4, "s2": 4, "l8": 4}, r"steps of sensors that there are not: \['l8'\]"),
])
def test_steps_must_fit_the_sensors(steps, match):
    with pytest.raises(ValueError, match=match):
        build(steps=steps)


@pytest.mark.parametrize("method", ["shaspec", "inputfu"])
def test_a_shared_encoder_needs_the_same_steps_and_encoder(method):
    build(method, steps={"s1": 4, "s2": 4})
    with pytest.raises(ValueError, match=r"all sensors share.*s1: 4 of mlp, s2: 7 of mlp"):
        build(method, steps={"s1": 4, "s2": 7})
    with pytest.raises(ValueError, match=r"s2: 4 of lstm"):
        build(method, encoders={"s2": "lstm"})


# ---- encoders of single sensors


def test_an_encoder_of_its_own_with_options_of_its_own():
    module = build(encoders={"s2": {"name": "lstm", "width": 4}}, width=16)
    assert isinstance(module.common["s1"], MLP)
    assert isinstance(module.unique["s2"], LSTM)
    assert module.unique["s2"].recurrent.hidden_size == 4
    assert module.common["s1"].projection.in_features == 16


@pytest.mark.parametrize(("encoders", "match"), [
    ({"l8": "lstm"}, r"encoders of sensors that there are not: \['l8'\]"),
    ({"s2": "lstmm"}, "no encoder 'lstmm' for s2; there are tempcnn"),
    ({"s2": {"name": "lstm", "wdth": 4}}, r"unknown options \['wdth'\] of the encoder of s2"),
    ({"s2": {"width": 4}}, "no encoder None for s2"),
])
def test_overrides_that_cannot_be(encoders, match):
    with pytest.raises(ValueError, match=match):
        build(encoders=encoders)


def test_a_single_image_takes_a_resnet_and_a_series_of_images_does_not():
    shapes = {"aerial": (1, 4, 304, 304), "photo": (3, 64, 64), "s2": (150, 12, 6, 6),
              "s1": (12, 2), "dem": (1, 3), "point": (1, 3, 1, 1)}
    assert models.image_encoders(shapes) == {"aerial": "resnet50", "photo": "resnet50"}
    assert models.image_encoders(shapes, "resnet18")["aerial"] == "resnet18"


@pytest.mark.parametrize("method", [
    "mdico", "individual", "embracenet", "decur", "dml", "discom-kd", "fmoddrop", "fcom-av",
    "esensi", "mmgf", "mdico-unpaired",
])
def test_an_image_beside_a_series_of_small_images_with_several_labels(method):
    """TreeSatAI's shapes, smaller: every method that does not share an encoder learns from both."""
    torch.manual_seed(0)
    module = models.build(method, "mlp", {
        "sensors": {"aerial": 4, "s2": 10}, "steps": {"aerial": 1, "s2": 5}, "outputs": 3,
        "features": D, "width": 16, "encoders": {"aerial": "resnet18"}})
    inputs = {"aerial": torch.randn(4, 1, 4, 20, 20), "s2": torch.randn(4, 5, 10, 6, 6)}
    target = torch.randint(0, 2, (4, 3)).float()
    parts = module.losses(inputs, torch.ones(4, 2, dtype=torch.bool), target)
    parts["total"].backward()
    assert torch.isfinite(parts["total"])
    assert sum(isinstance(m, ResNet18) for m in module.modules()) >= 1
    if registry.single_sensor(method):
        assert [module.eval().predict(s, x).shape for s, x in inputs.items()] == [(4, 3)] * 2


@pytest.mark.parametrize("method", ["mdico", "shaspec", "inputfu"])
def test_small_images_are_averaged_or_side_by_side_as_the_channels_say(method):
    x = {"s1": torch.randn(5, 4, 2, 3, 3), "s2": torch.randn(5, 4, 3, 3, 3)}

    def output(module, inputs):
        module.eval()
        return (module.predict("s2", inputs["s2"]) if registry.single_sensor(method)
                else module.predict_all(inputs))

    averaged = build(method)
    torch.testing.assert_close(output(averaged, x),
                               output(averaged, {s: v.mean((3, 4)) for s, v in x.items()}))
    beside = build(method, sensors={"s1": 18, "s2": 27})
    torch.testing.assert_close(output(beside, x),
                               output(beside, {s: v.flatten(2) for s, v in x.items()}))


def test_a_network_can_be_copied_and_sent_to_another_process():
    module = build().eval()
    x = torch.randn(3, 4, 3)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other.predict("s2", x), module.predict("s2", x))


# ---- a rival of one's own


class Toy(Method):
    """One head on everything: the least that a rival needs."""

    OPTIONS: ClassVar = {"scale": 2.0}

    def __init__(self, make_encoder, sensors, outputs, features, *, scale):
        super().__init__(make_encoder, sensors, features)
        self.scale, self.head = scale, nn.Linear(features, outputs)

    def predict(self, sensor, x):
        return self.scale * self.head(self.encoder[sensor](x))

    def losses(self, inputs, present, target, class_weights=None):
        terms = [prediction_loss(target[present[:, m]], self.scale * self.head(z), class_weights)
                 for m, z in self.features(inputs, present).items()]
        return summed({"main": torch.stack(terms).sum()})


def test_a_new_rival_is_one_class_and_one_line(monkeypatch):
    monkeypatch.setitem(registry.METHODS, "toy", Toy)
    module = make("toy", scale=3.0, dropout=0.0, projection_dropout=0.0)
    assert module.scale == 3.0
    inputs, present, _ = batch(n=64)
    target = (inputs["s1"][:, 0, 0] > 0).long()
    inputs["s2"][:, 0, 0] = inputs["s1"][:, 0, 0]
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(40):
        optimiser.zero_grad()
        losses(module, inputs, present, target)["total"].backward()
        optimiser.step()
    module.eval()
    for sensor, x in inputs.items():
        assert (module.predict(sensor, x).argmax(1) == target).float().mean() > 0.9
    assert registry.complete("mlp", {}, "toy")["scale"] == 2.0
    with pytest.raises(ValueError, match="scale"):
        make("individual", scale=3.0)


@pytest.mark.parametrize("method", ABSENT)
def test_what_is_not_here_is_a_word_of_its_own(method):
    with pytest.raises(models.WeightsAbsent, match="its weights are not here; get them from"):
        make(method)
