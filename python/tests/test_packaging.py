from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from client import PATIENCE, ROOT, Client

from snakepit_bridge import __version__

# Where the packages of this environment are: a fresh environment has none, and no network.
_PACKAGES = str(Path(str(importlib.util.find_spec("pytest").origin)).parents[1])  # type: ignore[union-attr]
_MODULE = '''
"""A user's commands."""

import sys
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

from snakepit_bridge import (
    Adapter,
    BuiltinAdapter,
    CommandError,
    Context,
    RequestIdFilter,
    Session,
    Tensor,
    command,
    register_encoder,
    testing,
)


class Money:
    amount = 3


@register_encoder(Money)
def encode_money(money: Money) -> dict[str, int]:
    return {"amount": money.amount}


class Greeter(Adapter):
    @command
    def greet(self, name: str, context: Context) -> str:
        """Greets somebody."""
        session: Session = context.session if context.session_id else Session()
        session["name"] = name
        if name == "nobody":
            raise CommandError("nobody", "there is nobody", data={"name": name})
        if name == "exit":
            sys.exit(0)
        return f"Hello {name}"

    @command(name="count-up")
    def count(self, to: int) -> Generator[dict[str, int], None, None]:
        for number in range(to):
            yield {"number": number}

    @command
    async def ticks(self) -> AsyncGenerator[int, None]:
        yield 1

    def tensor(self) -> Tensor:
        return Tensor("uint8", (1,), b"x")


class Broken(Greeter):
    def __init__(self) -> None:
        raise RuntimeError("no model")


class Leaving(Greeter):
    def start(self) -> None:
        sys.exit(0)


class More(BuiltinAdapter):
    log_filter = RequestIdFilter()


def greeted() -> dict[str, object]:
    with testing.Worker(Greeter, init={}) as worker:
        error = testing.error_of(ValueError("x"))
        text: str = error.message
        started = worker.start("greet", {"name": text}, timeout=1.5, session_id="s")
        started.cancel()
        return worker.call("greet", {"name": "Ada"}, request_id="r")


def name_of(context: Context) -> str:
    return context.request_id


if TYPE_CHECKING:
    reveal_type(Greeter().greet("x", Context()))
    reveal_type(testing.call(Greeter, "greet"))
'''
_TEST = """
import pytest
from snakepit_bridge import CommandError, testing
from user_commands import Greeter, greeted


def test_greets():
    assert greeted() == {"result": "Hello Ada"}


def test_nobody():
    with pytest.raises(CommandError, match="nobody: there is nobody"):
        testing.call(Greeter, "greet", {"name": "nobody"})
"""


def _pip(*arguments: str) -> None:
    # The build backend may be that of this environment, whichever Python it is for.
    env = {**os.environ, "PYTHONPATH": _PACKAGES}
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], env=env, check=True)


def _has_backend() -> bool:
    return importlib.util.find_spec("hatchling") is not None


def _isolation() -> list[str]:
    # Otherwise pip fetches the build backend.
    return ["--no-build-isolation"] if _has_backend() else []


def _build(what: str, source: Path, out: Path) -> None:
    """Builds as pip does, without pip's own start."""
    code = f"from hatchling.build import build_{what}; build_{what}({str(out)!r})"
    out.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True)


