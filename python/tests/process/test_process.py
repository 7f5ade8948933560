from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import grpc
import pytest
from client import PATIENCE, ROOT, SUPPORT, TOKEN, Client, Pipe, WorkerProcess
from conftest import Start

MakePipe = Callable[[str], Pipe]


def connected(address: str, secret: Optional[str] = None) -> contextlib.closing[Client]:
    return contextlib.closing(Client(address, secret))


def test_the_readiness_line_stands_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys\nfrom snakepit_bridge import BuiltinAdapter\n"
        "sys.stdout.write('no line end')\nclass Loud(BuiltinAdapter): pass\n"
    )
    worker = start("--adapter", "loud:Loud", "--import-path", str(tmp_path))
    assert worker.address().startswith("unix:/")


def test_by_hand_the_worker_prints_its_address_and_has_no_lifeline(start: Start) -> None:
    worker = start("--listen", "tcp:127.0.0.1:0", token="")
    address = worker.address()
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    with connected(address) as client:
        assert client.health().healthy
        assert client.result("where")["group"] == os.getpgrp()
    assert worker.stop() == 0


def test_a_worker_leads_its_own_process_group(start: Start) -> None:
    worker = start()
    with connected(worker.address()) as client:
        pid = worker.process.pid
        assert client.result("where") == {"pid": pid, "group": pid}


def test_the_end_of_stdin_kills_it_and_its_children(start: Start) -> None:
    worker = start()
    with connected(worker.address()) as client:
        client.execute("child")
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.ended() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_a_worker_dies_with_its_parent() -> None:
    stdin, lifeline = os.pipe()
    script = (
        "import subprocess, sys\nsubprocess.Popen(sys.argv[1:], stdin=int(sys.argv[-1])).wait()\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            script,
            sys.executable,
            "-m",
            "snakepit_bridge",
            "--worker-id",
            str(stdin),
        ],
        pass_fds=[stdin],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SNAKEPIT_READY_TOKEN": "ready"},
    )
    os.close(stdin)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        assert parent.stdout.readline().startswith(b"ready tcp:127.0.0.1:")
        parent.kill()
        assert parent.stdout.read() == b""
    os.close(lifeline)


def test_user_code_has_neither_the_lifeline_nor_the_secrets(start: Start) -> None:
    worker = start(SNAKEPIT_SECRET="s")
    with connected(worker.address()) as client:
        assert client.result("stdin") == {"read": ""}
        assert client.result("environment") == {"result": []}


def test_a_process_that_a_command_starts_has_no_lifeline(start: Start) -> None:
    worker = start()
    assert worker.process.stdin is not None
    lifeline = f"pipe:[{os.fstat(worker.process.stdin.fileno()).st_ino}]"
    with connected(worker.address()) as client:
        open_files = client.result("open_in_child")["result"]
    assert "/dev/null" in open_files
    assert lifeline not in open_files


def test_log_lines_of_a_call_name_its_request(start: Start) -> None:
    worker = start()
    lines = worker.lines()
    with connected(worker.address()) as client:
        client.begin("log", {}, request_id="r1").result()
        assert next(lines) == "<7>\x1fr1\x1fprobe: [r1] a detail"
        two_lines = ["<6>\x1fr1\x1fprobe: [r1] two", "<6>\x1fr1\x1flines"]
        assert [next(lines), next(lines)] == two_lines


def test_output_and_logs_arrive_line_by_line(start: Start) -> None:
    worker = start()
    with connected(worker.address()) as client:
        client.execute("log")
    lines = worker.lines()
    assert next(lines) == "<7>probe: a detail"
    assert [next(lines), next(lines)] == ["<6>probe: two", "<6>lines"]
    assert next(lines) == "<4>probe: a warning"
    assert next(lines) == "<3>probe: an error"
    assert next(lines) == "<3>Traceback (most recent call last):"
    while (line := next(lines)).startswith("<3>"):
        pass
    assert line == "printed, not flushed"


def test_megabytes_of_output_are_complete(start: Start) -> None:
    worker = start()
    with connected(worker.address()) as client:
        assert client.execute("chatter", lines=6_000).success
    assert worker.stop() == 0
    lines = list(worker.lines())
    printed = [line for line in lines if line.startswith("print ")]
    logged = [line for line in lines if line.startswith("<4>probe: log ")]
    assert [line.split()[1] for line in printed] == [str(n) for n in range(6_000)]
    assert [line.split()[2] for line in logged] == [str(n) for n in range(6_000)]


def start_own(start: Start, directory: Path, code: str) -> WorkerProcess:
    """Starts a worker whose adapter is the class `Own` of the code."""
    (directory / "own.py").write_text(code)
    paths = ("--import-path", str(directory), "--import-path", str(SUPPORT))
    return start("--adapter", "own:Own", *paths)


