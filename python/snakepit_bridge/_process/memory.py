"""The memory that this process uses."""

from __future__ import annotations

import os
import sys
from typing import Optional


def resident_bytes() -> int:
    """Returns the resident memory, or its highest value so far on a system without `/proc`."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def address_space_limit() -> Optional[int]:
    """Returns how many bytes this process may map, `RLIMIT_AS`; None without a limit."""
    # Not on every system.
    import resource

    limit, _hard = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit
