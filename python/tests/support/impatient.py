"""The probe in a worker whose grpcio server waits less long for a first RPC."""

from probe import Probe

from snakepit_bridge._grpcio import grpcio

grpcio.MAX_IDLE = 1_000


class Impatient(Probe):
    pass
