"""Starts a Ray of its own with Serve, and does what the lines of its standard input say.

Each line is a JSON list, and is answered by a line `DONE ...` or `FAILED ...`:

    ["run", {"num_replicas": 2, ...}]    runs the application "commands" with these options of app()
    ["stop"]                             ends Serve and Ray

Arguments: the ports for gRPC and HTTP, and a directory for Ray's files with a short path. Needs
`ray[serve]`; the variables of Ray (`RAY_SERVE_...`) are those of its environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import ray
from ray import serve
from ray.serve.config import HTTPOptions, RequestRouterConfig, gRPCOptions

from snakepit_bridge.ray import app

HERE = Path(__file__).parent
#: A session stays on one replica, whatever else that does.
STICKY = {
    "request_router_class": "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
    "request_router_kwargs": {"num_fallback_replicas": 0},
}


def start(grpc_port: int, http_port: int, directory: str) -> None:
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 1024 * 1024,
        include_dashboard=False,
        logging_level="warning",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
        _node_ip_address="127.0.0.1",
        _temp_dir=directory,
        # Half a minute, which is the default, is too short on a busy machine.
        _system_config={"agent_register_timeout_ms": 300_000},
    )
    serve.start(
        grpc_options=gRPCOptions(
            port=grpc_port, grpc_servicer_functions=["snakepit_bridge.ray.add_servicer"]
        ),
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
    )


def run(options: dict[str, object]) -> None:
    adapter = str(options.pop("adapter", "ray_commands:Commands"))
    if options.pop("sticky", False):
        options["request_router_config"] = RequestRouterConfig(**STICKY)
    options.setdefault("ray_actor_options", {"num_cpus": 0.1})
    serve.run(app(adapter, **options), name="commands", route_prefix="/commands")  # type: ignore[arg-type]


def main() -> None:
    start(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    print("DONE start", flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            if what == "stop":
                break
            run(*arguments)
            print(f"DONE {what}", flush=True)
        except Exception as error:
            print(f"FAILED {error!r}", flush=True)
    serve.shutdown()
    ray.shutdown()
    print("DONE stop", flush=True)


if __name__ == "__main__":
    main()
