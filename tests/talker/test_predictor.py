"""The code predictor's cache: every frame begins it anew."""

from __future__ import annotations

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.predictor import CodePredictor


def test_what_a_frame_left_in_the_cache_does_not_reach_the_next(speech_models: SpeechModels) -> None:
    predictor = CodePredictor(speech_models.talker, streams=2)
    hidden = torch.randn(2, int(speech_models.talker.config.text_config.hidden_size))
    first = torch.tensor([5, 7])
    excluded = torch.zeros(2, predictor.candidates, dtype=torch.bool)
    noise = torch.rand(2, predictor.residuals * predictor.vocabulary) + 0.01
    with torch.inference_mode():
        codes = predictor.predict(hidden, first, excluded, noise)
        predictor.kv_cache.fill_(torch.nan)
        assert torch.equal(predictor.predict(hidden, first, excluded, noise), codes)
    assert bool(predictor.kv_cache.isfinite().all())
