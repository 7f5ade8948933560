from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from client import ROOT

PACKAGE = ROOT / "snakepit_bridge"
#: The public modules of the package.
PUBLIC = ("testing", "ray")
#: The folders of the package, and its public modules: each imports only from those before it.
ROOMS = (
    "_types",
    "_values",
    "_errors",
    "_two_way",
    "_arguments",
    "_telemetry",
    "_commands",
    "_interpreter",
    "_threads",
    "_network",
    "_process",
    "_servers",
    "_grpcio",
    "testing",
    "_cli",
    "ray",
)


def module_files() -> Iterator[Path]:
    for room in ROOMS:
        yield from [PACKAGE / f"{room}.py"] if room in PUBLIC else (PACKAGE / room).glob("*.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {name_of(path): path for path in module_files()}


def imported_by(path: Path) -> set[str]:
    """Returns the rooms from which a module imports, also in functions and for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "snakepit_bridge":
                found |= {rest, rest.rpartition(".")[0]} & MODULES.keys()
    return found


GRAPH = {name: imported_by(path) for name, path in MODULES.items()}


def test_each_room_is_a_folder_with_a_handful_of_modules() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == {*ROOMS, "_proto"} - {*PUBLIC}
    for room in folders - {"_proto"}:
        modules = [name for name in MODULES if name.startswith(f"{room}.")]
        assert 4 <= len(modules) - 1 <= 9, modules


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_own_room_and_from_those_below(name: str) -> None:
    own = ROOMS.index(name.partition(".")[0])
    above = {each for each in GRAPH[name] if ROOMS.index(each.partition(".")[0]) > own}
    assert not above


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(MODULES)


def test_the_graph_includes_imports_in_functions_and_for_types() -> None:
    assert "_threads.async_for_threads" in GRAPH["_threads.unwrapping"]
    assert "_servers.native" in GRAPH["_cli.choice"]
    assert "_types.encoders" in GRAPH["_values.fields"]
