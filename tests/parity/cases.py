"""Requests to both the whole stack and the oracle: all modalities, alone and mixed, over several turns, in three
voices, greedy and sampled, with answers of 1 to 200 tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tests.parity.media import Film, Medium, Picture, Sound


@dataclass(frozen=True)
class Message:
    """A message. A part is a text or a media file."""

    role: str
    parts: tuple[str | Medium, ...]


@dataclass(frozen=True)
class Case:
    """A request. An empty `voice` asks for text only; a `temperature` above 0 samples the text with `seed`."""

    name: str
    turns: tuple[Message, ...]
    voice: str = "Ethan"
    max_tokens: int = 24
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    talker_sampled: bool = True
    talker_seed: int = 0
    max_frames: int = 12
    use_audio_in_video: bool = False


def user(*parts: str | Medium) -> Message:
    return Message("user", parts)


def assistant(text: str) -> Message:
    return Message("assistant", (text,))


SYSTEM = Message("system", ("You are a helpful assistant.",))
HELLO = user("Say hello to the world and count to ten.")
SPEECH = Sound(1.7)
LONG_SPEECH = Sound(13.3, 330.0, 1)
PICTURE = Picture()
WIDE_PICTURE = Picture(448, 224, 3)
FILM = Film()
TALKING_FILM = Film(frames=8, seed=9, sound=Sound(4.0, 260.0, 8))
# Temporal patches are 6.5 and 8.67 positions apart.
FASTER_FILM = Film(frames=12, seed=10, fps=4)
FASTER_TALKING_FILM = Film(frames=8, seed=11, sound=Sound(2.6, 240.0, 12), fps=3)
EARLIER = (user(PICTURE, "What is this?"), assistant("A picture of squares."))

CASES = (
    Case("text", (SYSTEM, HELLO)),
    Case("text_without_system", (HELLO,), voice="Chelsie", talker_seed=1),
    Case("text_greedy_speech", (SYSTEM, HELLO), voice="Aiden", talker_sampled=False),
    Case("text_only", (SYSTEM, HELLO), voice=""),
    Case("one_token", (SYSTEM, HELLO), max_tokens=1),
    Case("two_tokens", (SYSTEM, HELLO), max_tokens=2, talker_seed=2),
    Case("three_tokens", (SYSTEM, HELLO), max_tokens=3, voice="Chelsie"),
    Case("two_hundred_tokens", (SYSTEM, HELLO), temperature=0.8, seed=10, max_tokens=200, max_frames=24),
    Case("long_speech", (SYSTEM, user("List all the planets.")), max_tokens=200, max_frames=100, talker_seed=5),
    Case("one_frame", (SYSTEM, HELLO), max_frames=1),
    Case("sampled", (SYSTEM, HELLO), temperature=0.8, seed=7, talker_seed=7),
    Case("sampled_top_k", (SYSTEM, HELLO), temperature=1.0, top_k=20, seed=8, voice="Aiden", talker_seed=8),
    Case("sampled_top_p", (SYSTEM, HELLO), temperature=0.6, top_p=0.95, top_k=20, seed=1234, talker_seed=9),
    Case("sampled_text_greedy_speech", (SYSTEM, HELLO), temperature=0.9, seed=11, talker_sampled=False),
    Case("audio", (SYSTEM, user(SPEECH, "What do you hear?"))),
    Case("audio_chelsie", (SYSTEM, user(SPEECH, "What do you hear?")), voice="Chelsie", talker_seed=4),
    Case("audio_aiden", (SYSTEM, user(SPEECH, "What do you hear?")), voice="Aiden", talker_seed=5),
    Case("audio_long", (SYSTEM, user(LONG_SPEECH, "Transcribe the audio into text."))),
    Case("audio_text_only", (SYSTEM, user(SPEECH, "What do you hear?")), voice="", max_tokens=64),
    Case("audio_sampled", (SYSTEM, user(SPEECH, "And?")), temperature=0.7, top_p=0.9, seed=21, talker_seed=22),
    Case("two_audios", (SYSTEM, user(Sound(1.3, 440, 5), "and", Sound(2.2, 90, 6), "the same?"))),
    Case("image", (SYSTEM, user(PICTURE, "Describe the picture."))),
    Case("image_after_text", (user("Look:", WIDE_PICTURE),), voice="Aiden"),
    Case("two_images", (SYSTEM, user(PICTURE, WIDE_PICTURE, "Compare them.")), voice="Chelsie"),
    Case("image_sampled", (SYSTEM, user(PICTURE, "Describe.")), temperature=1.0, seed=31, talker_seed=32),
    Case("video", (SYSTEM, user(FILM, "What happens?"))),
    Case("video_greedy_speech", (SYSTEM, user(FILM, "What happens?")), voice="Chelsie", talker_sampled=False),
    Case("audio_and_image", (SYSTEM, user(SPEECH, PICTURE, "Compare the sound and the picture."))),
    Case("everything", (SYSTEM, user(SPEECH, PICTURE, "and", FILM, "Compare.")), voice="Aiden", talker_seed=6),
    Case("audio_in_video", (SYSTEM, user(TALKING_FILM, "What is said?")), use_audio_in_video=True),
    Case(
        "audio_in_video_sampled",
        (SYSTEM, user(TALKING_FILM, "And here?")),
        use_audio_in_video=True,
        voice="Chelsie",
        temperature=0.8,
        seed=41,
        talker_seed=42,
    ),
    Case("video_of_fractional_positions", (SYSTEM, user(FASTER_FILM, "What happens?")), talker_seed=13),
    Case(
        "audio_in_video_of_fractional_positions",
        (SYSTEM, user(FASTER_TALKING_FILM, "What is said?"), assistant("A tone."), user(PICTURE, "And here?")),
        use_audio_in_video=True,
    ),
    Case("silent_film_of_a_talking_one", (SYSTEM, user(TALKING_FILM, "What is seen?"))),
    Case("two_turns", (SYSTEM, HELLO, assistant("Hello, world. One, two, three."), user("Go on.")), voice="Chelsie"),
    Case("two_turns_image_then_audio", (SYSTEM, *EARLIER, user(SPEECH, "And what is this?"))),
    Case("three_turns", (SYSTEM, *EARLIER, user(SPEECH), assistant("A tone."), user("Sure?")), voice="Aiden"),
    Case("media_in_every_turn", (user(SPEECH), assistant("A tone."), user(FILM, "And?")), talker_seed=12),
)
