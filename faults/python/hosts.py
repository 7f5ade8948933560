"""Network namespaces as hosts: `hosts.py NAME FIRST COUNT`, as root, with `ip`.

Each host is a namespace NAME-0, NAME-1 and so on, with a link of the same name to this machine. Of
each four addresses from FIRST on, the second one is this machine's and the third one the host's.
Prints the hosts' addresses, or why there are none. Removes everything when its standard input ends,
and so also when the process that has started it is killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from ipaddress import IPv4Address

#: How long a link may take to open, in seconds.
PATIENCE = 50


def ip(*arguments: object, check: bool = True) -> str:
    command = ["ip", *map(str, arguments)]
    nothing = subprocess.DEVNULL
    ran = subprocess.run(command, check=check, stdin=nothing, capture_output=True, text=True)
    return ran.stdout


def add(name: str, first: IPv4Address) -> str:
    ip("netns", "add", name)
    ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("address", "add", f"{first + 1}/30", "dev", name)
    ip("link", "set", name, "up")
    ip("-n", name, "address", "add", f"{first + 2}/30", "dev", "eth0")
    for link in ("lo", "eth0"):
        ip("-n", name, "link", "set", link, "up")
    await_up("link", "show", name)
    await_up("-n", name, "link", "show", "eth0")
    return str(first + 2)


def await_up(*show: str) -> None:
    """Waits until an end of a link is open: the kernel does that later, on a busy machine."""
    deadline = time.monotonic() + PATIENCE
    while "state UP" not in ip(*show):
        if time.monotonic() > deadline:
            raise subprocess.CalledProcessError(
                1, ["ip", *show], stderr="it does not show the state UP"
            )
        time.sleep(0.01)


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    name, first, count = sys.argv[1], IPv4Address(sys.argv[2]), int(sys.argv[3])
    names = [f"{name}-{index}" for index in range(count)]
    try:
        addresses = [add(name, first + 4 * index) for index, name in enumerate(names)]
        print("hosts", *addresses, flush=True)
        sys.stdin.read()
    except subprocess.CalledProcessError as error:
        print("none", " ".join(error.cmd), "failed:", error.stderr.strip(), flush=True)
    finally:
        for name in names:
            ip("link", "delete", name, check=False)
            ip("netns", "delete", name, check=False)


main()
