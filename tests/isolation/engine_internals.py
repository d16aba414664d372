"""What belongs to engines: no request may bring it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.gateway.http.chat.neutral import ENGINE_FIELDS

HIDDEN = "what-no-engine-may-read"
ENGINE_INTERNALS: Mapping[str, Any] = {
    **dict.fromkeys(ENGINE_FIELDS, HIDDEN),
    "kv_transfer_params": {"remote": HIDDEN},
    "priority": 5,
    "tenant": "alice-corp.alice-prod",
    "vllm_xargs": {"a": HIDDEN},
}
