"""The client is installed alone. `make prove-client` does so; here nothing is downloaded."""

from __future__ import annotations

from packaging.utils import canonicalize_name

from tests.deploy.packages import closure, import_with_only, needs

SMALL = {
    "anyio", "certifi", "cffi", "h11", "httpcore", "httpx", "idna", "markdown-it-py", "mdurl", "pycparser", "pygments",
    "rich", "shtab", "sounddevice", "typing-extensions",
}  # fmt: skip


def test_the_client_brings_small_packages_alone() -> None:
    assert {canonicalize_name(name) for name in closure(needs("player"))} <= SMALL


def test_every_command_imports_with_these_packages_alone() -> None:
    """So it imports none of torch, vLLM, grpc, redis and pydantic."""
    imported = import_with_only(needs("client"), "services.cli", "antiphon")
    assert imported.returncode == 0, imported.stderr
    assert int(imported.stdout) > 15
    sized = import_with_only(needs("client"), "services.sizing", "antiphon")
    assert sized.returncode == 0, sized.stderr
