"""The limit of media items per prompt does not change vLLM's encoder budget."""

from __future__ import annotations

import warnings

import pytest

from services.thinker.engine.environment import prepare_environment
from services.thinker.settings import ThinkerSettings

prepare_environment()  # before vLLM is imported
with warnings.catch_warnings(action="ignore"):  # vLLM's and torch's own, at import
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.encoder_budget import MultiModalBudget

    from services.thinker.engine.arguments import engine_arguments
    from services.thinker.service import read_checkpoint


def encoder_budget(settings: ThinkerSettings, items: int) -> tuple[object, ...]:
    settings = settings.model_copy(update={"max_images": items, "max_videos": items, "max_audios": items})
    arguments = engine_arguments(settings, read_checkpoint(settings), on_cpu=True, hidden_states_endpoint="")
    budget = MultiModalBudget(arguments.create_engine_config(), MULTIMODAL_REGISTRY, enable_cache=False)
    largest = budget.get_modality_with_max_tokens()  # vLLM profiles memory with this one
    return (
        budget.encoder_compute_budget,
        budget.encoder_cache_size,
        dict(budget.mm_max_toks_per_item),
        largest,
        budget.mm_max_items_per_batch[largest],
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_more_items_per_prompt_take_no_more_encoder_memory(settings: ThinkerSettings) -> None:
    assert encoder_budget(settings, 512) == encoder_budget(settings, 3)
