"""Users' modules that are named like Python's own."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from client import ROOT, WORKER_PYTHON, Way
from conftest import Start

POISON = """
import os
with open(os.environ["POISONED"], "a") as file:
    file.write(__name__ + chr(10))
raise RuntimeError("the user's " + __name__ + " is not Python's")
"""

# Modules that Python's own start imports with `-m`: with these Python does not start at all.
NAMES = """
import runpy, sys
started = set(sys.modules)
from importlib.util import find_spec
some = ["asyncio", "csv", "decimal", "email", "json", "platform"]
own = getattr(sys, "stdlib_module_names", some)
print(*(name for name in own if name not in started and find_spec(name)))
"""

ADAPTER = """
from collections.abc import AsyncGenerator, Generator

from snakepit_bridge import BuiltinAdapter, CommandError, Context, Tensor, command


class Here(BuiltinAdapter):
    @command
    def values(self, context: Context, extended: bool = False):
        context.session["seen"] = 1
        more = {"tensor": Tensor("int8", [2], b"ab"), "nan": {"x": float("nan")}}
        return {"big": 10**5000, "bytes": b"\\xff", **(more if extended else {})}

    @command
    async def later(self, x: int = 1):
        return x

    @command
    async def stream(self):
        yield 1

    @command
    def fail(self, code: str):
        raise CommandError(code, data={"x": 1}) from ValueError(code)

    @command
    def unsendable(self):
        return {"x": object()}
"""


@functools.cache
def names() -> list[str]:
    return subprocess.check_output([WORKER_PYTHON, "-c", NAMES], text=True).split()


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of modules named like Python's own, which report when they are imported."""
    directory = tmp_path / "users"
    directory.mkdir()
    for name in names():
        (directory / f"{name}.py").write_text(POISON)
    for name in ("json", "email", "asyncio", "logging"):
        (directory / f"{name}.py").unlink(missing_ok=True)
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(POISON)
    (directory / "here.py").write_text(ADAPTER)
    monkeypatch.setenv("POISONED", str(tmp_path / "imported"))
    return directory


def use(worker: Way) -> None:
    """Everything that may import a module for the first time."""
    assert worker.call("ping")[0]
    assert worker.call("info")[0]
    assert worker.call("later") == ({"result": 1}, worker.call("later")[1])
    assert worker.call("compute", operation="add", a=1, b=2)[0] == {"result": 3}
    assert worker.error("fail", code="c")["code"] == "c"
    assert worker.error("unsendable")["reason"] == "invalid_result"
    assert worker.error("no_such")["reason"] == "unknown_command"
    assert worker.error("later", y=1)["reason"] == "invalid_args"
    assert "session" in str(worker.error("values")["message"])
    assert worker.in_session("s", "values", extended=not worker.streams)
    if worker.streams:
        assert worker.stream("stream")[0] == [{"result": 1}]
        assert worker.stream("ping_stream")[0]


def test_the_bridge_imports_none_of_the_users_modules(
    way: Callable[..., Way], poisoned: Path
) -> None:
    adapter = ("--adapter", "here:Here", "--import-path", str(poisoned), "--worker-id", "w1")
    use(way(*adapter))
    imported = Path(poisoned.parent / "imported")
    assert not imported.exists(), imported.read_text()


def test_the_bridge_imports_none_of_them_if_started_in_their_directory(
    way: Callable[..., Way], poisoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poisoned)
    worker = way("--adapter", "here:Here", "--worker-id", "w1")
    use(worker)
    imported = Path(poisoned.parent / "imported")
    assert not imported.exists(), imported.read_text()


def test_a_module_that_hides_the_users_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "platform.py").write_text("NAME = 'ours'\n")
    (tmp_path / "threading.py").write_text(ADAPTER)
    (tmp_path / "ours.py").write_text("import threading\nthreading.Here()\n")
    for adapter, told in (
        ("threading:Here", "lib/python"),
        ("threading.inner:Here", "no module 'threading.inner'"),
        ("ours:Here", "has no attribute 'Here'"),
    ):
        worker = start("--adapter", adapter, "--import-path", str(tmp_path))
        output = "\n".join(worker.lines())
        assert worker.ended() == 1
        assert told in output
        advice = re.search(f"{tmp_path}/threading.py is not imported because (.*?) has", output)
        assert advice
        assert advice[1].endswith("/threading.py")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8"])
def test_an_old_python_gets_a_one_sentence_error(version: str) -> None:
    found = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    python = next(map(str, found), None) or shutil.which(f"python{version}")
    if python is None or subprocess.call([python, "-c", ""]):
        pytest.skip(f"there is no Python {version}")
    # Python 2 would write bytecode beside the source.
    command = [python, "-B", "-u", "-m", "snakepit_bridge", "--worker-id", "w1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Snakepit needs Python 3.9 or newer, and /")
    assert line.endswith(": set the pool's option :python to a newer one")
