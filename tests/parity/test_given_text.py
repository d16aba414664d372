"""Speech of a given text equals that of transformers' talker, fed with the text's tokens as if its thinker had made
them."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from tests.fixtures.oracle import Oracle, TalkerOptions, ThinkerOptions
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S
from tests.parity.test_parity import SAMPLE_TOLERANCE

TEXTS = {
    "words": "The quick brown fox jumps over the lazy dog.",
    "one word": "Yes",
    "lines": "\n  First line.\n\n第二行。 Ünïcode 🎈\n",
    "long": " ".join(f"Sentence number {n} is said." for n in range(40)),
}


@pytest.mark.parametrize(
    ("name", "voice", "frames", "seed"),
    [("words", "Ethan", 24, 0), ("one word", "Chelsie", 12, 1), ("lines", "Aiden", 20, 2), ("long", "Ethan", 60, 3)],
)
async def test_the_samples_equal_transformers(
    stack: Stack, oracle: Oracle, name: str, voice: str, frames: int, seed: int
) -> None:
    text, instructions = TEXTS[name], "Speak slowly."
    async with httpx.AsyncClient(
        base_url=stack.url, headers={"authorization": f"Bearer {stack.api_key}"}, timeout=HANGS_AFTER_S
    ) as client:
        response = await client.post(
            "/v1/audio/speech",
            json={
                "input": text,
                "instructions": instructions,
                "voice": voice,
                "response_format": "pcm",
                "seed": seed,
                "talker": {"max_frames": frames},
            },
        )
    assert response.status_code == 200, response.text
    tokenizer = oracle.processor.tokenizer
    said = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
    wanted = oracle.generate(
        [{"role": "user", "content": [{"type": "text", "text": instructions}]}],
        voice=voice,
        thinker=ThinkerOptions(said=said),
        talker=TalkerOptions(seed=seed, max_frames=frames),
    )
    assert wanted.token_ids == said
    samples = np.frombuffer(response.content, "<i2").astype(np.float32) / 32768
    assert len(wanted.codes) > 0
    assert samples.shape == wanted.samples.numpy().shape
    assert np.abs(samples - wanted.samples.numpy()).max() <= SAMPLE_TOLERANCE
