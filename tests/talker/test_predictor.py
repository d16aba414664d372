"""The code predictor's cache, which every frame starts empty."""

from __future__ import annotations

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.predictor import CodePredictor


def test_a_frame_does_not_see_the_last_ones_cache(speech_models: SpeechModels) -> None:
    predictor = CodePredictor(speech_models.talker, streams=2)
    hidden = torch.randn(2, int(speech_models.talker.config.text_config.hidden_size))
    first = torch.tensor([5, 7])
    noises = [torch.rand(2, predictor.vocabulary) + 0.01 for _ in range(predictor.residuals)]
    with torch.inference_mode():
        codes = predictor.predict(hidden, first, noises)
        predictor.kv_cache.fill_(torch.nan)
        assert torch.equal(predictor.predict(hidden, first, noises), codes)
    assert bool(predictor.kv_cache.isfinite().all())
