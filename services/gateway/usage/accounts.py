"""Gives each turn an account in the books."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from services.gateway.turn.allowed import Allowed
from services.gateway.turn.intent import Principal
from services.gateway.turn.ports import TurnProgress
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.account import TurnAccount
from services.gateway.usage.books import Books
from services.gateway.usage.refusals import check_choices
from services.gateway.usage.session_account import holding_session


class MeteredAccounts:
    def __init__(self, books: Books) -> None:
        self._books = books

    def allowed_to(self, principal: Principal) -> Allowed:
        return self._books.terms.of_turns(principal.subjects).allowed

    def check_choices(self, principal: Principal, choices: int) -> None:
        """See Accounts in turn/ports.py."""
        if choices > 1:  # whatever refuses one is a limit that is reached, or forbids all
            check_choices(self._books.terms.of(principal.subjects), choices)

    def account_of(self, request: TurnRequest, progress: TurnProgress) -> TurnAccount:
        return TurnAccount(self._books, request, progress)

    def holding_session(
        self, principal: Principal, place_id: str, instead_of: str = ""
    ) -> AbstractAsyncContextManager[None]:
        """See Accounts in turn/ports.py."""
        return holding_session(self._books, principal, place_id, instead_of)
