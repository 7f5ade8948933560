"""The certificates of a server, as texts in PEM form."""

from __future__ import annotations

from typing import NamedTuple, Optional

from snakepit_bridge._errors.exits import StartError


class Pem(NamedTuple):
    certificate: bytes
    key: bytes
    #: Those who sign the certificates of clients, if clients need any.
    client_ca: Optional[bytes]


def read(certificate: Optional[str], key: Optional[str], client_ca: Optional[str]) -> Optional[Pem]:
    """Returns the texts of these files, or None without any; raises a `StartError`."""
    if not (certificate or key or client_ca):
        return None
    if not (certificate and key):
        raise StartError("--tls-cert and --tls-key are given together, also with --client-ca")
    pem = Pem(
        _read("--tls-cert", certificate),
        _read("--tls-key", key),
        _read("--client-ca", client_ca) if client_ca else None,
    )
    _check(certificate, key, client_ca)
    return pem


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StartError(f"{option} {path}: {error.strerror or error}") from None


def _check(certificate: str, key: str, client_ca: Optional[str]) -> None:
    """The servers have errors of their own for this, which name no file."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key that needs a password would ask for it at a terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise StartError(
            f"--tls-cert {certificate} and --tls-key {key}: expected a certificate and its private "
            f"key, without a password, in PEM form ({error})"
        ) from None
    if client_ca is None:
        return
    try:
        context.load_verify_locations(client_ca)
    except (ssl.SSLError, ValueError) as error:
        raise StartError(
            f"--client-ca {client_ca}: expected certificates in PEM form ({error})"
        ) from None
