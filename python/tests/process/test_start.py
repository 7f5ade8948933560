"""What a worker's start leaves undone, because it takes time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from client import Way

#: Modules that a worker imports only when it needs them, and what for.
LATE = {
    "asyncio": "async commands",
    "concurrent.futures": "async commands",
    "ctypes": "a worker without the extension, and code that is interrupted",
    "decimal": "numbers that only it can represent",
    "platform": "nothing: `sys` and `os` know the same",
    "shutil": "the width of the terminal, in which --help is shown",
    "socket": "a server that listens, and systemd",
    "ssl": "TLS",
    "subprocess": "nothing",
    "sysconfig": "the log records of libraries",
}
#: Those that a server that listens imports.
LISTENING = {"socket"}
#: Those that grpcio imports at the start, or for a call.
GRPC = {"asyncio", "concurrent.futures", "decimal", "platform", "ssl", "subprocess"}

ADAPTER = """
import sys
from snakepit_bridge import Adapter, command

class Here(Adapter):
    @command
    def started(self):
        return {
            "modules": list(sys.modules),
            "knows_names": hasattr(sys, "stdlib_module_names"),
        }
"""


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "here.py").write_text(ADAPTER)
    return "--adapter", "here:Here", "--import-path", str(tmp_path), "--worker-id", "w1"


def test_a_worker_starts_without_modules_that_it_may_never_need(
    way: Callable[..., Way], adapter: tuple[str, ...]
) -> None:
    result = way(*adapter).call("started")[0]
    assert result is not None
    if not result["knows_names"]:
        pytest.skip("any of the user's modules might hide one of these: they are imported before")
    imported = set(result["modules"])
    late = set(LATE)
    if "snakepit_bridge._network.address" in imported:
        late -= LISTENING
    if "grpc" in imported:
        late -= GRPC
    assert late & imported == set()
