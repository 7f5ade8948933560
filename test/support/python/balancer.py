"""A balancer, with grpcio alone: passes each RPC to the next of its servers that is connected."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from collections.abc import Iterator
from concurrent import futures

import grpc

servers = [grpc.insecure_channel(address) for address in sys.argv[1].split(",")]
states: dict[int, grpc.ChannelConnectivity] = {}
turns = itertools.count()


def connected() -> list[grpc.Channel]:
    return [
        server
        for number, server in enumerate(servers)
        if states.get(number) is grpc.ChannelConnectivity.READY
    ]


def pass_on(method: str, requests: Iterator[bytes], rpc: grpc.ServicerContext) -> Iterator[bytes]:
    there = connected()
    if not there:
        rpc.abort(grpc.StatusCode.UNAVAILABLE, "no server is connected")
    server = there[next(turns) % len(there)]
    remaining = rpc.time_remaining()
    call = server.stream_stream(method)(requests, remaining if remaining < 1e9 else None)
    rpc.add_callback(call.cancel)
    try:
        rpc.send_initial_metadata(call.initial_metadata())
        yield from call
    except grpc.RpcError as error:
        rpc.abort(error.code(), error.details())


class Balancer(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(functools.partial(pass_on, details.method))


for number, server in enumerate(servers):
    server.subscribe(functools.partial(states.__setitem__, number), try_to_connect=True)
while len(connected()) < len(servers):
    time.sleep(0.01)
balancer = grpc.server(futures.ThreadPoolExecutor(64), handlers=[Balancer()])
port = balancer.add_insecure_port("127.0.0.1:0")
balancer.start()
print(os.environ["SNAKEPIT_READY_TOKEN"], f"tcp:127.0.0.1:{port}", flush=True)
sys.stdin.read()
os._exit(0)
