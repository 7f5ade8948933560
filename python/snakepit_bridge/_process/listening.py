"""Where and how a server listens, from its options."""

from __future__ import annotations

import logging
from typing import Optional

from snakepit_bridge._errors.exits import StartError
from snakepit_bridge._network import address, tls
from snakepit_bridge._network.tokens import TokenFile
from snakepit_bridge._process.options import Options
from snakepit_bridge._process.parent import Parent

#: How many calls may wait in a server that no pool has started.
MAX_QUEUE = 1024
#: How many calls may wait in one of a pool, which has a queue with a limit of its own.
UNLIMITED = 2**31

_log = logging.getLogger("snakepit_bridge")


class Listening:
    """Raises a `StartError` for an address that is not valid, or at which everyone could call."""

    def __init__(self, options: Options, parent: Parent) -> None:
        self.address = options.listen
        #: Answers health checks alone.
        self.health_address: Optional[str] = options.health_listen
        self.tls = tls.read(options.tls_cert, options.tls_key, options.client_ca)
        self.token_file = TokenFile(options.token_file) if options.token_file else None
        self._secret = "" if address.is_private(options.listen) else parent.secret
        default = UNLIMITED if parent.is_beam else MAX_QUEUE
        self.max_queue = default if options.max_queue is None else options.max_queue
        address.check(options.listen)
        if self.health_address:
            address.check(self.health_address, "--health-listen")
        if self.tls and address.is_private(options.listen):
            raise StartError(
                "--tls-cert is for an address tcp:host:port, not for a Unix socket, which only the "
                "same user can connect to"
            )
        if not options.insecure:
            self._refuse_everyone()

    @property
    def secrets(self) -> list[str]:
        """What clients may send; empty if they need no secret."""
        tokens = self.token_file.tokens if self.token_file else []
        return [*tokens, *([self._secret] if self._secret else [])]

    def _refuse_everyone(self) -> None:
        if self.secrets or address.is_local(self.address):
            return
        if self.tls is None:
            raise StartError(
                f"--listen {self.address}: from other machines everyone could call commands there. "
                "Give --tls-cert and --tls-key, or --token-file, or both; or --insecure if only "
                "those who may call can connect"
            )
        if self.tls.client_ca is None:
            _log.warning(
                "--listen %s: TLS hides calls, but everyone may call: --token-file or --client-ca "
                "limits who",
                self.address,
            )
