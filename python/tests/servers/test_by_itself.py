"""A server that no pool has started, and its clients on other machines."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import grpc
import pytest
from certificates import Authority
from client import PATIENCE, ROOT, SUPPORT, Client, Pipe
from conftest import Start
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc  # type: ignore[import-untyped]

from snakepit_bridge._grpcio.grpcio_standard import Health
from snakepit_bridge._proto import snakepit_pb2 as bridge
from snakepit_bridge._proto import standard as pb

MakePipe = Callable[[str], Pipe]

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
#: A frame of HTTP/2.
GOAWAY = 7
TCP = ("--listen", "tcp:127.0.0.1:0")
TAKES_DRAINING = (("x-snakepit-takes-draining", "1"),)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


def check(channel: grpc.Channel, service: str = "") -> int:
    call = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        pb.HealthCheckRequest.SerializeToString,
        pb.HealthCheckResponse.FromString,
    )
    request = pb.HealthCheckRequest(service=service)
    response = call(request, timeout=PATIENCE, wait_for_ready=True)
    status: int = response.status
    return status


def watch(channel: grpc.Channel, service: str = "") -> Any:
    call = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        pb.HealthCheckRequest.SerializeToString,
        pb.HealthCheckResponse.FromString,
    )
    return call(pb.HealthCheckRequest(service=service), timeout=PATIENCE, wait_for_ready=True)


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    found: grpc.StatusCode = caught.value.code()
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class CallsRpc:
    """A `Calls` RPC, whose client reads `DRAINING`."""

    def __init__(self, client: Client) -> None:
        self._sent: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        call: Any = client.channel.stream_stream(
            "/snakepit.SnakepitBridge/Calls", None, bridge.ReplyFrame.FromString
        )
        sent = iter(self._sent.get, None)
        self.replies: Any = call(sent, timeout=PATIENCE, metadata=TAKES_DRAINING)

    def call(self, call_id: int, command: str) -> None:
        frame = bridge.CallFrame(call_id=call_id, command=command)
        self._sent.put(frame.SerializeToString())

    def leave(self) -> None:
        self._sent.put(None)

    def close(self) -> None:
        self.leave()
        self.replies.cancel()


def test_an_address_for_other_machines_needs_tls_or_tokens(start: Start) -> None:
    refused = start("--listen", "tcp:0.0.0.0:0", token="")
    assert refused.ended() == 1
    (line,) = (line for line in refused.lines() if "0.0.0.0" in line)
    for option in ("--tls-cert", "--token-file", "--insecure"):
        assert option in line
    address = start("--listen", "tcp:0.0.0.0:0", "--insecure", token="").address()
    with closing(Client(address.replace("0.0.0.0", "127.0.0.1"))) as client:
        assert client.execute("ping").success


def test_clients_need_the_certificate_and_the_token(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    (certificate, key), own = authority.sign("server"), authority.sign("client")
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key), "--client-ca")
    worker = start(
        *TCP, *tls, str(authority.path), "--token-file", str(tokens), "--max-concurrency", "2"
    )
    address, root = worker.address(), authority.path.read_bytes()
    trusted = grpc.ssl_channel_credentials(root, own[1].read_bytes(), own[0].read_bytes())
    for stranger in (None, grpc.ssl_channel_credentials(root)):
        with closing(Client(address, "first", stranger)) as client:
            call: Any = client.channel.unary_unary("/snakepit.SnakepitBridge/Health")
            assert code(functools.partial(call, b"")) == grpc.StatusCode.UNAVAILABLE
    with closing(Client(address, None, trusted)) as client:
        assert check(client.channel) == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            client.health()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "--token-file" in str(caught.value)
        bearer = (("authorization", "Bearer second"), ("x-of-the-user", "kept"))
        about = client.begin("about", {}, metadata=bearer).result()
        assert b"kept" in about.result["metadata"]
        assert b"second" not in about.result["metadata"]
    with closing(Client(address, "first", trusted)) as client:
        # More than a socket holds.
        blob = bytes(range(256)) * 20_000
        assert client.execute("echo", blob=blob).result["blob"] == blob
        assert len(client.chunks("ping_stream")) == 3
        tokens.write_text("second\nthird\n")
        until(lambda: refused(client))
    for secret, accepted in (("second", True), ("third", True), ("first", False)):
        with closing(Client(address, secret, trusted)) as client:
            assert refused(client) != accepted
    tokens.write_text("\n")
    worker.expect("its former tokens stay valid")
    with closing(Client(address, "third", trusted)) as client:
        assert not refused(client)


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_a_removed_token_counts_until_its_clients_have_heard(start: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    address = start(*TCP, "--token-file", str(tokens), token="").address()
    with closing(Client(address, "first")) as client, closing(Client(address, "zero")) as other:
        tokens.write_text("second\n")
        until(lambda: refused(client))
        about = client.begin("about", {}, metadata=(("authorization", "Bearer first"),)).result()
        assert about.success
        assert b"first" not in about.result["metadata"]
        with pytest.raises(grpc.RpcError):
            other.execute("ping")


def refused(client: Client) -> bool:
    """Whether the client's secret is refused."""
    error = client.begin_health().exception()
    assert error is None or error.code() == grpc.StatusCode.UNAUTHENTICATED
    return error is not None


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_files_that_cannot_be_used_are_named(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = map(str, authority.sign("server"))
    empty = tmp_path / "empty"
    empty.touch()
    for options, message in (
        (("--tls-cert", certificate), "--tls-cert and --tls-key are given together"),
        (("--tls-cert", certificate, "--tls-key", "/no/key"), "--tls-key /no/key: No such file"),
        (("--tls-cert", certificate, "--tls-key", certificate), "expected a certificate and its"),
        (("--tls-cert", certificate, "--tls-key", key, "--client-ca", str(empty)), "--client-ca"),
        (("--token-file", str(empty)), "expected a token in each line, found none"),
        (("--token-file", "/no/tokens"), "--token-file /no/tokens: No such file"),
    ):
        worker = start(*TCP, *options, token="")
        assert worker.ended() == 1
        assert any(message in line for line in worker.lines()), message


def test_health_is_that_of_grpc(client: Client) -> None:
    assert [check(client.channel, name) for name in ("", "snakepit.SnakepitBridge")] == [
        SERVING
    ] * 2
    assert code(lambda: check(client.channel, "other")) == grpc.StatusCode.NOT_FOUND
    unknown = watch(client.channel, "other")
    assert next(unknown).status == SERVICE_UNKNOWN
    unknown.cancel()


def test_a_client_learns_the_messages_by_reflection(client: Client) -> None:
    call: Any = client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )
    requests = [
        pb.ServerReflectionRequest(list_services=""),
        pb.ServerReflectionRequest(file_containing_symbol="snakepit.SnakepitBridge.Execute"),
        pb.ServerReflectionRequest(file_by_filename="grpc/health/v1/health.proto"),
        pb.ServerReflectionRequest(file_containing_symbol="snakepit.Missing"),
    ]
    services, found, health, missing = call(iter(requests), timeout=PATIENCE)
    assert [service.name for service in services.list_services_response.service] == [
        "snakepit.SnakepitBridge",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ]
    assert missing.error_response.error_code == 5
    (file,) = health.file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(file).package == "grpc.health.v1"
    # As grpcurl does: `grpcurl -d '{"command": "ping"}' ... snakepit.SnakepitBridge/Execute`
    pool = descriptor_pool.DescriptorPool()
    (file,) = found.file_descriptor_response.file_descriptor_proto
    pool.AddSerializedFile(file)
    method = pool.FindServiceByName("snakepit.SnakepitBridge").methods_by_name["Execute"]
    request = json_format.Parse(
        '{"command": "ping"}', message_factory.GetMessageClass(method.input_type)()
    )
    execute: Any = client.channel.unary_unary(
        "/snakepit.SnakepitBridge/Execute",
        type(request).SerializeToString,
        message_factory.GetMessageClass(method.output_type).FromString,
    )
    assert execute(request, timeout=PATIENCE).result["status"] == b'"ok"'


