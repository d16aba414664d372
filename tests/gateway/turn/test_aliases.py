"""Aliases of models and voices: what they stand for, and what a key that may not use it is told."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import BadInput, Forbidden, NotFound, Unavailable
from services.gateway.settings import GatewaySettings
from services.gateway.turn.admission import Admission
from services.gateway.turn.aliases import Aliases, kind_of
from services.gateway.turn.allowed import Allowed
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.intent import FieldNames, Intent, Principal, SpeechOptions
from services.gateway.turn.model import Model, ModelKind

PRINCIPAL = Principal("tenant", "tenant")
STAGES = frozenset({"preprocess", "thinker", "talker"})
SPEAKER = Model("speaker", ModelKind.INSTRUCT, 1000, voices=("chelsie", "ethan"), default_voice="ethan", stages=STAGES)
SECOND = Model("second", ModelKind.INSTRUCT, 1000, stages=STAGES)
CAPTIONER = Model("captioner", ModelKind.CAPTIONER, 1000, stages=STAGES)
ALIASES = Aliases({"flash": "kind:instruct", "cap": "kind:captioner", "other": "second"}, {"cherry": "chelsie"})


class _Source:
    def __init__(self, *models: Model) -> None:
        self.served = {model.name: model for model in models}

    async def models(self) -> dict[str, Model]:
        return self.served


class _Accounts:
    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    def allowed_to(self, _: Principal) -> Allowed:
        return self._allowed


def admission(*models: Model, allowed: Allowed | None = None) -> tuple[Admission, _Source]:
    source, limits = _Source(*models), GatewaySettings(redis_url="redis://nowhere", allow_anonymous=True).limits
    accounts: Any = _Accounts(allowed or Allowed())
    turns: Any = None
    return Admission(source, Catalogue(), accounts, turns, limits, ALIASES), source


def spoken(voice: str) -> Intent:
    names = FieldNames(voice="voice", modalities="modalities")
    return Intent(names=names, arrived_s=0.0, messages=(), speech=SpeechOptions(voice))


async def test_an_alias_names_a_model_or_the_only_one_of_a_kind() -> None:
    of, _ = admission(SPEAKER, CAPTIONER)
    assert await of.find(PRINCIPAL, "flash") is SPEAKER
    assert await of.find(PRINCIPAL, "FLASH") is SPEAKER
    assert await of.find(PRINCIPAL, "cap") is CAPTIONER
    assert await of.find(PRINCIPAL, "speaker") is SPEAKER
    for name in ("other", "kind:instruct", "kind:nothing"):  # a kind is for the operator to name
        with pytest.raises(NotFound, match=f"'{name}' does not exist"):
            await of.find(PRINCIPAL, name)


async def test_an_alias_of_a_kind_with_several_models_names_them() -> None:
    of, _ = admission(SPEAKER, SECOND)
    with pytest.raises(BadInput, match="second, speaker"):
        await of.find(PRINCIPAL, "flash")
    only_one, _ = admission(SPEAKER, SECOND, allowed=Allowed(models=frozenset({"second"})))
    assert await only_one.find(PRINCIPAL, "flash") is SECOND


async def test_an_alias_stays_known_while_its_model_has_no_worker() -> None:
    of, source = admission(SPEAKER, CAPTIONER)
    await of.find(PRINCIPAL, "flash")
    del source.served["speaker"]
    with pytest.raises(Unavailable):
        await of.find(PRINCIPAL, "flash")


async def test_a_key_learns_no_name_behind_an_alias() -> None:
    of, _ = admission(SPEAKER, SECOND, CAPTIONER, allowed=Allowed(models=frozenset({"speaker"})))
    for alias in ("other", "cap"):
        with pytest.raises(Forbidden) as refused:
            await of.find(PRINCIPAL, alias)
        assert f"'{alias}'" in refused.value.message
        assert "second" not in refused.value.message
        assert "captioner" not in refused.value.message


async def test_a_voice_has_aliases_and_the_models_own_are_none() -> None:
    of, _ = admission(SPEAKER)
    of.check(PRINCIPAL, spoken("Cherry"), SPEAKER)
    with pytest.raises(BadInput, match="no voice 'nobody'"):
        of.check(PRINCIPAL, spoken("nobody"), SPEAKER)
    assert Aliases(voices={"ethan": "chelsie"}).voice("Ethan", SPEAKER) == "Ethan"
    of, _ = admission(SPEAKER, allowed=Allowed(voices=frozenset({"ethan"})))
    with pytest.raises(Forbidden, match="the voice 'Cherry'"):
        of.check(PRINCIPAL, spoken("Cherry"), SPEAKER)


def test_a_kind_that_is_none_stops_the_start() -> None:
    assert kind_of("kind:thinking") is ModelKind.THINKING
    assert kind_of("a-model") is None
    with pytest.raises(ValueError, match="kind:captioner"):
        GatewaySettings(redis_url="redis://nowhere", allow_anonymous=True, model_aliases={"a": "kind:nothing"})
