"""The small world: its words are tokens, its sentences agree with its facts, and what is held out stays out."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from services.local.checkpoint.tokenizer import SPECIAL_TOKENS, write_files
from training.hearing import plain
from training.speech.corpus import sentences
from training.world.facts import Group, Scene, Sum
from training.world.sentences import count_answer, draw_answers, is_held_out, said_answer, scene_answer, sum_answer
from training.world.tokenizer import HIDDEN, build_tokenizer, embedding_table, vocab_size
from training.world.words import WORDS, number


def test_numbers_are_in_words() -> None:
    assert [number(n) for n in (0, 13, 20, 42, 100, -7)] == [
        *("zero", "thirteen", "twenty", "forty two", "one hundred", "minus seven")
    ]
    with pytest.raises(ValueError, match="101"):
        number(101)


def test_answers_say_their_facts() -> None:
    assert sum_answer(Sum(3, "minus", 5)) == "Three minus five is minus two."
    star, squares = Group(1, "orange", "star"), Group(4, "blue", "square")
    assert scene_answer(Scene((star, squares))) == "I see an orange star and four blue squares."
    assert scene_answer(Scene((star,), ("rain",), "up")) == "I see an orange star that moves up and I hear rain."
    assert scene_answer(Scene(sounds=("bell", "wind"))) == "I hear a bell and then wind."
    assert count_answer(Scene((star, squares)), "circle") == "There are no circles."
    assert said_answer("Two plus two?") == "You said two plus two."


def test_a_held_out_answer_is_never_drawn_for_training() -> None:
    training = set(draw_answers(1, 2000, held_out=False))
    held_out = draw_answers(11, 100, held_out=True)
    assert not training & set(held_out)
    assert len(set(held_out)) == len(held_out)
    assert all(is_held_out(answer.lower()) for answer in held_out)
    assert draw_answers(11, 100, held_out=True) == held_out
    assert not any(map(is_held_out, sentences()))


def test_every_word_of_an_answer_is_one_token() -> None:
    tokenizer, _ = build_tokenizer()
    known = set(WORDS)
    for answer in draw_answers(2, 300, held_out=False):
        words = answer.rstrip(".").split()
        assert {word.lower() for word in words} <= known
        assert len(tokenizer.encode(answer, add_special_tokens=False).ids) == len(words) + 1


def test_the_tokenizer_loads_as_the_released_one_does(tmp_path: Path) -> None:
    tokenizer, ids = build_tokenizer()
    write_files(tmp_path, tokenizer, ids)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nWhat is 2 plus three?<|im_end|>\n"
    assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert [ids[name] for name in SPECIAL_TOKENS] == sorted(ids[name] for name in SPECIAL_TOKENS)


def test_forms_of_a_word_lie_close_in_the_frozen_table() -> None:
    tokenizer, _ = build_tokenizer()
    table = embedding_table(tokenizer)
    assert table.shape == (vocab_size(tokenizer), HIDDEN)
    assert torch.equal(table, embedding_table(tokenizer))
    red, capital, blue = (table[tokenizer.encode(form).ids[0]] for form in (" red", "Red", " blue"))
    assert torch.cosine_similarity(red, capital, dim=0) > 0.8
    assert torch.cosine_similarity(red, blue, dim=0).abs() < 0.4


def test_what_an_ear_writes_in_figures_counts_as_words() -> None:
    assert plain("4 − 9 = -5, color!") == "four minus nine is minus five colour"
    assert plain("You said 12.") == "you said twelve"


def test_sentences_draw_from_the_given_generator_alone() -> None:
    before = random.getstate()
    draw_answers(3, 10, held_out=False)
    assert random.getstate() == before
