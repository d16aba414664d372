"""The request of one turn: an intent that was admitted."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.queues.tickets import PriorityClass
from services.gateway.turn.intent import Intent, Principal
from services.gateway.turn.model import Model, needed_stages


@dataclass(frozen=True, slots=True)
class TurnRequest:
    # Unique; names the turn in logs, traces and tensor stores.
    request_id: str
    principal: Principal
    intent: Intent
    model: Model
    # When the caller's patience ends, by this host's clock, milliseconds since the epoch.
    deadline_unix_ms: int
    # The client set a shorter deadline than the operator.
    is_hurried: bool = False

    @property
    def priority(self) -> int:
        """In all queues, beside the tenant's."""
        return PriorityClass.BATCH if self.principal.is_batch else self.intent.priority

    @property
    def speaks(self) -> bool:
        return self.intent.speech is not None

    @property
    def tool_call_token_id(self) -> int | None:
        """The token that begins a call of a tool; None = there is nothing to call."""
        return self.model.tool_call_token_id if self.intent.tools else None

    @property
    def thinker_renders(self) -> bool:
        """Whether the thinker renders the prompt from the messages, in place of a preprocess worker."""
        intent = self.intent
        return self.model.renders_messages and intent.is_short_text and not (intent.said or intent.drops_oldest)

    @property
    def asleep(self) -> frozenset[str]:
        """The stages that must be started first."""
        return self.model.asleep & needed_stages(speech=self.speaks, said=bool(self.intent.said))
