"""What turns cost."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.turn.amounts import Amounts
from services.gateway.usage.prices import Price, PriceList, Tariff

PROMPT = Amounts(prompt_text_tokens=10, prompt_audio_tokens=5, cached_tokens=12, completion_text_tokens=7)


def tariff(**micros_per_million: int) -> Tariff:
    return Tariff({kind: Price(kind, "", kind, micros) for kind, micros in micros_per_million.items()})


def test_cached_tokens_with_a_price_of_their_own_cost_that_one_alone() -> None:
    prices = tariff(prompt_text_tokens=1_000_000, prompt_audio_tokens=10_000_000, cached_tokens=100_000)
    assert prices.picos(PROMPT) == 3 * 10_000_000 + 12 * 100_000
    assert tariff(prompt_text_tokens=1_000_000).picos(PROMPT) == 10 * 1_000_000


@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)
)
def test_the_cost_is_exact_and_rounded_up_once(prompt: int, text: int, each: int, answer: int, request: int) -> None:
    prices = tariff(prompt_text_tokens=each, completion_text_tokens=answer, requests=request)
    amounts = Amounts(prompt_text_tokens=prompt, completion_text_tokens=text)
    exact = Fraction(prompt * each + text * answer + request, 1_000_000)
    assert prices.cost(amounts, requests=1).micros == ceil(exact)


def test_the_latest_price_that_has_begun_holds_and_a_models_own_before_the_others() -> None:
    listed = PriceList(
        [
            Price("old", "", "requests", 1, 100),
            Price("new", "", "requests", 2, 200),
            Price("later", "", "requests", 3, 300),
            Price("own", "tiny", "requests", 4, 50),
            Price("unknown", "", "smiles", 5, 0),
        ]
    )
    assert listed.tariff("other", 250).cost(Amounts(), requests=1).price_ids == ["new"]
    assert listed.tariff("other", 300).cost(Amounts(), requests=1).price_ids == ["later"]
    assert listed.tariff("tiny", 250).cost(Amounts(), requests=1).price_ids == ["own"]
    assert listed.tariff("tiny", 49).cost(Amounts(), requests=1).price_ids == ()
    listed.prices = [Price("newest", "", "requests", 2, 200)]
    assert listed.tariff("other", 250).cost(Amounts(), requests=1).price_ids == ["newest"]