def test_a_full_queue_refuses_further_calls(start: Start, server: str, pipe: MakePipe) -> None:
    started, free = pipe("started"), pipe("free")
    address = start("--max-queue", "1").address()
    with closing(Client(address)) as client, closing(Client(address)) as other:
        running = client.begin("hold", {"started": started.path, "until": free.path})
        assert started.line() == "started"
        waiting = other.begin("ping", {})
        client.wait_for_calls(2)
        for attempt in (lambda: client.execute("ping"), lambda: client.chunks("ping_stream")):
            with pytest.raises(grpc.RpcError) as caught:
                attempt()
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "--max-queue" in str(caught.value)
        if server == "native":
            with closing(CallsRpc(client)) as calls:
                calls.call(1, "ping")
                reply = next(reply for reply in calls.replies if reply.call_id)
                assert reply.error_detail.reason == "pool_saturated"
        free.send("go")
        assert running.result().success
        assert waiting.result().success
        assert client.execute("ping").success


def test_sigterm_tells_clients_to_leave_and_lets_their_calls_finish(
    start: Start, server: str, pipe: MakePipe, tmp_path: Path
) -> None:
    started, free = pipe("started"), pipe("free")
    with contextlib.ExitStack() as stack:
        systemd = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(PATIENCE)
        # Only the second signal ends the pause.
        options = ("--drain-delay", "3600", "--max-concurrency", "3", "--shutdown-timeout", "60")
        worker = start(
            *TCP,
            *options,
            *("--health-listen", f"unix:{tmp_path}/h"),
            token="",
            NOTIFY_SOCKET=str(tmp_path / "n"),
        )
        address = worker.address()
        assert systemd.recv(100) == b"READY=1"
        probe, client = (
            stack.enter_context(closing(Client(each))) for each in (f"unix:{tmp_path}/h", address)
        )
        assert code(probe.info) == grpc.StatusCode.UNIMPLEMENTED
        watches = [watch(each.channel) for each in (probe, client)]
        assert [next(each).status for each in watches] == [SERVING] * 2
        running = client.begin("hold", {"started": started.path, "until": free.path})
        assert started.line() == "started"
        calls = stack.enter_context(closing(CallsRpc(client))) if server == "native" else None
        if calls:
            calls.call(1, "ping")
            assert next(reply for reply in calls.replies if reply.call_id).success
        worker.process.send_signal(signal.SIGTERM)
        assert systemd.recv(100) == b"STOPPING=1"
        assert [next(each).status for each in watches] == [NOT_SERVING] * 2
        ends = [code(functools.partial(next, each)) for each in watches]
        assert ends == [grpc.StatusCode.UNAVAILABLE] * 2
        late = stack.enter_context(closing(Client(address)))
        assert check(late.channel) == NOT_SERVING
        assert not late.health().healthy
        assert late.execute("ping").success
        if calls:
            assert next(calls.replies).act == bridge.ReplyFrame.DRAINING
            calls.call(2, "ping")
            assert next(calls.replies).call_id == 2
            told = stack.enter_context(closing(CallsRpc(late)))
            acts = (reply.act for reply in told.replies if not reply.has_start_journal)
            assert next(acts) == bridge.ReplyFrame.DRAINING
            told.leave()
            assert list(told.replies) == []
        worker.process.send_signal(signal.SIGTERM)
        free.send("go")
        assert running.result().success
        if calls:
            # The server waits for the client.
            calls.call(3, "ping")
            assert next(calls.replies).call_id == 3
            calls.leave()
            assert list(calls.replies) == []
        assert worker.ended() == 0


