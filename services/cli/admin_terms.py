"""`antiphon admin limits` and `antiphon admin prices`."""

from __future__ import annotations

import argparse
from decimal import Decimal, InvalidOperation
from typing import Any

from services.cli.acts import add_act, show
from services.cli.admin_client import AdminClient, AdminError, Row

_MICROS = 1_000_000
_MONEY = "money_"
_PLACE = ("weight", "priority", "max_slots", "max_share")
_LIMIT = ("limit", "amount", "without_redis")
_PRICE = ("id", "model", "kind", "per_million", "from_at", "created_at")
_AMOUNT = (
    "KIND=AMOUNT sets a limit, KIND= removes it: requests_per_minute=60, tokens_per_day=1000000, money_per_month=250."
    " Money is in the prices' currency, audio in milliseconds."
)


def add_limits(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(required=True, metavar="ACT")
    add_act(
        acts,
        "get",
        _get,
        "show a subject's limits and terms: a key's id, organisation/project, or organisation",
        "SUBJECT",
    )
    setting = add_act(acts, "set", _set, "change some limits and terms of a subject; the others stay", "SUBJECT")
    setting.add_argument("limits", nargs="*", metavar="KIND=AMOUNT", help=_AMOUNT)
    setting.add_argument(
        "--pass-without-redis", action="store_true",
        help="while Redis is away, requests pass the limits named here; without it they are refused",
    )  # fmt: skip
    for name in ("model", "voice"):
        setting.add_argument(
            f"--{name}",
            action="append",
            help=f'a {name} that it may use, in place of those before; repeatable; "" = all',
        )
    for name in _PLACE:
        number, of = float if name in ("weight", "max_share") else int, "a project"
        if name in ("max_slots", "max_share"):
            of += " or an organisation"
        setting.add_argument(f"--{name.replace('_', '-')}", type=number, help=f"of {of}: see docs/tenants.md")


def _get(client: AdminClient, options: argparse.Namespace) -> None:
    _show_terms(options, client.get(f"{client.subject_path(options.subject)}/terms"))


def _set(client: AdminClient, options: argparse.Namespace) -> None:
    path = f"{client.subject_path(options.subject)}/terms"
    shown = client.get(path)
    terms = {name: value for name, value in shown.items() if name not in ("object", "subject", "updated_at")}
    for text in options.limits:
        kind, equals, amount = text.partition("=")
        if not equals:
            raise AdminError(f"'{text}' is no limit: write KIND=AMOUNT, or KIND= to remove it.")
        if amount:
            passes = options.pass_without_redis
            terms["limits"][kind] = {"amount": _amount(kind, amount), "passes_without_redis": passes}
        else:
            terms["limits"].pop(kind, None)
    for name in ("model", "voice"):
        if (given := getattr(options, name)) is not None:
            terms[f"{name}s"] = [each for each in given if each]
    terms |= {name: getattr(options, name) for name in _PLACE if getattr(options, name) is not None}
    _show_terms(options, client.put(path, terms))


def _amount(kind: str, text: str) -> int:
    try:
        number = Decimal(text) * (_MICROS if kind.startswith(_MONEY) else 1)
        if number == number.to_integral_value():
            return int(number)
    except (InvalidOperation, OverflowError, ValueError):
        pass
    raise AdminError(f"'{text}' is no amount of {kind}.")


def _show_terms(options: argparse.Namespace, terms: Row) -> None:
    """Print limits as rows, and what else was granted as further ones."""
    if options.json:
        show(options, [terms], ())
        return
    rows: list[Row] = []
    for kind, limit in terms["limits"].items():
        amount = f"{Decimal(limit['amount']) / _MICROS:f}" if kind.startswith(_MONEY) else limit["amount"]
        rows.append(_row(kind, amount, "passes" if limit["passes_without_redis"] else "refused"))
    rows += [_row(name, terms[name] or "all", "-") for name in ("models", "voices")]
    rows += [_row(name, terms[name], "-") for name in _PLACE if name in terms]
    show(options, rows, _LIMIT)


def _row(limit: str, amount: Any, without_redis: str) -> Row:
    return {"limit": limit, "amount": amount, "without_redis": without_redis}


def add_prices(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(required=True, metavar="ACT")

    def list_all(client: AdminClient, options: argparse.Namespace) -> None:
        show(options, client.rows("/prices", {"model": options.model, "kind": options.kind}), _PRICE)

    def add(client: AdminClient, options: argparse.Namespace) -> None:
        body = {"model": options.model, "kind": options.kind, "per_million": options.price, "from_at": options.start}
        show(options, [client.post("/prices", body)], _PRICE)

    listing = add_act(acts, "list", list_all, "list all, also those that were superseded")
    listing.add_argument("--kind", help="only of this kind")
    listing.add_argument("--model", help="only of this model")
    adding = add_act(acts, "add", add, "add one; it supersedes the one before, and can't be changed", "KIND", "PRICE")
    adding.description = 'KIND is "requests" or an amount, such as completion_text_tokens; PRICE is that of a million.'
    adding.add_argument(
        "--model", default="", help="the model's name (default: every model without a price of its own)"
    )
    adding.add_argument("--from", dest="start", metavar="TIME", help="such as 2027-01-01T00:00:00Z (default: now)")
