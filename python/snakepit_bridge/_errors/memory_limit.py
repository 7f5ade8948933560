"""The limit of the memory of this process."""

from __future__ import annotations

from typing import Optional


def address_space_limit() -> Optional[int]:
    """Returns how many bytes this process may map, `RLIMIT_AS`; None without a limit."""
    # Not on every system.
    import resource

    limit, _hard = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit
