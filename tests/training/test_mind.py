"""The thinker's training: its inputs are those of serving, a few steps learn, and what is exported answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from services.local.checkpoint.kinds import Kind
from tests.training.hum import hum
from training.loop import Schedule
from training.mind import audio_tower, vision_tower
from training.mind.bank import encode_frames, encode_sound
from training.mind.dialogues import Dialogue, Media, Turn, draw_dialogue
from training.mind.films import render_film
from training.mind.fresh import FreshSource
from training.mind.imagined import ImaginedSource
from training.mind.marks import LABELS, is_right, marking_loss, marks_of
from training.mind.mel import log_mel, paced, uneven, warped
from training.mind.model import new_thinker, table, tokenizer_and_ids
from training.mind.patches import pack
from training.mind.pictures import Layout, Thing, draw, place
from training.mind.sequence import Features, processor, sequence_of
from training.mind.sounds import KINDS, make_sound
from training.mind.stage import load_into, run_stage
from training.mind.thinker import Language, draw_sequence
from training.world.facts import draw_film, draw_picture
from training.world.sentences import is_held_out, may_be_held_out
from training.world.words import COLOURS, SHAPES, SOUNDS


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTIPHON_TRAINING", str(tmp_path_factory.mktemp("training")))
        yield


@pytest.fixture(scope="module")
def thinker() -> Any:
    return new_thinker(1).eval()


def test_pixels_are_packed_as_the_processor_packs_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    given = processor(Kind.INSTRUCT).image_processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    patches, grid = pack(pixels[None])
    assert given["image_grid_thw"].tolist() == [list(grid)]
    torch.testing.assert_close(patches, given["pixel_values"], rtol=0, atol=1e-6)


def test_frames_are_packed_as_the_processor_packs_them() -> None:
    scene = draw_film(random.Random(1), has_sound=False)
    frames = render_film(scene, np.random.default_rng(1), 4)
    given = processor(Kind.INSTRUCT).video_processor(
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        do_sample_frames=False,
        size={"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
        return_tensors="pt",
    )
    patches, grid = pack(frames)
    assert given["video_grid_thw"].tolist() == [list(grid)]
    torch.testing.assert_close(patches, given["pixel_values_videos"], rtol=0, atol=1e-6)


def test_sound_becomes_the_processors_features() -> None:
    sound = make_sound("bell", np.random.default_rng(2))
    given = processor(Kind.INSTRUCT).feature_extractor([sound], sampling_rate=16_000, padding=True, return_tensors="pt")
    mel = log_mel(sound)
    torch.testing.assert_close(mel, given["input_features"][0, :, : mel.shape[1]])


@pytest.mark.parametrize("seed", [*range(12), "film with sound"])
def test_a_dialogue_has_the_tokens_and_positions_of_serving(seed: object, thinker: Any) -> None:
    source = FreshSource(hum)
    dialogue = _dialogue_of(seed, source)
    found = {medium: _features(source, medium, thinker) for medium in dialogue.media}
    built = sequence_of(dialogue, found, Kind.INSTRUCT, thinker)
    inputs, has_film_sound = source.inputs(dialogue, processor(Kind.INSTRUCT))
    prompt = inputs["input_ids"][0]
    assert built.ids[: len(prompt)].tolist() == prompt.tolist()
    sounds = inputs.get("feature_attention_mask")
    positions, _ = thinker.get_rope_index(
        inputs["input_ids"],
        inputs.get("image_grid_thw"),
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        has_film_sound,
        None if sounds is None else sounds.sum(-1),
        inputs.get("video_second_per_grid"),
    )
    torch.testing.assert_close(built.positions[:, : len(prompt)], positions[:, 0].float())


def _dialogue_of(seed: object, source: FreshSource) -> Dialogue:
    rng = random.Random(str(seed))
    while True:
        drawn = draw_dialogue(source, rng)
        if seed != "film with sound" or any(one.kind == "film" and one.scene.sounds for one in drawn.media):
            return drawn


def _features(source: FreshSource, medium: Media, thinker: Any) -> Features:
    with torch.inference_mode():
        sound = encode_sound(thinker, source.samples(medium)) if source.has_sound(medium) else None
        if medium.kind in ("speech", "sound"):
            assert sound is not None
            return sound
        seen = encode_frames(thinker, source.resized(medium))
        return Features(seen.embeds, seen.deep, grid=seen.grid, sound=sound)


def test_nothing_held_out_is_taught_and_nothing_else_is_asked() -> None:
    source, rng = ImaginedSource(), random.Random(4)
    for _ in range(300):
        assert not any(is_held_out(turn.answer) for turn in draw_dialogue(source, rng).turns)
    for _ in range(300):
        answer = draw_dialogue(source, rng, held_out=True).turns[-1].answer
        assert is_held_out(answer) or not may_be_held_out(answer)


def test_an_answer_that_was_cut_is_read_and_not_learned() -> None:
    turns = (Turn(("seven",), "You said seven.", cut="You"), Turn(("hello",), "Hello."), Turn(("thanks",), "Thanks."))
    tokenizer, _ = tokenizer_and_ids()
    example = sequence_of(Dialogue(turns, "greeting", ""), {}, Kind.INSTRUCT, new_thinker(1))
    learned = tokenizer.decode([label for label in example.labels.tolist() if label >= 0], skip_special_tokens=False)
    assert learned == "Hello.<|im_end|>Thanks.<|im_end|>"
    assert "assistant\nYou<|im_end|>" in tokenizer.decode(example.ids.tolist(), skip_special_tokens=False)


def test_what_is_seen_has_one_order() -> None:
    rng = random.Random(5)
    for _ in range(50):
        colours = [COLOURS.index(group.colour) for group in draw_picture(rng).groups]
        assert colours == sorted(colours)


def test_things_are_where_the_targets_say() -> None:
    layout = place([("red", "circle"), ("blue", "square")], 192, 256, np.random.default_rng(3))
    pixels = draw(layout).astype(int)
    marks = marks_of(layout, None)
    assert marks.tokens == 6 * 8
    assert len(layout.things) == len(marks.candidates) == 2
    for thing, (token, *_) in zip(layout.things, marks.candidates.tolist(), strict=True):
        row, column = divmod(token, 256 // 32)
        y, x = int(thing.y * 192), int(thing.x * 256)
        assert (row, column) == (y // 32, x // 32)
        red, _, blue = pixels[y, x]
        assert red > blue if thing.colour == "red" else blue > red


def test_a_thing_between_two_tokens_is_marked_at_one_of_them() -> None:
    inside = Thing("red", "circle", x=16 / 128, y=16 / 64, radius=16, turn=0.0)
    between = Thing("blue", "star", x=94 / 128, y=48 / 64, radius=16, turn=0.0)
    marks = marks_of(Layout((inside, between), 64, 128, 0), None)
    assert marks.candidates.tolist() == [[0, -1, -1, -1], [6, 7, -1, -1]]

    def said(*blue_stars: int) -> dict[str, torch.Tensor]:
        found = {name: torch.zeros(8, dtype=torch.long) for name in LABELS}
        found["colour"][0], found["shape"][0] = 1 + COLOURS.index("red"), 1 + tuple(SHAPES).index("circle")
        for token in blue_stars:
            found["colour"][token] = 1 + COLOURS.index("blue")
            found["shape"][token] = 1 + tuple(SHAPES).index("star")
        return found

    def loss_of(found: dict[str, torch.Tensor]) -> float:
        scores = {name: 9.0 * functional.one_hot(found[name], 1 + len(words)).float() for name, words in LABELS.items()}
        return float(sum(marking_loss(scores.__getitem__, marks)[:2]))

    for right in (said(6), said(7)):
        assert is_right(right, marks)[0]
        assert loss_of(right) < 0.05
    for wrong in (said(), said(6, 7), said(6, 3), said(5)):
        assert not is_right(wrong, marks)[0]
        assert loss_of(wrong) > 1.0


def test_another_throat_moves_what_is_heard_and_another_pace_does_not() -> None:
    tone = np.sin(np.arange(16_000) * (2 * np.pi * 1000 / 16_000)).astype(np.float32)
    mel = log_mel(tone)
    torch.testing.assert_close(warped(mel, 1.0), mel)
    assert paced(mel, 1.3).shape == (128, 130)
    torch.testing.assert_close(paced(mel, 1.3).mean(1), mel.mean(1), atol=0.02, rtol=0)
    for factor in (0.85, 1.15):
        higher = log_mel(np.sin(np.arange(16_000) * (2 * np.pi * 1000 * factor / 16_000)).astype(np.float32))
        assert abs(int(warped(mel, factor).mean(1).argmax()) - int(higher.mean(1).argmax())) <= 1


@pytest.mark.parametrize("frames", [1, 9, 60])
def test_an_uneven_pace_keeps_what_is_heard_in_its_order(frames: int) -> None:
    rng = np.random.default_rng(3)
    rising = torch.arange(frames).float().repeat(128, 1)
    lengths: set[int] = set()
    for _ in range(20):
        moved = uneven(rising, rng)
        assert (moved[:, 1:] >= moved[:, :-1]).all()
        assert moved.min() >= 0
        assert moved.max() <= frames - 1
        lengths.add(moved.shape[1])
    assert len(lengths) > 1 or frames == 1


def test_each_sound_of_the_world_can_be_made() -> None:
    assert set(KINDS) == set(SOUNDS)
    for kind in KINDS:
        sound = make_sound(kind, np.random.default_rng(1))
        assert np.isfinite(sound).all()
        assert 0.4 < np.abs(sound).max() <= 0.5


def test_a_few_steps_learn_and_a_stopped_stage_goes_on(tmp_path: Path) -> None:
    thinker = new_thinker(2)
    language, source = Language(thinker), ImaginedSource()
    batch = [draw_sequence(source, f"{number}", thinker, (Kind.INSTRUCT, Kind.THINKING)) for number in range(4)]
    losses: list[float] = []

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        loss, balance, _ = language(batch)
        losses.append(float(loss.detach()))
        return {"loss": loss, "balance": balance * 0.02}

    schedule = Schedule(25, 3e-3, warmup=5)
    run_stage(tmp_path / "stage.pt", {"language": language}, schedule, loss_of, lambda: "")
    assert losses[-1] < losses[0] / 2
    torch.testing.assert_close(thinker.model.embed_tokens.weight.detach(), table())
    again = Language(new_thinker(3))
    run_stage(tmp_path / "stage.pt", {"language": again}, schedule, loss_of, lambda: "")
    assert len(losses) == 25
    torch.testing.assert_close(again.lm_head.weight, language.lm_head.weight)
    load_into(tmp_path / "stage.pt", {"language": Language(new_thinker(4))})


def test_the_towers_losses_reach_all_their_weights(thinker: Any) -> None:
    heads = torch.nn.ModuleList([vision_tower.WordHead() for _ in range(3)])
    losses = vision_tower.losses_of(thinker.visual, heads, vision_tower.draw_batch(np.random.default_rng(1), 40))
    torch.stack(list(losses.values())).sum().backward()
    head = audio_tower.Head()
    mels = [log_mel(make_sound(kind, np.random.default_rng(1))) for kind in ("bell", "clock")]
    scores = head(torch.cat(audio_tower.audio_outputs(thinker.audio_tower, mels)))
    scores.mean().backward()
    for tower in (thinker.visual, thinker.audio_tower):
        assert all(p.grad is not None for p in tower.parameters())
    thinker.zero_grad()


def test_short_answers_weigh_as_much_as_long_ones() -> None:
    turns = [
        Dialogue((Turn((asked,), answer),), "", "") for asked, answer in (("a", "Yes."), ("b", "I see " * 9 + "."))
    ]
    language = Language(new_thinker(5)).eval()
    short, long = (sequence_of(one, {}, Kind.INSTRUCT, new_thinker(1)) for one in turns)
    with torch.inference_mode():
        alone = [language([one])[0] for one in (short, long)]
        torch.testing.assert_close(language([short, long])[0], torch.stack(alone).mean())


def test_what_is_written_down_is_read_by_label() -> None:
    two, plus = audio_tower.labels_of("two plus")
    scores = torch.zeros(6, audio_tower.LABELS)
    for frame, label in enumerate((0, two, two, 0, two, plus)):
        scores[frame, label] = 1
    assert audio_tower.written(scores) == (two, two, plus)
    assert audio_tower.labels_of("Who is the king of two?")[0] == audio_tower.OTHER


def test_vllm_and_transformers_count_the_same_positions() -> None:
    """vLLM takes the number from the image's size, transformers from num_position_embeddings."""
    config = new_thinker(1).config.vision_config
    assert (config.image_size // config.patch_size) ** 2 == config.num_position_embeddings
