"""Runs the code of python/README.md as it stands."""

from __future__ import annotations

import re
from typing import Any

from client import ROOT

from snakepit_bridge import testing


def test_the_code_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec", dont_inherit=True), names)
    names["test_predicts"]()
    with testing.Worker(names["Models"]) as worker:
        *_, last = worker.stream("train", {"examples": {"fine": "positive"}})
        assert last == {"words": 3, "is_final": True}
        assert worker.call("fetch-labels", {}) == {"result": ["negative", "positive"]}
