"""The server of `examples/deployment`, as systemd, Docker and Kubernetes start it."""

from __future__ import annotations

import json
import re
import shlex
import socket
from contextlib import closing
from pathlib import Path

import grpc
from certificates import Authority
from client import PATIENCE, ROOT, Client
from conftest import Start

from snakepit_bridge._process.options import Options, parse

EXAMPLES = ROOT.parent / "examples" / "deployment"
#: What the systems need besides.
SPARE = 3.0


def from_unit() -> tuple[list[str], float]:
    unit = (EXAMPLES / "server.service").read_text()
    command = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit, re.MULTILINE)
    patience = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert command
    assert patience
    return shlex.split(command[1].replace("\\\n", " ")), float(patience[1])


def from_kubernetes() -> tuple[list[str], float]:
    text = (EXAMPLES / "server.kubernetes.yaml").read_text()
    patience = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert patience
    return re.findall(r"^ +- (--\S+)$", text, re.MULTILINE), float(patience[1])


def from_docker(name: str) -> list[str]:
    line = re.search(
        rf"^{name} (\[.*\])$", (EXAMPLES / "server.Dockerfile").read_text(), re.MULTILINE
    )
    assert line
    words: list[str] = json.loads(line[1])
    return words


def takes_to_stop(options: Options) -> float:
    return options.drain_delay + 2 * options.shutdown_timeout + options.kill_grace


def test_each_gives_valid_options_and_more_time_than_a_stop_takes() -> None:
    program, *rest = from_docker("ENTRYPOINT")
    assert rest[:2] == ["-m", "snakepit_bridge"]
    image = parse([*rest[2:], *from_docker("CMD")])
    assert image.token_file
    container, patience = from_kubernetes()
    options = parse([*rest[2:], *container])
    assert options.drain_delay > 0
    assert patience > takes_to_stop(options) + SPARE
    command, patience = from_unit()
    assert command[0].endswith(program.rpartition("/")[2])
    assert command[1:3] == ["-m", "snakepit_bridge"]
    assert patience > takes_to_stop(parse(command[3:])) + SPARE


def test_the_unit_starts_a_server_that_says_when_it_is_ready(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.sign("models")
    (tmp_path / "tokens").write_text("secret-token\n")
    ours = {
        "--adapter": "probe:Probe",
        "--import-path": str(ROOT / "tests" / "support"),
        "--listen": "tcp:127.0.0.1:0",
        "--tls-cert": str(certificate),
        "--tls-key": str(key),
        "--token-file": str(tmp_path / "tokens"),
    }
    command, _ = from_unit()
    names, values = command[3::2], command[4::2]
    assert ours.keys() <= set(names)
    options = [ours.get(*pair) for pair in zip(names, values)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(PATIENCE)
        arguments = [word for pair in zip(names, options) for word in pair]
        worker = start(*arguments, token="", NOTIFY_SOCKET=str(tmp_path / "n"))
        assert systemd.recv(100) == b"READY=1"
        tls = grpc.ssl_channel_credentials(authority.path.read_bytes())
        with closing(Client(worker.address(), "secret-token", tls)) as client:
            assert client.result("add", a=40, b=2) == {"result": 42}
        assert worker.stop() == 0
        assert systemd.recv(100) == b"STOPPING=1"
