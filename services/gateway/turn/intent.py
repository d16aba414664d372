"""Who asks, and what: the request of every entrance, in the domain's own types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.errors import Forbidden
from services.common.key_scopes import ALL_SCOPES, Scope
from services.common.queues.tickets import PriorityClass
from services.gateway.turn.conversation import Message, holds_media, text_bytes
from services.gateway.turn.held_media import HeldMedia
from services.gateway.turn.structure import Structure

# Longer text is left to preprocess: tokenizing holds the interpreter, and with it all answers of a thinker.
SHORT_TEXT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """What a short-lived secret of a key is for."""

    scope: Scope
    expires_unix_s: int
    # The only model that it may be used for; "" = all that its key may.
    model: str = ""
    # What realtime sessions begin with: JSON that their entrance reads; "" = nothing.
    session: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. Fair share and cache isolation use `tenant`, metrics use `label`."""

    tenant: str
    label: str
    # The key that was shown; "" = one of a table, or none.
    key_id: str = ""
    # What the key may be used for.
    scopes: frozenset[Scope] = ALL_SCOPES
    # The key's project and its organisation; "" as with `key_id`.
    project_id: str = ""
    organisation_id: str = ""
    # What was shown in the key's place; None = the key itself.
    secret: ClientSecret | None = None
    # Nobody waits for what is asked: a batch's line.
    is_batch: bool = False
    subjects: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Whose limits hold: the key's, its project's and its organisation's. Made with the key, since each turn asks."""

    def __post_init__(self) -> None:
        subjects = tuple(id for id in (self.key_id, self.project_id, self.organisation_id) if id)
        object.__setattr__(self, "subjects", subjects)

    @property
    def only_model(self) -> str:
        """The only model that may be asked; "" = any."""
        return self.secret.model if self.secret is not None else ""

    def check_scope(self, scope: Scope) -> None:
        """Raise Forbidden where the key may not be used for this."""
        if scope not in self.scopes:
            shown = "API key" if self.secret is None else "client secret"
            raise Forbidden(f"This {shown} may not be used for {scope}: it lacks the scope.", code="missing_scope")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the text is sampled: vLLM's names and meanings. None = the checkpoint's generation_config, then vLLM's
    default."""

    temperature: float | None = None
    top_p: float | None = None
    # 0 = off.
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    # Strings that end the answer and are not part of its text.
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    # None = what the model's length leaves, at most the operator's default.
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    # Log probabilities of each token, and of as many likeliest ones at its place; None = none.
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class SpeechSampling:
    """How the speech is sampled. None = transformers' defaults for the talker."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    # None = the talker draws one.
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """The wanted speech. An empty voice = the model's default; no `max_frames` = the operator's limit."""

    voice: str = ""
    sampling: SpeechSampling = SpeechSampling()
    max_frames: int | None = None


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What an entrance calls the fields of an intent, so that errors name them as the client wrote them."""

    voice: str
    modalities: str
    messages: str = "messages"
    max_tokens: str = "max_tokens"
    thinking: str = "enable_thinking"
    tools: str = "tools"
    logprobs: str = "logprobs"


@dataclass(frozen=True, slots=True)
class Intent:
    """What is asked."""

    names: FieldNames
    # time.monotonic() when the request arrived.
    arrived_s: float
    messages: Sequence[Message]
    inline: HeldMedia = field(default_factory=HeldMedia)
    # None = the only model that is served.
    model: str | None = None
    # The sound of videos that have one is heard, too. A video may say otherwise.
    use_audio_in_video: bool = False
    sampling: Sampling = Sampling()
    # None = text only.
    speech: SpeechOptions | None = None
    # The answer, where it is given: it is spoken word by word, and no thinker is asked; "" = a thinker makes it.
    said: str = ""
    # Tools that the model may call, as the chat template takes them: a text that only the stages read. "" = none.
    tools: str = ""
    # None = any answer will do.
    structure: Structure | None = None
    # What the client expects of the model: a chain of thought or none; None = it does not say.
    thinks: bool | None = None
    # The oldest turns of a conversation that is too long are dropped; else it is refused.
    drops_oldest: bool = False
    priority: int = PriorityClass.ORDINARY
    # Requests that share it go to the worker that holds their cache, if that is free; "" = none.
    affinity: str = ""
    # The client's deadline, seconds from the admission; None = the operator's, which bounds it, too.
    timeout_s: float | None = None
    # "" = the admission chooses one.
    request_id: str = ""
    # What it is, for usage records: as UsageRecord.kind.
    kind: str = "chat"
    # Nobody is sent what comes of it: it takes nothing of the limits, and is refused where they are used up.
    is_free: bool = False
    # A part of what was begun before: it is served also while the gateway drains.
    is_served_in_drain: bool = False
    # A later part of one request: it is served though its key has expired since the request began.
    keeps_key: bool = False
    # Found once, since each turn asks for them again and again.
    holds_media: bool = field(init=False, repr=False, compare=False)
    text_bytes: int = field(init=False, repr=False, compare=False)
    """About how many bytes the messages and the tools take, without inline media."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds_media", holds_media(self.messages))
        object.__setattr__(self, "text_bytes", text_bytes(self.messages) + len(self.tools))

    @property
    def is_short_text(self) -> bool:
        """Whether the prompt is text that takes a thinker about a millisecond to render and tokenize."""
        return not self.holds_media and self.text_bytes <= SHORT_TEXT_BYTES
