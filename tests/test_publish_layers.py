"""Layers: what the codes of a sheet's five files mean."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.spec.layers import Layer, layers_of, sensor_layer
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import CROPLAND, LFMC, TASKS, MapClass


def test_files_of_a_classification() -> None:
    mapped, confidence, sensor, observations, quality = layers_of(CROPLAND)
    assert [layer.name for layer in layers_of(CROPLAND)] == [
        "map", "confidence", "sensor", "observations", "quality",
    ]
    assert (mapped.dtype, mapped.nodata, mapped.kind) == ("uint8", 255, "classes")
    assert {c.code: c.name for c in mapped.classes} == {0: "other", 1: "cropland"}
    assert (confidence.dtype, confidence.nodata, confidence.scale, confidence.unit) == (
        "uint8", 255, 1.0, "%",
    )
    assert (sensor.dtype, sensor.nodata) == ("uint8", 255)
    assert (observations.dtype, observations.nodata) == ("uint16", 65535)
    assert (quality.dtype, quality.nodata) == ("uint8", 255)
    assert {c.code: c.name for c in quality.classes} == {
        0: "none", 1: "good", 2: "low confidence", 3: "few observations",
        4: "outside the training domain",
    }
    assert len({c.colour for c in quality.classes}) == 5


def test_files_of_a_regression() -> None:
    mapped, confidence, *_ = layers_of(LFMC)
    assert (mapped.dtype, mapped.nodata, mapped.kind) == ("uint16", 65535, "values")
    assert (mapped.scale, mapped.offset, mapped.unit) == (0.1, 0.0, "%")
    assert (confidence.dtype, confidence.scale, confidence.nodata) == ("uint16", 0.1, 65535)


def test_sensor_codes_are_those_of_the_sensor_table() -> None:
    layer = sensor_layer()
    assert {c.name: c.code for c in layer.classes} == {
        "none": 0, **{s.key: s.code for s in SENSORS.values()},
        "s1+s2": 19, "s1+l8": 21, "s2+l8": 22, "s1+s2+l8": 23,  # 16 + a bit a sensor
    }
    assert len({c.colour for c in layer.classes}) == len(layer.classes)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.key)
def test_no_code_is_nodata(task) -> None:
    for layer in layers_of(task):
        assert layer.nodata not in {c.code for c in layer.classes}


def test_a_class_cannot_be_nodata() -> None:
    with pytest.raises(ValueError, match="nodata 1 is the code of a class"):
        layers_of(dataclasses.replace(CROPLAND, nodata=1))


_ONE = (MapClass(0, "a", (0, 0, 0)),)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dtype": "float32"}, "unsigned"),
        ({"dtype": "uint16"}, "wants uint8"),
        ({"nodata": 256}, "nodata 256"),
        ({"nodata": -1}, "nodata -1"),
        ({"classes": ()}, "has 0 classes"),
        ({"kind": "values"}, "has 1 classes"),
        ({"classes": (*_ONE, *_ONE)}, "distinct"),
        ({"classes": (MapClass(300, "a", (0, 0, 0)),)}, "distinct"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(change: dict, match: str) -> None:
    fine = {"name": "map", "title": "Map", "dtype": "uint8", "nodata": 255, "kind": "classes",
            "classes": _ONE}
    Layer(**fine)
    with pytest.raises(ValueError, match=match):
        Layer(**{**fine, **change})
