"""What a key may use of the models and voices that are served."""

from __future__ import annotations

import time

import pytest

from services.common.errors import Forbidden
from services.gateway.turn.allowed import Allowed
from services.gateway.turn.intent import FieldNames, Intent, SpeechOptions
from services.gateway.turn.model import Model, ModelKind

NAMES = FieldNames(voice="audio.voice", modalities="modalities")
FIRST = Model("first", ModelKind.INSTRUCT, 1000, voices=("chelsie", "ethan"), default_voice="ethan")
SECOND = Model("second", ModelKind.THINKING, 1000)
SERVED = {model.name: model for model in (FIRST, SECOND)}


def spoken(voice: str) -> Intent:
    return Intent(names=NAMES, arrived_s=time.monotonic(), messages=(), speech=SpeechOptions(voice=voice))


def test_a_key_without_terms_may_use_all() -> None:
    allowed = Allowed()
    allowed.check_model("unknown")
    allowed.check_voice(spoken("nobody"), FIRST)
    assert allowed.models_of(SERVED) is SERVED
    assert allowed.voices_of(FIRST) is FIRST


def test_a_model_of_others_is_refused_whether_it_is_served_or_not() -> None:
    allowed = Allowed(models=frozenset({"first"}))
    allowed.check_model("first")
    for name in ("second", "unknown"):
        with pytest.raises(Forbidden) as refused:
            allowed.check_model(name)
        assert (refused.value.param, refused.value.code) == ("model", "model_not_allowed")
        assert "It may use: first." in refused.value.message
    assert allowed.models_of(SERVED) == {"first": FIRST}


@pytest.mark.parametrize(
    ("models", "name", "left"),
    [(None, "first", {"first"}), (frozenset({"first", "second"}), "first", {"first"}), (frozenset({"a"}), "b", set())],
)
def test_what_is_left_where_only_one_model_may_be_used(
    models: frozenset[str] | None, name: str, left: set[str]
) -> None:
    allowed = Allowed(models=models).of_model(name)
    assert allowed.models == left
    if not left:
        with pytest.raises(Forbidden, match="It may use: none"):
            allowed.check_model(name)


def test_a_voice_of_others_is_refused_also_as_the_default() -> None:
    allowed = Allowed(voices=frozenset({"chelsie"}))
    allowed.check_voice(spoken("Chelsie"), FIRST)
    allowed.check_voice(Intent(names=NAMES, arrived_s=0.0, messages=()), FIRST)
    for voice in ("ethan", ""):
        with pytest.raises(Forbidden) as refused:
            allowed.check_voice(spoken(voice), FIRST)
        assert (refused.value.param, refused.value.code) == ("audio.voice", "voice_not_allowed")
    shown = allowed.voices_of(FIRST)
    assert (shown.voices, shown.default_voice) == (("chelsie",), "")