def test_a_users_own_logging_takes_over(start: Start, tmp_path: Path) -> None:
    worker = start_own(
        start,
        tmp_path,
        "import logging\nfrom probe import Probe\n"
        "handler = logging.StreamHandler()\n"
        "handler.setFormatter(logging.Formatter('own %(message)s'))\n"
        "logging.getLogger().addHandler(handler)\nclass Own(Probe): pass\n",
    )
    with connected(worker.address()) as client:
        client.execute("log")
    # Each line has its level, at which the parent logs it.
    assert next(worker.lines()) == "<7>own a detail"


def test_sigterm_ends_the_worker_whichever_thread_gets_it(start: Start) -> None:
    worker = start("--shutdown-timeout", "0.1")
    with connected(worker.address()) as client:
        assert client.execute("terminate_from_this_thread").success
    assert worker.ended() == 0


def test_a_worker_with_very_many_descriptors_waits_for_sigterm(
    start: Start, tmp_path: Path
) -> None:
    worker = start_own(
        start,
        tmp_path,
        "import os, resource\n"
        "from probe import Probe\n"
        "class Own(Probe):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "        # One more than `select` takes.\n"
        "        while os.dup(0) < 1024: pass\n",
    )
    worker.address()
    worker.process.terminate()
    worker.expect(f"{TOKEN} draining")
    worker.process.terminate()
    assert worker.ended() == 0


def test_sigterm_lets_running_calls_finish(start: Start, pipe: MakePipe) -> None:
    worker = start("--max-concurrency", "2")
    started, until = pipe("started"), pipe("until")
    args = {"started": started.path, "until": until.path, "note": 5}
    with connected(worker.address()) as client:
        running = client.begin("hold", args)
        assert started.line() == "started"
        worker.drain()
        # A call may have been in transit when the worker announced that it is draining.
        assert client.result("add", a=1) == {"result": 1}
        until.send("go")
        assert running.result().result == {"result": b"5"}
        worker.process.terminate()
        assert worker.ended() == 0
    assert "closed the adapter" in list(worker.lines())


def test_a_second_sigterm_cancels_running_calls(start: Start, pipe: MakePipe) -> None:
    worker = start()
    finished = pipe("finally")
    with connected(worker.address()) as client:
        stream = client.stream("endless", {"pipe": finished.path})
        next(stream)
        assert worker.stop() == 0
        assert finished.line() == "finally"


def test_a_worker_waits_for_the_second_sigterm_no_longer_than_calls_may_take(start: Start) -> None:
    worker = start("--shutdown-timeout", "0.1")
    worker.address()
    worker.drain()
    assert worker.ended() == 0


def test_by_hand_one_sigterm_is_enough(start: Start, pipe: MakePipe) -> None:
    worker = start(token="")
    started, until = pipe("started"), pipe("until")
    with connected(worker.address()) as client:
        running = client.begin("hold", {"started": started.path, "until": until.path, "note": 5})
        assert started.line() == "started"
        worker.process.terminate()
        until.send("go")
        assert running.result().result == {"result": b"5"}
        assert worker.ended() == 0


def test_sigterm_does_not_wait_forever(start: Start, pipe: MakePipe) -> None:
    worker = start("--shutdown-timeout", "0.2", "--kill-grace", "0.2")
    started, until = pipe("started"), pipe("until")
    with connected(worker.address()) as client:
        running = client.begin("hold", {"started": started.path, "until": until.path})
        assert started.line() == "started"
        assert worker.stop() == 0
        with pytest.raises(grpc.RpcError):
            running.result()
    assert any("still running" in line for line in worker.lines())


