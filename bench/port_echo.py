"""The lower bound: echoes messages of a 4-byte length and their bytes from stdin to stdout."""

import os


def read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            raise SystemExit(0)
        data += part
    return data


while True:
    header = read(4)
    os.write(1, header + read(int.from_bytes(header, "big")))