# Starts a server on grpcio for which clients have left when no call has arrived for minutes.
PATIENT = """
from snakepit_bridge._grpcio import grpcio
from snakepit_bridge.__main__ import main
grpcio.QUIET = 600.0
main()
"""


def test_a_server_on_grpcio_that_stops_serves_the_calls_that_still_arrive(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    options = ["--server", "grpcio", "--adapter", "probe:Probe", "--shutdown-timeout", "3600"]
    options += ["--import-path", str(SUPPORT), "--listen", address]
    server = subprocess.Popen(
        [sys.executable, "-c", PATIENT, *options], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        with closing(Client(address)) as client:
            health = watch(client.channel)
            assert next(health).status == SERVING
            server.send_signal(signal.SIGTERM)
            assert next(health).status == NOT_SERVING
            # Of which one may arrive later than the server stops listening.
            assert all(client.execute("ping").success for _ in range(200))
    finally:
        server.kill()
        server.wait(PATIENCE)


class ActiveRpc:
    """An RPC whose client stays."""

    def add_callback(self, _callback: Callable[[], None]) -> bool:
        return True

    def is_active(self) -> bool:
        return True

    def abort(self, code: grpc.StatusCode, _details: str) -> None:
        raise LookupError(code)


def test_a_health_check_on_grpcio_learns_of_a_stop_before_its_next_message_is_asked_for() -> None:
    health = Health()
    details: Any = SimpleNamespace(method="/grpc.health.v1.Health/Watch")
    handler = health.service(details)
    statuses = handler.unary_stream(pb.HealthCheckRequest(), ActiveRpc())
    assert next(statuses).status == SERVING
    health.stop_serving()
    assert next(statuses).status == NOT_SERVING
    with pytest.raises(LookupError, match="UNAVAILABLE"):
        next(statuses)


def test_calls_are_logged_at_their_end(start: Start, pipe: MakePipe) -> None:
    worker = start(*TCP, "--access-log", "--max-queue", "0", token="")
    address = worker.address()
    lines = (line for line in worker.lines() if " ms" in line)

    def logged(*words: str) -> None:
        line = next(lines)
        assert "127.0.0.1:" in line
        assert [word for word in line.split() if word in words] == list(words)

    with closing(Client(address)) as client:
        client.begin("ping", {}, request_id="r-1").result()
        logged("ping", "r-1", "ok")
        client.error("fail", how="value")
        logged("fail", "-", "python_error")
        client.error("no_such")
        logged("no_such", "-", "unknown_command")
        client.chunks("ping_stream")
        logged("ping_stream", "-", "ok")
        started, free = pipe("started"), pipe("free")
        running = client.begin("hold", {"started": started.path, "until": free.path})
        assert started.line() == "started"
        assert code(lambda: client.execute("ping")) == grpc.StatusCode.RESOURCE_EXHAUSTED
        logged("ping", "-", "pool_saturated")
        free.send("go")
        running.result()
        logged("hold", "-", "ok")


def test_an_old_connection_is_to_be_left(start: Start) -> None:
    address = start(*TCP, "--max-connection-age", "0.1", token="").address()
    host, _, port = address.partition(":")[2].rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as raw, raw.makefile("rb") as frames:
        settings = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        kinds = []
        while GOAWAY not in kinds:
            head = frames.read(9)
            frames.read(int.from_bytes(head[:3], "big"))
            kinds.append(head[3])
    with closing(Client(address)) as client:
        assert client.execute("ping").success


def test_the_client_of_the_guide_calls_a_command(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    proto, guides = ROOT.parent / "proto", ROOT.parent / "guides"
    generated = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    assert protoc.main(["protoc", f"-I{proto}", *generated, "snakepit.proto"]) == 0
    guide = (guides / "beyond_one_machine.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "guide.py").write_text(
        f"{code}\n"
        "import sys\n"
        "address, ca = sys.argv[1:]\n"
        "print(add(address, 'secret', open(ca, 'rb').read()))\n"
    )
    certificate, key = map(str, authority.sign("server"))
    (tmp_path / "tokens").write_text("secret")
    tls = ("--tls-cert", certificate, "--tls-key", key)
    address = start(*TCP, *tls, "--token-file", str(tmp_path / "tokens"), token="").address()
    done = subprocess.run(
        [sys.executable, tmp_path / "guide.py", address.partition(":")[2], authority.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "42\n", done.stderr
