"""The private parts of vLLM that this code uses still exist, and those that it replaces or overrides are unchanged.

The lists come from the source. After a new vLLM pin, each failure names one thing: read its new code, mend or drop
what depends on it, and write the new fingerprint here.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
import ast
import hashlib
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vllm
from vllm.model_executor.layers.rotary_embedding import MRotaryEmbedding
from vllm.model_executor.models import qwen2_5_omni_thinker
from vllm.model_executor.models.qwen3_omni_moe_thinker import Qwen3OmniMoeThinkerForConditionalGeneration
from vllm.utils import network_utils, system_utils
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.utils import CoreEngineProcManager
from vllm.v1.executor.multiproc_executor import MultiprocExecutor, WorkerProc
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.sample.logits_processor.builtin import MinTokensLogitsProcessor
from vllm.v1.sample.ops import logprobs, topk_topp_sampler
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from services.thinker.engine.patching import replace, replaced

SERVICES = Path(__file__).parents[2] / "services"
MODULES = {path: ast.parse(text) for path in sorted(SERVICES.rglob("*.py")) if "vllm" in (text := path.read_text())}

REPLACED = {
    "qwen3_omni_moe_thinker.check_interleaved_audio_video": "false where a sound follows its picture in one run",
    "core.StructuredOutputManager": "begins an answer's grammar anew where the answer goes on from another worker",
    "cpu_worker.CPUModelRunner": "is not the thinker's, and CPUWorker has no method that builds it",
    "sampler.batched_count_greater_than": "is compiled at its first use, for longer than an engine may be silent",
    "gpu_model_runner.CachedRequestState": "counts another worker's tokens as prompt",
    "utils.get_mp_context": "starts the core anew, which imports vLLM once more",
    "multiproc_executor.get_mp_context": "starts each worker anew, which imports vLLM once more",
    "uniproc_executor.get_file_store_init_method": "names a file that stays where the engine is killed",
    "multiproc_executor.get_file_store_init_method": "names a file that stays where the engine is killed",
    "uniproc_executor.Lock": "stays in /dev/shm where the engine is killed",
    "rotary.cos_sin_cache": "has whole positions only",
    "self._llm.shutdown": "is called again by __del__, when the interpreter ends",
}
"""Why each attribute of vLLM is replaced."""

OWN_METHODS = {
    "ThinkerModel._item",
    "ThinkerModel._with_values",
    "HiddenStatesConnector._take",
    "ThinkerModelRunner._with_earlier_tokens",
}
"""Methods that override nothing of vLLM's."""

