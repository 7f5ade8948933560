from __future__ import annotations

import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from client import ROOT
from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

import snakepit_bridge
from snakepit_bridge._proto import snakepit_pb2, standard

PACKAGE = ROOT / "snakepit_bridge"


def test_all_is_sorted_and_importable() -> None:
    names = snakepit_bridge.__all__
    assert list(names) == sorted(names)
    for name in names:
        assert getattr(snakepit_bridge, name) is not None


def test_classes_are_named_as_users_import_them() -> None:
    public = [getattr(snakepit_bridge, name) for name in snakepit_bridge.__all__]
    classes = [each for each in public if isinstance(each, type)]
    assert {cls.__module__ for cls in classes} == {"snakepit_bridge"}
    error = snakepit_bridge.CommandError("out_of_stock", "none is left")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_every_module_but_testing_and_ray_is_private() -> None:
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in modules if not name.startswith("_")} == {"ray", "testing"}
    assert (PACKAGE / "py.typed").exists()


def test_the_version_is_that_of_the_application() -> None:
    declared = re.search(r'@version "(.+)"$', (ROOT.parent / "mix.exs").read_text(), re.MULTILINE)
    assert declared is not None
    assert declared[1] == snakepit_bridge.__version__


@pytest.mark.parametrize("library", ["grpc", "google.protobuf"])
def test_writing_commands_needs_no_grpc(library: str) -> None:
    code = (
        "import sys, snakepit_bridge._threads.execution, snakepit_bridge._servers.worker; "
        f"sys.exit({library!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_the_server_on_grpcio_and_ray_import_grpc() -> None:
    importers = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) grpc", path.read_text(), re.MULTILINE)
    }
    assert importers == {"grpcio.py", "grpcio_converse.py", "grpcio_standard.py", "ray.py"}


def test_the_messages_of_the_contract_pickle() -> None:
    names = snakepit_pb2.DESCRIPTOR.message_types_by_name
    for name in names:
        message = getattr(snakepit_pb2, name)()
        assert pickle.loads(pickle.dumps(message)) == message
    request = snakepit_pb2.ExecuteRequest(command="echo", args={"a": b"1"})
    assert pickle.loads(pickle.dumps(request)) == request


def test_the_generated_code_matches_the_contract(tmp_path: Path) -> None:
    out = tmp_path / "set"
    include = Path(str(importlib.import_module("grpc_tools").__file__)).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{ROOT.parent / 'proto'}",
        f"-I{include}",
        f"--descriptor_set_out={out}",
    ]
    assert protoc.main([*arguments, "snakepit.proto"]) == 0
    (contract,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    generated = descriptor_pb2.FileDescriptorProto()
    snakepit_pb2.DESCRIPTOR.CopyToProto(generated)
    for file in (contract, generated):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
            for entry in message.nested_type:
                for field in entry.field:
                    field.ClearField("json_name")
    assert generated == contract


def test_the_messages_of_standard_services_match_their_files(tmp_path: Path) -> None:
    out = tmp_path / "set"
    files = ["grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto"]
    proto = ROOT.parent / "proto"
    assert protoc.main(["protoc", f"-I{proto}", f"--descriptor_set_out={out}", *files]) == 0
    contract = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for file in contract:
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert [descriptor_pb2.FileDescriptorProto.FromString(file) for file in standard.FILES] == list(
        contract
    )
