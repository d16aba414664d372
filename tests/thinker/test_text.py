"""Text from token ids: whole characters, reasoning apart from content, stop strings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.thinker.answer import GeneratedAnswer, begins_in_thought
from services.thinker.text import StopStrings, ThoughtSplitter, TokenBytes, utf8_decoder


@pytest.fixture(scope="module")
def tokenizer(tiny_instruct: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_instruct / "tokenizer.json"))


@pytest.fixture(scope="module")
def table(tokenizer: Tokenizer) -> TokenBytes:
    return TokenBytes(tokenizer, thinks=False)


@pytest.fixture(scope="module")
def thinking_table(tiny_thinking: Path) -> TokenBytes:
    return TokenBytes(Tokenizer.from_file(str(tiny_thinking / "tokenizer.json")), thinks=True)


@given(ids=st.lists(st.integers(0, 2303), max_size=60))
def test_any_ids_give_the_tokenizers_text(tokenizer: Tokenizer, table: TokenBytes, ids: list[int]) -> None:
    decoder = utf8_decoder()
    text = "".join(decoder.decode(table[token]) for token in ids) + decoder.decode(b"", final=True)
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", ["naïve café", "你好,世界。", "🎼 sing 👩‍🎤", "عربى हिन्दी ไทย"])
def test_deltas_hold_whole_characters_and_make_up_the_text(tokenizer: Tokenizer, table: TokenBytes, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert len(ids) > len(text) / 2
    answer = GeneratedAnswer(table, thinking=False, stops=(), min_tokens=0)
    deltas = [answer.add([token], finished=False).content for token in ids]
    assert "".join(deltas) == text
    assert "\ufffd" not in "".join(deltas)


def test_an_incomplete_character_at_the_end_is_dropped(tokenizer: Tokenizer, table: TokenBytes) -> None:
    ids = tokenizer.encode("ok 🎼").ids
    answer = GeneratedAnswer(table, thinking=False, stops=(), min_tokens=0)
    assert answer.add(ids[:-1], finished=True).content == "ok "


def test_special_tokens_have_no_text(tokenizer: Tokenizer, table: TokenBytes) -> None:
    end = tokenizer.token_to_id("<|im_end|>")
    assert end is not None
    answer = GeneratedAnswer(table, thinking=False, stops=(), min_tokens=0)
    delta = answer.add([*tokenizer.encode("done").ids, end], finished=True)
    assert delta.content == "done"
    assert delta.token_ids[-1] == end


def by_character(text: str, splitter: ThoughtSplitter) -> tuple[str, str]:
    parts = [splitter.add(character) for character in text]
    return "".join(thought for thought, _ in parts) + splitter.finish(), "".join(content for _, content in parts)


@pytest.mark.parametrize(
    ("text", "thought", "content"),
    [
        ("hm</think>\n\nyes", "hm", "\n\nyes"),
        ("<think>\nhm</think>yes", "\nhm", "yes"),
        ("\n<think>hm</think>yes", "hm", "yes"),
        ("</think>yes", "", "yes"),
        ("a < b </thi nk> c</think>d", "a < b </thi nk> c", "d"),
        ("never ends </thin", "never ends </thin", ""),
        ("a</think>b</think>c", "a", "b</think>c"),
        ("<thinker> is a word</think>!", "<thinker> is a word", "!"),
    ],
)
def test_the_closing_tag_splits_thought_from_content(text: str, thought: str, content: str) -> None:
    assert by_character(text, ThoughtSplitter(thinking=True)) == (thought, content)
    splitter = ThoughtSplitter(thinking=True)
    whole = splitter.add(text)
    assert (whole[0] + splitter.finish(), whole[1]) == (thought, content)


def test_without_thinking_tags_are_text() -> None:
    assert by_character("a</think>b", ThoughtSplitter(thinking=False)) == ("", "a</think>b")


@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=40),
)
def test_the_first_stop_string_to_complete_ends_the_text(text: str, stops: list[str], cuts: list[int]) -> None:
    finder, settled, stop, at = StopStrings(stops), "", None, 0
    for size in [*cuts, len(text)]:
        delta, stop = finder.add(text[at : at + size])
        settled, at = settled + delta, at + size
        if stop is not None or at >= len(text):
            break
    if stop is None:
        assert settled + finder.finish() == text
        assert not any(each in text for each in stops)
    else:
        assert text.startswith(settled + stop)
        assert not any(each in (settled + stop)[:-1] for each in stops)


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    finder = StopStrings(["\n\nUser:"])
    assert finder.add("hello") == ("hello", None)
    assert finder.add("\n") == ("", None)
    assert finder.add("x") == ("\nx", None)


def test_an_answer_ends_with_the_token_that_completes_the_stop_string(tokenizer: Tokenizer, table: TokenBytes) -> None:
    ids = tokenizer.encode("one two three four").ids
    answer = GeneratedAnswer(table, thinking=False, stops=["two"], min_tokens=0)
    delta = answer.add(ids, finished=False)
    assert (delta.content, delta.stop_string) == ("one ", "two")
    assert tokenizer.decode(delta.token_ids).endswith("two")
    assert answer.tokens == len(delta.token_ids) < len(ids)


def test_min_tokens_delay_stop_strings(tokenizer: Tokenizer, table: TokenBytes) -> None:
    ids = tokenizer.encode("stop stop go").ids
    answer = GeneratedAnswer(table, thinking=False, stops=["stop"], min_tokens=len(tokenizer.encode("stop").ids))
    delta = answer.add(ids, finished=True)
    assert (delta.content, delta.stop_string) == ("stop ", "stop")


def test_stop_strings_are_ignored_inside_a_thought(thinking_table: TokenBytes, tiny_thinking: Path) -> None:
    ids = Tokenizer.from_file(str(tiny_thinking / "tokenizer.json")).encode("stop</think>go stop").ids
    answer = GeneratedAnswer(thinking_table, thinking=True, stops=["stop"], min_tokens=0)
    delta = answer.add(ids, finished=True)
    assert (delta.reasoning, delta.content, delta.stop_string) == ("stop", "go ", "stop")


def test_reasoning_tokens_end_with_the_closing_tag(thinking_table: TokenBytes, tiny_thinking: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_thinking / "tokenizer.json"))
    thought, content = tokenizer.encode("well, well</think>").ids, tokenizer.encode("yes").ids
    answer = GeneratedAnswer(thinking_table, thinking=True, stops=(), min_tokens=0)
    answer.add([*thought, *content], finished=True)
    assert (answer.reasoning_tokens, answer.tokens) == (len(thought), len(thought) + len(content))


def test_the_text_so_far_is_restored_from_its_tokens(tokenizer: Tokenizer, table: TokenBytes) -> None:
    ids = tokenizer.encode("a 🎼 b\n\nUser: c").ids
    for cut in range(len(ids) - 2):  # the last two come after the stop string
        whole, first, second = (
            GeneratedAnswer(table, thinking=False, stops=["\nUser:"], min_tokens=0) for _ in range(3)
        )
        wanted = whole.add(ids, finished=True)
        begun = first.add(ids[:cut], finished=False)
        second.add(ids[:cut], finished=False)
        rest = second.add(ids[cut:], finished=True)
        assert begun.content + rest.content == wanted.content
        assert rest.stop_string == wanted.stop_string == "\nUser:"


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
    ],
)
def test_a_prompt_that_closes_the_thought_switches_it_off(
    thinking_table: TokenBytes, tiny_thinking: Path, prompt: str, inside: bool
) -> None:
    ids = Tokenizer.from_file(str(tiny_thinking / "tokenizer.json")).encode(prompt).ids
    assert begins_in_thought(ids, thinking_table) is inside
