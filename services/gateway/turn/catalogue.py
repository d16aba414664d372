"""Finds the model that a request names."""

from __future__ import annotations

from collections.abc import Mapping

from services.common.errors import BadInput, NotFound, no_worker
from services.gateway.turn.model import Model, ModelKind

RETRY_AFTER_S = 2.0


class Catalogue:
    """Finds models by name. It remembers names, so that a model without live workers is not called unknown."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._last_of_kind: dict[ModelKind, str] = {}

    def find(self, served: Mapping[str, Model], name: str | None, *, shown: str = "") -> Model:
        """Return the model; `name` None = the only one that is served. Raise NotFound, Unavailable or BadInput, which
        speak of `shown` where the client calls it otherwise."""
        for served_name in served:
            self._known[served_name] = None
        if name is None:
            # A model that has just been replaced is no choice.
            chosen = [model for model in served.values() if model.stages or model.asleep] or list(served.values())
            if len(chosen) == 1:
                return chosen[0]
            if chosen:
                raise BadInput("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
        elif name in served:
            return served[name]
        elif served and name not in self._known:
            shown = (shown or name)[:200]
            raise NotFound(f"The model '{shown}' does not exist.", param="model", code="model_not_found")
        raise no_worker(retry_after_s=RETRY_AFTER_S)

    def only_of_kind(self, served: Mapping[str, Model], kind: ModelKind, alias: str) -> str:
        """Return the name of the only model of a kind; where there is none now, the last one's, or the alias itself.

        Raise BadInput where there are several.
        """
        names = sorted(name for name, model in served.items() if model.kind is kind)
        if len(names) > 1:
            raise BadInput(
                f"Invalid 'model': '{alias[:100]}' may be any of several models. Send the name of one:"
                f" {', '.join(names)}.",
                param="model",
            )
        if names:
            self._last_of_kind[kind] = names[0]
        return names[0] if names else self._last_of_kind.get(kind, alias)
