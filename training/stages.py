"""The stages of the training: what each does, for about how long, and which can run side by side."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """command: module and its arguments. minutes: of one free core; estimated from its first steps, if it has any."""

    name: str
    command: str
    does: str
    minutes: int


STEPS: tuple[tuple[Stage, ...], ...] = (
    (
        Stage("corpus", "training.speech.corpus", "says 1,470 answers in the model's three voices", 3),
        Stage("asked", "training.mind.speech", "says 9,000 questions in many voices", 15),
    ),
    (
        Stage("codec", "training.speech.fit_codec", "fits the codec's encoder and encodes the corpus", 3),
        Stage("vision", "training.mind.vision_tower", "teaches the vision tower coloured shapes and moves", 60),
        Stage("audio", "training.mind.audio_tower", "teaches the audio tower words and sounds", 70),
        Stage("imagined", "training.mind.thinker --media imagined", "teaches the thinker, with imagined media", 15),
    ),
    (
        Stage("code2wav", "training.speech.train_code2wav", "teaches code2wav to make sound of codes", 24),
        Stage("talker", "training.speech.train_talker", "teaches the talker to make codes of text", 20),
        Stage("bank", "training.mind.bank", "keeps what the towers give for many media", 8),
    ),
    (Stage("thinker", "training.mind.thinker --media bank", "teaches the thinker, with the towers' outputs", 25),),
    (
        Stage("captioner", "training.mind.thinker --media bank --captioner", "teaches a copy to describe sounds", 2),
        Stage("joint", "training.mind.joint", "trains the towers and the thinker together", 45),
    ),
    tuple(
        Stage(f"assemble-{kind}", f"training.assemble {kind}", f"writes the {kind.capitalize()} checkpoint", 1)
        for kind in ("instruct", "thinking", "captioner")
    ),
    (Stage("place", "training.place", "puts them where the local stack takes its default from", 1),),
    (Stage("evaluate", "training.evaluate", "takes the figures of what was put there", 20),),
)
"""The stages of one step run side by side."""