class Environment:
    """A user's fresh virtual environment, with the package and a module of commands."""

    def __init__(self, folder: Path, *package: str) -> None:
        venv.create(folder, with_pip=False)
        self.python = str(folder / "bin" / "python")
        _pip("--python", self.python, "install", "--no-deps", *package)
        self.folder = folder / "user"
        self.folder.mkdir()
        (self.folder / "user_commands.py").write_text(_MODULE)
        (self.folder / "test_user_commands.py").write_text(_TEST)

    def run(self, *arguments: str, packages: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=self.env(packages=packages),
            capture_output=True,
            text=True,
            check=False,
        )

    def env(self, *, packages: bool) -> dict[str, str]:
        """The variables of its processes, which find other packages of this environment or none."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**env, "PYTHONPATH": _PACKAGES} if packages else env


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sp-") as folder:
        yield Path(folder)


def _wheel(source: Path, out: Path) -> Path:
    if _has_backend():
        _build("wheel", source, out)
    else:
        _pip("wheel", "--no-deps", "--wheel-dir", str(out), str(source))
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """One without the extension."""
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns("*.so", "tests", "__pycache__"))
    return _wheel(source, folder / "pure")


@pytest.fixture(scope="module")
def native_wheel(folder: Path) -> Path:
    if not (ROOT / "snakepit_bridge" / "_native.abi3.so").exists():
        pytest.fail("there is no extension to put into a wheel: mix compile")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("a free-threaded Python does not load the extension for all others")
    return _wheel(ROOT, folder / "native")


@pytest.fixture(scope="module")
def user(folder: Path, wheel: Path) -> Environment:
    return Environment(folder / "installed", "--no-index", str(wheel))


def test_the_wheel_is_for_every_platform_and_typed(wheel: Path) -> None:
    assert wheel.name == f"snakepit_bridge-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "snakepit_bridge/py.typed" in names
    assert "snakepit_bridge/testing.py" in names
    assert "snakepit_bridge/_proto/snakepit_pb2.py" in names
    assert any(name.endswith("/LICENSE") for name in names)
    assert not [name for name in names if name.endswith(".so") or "tests" in name]


def test_the_wheel_with_the_extension_is_for_this_platform_and_every_later_python(
    native_wheel: Path,
) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert native_wheel.name == f"snakepit_bridge-{__version__}-cp39-abi3-{platform}.whl"
    extensions = [name for name in zipfile.ZipFile(native_wheel).namelist() if ".so" in name]
    assert extensions == ["snakepit_bridge/_native.abi3.so"]


def test_the_wheel_with_the_extension_serves_without_any_other_package(
    folder: Path, native_wheel: Path
) -> None:
    user = Environment(folder / "with_extension", "--no-index", str(native_wheel))
    with subprocess.Popen(
        [
            *(user.python, "-m", "snakepit_bridge", "--adapter", "user_commands:Greeter"),
            *("--server", "native", "--listen", f"unix:{user.folder}/s.sock"),
        ],
        cwd=user.folder,
        env=user.env(packages=False),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        client = Client(process.stdout.readline().removeprefix("listening on ").strip())
        assert client.result("greet", name=b'"you"') == {"result": "Hello you"}
        client.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_the_package_is_found_where_it_was_installed(user: Environment) -> None:
    code = (
        "import importlib.metadata, snakepit_bridge; "
        "print(snakepit_bridge.__file__, importlib.metadata.version('snakepit-bridge'))"
    )
    file, version = user.run("-c", code).stdout.split()
    assert "site-packages" in file
    assert version == __version__


def test_commands_are_called_and_listed_from_the_shell(user: Environment) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return user.run("-m", "snakepit_bridge", *arguments)

    listed = run("commands", "user_commands:Greeter")
    assert listed.stdout == (
        "count-up(to: int) -> stream\n"
        "greet(name: str)\n    Greets somebody.\n"
        "async ticks() -> stream\n"
    )
    called = run("call", "user_commands:Greeter", "greet", "name=you")
    assert (called.stdout, called.stderr, called.returncode) == ('{"result": "Hello you"}\n', "", 0)
    assert json.loads(run("call", "user_commands:Greeter", "greet", 'name="1"').stdout) == {
        "result": "Hello 1"
    }
    chunks = run("call", "user_commands:Greeter", "count-up", "to=2").stdout.splitlines()
    assert [json.loads(chunk)["number"] for chunk in chunks] == [0, 1]

    for arguments, *texts in (
        (("user_commands:Greeter", "greet", "name=1"), "name (expected str, got int 1)"),
        (("user_commands:Greeter", "gret"), "there are count-up, greet, ticks"),
        (("user_commands:Greeter", "greet", "name=nobody"), "nobody: there is nobody"),
        (("user_commands:Greeter", "greet", "name=exit"), "SystemExit: 0"),
        (("user_commands:Leaving", "greet"), "SystemExit: 0", "Leaving did not start"),
        (("user_commands:Nobody", "greet"), "has no 'Nobody'"),
        (("nowhere:Greeter", "greet"), "no module 'nowhere'"),
        (
            ("user_commands:Broken", "greet"),
            "RuntimeError: no model",
            "user_commands:Broken did not start: see the error",
        ),
    ):
        failed = run("call", *arguments)
        assert (failed.stdout, failed.returncode) == ("", 1)
        assert all(text in failed.stderr for text in texts)
        assert "runpy" not in failed.stderr
    twice = run("call", "user_commands:Greeter", "greet", "name=you", "name=me")
    assert (twice.stdout, twice.returncode) == ("", 2)
    assert "name is given more than once" in twice.stderr


def test_a_shell_command_ends_quietly_if_its_reader_closes_the_pipe(user: Environment) -> None:
    arguments = ("call", "user_commands:Greeter", "count-up", "to=1000000")
    with subprocess.Popen(
        [user.python, "-m", "snakepit_bridge", *arguments],
        cwd=user.folder,
        env=user.env(packages=False),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as endless:
        assert endless.stdout is not None
        assert endless.stderr is not None
        assert json.loads(endless.stdout.readline())["number"] == 0
        endless.stdout.close()
        assert (endless.stderr.read(), endless.wait(PATIENCE)) == ("", 1)


def test_a_users_module_is_checked_strictly(user: Environment) -> None:
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-executable", user.python),
            *("--config-file", os.devnull, "--cache-dir", os.devnull, "user_commands.py"),
        ],
        cwd=user.folder,
        env=user.env(packages=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert '"str"' in checked.stdout
    assert "dict[str, Any]" in checked.stdout


def test_a_users_tests_run(user: Environment) -> None:
    ran = user.run("-m", "pytest", "-q", "-p", "no:cacheprovider", packages=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_without_the_extension_it_serves_over_stdin_and_stdout(user: Environment) -> None:
    def frame(message: dict[str, Any]) -> bytes:
        data = json.dumps(message).encode()
        return len(data).to_bytes(4, "big") + data

    command = [user.python, "-m", "snakepit_bridge", "--stdio", "--adapter"]
    with subprocess.Popen(
        [*command, "user_commands:Greeter"],
        cwd=user.folder,
        env=user.env(packages=False),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame({"id": 1, "command": "greet", "args": {"name": "you"}}))
        process.stdin.flush()
        size = int.from_bytes(process.stdout.read(4), "big")
        answer = json.loads(process.stdout.read(size))
        assert answer["result"] == {"result": "Hello you"}


def test_without_the_extension_it_serves_with_grpcio(user: Environment) -> None:
    with subprocess.Popen(
        [
            *(user.python, "-m", "snakepit_bridge", "--adapter", "user_commands:Greeter"),
            *("--listen", f"unix:{user.folder}/s.sock"),
        ],
        cwd=user.folder,
        env=user.env(packages=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().removeprefix("listening on ").strip()
        client = Client(address)
        assert client.result("greet", name=b'"you"') == {"result": "Hello you"}
        client.close()
        process.terminate()
        said = process.stderr.read()
        assert process.wait(PATIENCE) == 0
    # A user of pip has no Mix.
    assert "install a wheel of snakepit-bridge that has it for this Python" in said
    assert "platform; serving with grpcio" in said
    assert "`mix" not in said


def test_without_the_extension_it_says_which_option_chooses_the_other_server(
    user: Environment,
) -> None:
    ended = user.run("-m", "snakepit_bridge", "--server", "native")
    assert ended.returncode == 69
    assert "install a wheel of snakepit-bridge" in ended.stderr
    assert "or use `--server grpcio`" in ended.stderr


def test_an_editable_install_follows_the_source(folder: Path) -> None:
    user = Environment(folder / "editable", *_isolation(), "--editable", str(ROOT))
    file = user.run("-c", "import snakepit_bridge; print(snakepit_bridge.__file__)").stdout.strip()
    assert Path(file) == ROOT / "snakepit_bridge" / "__init__.py"


def test_a_source_distribution_builds_that_wheel(folder: Path, wheel: Path) -> None:
    if not _has_backend():
        pytest.skip("hatchling is not installed: mix snakepit.setup --dev")
    _build("sdist", ROOT, folder)
    (source,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(source, folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    built = _wheel(unpacked, folder / "from_source")
    assert zipfile.ZipFile(built).namelist() == zipfile.ZipFile(wheel).namelist()


def test_the_version_is_written_once() -> None:
    text = textwrap.dedent((ROOT / "pyproject.toml").read_text())
    assert 'path = "snakepit_bridge/_version.py"' in text
    if "snakepit-bridge" in {found.metadata["Name"] for found in metadata.distributions()}:
        assert metadata.version("snakepit-bridge") == __version__
