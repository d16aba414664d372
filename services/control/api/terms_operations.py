"""The operations of the Admin API for terms and prices."""

from __future__ import annotations

from services.common.errors import NotFound
from services.control.api import schema, terms_schema
from services.control.api.operation import BASE, Call, Operation, StatusAndBody
from services.control.api.terms_schema import terms_reply
from services.control.tenancy import ids
from services.control.tenancy.prices import Prices
from services.control.tenancy.terms import TermsBook

_SUBJECTS = (
    (
        *("organisations", ids.ORGANISATION, "Organisation"),
        *(terms_schema.OrganisationTermsBody, terms_schema.OrganisationTermsReply),
    ),
    ("projects", ids.PROJECT, "Project", terms_schema.ProjectTermsBody, terms_schema.ProjectTermsReply),
    ("keys", ids.API_KEY, "Key", terms_schema.TermsBody, terms_schema.TermsReply),
)


def terms_operations(terms: TermsBook) -> list[Operation]:
    return [operation for subject in _SUBJECTS for operation in _terms(terms, *subject)]


def _terms(
    terms: TermsBook,
    folder: str,
    prefix: str,
    name: str,
    body: type[terms_schema.TermsBody],
    reply: type[terms_schema.TermsReply],
) -> list[Operation]:
    def subject_of(call: Call) -> str:
        subject = call.ids["id"]
        if not subject.startswith(f"{prefix}_"):
            raise NotFound(f"There is no {name.lower()} '{subject}'.")
        return subject

    async def get(call: Call) -> StatusAndBody:
        subject = subject_of(call)
        call.caller.check_may_read(subject)
        return 200, terms_reply(reply, subject, await terms.get(subject))

    async def put(call: Call) -> StatusAndBody:
        subject = subject_of(call)
        return 200, terms_reply(reply, subject, await terms.set(call.caller.actor, subject, call.body.terms))

    path, of = f"{BASE}/{folder}/{{id}}/terms", "an organisation" if prefix == ids.ORGANISATION else f"a {name.lower()}"
    return [
        Operation(
            f"get{name}Terms", "GET", path, f"Get the limits and terms of {of}", get, {200: reply}, errors=(404,),
            for_projects=folder == "projects",
        ),
        Operation(
            f"set{name}Terms", "PUT", path, f"Replace the limits and terms of {of}", put, {200: reply},
            body=body, errors=(404,),
        ),
    ]  # fmt: skip


def price_operations(prices: Prices) -> list[Operation]:
    async def add(call: Call) -> StatusAndBody:
        new: terms_schema.NewPrice = call.body
        made, is_new = await prices.add(call.caller.actor, new.model, new.kind, new.micros_per_million, new.from_at)
        return 201 if is_new else 200, terms_schema.price_reply(made)

    async def list_all(call: Call) -> StatusAndBody:
        query: terms_schema.PricePaging = call.query
        rows, more = await prices.list(query.after, query.limit, query.model, query.kind)
        data = [terms_schema.price_reply(row) for row in rows]
        return 200, page(data=data, has_more=more, next_after=rows[-1].id if more else None)

    reply, page = terms_schema.PriceReply, schema.Page[terms_schema.PriceReply]
    path = f"{BASE}/prices"
    return [
        Operation(
            "addPrice", "POST", path, "Add a price, which supersedes the one before from its time on",
            add, {201: reply, 200: reply}, body=terms_schema.NewPrice, errors=(409,),
        ),
        Operation("listPrices", "GET", path, "List prices", list_all, {200: page}, query=terms_schema.PricePaging),
    ]  # fmt: skip
