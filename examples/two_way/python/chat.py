"""Answers messages while the conversation goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from snakepit_bridge import Adapter, Input, command


class Chat(Adapter):
    @command
    async def listen(self, messages: Input[dict[str, str]]) -> AsyncGenerator[dict[str, Any], None]:
        """Says after each message which word was used most, and at the end how many there were."""
        words: Counter[str] = Counter()
        async for message in messages:
            words.update(message["text"].lower().split())
            [(word, times)] = words.most_common(1)
            yield {"to": message["from"], "text": f"so far {word!r} {times} times"}
        yield {"to": "all", "text": f"{len(words)} different words"}
