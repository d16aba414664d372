"""The setting of gRPC that the gateway makes before it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

SETTING = "GRPC_EXPERIMENTS"


def started(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != SETTING}
    opened = "import grpc, os; grpc.insecure_channel('127.0.0.1:1').close(); print(os.environ['GRPC_EXPERIMENTS'])"
    return subprocess.run(
        [sys.executable, "-c", f"{program}; {opened}"],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_grpc_knows_the_setting() -> None:
    """Where this fails, gRPC has dropped the choice: take the line out of `__main__`."""
    process = started("import services.gateway.__main__")
    assert process.stdout.strip() == "-event_engine_client"
    assert "Unknown experiment" not in process.stderr


def test_grpc_tells_of_a_setting_that_it_does_not_know() -> None:
    assert "Unknown experiment" in started("pass", **{SETTING: "-no_such_thing"}).stderr


def test_the_operators_setting_stands() -> None:
    process = started("import services.gateway.__main__", **{SETTING: "event_engine_client"})
    assert process.stdout.strip() == "event_engine_client"
