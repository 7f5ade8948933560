"""A worker whose start is controlled by its environment, for the Elixir tests."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Optional

from snakepit_bridge import BuiltinAdapter, command


class Starting(BuiltinAdapter):
    """Raises in the slots that FAIL names, creates BEGUN, and waits while the file HOLD exists."""

    def __init__(self) -> None:
        slot = sys.argv[sys.argv.index("--worker-id") + 1].rpartition("/")[2]
        if slot in os.environ.get("FAIL", "").split(","):
            raise RuntimeError("there is no model")
        if begun := os.environ.get("BEGUN"):
            Path(begun).touch()
        hold = os.environ.get("HOLD", "")
        while hold and Path(hold).exists():
            time.sleep(0.005)
        print("the model is loaded", file=sys.stderr)

    @command
    def variables(self, names: list[str]) -> dict[str, Optional[bytes]]:
        return {name: os.environb.get(name.encode()) for name in names}
