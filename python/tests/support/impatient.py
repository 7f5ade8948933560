"""The probe in a worker whose grpcio server waits less long for a first RPC."""

from probe import Probe

from snakepit_bridge import _grpc_server

_grpc_server.MAX_IDLE = 1_000


class Impatient(Probe):
    pass
