"""Until when a spoken answer is kept, as the answer tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KeptUntil:
    """`unix_s`: when it expires; when it ended, where it is not kept. `file_id`: of the file that has its audio until
    then; "" = none has."""

    unix_s: float
    file_id: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """Those of the answer's `audio`."""
        return {"expires_at": int(self.unix_s), **({"file_id": self.file_id} if self.file_id else {})}