FINGERPRINTS: dict[str, str] = {
    "AsyncLLM.__del__": "b23ab95b711b",
    "AsyncLLM.shutdown": "9c73648f809f",
    "CoreEngineProcManager.__init__": "c5e52824b845",
    "CpuThinkerModelRunner.load_model": "8a7250b1eaa5",
    "CpuThinkerWorker.init_device": "312cd6d1818c",
    "EngineCore.__init__": "2cd281dae1ee",
    "EngineStats.__init__": "8f7086901071",
    "EngineStats.log_engine_initialized": "c018f95baa2c",
    "EngineStats.record": "2571e170f720",
    "GPUModelRunner._calc_mrope_positions": "95bfdbd88e47",
    "GPUModelRunner._init_mrope_positions": "0c87211bf7fd",
    "GpuThinkerWorker._make_model_runner": "f17872fc8c4b",
    "HiddenStatesConnector.__init__": "3e3f126d4dea",
    "HiddenStatesConnector.build_connector_meta": "5d867b45632b",
    "HiddenStatesConnector.get_num_new_matched_tokens": "e3519136dd47",
    "HiddenStatesConnector.register_kv_caches": "e75350ff1ec1",
    "HiddenStatesConnector.request_finished": "afebb221b4d0",
    "HiddenStatesConnector.request_finished_all_groups": "7ea2621e9f21",
    "HiddenStatesConnector.requires_kv_delivery": "8fa622d8ad56",
    "HiddenStatesConnector.requires_piecewise_for_cudagraph": "0b6729cdba90",
    "HiddenStatesConnector.save_kv_layer": "105d7636bea9",
    "HiddenStatesConnector.shutdown": "88882a643ac3",
    "HiddenStatesConnector.start_load_kv": "8499587a5181",
    "HiddenStatesConnector.update_state_after_alloc": "0b5e0dc4efad",
    "HiddenStatesConnector.wait_for_layer_load": "c8e3c800d037",
    "HiddenStatesConnector.wait_for_save": "d4a03ed94493",
    "InputBatch.add_request": "81e4d3d898ab",
    "MRotaryEmbedding.get_next_input_positions_tensor": "a44c1988d697",
    "MinTokensLogitsProcessor.add_request": "8847fbb45cf8",
    "MultiprocExecutor._init_executor": "3e94aaeaa975",
    "Qwen3OmniMoeThinkerForConditionalGeneration.embed_input_ids": "dc0860696155",
    "ResumableRequestState.__post_init__": "bb6209f56589",
    "RotaryEmbeddingBase._match_cos_sin_cache_dtype": "a466261faae5",
    "Sampler.gather_logprobs": "4259b414782c",
    "Sampler.gather_specific_token_logprobs": "650845c027aa",
    "StructuredOutputManager._get_constraint_bounds": "32450979f1bf",
    "StructuredOutputManager.accept_tokens": "511880dcd36c",
    "ThinkerGrammars.__post_init__": "6022c66ca240",
    "ThinkerModel.__init__": "0c0f8bed0278",
    "ThinkerModel._parse_and_validate_audio_input": "e11c19a009ef",
    "ThinkerModel._parse_and_validate_image_input": "a612e52383b6",
    "ThinkerModel._parse_and_validate_video_input": "827e2c30ea19",
    "ThinkerModel._process_audio_input": "bc535ba9f263",
    "ThinkerModel.forward": "035780ac3cf6",
    "ThinkerModel.get_mrope_input_positions": "3631bafd9815",
    "ThinkerModelRunner._update_states": "88fa4464499b",
    "ThinkerModelRunner.sample_tokens": "95c991041f40",
    "ThinkerModelWithHiddenStates.__init__": "0c0f8bed0278",
    "ThinkerModelWithHiddenStates.forward": "035780ac3cf6",
    "ThinkerStructuredOutputs._create_grammar": "66f5836b0baf",
    "ThinkerStructuredOutputs._get_reasoner": "2fea963e22ca",
    "ThinkerStructuredOutputs.grammar_init": "8d9078bfe38d",
    "TopKTopPSampler.forward_cpu": "adab466f7507",
    "TopKTopPSampler.forward_cuda": "1b8a1af20f91",
    "TopKTopPSampler.forward_native": "1a6c2101feb1",
    "UniProcExecutor._distributed_args": "a700ac020a3e",
    "UniProcExecutor._init_executor": "898df3981ffe",
    "WorkerProc.make_worker_process": "2bd0b9ddf002",
    "batched_count_greater_than": "09d79dfe266e",
    "check_interleaved_audio_video": "db76d489c21f",
    "empty_exponential_noise_like": "8c12ceecf9b4",
    "get_file_store_init_method": "0f311f28678b",
    "get_mp_context": "2a5f8ffd9812",
    "random_sample": "c5262fa9985b",
}
"""Of the source of each function of vLLM that is overridden, or uses what is replaced."""


def calls_of_replace() -> Iterator[tuple[Path, ast.Call]]:
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("replace", "replaced")
                and isinstance(node.args[1], ast.Constant)
            ):
                yield path, node


def imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return each import from vLLM in the module: (module, attribute), or (module, "") for a whole module."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            found |= {name.asname or name.name: (node.module or "", name.name) for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name: (name.name, "") for name in node.names if name.name.split(".")[0] == "vllm"}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"vllm(\.\w+)+", str(node.value)):
            module, _, name = str(node.value).rpartition(".")
            found[str(node.value)] = (module, name)
    return found


def find(module: str, name: str) -> Any:
    owner = import_module(module)
    return getattr(owner, name) if hasattr(owner, name) else import_module(f"{module}.{name}" if name else module)


@pytest.mark.parametrize("used", sorted({used for tree in MODULES.values() for used in imports(tree).values()}))
def test_vllm_still_has_every_imported_name(used: tuple[str, str]) -> None:
    try:
        find(*used)
    except ImportError:
        pytest.fail(f"vLLM {vllm.__version__} has no {'.'.join(used)}")


