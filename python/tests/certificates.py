"""Certificates for tests of TLS, made by `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """Signs certificates for `localhost` in its directory. Skips the test without `openssl`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self._directory = directory
        directory.mkdir()
        self.path = directory / "ca.pem"
        self._key = directory / "ca.key"
        _openssl("req", "-x509", "-subj", "/CN=authority", *_new_key(self._key), "-out", self.path)

    def sign(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate and of its key."""
        certificate, key, request, names = (
            self._directory / f"{name}.{kind}" for kind in ("pem", "key", "csr", "names")
        )
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl("req", "-new", "-subj", f"/CN={name}", *_new_key(key), "-out", request)
        signed = ("-CA", self.path, "-CAkey", self._key, "-CAcreateserial", "-extfile", names)
        _openssl("x509", "-req", "-days", "2", "-in", request, *signed, "-out", certificate)
        return certificate, key


def _new_key(path: Path) -> tuple[object, ...]:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    return (*curve, "-nodes", "-keyout", path)


def _openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