def test_an_unused_socket_file_is_replaced(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    worker = start("--listen", f"unix:{path}")
    assert worker.address() == f"unix:{path}"
    assert worker.stop() == 0
    assert not Path(path).exists()


def test_a_file_that_is_not_a_socket_is_left_alone(start: Start, tmp_path: Path) -> None:
    precious = tmp_path / "f"
    precious.write_text("data")
    worker = start("--listen", f"unix:{precious}")
    assert worker.ended() == 1
    assert "a file exists there that is not a socket" in next(worker.lines())
    assert precious.read_text() == "data"


def check_reason(start: Start, options: list[str], message: str) -> None:
    worker = start(*options)
    assert worker.ended() not in (0, None)
    lines = list(worker.lines())
    assert any(message in line for line in lines), lines
    assert not any('snakepit_bridge/_cli/main.py", line' in line for line in lines)


# What is found before the server starts, whichever it is.
@pytest.mark.parametrize("server", ["native"], indirect=True)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "no.such:Class"], "no module 'no' for the adapter no.such:Class"),
        (["--adapter", "probe:Prob"], "probe.py) has no 'Prob'"),
        (["--adapter", "probe"], "must have the form module:Class"),
        (["--adapter", "probe:tell"], "not an adapter: it must be a subclass of"),
        (["--adapter", "broken_adapters:NotAnAdapter"], "not an adapter"),
        (["--adapter", "broken_adapters:PositionalOnly"], "'value' is positional-only"),
        (["--adapter", "broken_adapters:Empty"], "has no commands: put @command above"),
        (["--adapter", "broken_import:Class"], "No module named 'surely_not_installed'"),
        (["--max-concurrency", "0"], "expected a positive integer, got 0"),
        (["--shutdown-timeout", "-1"], "expected a number of seconds, 0 or more, got -1"),
    ],
)
def test_the_reason_of_a_failed_start_is_short(
    start: Start, options: list[str], message: str
) -> None:
    check_reason(start, options, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "broken_adapters:Failing"], "OSError: the model is gone"),
        (["--listen", "127.0.0.1:0"], "must be unix:/path or tcp:127.0.0.1:port"),
        (["--listen", "unix:/no/such/dir/s"], "there is no directory /no/such/dir"),
        (["--listen", f"unix:/tmp/{'x' * 120}"], "a socket's path has at most 103 bytes"),
    ],
)
def test_the_reason_of_a_failed_start_of_a_server_is_short(
    start: Start, options: list[str], message: str
) -> None:
    check_reason(start, options, message)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_address_in_use_is_named(start: Start, kind: str) -> None:
    address = start(*(["--listen", "tcp:127.0.0.1:0"] if kind == "tcp" else [])).address()
    other = start("--listen", address)
    assert other.ended() == 1
    assert any(f"cannot listen on {address}" in line for line in other.lines())


def without(tmp_path: Path, *modules: str) -> dict[str, str]:
    """The environment of a worker in which importing these modules fails."""
    package = tmp_path / "snakepit_bridge"
    shutil.copytree(ROOT / "snakepit_bridge", package)
    if "native" in modules:
        (package / "_native.abi3.so").unlink()
        (package / "_native.py").write_text("raise ImportError('no extension here')")
    if "grpc" in modules:
        (tmp_path / "grpc.py").write_text("raise ImportError('no grpc here')")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def start_without(tmp_path: Path, *modules: str, server: str = "") -> str:
    """The output of a worker that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "snakepit_bridge", *(["--server", server] if server else [])],
        env=without(tmp_path, *modules),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 69
    assert "Traceback" not in done.stderr
    return done.stderr


def test_without_grpcio_the_error_says_what_to_install(tmp_path: Path) -> None:
    said = start_without(tmp_path, "grpc", server="grpcio")
    assert "no grpc here" in said
    assert "pip install" in said


def test_without_the_extension_the_error_says_how_to_build_it(tmp_path: Path) -> None:
    said = start_without(tmp_path, "native", server="native")
    assert "no extension here" in said
    # In a user's project `mix compile` compiles no dependency that has been compiled.
    assert "run `mix deps.compile snakepit --force` (in Snakepit itself, `mix compile`)" in said
    assert "or use the server grpcio" in said


def test_with_neither_the_error_says_how_to_get_either(tmp_path: Path) -> None:
    said = start_without(tmp_path, "native", "grpc")
    assert "mix deps.compile snakepit --force" in said
    assert "pip install" in said


def test_without_the_extension_a_worker_warns_once_and_serves_with_grpcio(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "snakepit_bridge"],
        env=without(tmp_path, "native"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    with connected(address, None) as client:
        assert client.begin("ping", {}).result().success
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert said.count("no extension here") == 1
    assert "serving with grpcio" in said


def test_over_tcp_every_rpc_needs_the_secret(start: Start) -> None:
    address = start("--listen", "tcp:127.0.0.1:0", SNAKEPIT_SECRET="s3cret").address()
    assert address.startswith("tcp:127.0.0.1:")
    for secret in (None, "", "wrong", "s3cret "):
        with connected(address, secret) as stranger:
            for attempt in (
                stranger.health,
                stranger.info,
                lambda client=stranger: client.execute("ping"),
                lambda client=stranger: client.chunks("ping_stream"),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    attempt()
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with connected(address, "s3cret") as client:
        assert client.health().total_requests == 0
        assert client.result("ping")["status"] == "ok"
        assert len(client.chunks("ping_stream")) == 3
        assert "x-snakepit-secret" not in client.result("about")["metadata"]


def test_a_range_of_ports_is_tried_in_order(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        worker = start("--listen", f"tcp:127.0.0.1:{first}-{min(first + 20, 65535)}")
        port = int(worker.address().rpartition(":")[2])
        assert first < port <= first + 20
        full = start("--listen", f"tcp:127.0.0.1:{first}-{first}")
        assert full.ended() == 1
        assert any("is another server there" in line for line in full.lines())


def test_without_sockets_the_error_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "class Refused(socket.socket):\n"
        "    def __init__(self, *args, **rest):\n"
        "        raise PermissionError(1, 'Operation not permitted')\n"
        "socket.socket = Refused\n"
    )
    worker = start(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert worker.ended() == 69
    assert "cannot create a socket" in next(worker.lines())
