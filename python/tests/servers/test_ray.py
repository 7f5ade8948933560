"""Commands in replicas of Ray Serve, called by a plain gRPC client through Ray's own proxy.

These tests start a Ray. They run with SNAKEPIT_RAY_PYTHON=.../bin/python, the Python of a virtual
environment with `ray[serve]`: `pip install 'ray[serve]==2.60.0'`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from client import PATIENCE, ROOT, SUPPORT, Client, read

from snakepit_bridge._proto import snakepit_pb2 as pb

RAY_PYTHON = os.environ.get("SNAKEPIT_RAY_PYTHON", "")
#: How long Ray may take for a step, in seconds; it needs half a minute on an idle machine.
RAY_PATIENCE = 300.0
OPTIONS = {
    "num_replicas": 2,
    "max_concurrency": 2,
    "max_stream_ahead": 100,
    "init": {"model": "small"},
    "sticky": True,
}

needs_ray = pytest.mark.skipif(
    not RAY_PYTHON, reason="NOT RUN: name a Python with ray[serve] by SNAKEPIT_RAY_PYTHON"
)


class Driver:
    def __init__(self, directory: str) -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [str(each.getsockname()[1]) for each in sockets]
        self.address = f"tcp:127.0.0.1:{ports[0]}"
        self.process = subprocess.Popen(
            [RAY_PYTHON, "-u", str(SUPPORT / "ray_driver.py"), *ports, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **{name: value for name, value in os.environ.items() if "SNAKEPIT" not in name},
                "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            text=True,
            errors="replace",
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in itertools.chain(self.process.stdout, ["FAILED: the driver has ended"]):
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    def answer(self) -> str:
        """The next answer of the driver."""

        def found() -> list[str]:
            return [line for line in self._lines if line.startswith(("DONE", "FAILED"))]

        with self._changed:
            assert self._changed.wait_for(found, RAY_PATIENCE), "".join(self._lines)
            (answer, *_), output = found(), "".join(self._lines)
            self._lines.clear()
        assert answer.startswith(("DONE", "FAILED ")), output
        return answer

    def say(self, *what: Any) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # At the end of its input it stops.
        self.process.stdin.close()
        self.process.wait(RAY_PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    # Not pytest's own directory, because a socket's path is limited to about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="sp-", dir="/tmp", ignore_cleanup_errors=True) as ray:
        driver = Driver(ray)
        try:
            assert driver.answer() == "DONE start\n"
            assert driver.say("run", OPTIONS) == "DONE run\n"
            yield driver
        finally:
            driver.stop()


@pytest.fixture(scope="module")
def ray(driver: Driver) -> Iterator[Client]:
    client = Client(driver.address)
    client.metadata += (("application", "commands"),)
    yield client
    client.close()


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} was never told"
        time.sleep(0.02)


def test_without_ray_the_module_says_what_to_install() -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("this Python has Ray")
    code = "import snakepit_bridge.ray"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "pip install 'snakepit-bridge[ray]'" in ended.stderr.splitlines()[-1]


@needs_ray
def test_calls_return_results_and_errors(ray: Client) -> None:
    assert ray.result("compute", operation="add", a=1, b=2) == {"result": 3}
    error = ray.error("fail")
    assert (error.reason, error.type, error.message) == ("python_error", "ValueError", "no good")
    assert error.frames[-1].function == "fail"
    assert ray.error("nope").reason == "unknown_command"
    assert "echo" in ray.info().supported_commands
    assert ray.health().healthy


@needs_ray
def test_a_command_sees_its_deadline_its_metadata_and_the_arguments_of_its_class(
    ray: Client,
) -> None:
    given: dict[str, Any] = {"timeout_ms": 30_000, "metadata": [("tenant", "a")]}
    response = ray.begin("about", {}, **given).result()
    result = {name: json.loads(data) for name, data in response.result.items()}
    assert 0 < result["remaining"] <= 30
    assert result["metadata"]["tenant"] == "a"
    assert result["model"] == "small"


@needs_ray
def test_a_call_past_its_deadline_is_answered_and_cancelled(ray: Client, tmp_path: Path) -> None:
    path = tmp_path / "told"
    response = ray.begin("wait", {"path": str(path), "seconds": 600}, timeout_ms=300).result()
    assert response.error_detail.reason == "timeout"
    wait_for(path, "cancelled")


@needs_ray
def test_a_cancelled_rpc_cancels_its_command(ray: Client, tmp_path: Path) -> None:
    path = tmp_path / "told"
    call = ray.begin("wait", {"path": str(path), "seconds": 600})
    wait_for(path, "waits")
    call.cancel()
    wait_for(path, "cancelled")


@needs_ray
def test_progress_arrives_before_the_result(ray: Client) -> None:
    call = ray.channel.unary_stream(
        "/snakepit.SnakepitBridge/CallWithEvents",
        pb.CallFrame.SerializeToString,
        pb.ReplyFrame.FromString,
    )
    frames = list(
        call(
            pb.CallFrame(call_id=1, command="steps", takes_events=2),
            timeout=PATIENCE,
            metadata=ray.metadata,
        )
    )
    assert [frame.act for frame in frames] == [pb.ReplyFrame.EVENT, pb.ReplyFrame.REPLY]
    assert frames[0].event.progress.message == "half"


@needs_ray
def test_a_stream_has_at_most_max_stream_ahead_chunks(ray: Client, tmp_path: Path) -> None:
    assert [read(chunk)["number"] for chunk in ray.chunks("numbers", to=100)] == [*range(100)]
    path = tmp_path / "told"
    *chunks, last = ray.chunks("numbers", to=1_000_000, path=str(path))
    assert len(chunks) == 100
    assert last.error_detail.reason == "streaming_not_supported"
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in last.error
    wait_for(path, "closed at 100")


@needs_ray
def test_a_cancelled_stream_closes_its_generator(ray: Client, tmp_path: Path) -> None:
    path = tmp_path / "told"
    stream = ray.stream("numbers", {"to": 90, "every": 600.0, "path": str(path)})
    first = ray.stream("numbers", {"to": 90, "every": 0.01, "path": str(path)})
    next(first)
    first.cancel()
    stream.cancel()
    wait_for(path, "closed at")


@needs_ray
def test_the_calls_of_a_session_go_to_one_replica(ray: Client) -> None:
    pids = set()
    for session in ("a", "b", "c", "d", "e", "f"):
        results = []
        for _ in range(4):
            given: dict[str, Any] = {"session_id": session, "metadata": [("session_id", session)]}
            response = ray.begin("remember", {}, **given).result()
            results.append({name: json.loads(data) for name, data in response.result.items()})
        assert [result["calls"] for result in results] == [1, 2, 3, 4]
        assert len({result["pid"] for result in results}) == 1
        pids.add(results[0]["pid"])
    assert len(pids) <= 2


@needs_ray
def test_the_proxy_knows_no_calls_rpc(ray: Client) -> None:
    call = ray.channel.stream_stream(
        "/snakepit.SnakepitBridge/Calls",
        pb.CallFrame.SerializeToString,
        pb.ReplyFrame.FromString,
    )
    with pytest.raises(grpc.RpcError) as raised:
        next(call(iter([pb.CallFrame(call_id=1, command="ping")]), timeout=PATIENCE))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


@needs_ray
def test_an_application_that_cannot_start_says_why_in_the_words_of_app(driver: Driver) -> None:
    assert "expected the adapter as" in driver.say("run", {"adapter": "nothing"})
    assert "max_concurrency to be a positive integer" in driver.say("run", {"max_concurrency": 0})


@needs_ray
def test_a_redeployment_under_load_loses_no_call(driver: Driver, ray: Client) -> None:
    results: list[pb.ExecuteResponse] = []
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            results.append(ray.execute("about"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        environment = {"env_vars": {"REVISION": "2"}}
        actor = {"num_cpus": 0.1, "runtime_env": environment}
        assert driver.say("run", {**OPTIONS, "ray_actor_options": actor}) == "DONE run\n"
    finally:
        stopped.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert all(result.success for result in results)
    assert ray.result("about")["revision"] == "2"


@needs_ray
def test_the_death_of_a_replica_fails_its_calls_only(ray: Client, tmp_path: Path) -> None:
    path = tmp_path / "told"
    with pytest.raises(grpc.RpcError) as raised:
        ray.execute("die", path=str(path))
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "The actor died" in str(raised.value.details())
    assert path.read_text() == "dies\n"
    stream = ray.stream("numbers", {"to": 90, "every": 0.05})
    os.kill(read(next(stream))["pid"], signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as raised:
        list(stream)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert ray.result("compute", operation="add", a=1, b=2) == {"result": 3}


@needs_ray
def test_close_runs_when_a_replica_ends(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "told"
    init = {"model": "small", "closed": str(path)}
    assert driver.say("run", {**OPTIONS, "num_replicas": 1, "init": init}) == "DONE run\n"
    assert driver.say("run", OPTIONS) == "DONE run\n"
    wait_for(path, "closed")