def test_each_replaced_attribute_has_its_reason() -> None:
    assert {f"{ast.unparse(call.args[0])}.{ast.literal_eval(call.args[1])}" for _, call in calls_of_replace()} == {
        *REPLACED
    }
    for path, tree in MODULES.items():
        known = imports(tree)
        assigned = [
            ast.unparse(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in known
        ]
        assert not assigned, f"{path}: use services.thinker.engine.patching.replace"


def overridden() -> dict[str, Any]:
    """Return each method of our subclasses of vLLM's classes → the method that it overrides, or None."""
    found: dict[str, Any] = {}
    for path, tree in MODULES.items():
        module = import_module(".".join(("services", *path.relative_to(SERVICES).with_suffix("").parts)))
        for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            bases = [base for base in getattr(module, node.name).__mro__ if base.__module__.startswith("vllm.")]
            for method in (item.name for item in node.body if isinstance(item, ast.FunctionDef)):
                if bases:
                    base = next((base for base in bases if method in vars(base)), None)
                    found[f"{node.name}.{method}"] = vars(base)[method] if base else None
    return found


FUNCTIONS = {
    function.__qualname__: function
    for function in (
        qwen2_5_omni_thinker.check_interleaved_audio_video,
        Qwen3OmniMoeThinkerForConditionalGeneration.embed_input_ids,
        GPUModelRunner._init_mrope_positions,
        GPUModelRunner._calc_mrope_positions,
        MRotaryEmbedding._match_cos_sin_cache_dtype,
        MRotaryEmbedding.get_next_input_positions_tensor,
        CoreEngineProcManager.__init__,
        MultiprocExecutor._init_executor,
        UniProcExecutor._init_executor,
        UniProcExecutor._distributed_args,
        network_utils.get_file_store_init_method,
        WorkerProc.make_worker_process,
        system_utils.get_mp_context,
        AsyncLLM.__del__,
        AsyncLLM.shutdown,
        TopKTopPSampler.forward_cpu,
        TopKTopPSampler.forward_cuda,
        TopKTopPSampler.forward_native,
        topk_topp_sampler.random_sample,
        topk_topp_sampler.empty_exponential_noise_like,
        logprobs.batched_count_greater_than,
        Sampler.gather_logprobs,
        Sampler.gather_specific_token_logprobs,
        InputBatch.add_request,
        MinTokensLogitsProcessor.add_request,
        EngineCore.__init__,
        StructuredOutputManager._get_constraint_bounds,
        StructuredOutputManager.accept_tokens,
    )
}
"""Functions of vLLM that use what is replaced, are replaced, or read what our subclasses set."""


def fingerprint(function: Any) -> str:
    source = inspect.getsource(
        inspect.unwrap(getattr(function, "fget", None) or getattr(function, "__func__", function))
    )
    return hashlib.sha256("".join(source.split()).encode()).hexdigest()[:12]


OVERRIDDEN = overridden()


def test_each_method_overrides_vllms_or_is_listed_as_our_own() -> None:
    assert {name for name, base in OVERRIDDEN.items() if base is None} == OWN_METHODS


READ = FUNCTIONS | {name: base for name, base in OVERRIDDEN.items() if base is not None}


def test_the_fingerprints_cover_what_is_replaced_or_overridden() -> None:
    assert FINGERPRINTS.keys() == READ.keys()


@pytest.mark.parametrize("name", sorted(READ))
def test_fingerprinted_code_of_vllm_is_unchanged(name: str) -> None:
    now = fingerprint(READ[name])
    assert FINGERPRINTS.get(name) == now, f"vLLM {vllm.__version__} has another {name}, {now}: read it, then mend ours"


def test_vllm_still_places_sound_after_its_picture() -> None:
    is_video, is_audio = torch.tensor([True, True, False, False]), torch.tensor([False, False, True, True])
    assert not qwen2_5_omni_thinker.check_interleaved_audio_video(is_video, is_audio, 2, 2), "mended: drop ours"


def test_vllm_still_rewinds_generators_by_an_offset_that_cpus_lack() -> None:
    assert ".set_offset(" in inspect.getsource(GPUModelRunner._bookkeeping_sync), "mended: drop sample_tokens"
    with pytest.raises(RuntimeError):
        torch.Generator().set_offset(4)


def test_vllm_still_begins_grammars_after_the_prompt() -> None:
    source = inspect.getsource(StructuredOutputManager._create_grammar)
    assert "accept_tokens" not in source
    assert "prompt_token_ids" not in source


def test_vllm_still_counts_positions_in_whole_numbers() -> None:
    out = np.zeros((3, 2), dtype=np.int64)
    MRotaryEmbedding.get_next_input_positions_tensor(out, 0, 0.5, 4, 2)  # pyright: ignore[reportArgumentType]
    assert out.tolist() == [[4, 5]] * 3, "mended: drop StepRotary"


class Upstream:
    """Stands for a module of vLLM."""

    known = 1

    def user(self) -> int:
        return self.known


def test_a_replacement_of_a_missing_name_fails_at_once() -> None:
    with pytest.raises(RuntimeError, match="has no renamed to replace"):
        replace(Upstream, "renamed", 2, Upstream.user)
    with pytest.raises(RuntimeError, match=r"Upstream\.user does not use user"):
        replace(Upstream, "user", 2, Upstream.user)
    with replaced(Upstream, "known", 2, Upstream.user):
        assert Upstream().user() == 2
    assert Upstream().user() == 1
