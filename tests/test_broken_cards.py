"""Cards that no training wrote: refused in one line, before anything is searched, read or written.

Each of these was tried on a map: it ended in a traceback, in files that could not be written, or in
a map of numbers without sense.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.inputs import wanted_sensors
from pipeline.mapping import make_request
from pipeline.spec.card import CheckpointCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.tasks import task
from tests.support.toy import toy_card

Card = dict[str, Any]
BASE = json.loads(json.dumps(toy_card(task("cropland")).to_json()))


def s1(**fields: Any) -> Callable[[Card], None]:
    return lambda card: card["sensors"]["s1"].update(fields)


def top(**fields: Any) -> Callable[[Card], None]:
    return lambda card: card.update(fields)


def another(key: str) -> Callable[[Card], None]:
    return lambda card: card["sensors"].update({key: copy.deepcopy(card["sensors"]["s1"])})


BROKEN = {
    "a NUL in the name": (top(name="a\0b"), "is not a line"),
    "an escape sequence in the name": (top(name="a\x1b[31m"), "is not a line"),
    "half a character in the name": (top(name="\ud800"), "is not a line"),
    "no name": (top(name=""), "is not a line"),
    "a name of 3 MB": (top(name="x" * 3_000_000), "is not a line"),
    "a metric that clears the screen": (top(metric="\x1b[2J"), "is not a line"),
    "no sensor": (top(sensors={}), "knows no sensor"),
    "a path as sensor": (another("../../x"), "unknown sensor"),
    "a layer as sensor": (another("dem"), "unknown sensor"),
    "accepts nothing": (s1(accepts=[]), "does not accept what it was trained on"),
    "accepts another one first": (s1(accepts=["sigma0", "gamma0-rtc"]),
                                  "does not accept what it was trained on"),
    "a feature that is not there": (s1(features=["vv", "vh", "zz"]), "wants features that no s1"),
    "features of another sensor": (s1(features=["B02", "B03", "B04"]), "wants features that no s1"),
    "a feature twice": (s1(features=["vv", "vv", "vh"]), "an input twice"),
    "context twice": (s1(context=["valid", "valid"]), "an input twice"),
    "a mean beyond float32": (s1(mean=[1e308] * 3), "normaliser"),
    "a spread of almost nothing": (s1(std=[5e-324] * 3), "normaliser"),
    "temperature 0": (s1(temperature=0), "temperature"),
    "a temperature below 0": (s1(temperature=-1), "temperature"),
    "a curve that runs backwards": (s1(coverage_steps=[12, 0]), "coverage curve"),
    "two scores at one number of steps": (s1(coverage_steps=[5, 5]), "coverage curve"),
    "steps below 0": (s1(coverage_steps=[-5, 12]), "coverage curve"),
    "a score above perfection": (s1(coverage_score=[0.5, 1.5]), "coverage curve"),
    "an interval below 0": (s1(coverage_half_width=[-5, -5]), "interval"),
    "a target without spread": (top(target_std=0), "scaling of the target"),
    "a target upside down": (top(target_std=-1), "scaling of the target"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_card_that_makes_no_sense_is_refused(case: str) -> None:
    card = copy.deepcopy(BASE)
    change, says = BROKEN[case]
    change(card)
    request = make_request("5.1,50.1,5.2,50.2", period="2023-10")
    with pytest.raises(BadRequest, match=says) as refused:
        wanted_sensors(request, CheckpointCard.from_json(json.loads(json.dumps(card))))
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 600


def test_the_card_they_were_made_from_is_a_good_one() -> None:
    request = make_request("5.1,50.1,5.2,50.2", period="2023-10")
    assert wanted_sensors(request, CheckpointCard.from_json(BASE)) == ("s1", "s2", "l8")
