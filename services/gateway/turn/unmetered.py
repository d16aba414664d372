"""Accounts where nothing is limited and nothing is written down."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from services.gateway.turn.allowed import Allowed
from services.gateway.turn.intent import Principal
from services.gateway.turn.ports import TurnProgress
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest


class UnmeteredAccount:
    limit = ""
    headers: Mapping[str, str] = {}

    async def open(self) -> None: ...

    async def take_prompt(self, prepared: Prepared) -> None: ...

    async def take_text(self, tokens: int) -> bool:
        return True

    async def take_speech(self, frames: int) -> bool:
        return True

    def sent(self, text_tokens: int, frames: int) -> None: ...

    def follow(self, progress: TurnProgress) -> None: ...

    async def close(self, outcome: str) -> None: ...


class Unmetered:
    """Gives every turn the same account."""

    _account = UnmeteredAccount()

    def allowed_to(self, principal: Principal) -> Allowed:
        return Allowed()

    def check_choices(self, principal: Principal, choices: int) -> None: ...

    def account_of(self, request: TurnRequest, progress: TurnProgress) -> UnmeteredAccount:
        return self._account

    def holding_session(
        self, principal: Principal, place_id: str, instead_of: str = ""
    ) -> AbstractAsyncContextManager[None]:
        return nullcontext()
