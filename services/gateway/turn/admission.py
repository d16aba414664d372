"""The way into every turn, whatever the entrance."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from services.gateway.limits import RequestLimits
from services.gateway.turn.aliases import Aliases, kind_of
from services.gateway.turn.allowed import Allowed
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.checks import check_intent
from services.gateway.turn.intent import Intent, Principal
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.ports import Accounts, ModelSource
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.turn import Turn
from services.gateway.turn.turns import OpenedAccount, Turns


def new_request_id() -> str:
    return "req_" + secrets.token_hex(16)


class Admission:
    """Turns intents into turns."""

    def __init__(
        self,
        models: ModelSource,
        catalogue: Catalogue,
        accounts: Accounts,
        turns: Turns,
        limits: RequestLimits,
        aliases: Aliases | None = None,
    ) -> None:
        self._models = models
        self._catalogue = catalogue
        self._accounts = accounts
        self._turns = turns
        self._limits = limits
        self._aliases = aliases or Aliases()

    async def models(self, principal: Principal) -> list[Model]:
        """Return the models that who asks may use, by name, each with the voices that they may use. Raise
        Unavailable."""
        allowed = self._allowed_to(principal)
        models = allowed.models_of(await self._models.models())
        return [allowed.voices_of(models[name]) for name in sorted(models)]

    async def find(self, principal: Principal, name: str | None) -> Model:
        """Return the model of a name or an alias; None = the only one that who asks may use. Raise BadInput, Forbidden,
        NotFound or Unavailable."""
        allowed = self._allowed_to(principal)
        if name is None:
            return self._catalogue.find(allowed.models_of(await self._models.models()), None)
        target = self._aliases.model(name)
        kind = kind_of(target) if target != name else None
        if kind is None:
            allowed.check_model(target, shown=name)
        models = allowed.models_of(await self._models.models())
        if kind is not None:
            target = self._catalogue.only_of_kind(models, kind, name)
            allowed.check_model(target, shown=name)
        return self._catalogue.find(models, target, shown=name)

    async def only_of_kind(self, principal: Principal, kind: ModelKind) -> Model:
        """Return the only model of a kind that who asks may use. Raise BadInput, Forbidden, NotFound or Unavailable."""
        allowed = self._allowed_to(principal)
        models = allowed.models_of(await self._models.models())
        name = self._catalogue.only_of_kind(models, kind, kind.value)
        allowed.check_model(name, shown=kind.value)
        return self._catalogue.find(models, name, shown=kind.value)

    def check_choices(self, principal: Principal, choices: int) -> None:
        """Raise BadInput where a limit of who asks never allows so many turns together."""
        self._accounts.check_choices(principal, choices)

    def holding_session(
        self, principal: Principal, place_id: str, instead_of: str = ""
    ) -> AbstractAsyncContextManager[None]:
        """See Accounts in ports.py."""
        return self._accounts.holding_session(principal, place_id, instead_of)

    def shown(self, principal: Principal, model: Model) -> Model:
        """Return the model with the voices that who asks may use."""
        return self._allowed_to(principal).voices_of(model)

    def check(self, principal: Principal, intent: Intent, model: Model) -> None:
        """Raise BadInput, ContextTooLong, Forbidden or Unavailable where the model can't serve this to who asks."""
        self._check(principal, self._aliases.applied(intent, model), model, intent)

    def _check(self, principal: Principal, intent: Intent, model: Model, asked: Intent) -> None:
        """As `check`. `asked`: the intent with the names that the client gave."""
        allowed = self._allowed_to(principal)
        allowed.check_voice(intent, model, shown=asked.speech.voice if asked.speech else "")
        check_intent(intent, model, allowed.voices_of(model).voices)

    @asynccontextmanager
    async def admit(
        self, principal: Principal, intent: Intent, opened: OpenedAccount | None = None
    ) -> AsyncGenerator[Turn]:
        """Check the intent against its model's card, and run its turn inside the block. `opened`: its account, where
        that is open.

        Leaving the block before the last event cancels the turn. Raise BadInput, ContextTooLong, Forbidden, NotFound or
        Unavailable before any work is done.
        """
        request = await self.request_of(principal, intent)
        async with self._turns.begin(request, opened) as turn:
            yield turn

    async def request_of(self, principal: Principal, intent: Intent) -> TurnRequest:
        """Check the intent against its model's card. Raise as `admit`."""
        model = await self.find(principal, intent.model)
        asked, intent = intent, self._aliases.applied(intent, model)
        self._check(principal, intent, model, asked)
        longest_s = self._limits.request_timeout_s
        timeout_s = longest_s if intent.timeout_s is None else min(intent.timeout_s, longest_s)
        return TurnRequest(
            request_id=intent.request_id or new_request_id(),
            principal=principal,
            intent=intent,
            model=model,
            deadline_unix_ms=round((time.time() + timeout_s) * 1000),
            is_hurried=timeout_s < longest_s,
        )

    def _allowed_to(self, principal: Principal) -> Allowed:
        allowed = self._accounts.allowed_to(principal)
        return allowed.of_model(principal.only_model) if principal.only_model else allowed
