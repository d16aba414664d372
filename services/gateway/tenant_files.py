"""Files with tenants, which are read again when they change."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError

from services.common.queues.tickets import EVERY_OTHER
from services.common.settings import SettingsError
from services.gateway import metrics
from services.gateway.auth import DEFAULT_TENANT, keys_of_table
from services.gateway.tenants import TenantTermsSettings, TenantUpdate, UseTenants, check_keys, has_key

LOOK_EVERY_S = 5.0
"""How often files are looked at."""

logger = logging.getLogger(__name__)


class _Entry(TenantTermsSettings):
    """One tenant in a file."""

    keys: list[str] = Field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Tenants:
    """`keys`: tenant → SHA-256 of each of its keys. `terms`: tenant or EVERY_OTHER → its terms."""

    keys: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    terms: Mapping[str, TenantTermsSettings] = field(default_factory=dict[str, TenantTermsSettings])

    @property
    def update(self) -> TenantUpdate:
        return TenantUpdate(keys_of_table(self.keys), whole=True, terms=self.terms)


class TenantFiles:
    """One JSON file, or all `*.json` files of a folder: {"acme": ["<SHA-256>"], "beta": {"keys": […], "weight": 2}}.

    An entry is a list of hashes, or an object with `keys` and terms; EVERY_OTHER and the default tenant need no keys.
    `api_key` is the default tenant's, so no other may have it.
    """

    def __init__(self, path: Path, api_key: str = "") -> None:
        self._path = path
        self._api_key = api_key
        self._seen: object = None

    def start(self) -> TenantUpdate:
        """Read the files, which are then followed from here on. Raise SettingsError."""
        self.changed()
        try:
            return self.read().update
        except ValueError as error:
            raise SettingsError(f"ANTIPHON_TENANTS_FILE: {error}") from None

    def read(self) -> Tenants:
        """Read the files. Raise ValueError that names what is wrong, and no key."""
        keys: dict[str, list[str]] = {}
        terms: dict[str, TenantTermsSettings] = {}
        place = 0
        for file in self._files():
            try:
                entries: Any = json.loads(file.read_bytes())
            except OSError as error:
                raise ValueError(f"{file.name} cannot be read: {error.strerror}") from None
            except ValueError:
                raise ValueError(f"{file.name} is not JSON") from None
            if not isinstance(entries, dict):
                raise ValueError(f"{file.name} must hold an object: tenant → its keys")  # noqa: TRY004  # it is input
            for name, entry in cast(dict[str, Any], entries).items():
                place += 1
                if name in keys or name in terms:
                    raise ValueError(f"tenant {place} is in the files twice")
                self._add(name, entry, place, keys, terms)
        check_keys(keys)
        if not (keys or self._api_key):
            raise ValueError("no tenant has a key, and ANTIPHON_API_KEY is not set")
        if self._api_key and has_key(keys, self._api_key):
            raise ValueError("ANTIPHON_API_KEY is also a tenant's key: give the tenant a key of its own")
        return Tenants(keys, terms)

    def _add(
        self, name: str, entry: Any, place: int, keys: dict[str, list[str]], terms: dict[str, TenantTermsSettings]
    ) -> None:
        try:
            parsed = _Entry.model_validate({"keys": entry} if isinstance(entry, list) else entry)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            known = [str(part) for part in first["loc"][:1] if part in _Entry.model_fields]
            raise ValueError(": ".join([f"tenant {place}", *known, first["msg"]])) from None
        if name != EVERY_OTHER and (parsed.keys or name != DEFAULT_TENANT):
            keys[name] = parsed.keys
        elif name == EVERY_OTHER and parsed.keys:
            raise ValueError(f"tenant {place}: '{EVERY_OTHER}' stands for all others and has no keys")
        stated = parsed.model_fields_set - {"keys"}
        if stated:
            terms[name] = TenantTermsSettings(**{term: getattr(parsed, term) for term in stated})

    def changed(self) -> bool:
        """Return whether a file changed since the last call. A mounted Secret changes by a link to another folder."""
        try:
            seen = [(str(file), *_version(file)) for file in self._files()]
        except (OSError, ValueError):
            return False  # in the middle of a change
        before, self._seen = self._seen, seen
        return before != seen

    def _files(self) -> Sequence[Path]:
        if not self._path.is_dir():
            return [self._path]
        files = sorted(file for file in self._path.iterdir() if file.suffix == ".json")
        if not files:
            raise ValueError("the folder has no file *.json")
        return files

    async def follow(self, use: UseTenants) -> None:
        """Read the files again whenever they change, and `use` what they hold. What is wrong there is logged, and what
        was read before stays."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look(lambda tenants: use(tenants.update))

    async def look(self, use: Callable[[Tenants], None]) -> None:
        """Look at the files once. They may be large, so a thread reads them."""
        if not await asyncio.to_thread(self.changed):
            return
        try:
            use(await asyncio.to_thread(self.read))
        except ValueError as error:
            metrics.TENANT_FILES_READ.labels("refused").inc()
            logger.warning("ANTIPHON_TENANTS_FILE: %s. The tenants stay as they were", error)
        else:
            metrics.TENANT_FILES_READ.labels("ok").inc()
            logger.info("ANTIPHON_TENANTS_FILE was read again")


def _version(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
