"""A client of the control plane's Admin API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx

_TIMEOUT_S = 30.0
_PAGE = 200
BASE = "/admin/v1"
Row = dict[str, Any]


class AdminError(Exception):
    """The Admin API refused, or could not be reached. The message says what to do."""


class AdminClient:
    """Organisations are named by id or name, projects by id or `organisation/project`.

    Paths are below `BASE`, or whole where they begin with "/v1/".
    """

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Row:
        return self._ask("POST", path, json=body)

    def put(self, path: str, body: Mapping[str, Any]) -> Row:
        return self._ask("PUT", path, json=body)

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Row:
        return self._ask("GET", path, params=query)

    def rows(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """Yield the rows of all pages."""
        asked = {"limit": _PAGE, **{name: value for name, value in (query or {}).items() if value is not None}}
        while True:
            page = self.get(path, asked)
            yield from page["data"]
            if not page["has_more"]:
                return
            asked["after"] = page["next_after"]

    def organisation_id(self, given: str) -> str:
        """Return the id of an organisation. Raise AdminError where there is none of that name."""
        if given.startswith("org_"):
            return given
        return self._named("/organisations", given, f"There is no organisation '{given}'.")

    def project_id(self, given: str) -> str:
        """Return the id of a project. Raise AdminError where there is none of that name."""
        if given.startswith("proj_"):
            return given
        organisation, slash, name = given.partition("/")
        if not slash:
            raise AdminError(f"'{given}' is no project: write organisation/project, or its id (proj_…).")
        path = f"/organisations/{self.organisation_id(organisation)}/projects"
        return self._named(path, name, f"There is no project '{given}'.")

    def subject_path(self, given: str) -> str:
        """Return the path of a key's id, a project or an organisation. Raise AdminError where there is none."""
        if given.startswith("key_"):
            return f"/keys/{given}"
        if "/" in given or given.startswith("proj_"):
            return f"/projects/{self.project_id(given)}"
        return f"/organisations/{self.organisation_id(given)}"

    def _named(self, path: str, name: str, absent: str) -> str:
        found = self.get(path, {"name": name})["data"]
        if not found:
            raise AdminError(absent)
        return found[0]["id"]

    def _ask(self, method: str, path: str, **given: Any) -> Row:
        try:
            whole = path if path.startswith("/v1/") else f"{BASE}{path}"
            answer = self._http.request(method, whole, **given)
        except httpx.HTTPError as error:
            raise AdminError(f"{self._url} does not answer ({type(error).__name__}). Set --url or ADMIN_URL.") from None
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise AdminError(f"{self._url} is no Admin API of Antiphon (status {answer.status_code}).")
        if answer.is_error:
            problem = body.get("error", {})
            raise AdminError(f"{problem.get('message', answer.status_code)} (code {problem.get('code')})")
        return body
