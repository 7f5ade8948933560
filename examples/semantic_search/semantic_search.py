"""Finds the paragraphs of documents whose meaning is nearest to a question."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wordllama

from snakepit_bridge import Adapter, command

GUIDES = Path(__file__).parents[2] / "guides"
#: Shorter paragraphs, headings for example, are not indexed.
MIN_WORDS = 8


@dataclass
class Query:
    question: str
    top: int = 3


class SemanticSearch(Adapter):
    """Searches a folder of documents. The model, 16 MB, is in the package: nothing is downloaded.

    Each worker makes its index when it starts, also one that replaces another.
    """

    def __init__(self, folder: str = str(GUIDES)) -> None:
        package = Path(wordllama.__file__).parent
        self.model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)
        self.device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self.paragraphs = [
            {"document": document.name, "text": " ".join(paragraph.split())}
            for document in sorted(Path(folder).glob("*.md"))
            for paragraph in document.read_text("utf-8").split("\n\n")
            # Tables and code have little meaning to a model of words.
            if len(paragraph.split()) >= MIN_WORDS and paragraph[0] not in "|`"
        ]
        self.vectors = self.model.embed([each["text"] for each in self.paragraphs], norm=True)

    @command
    def size(self) -> dict[str, int]:
        """Returns the number of documents and of paragraphs."""
        documents = {each["document"] for each in self.paragraphs}
        return {"documents": len(documents), "paragraphs": len(self.paragraphs)}

    @command(batch=32, wait_ms=5)
    def search(self, queries: list[Query]) -> list[dict[str, Any]]:
        """Returns the nearest paragraphs, each with the cosine of its angle as the score.

        Also returns how many questions were answered together, and the worker's device.
        """
        vectors = self.model.embed([query.question for query in queries], norm=True)
        return [
            {"found": self._best(query, scores), "batch": len(queries), "device": self.device}
            for query, scores in zip(queries, vectors @ self.vectors.T)
        ]

    def _best(self, query: Query, scores: Any) -> list[dict[str, Any]]:
        best = np.argsort(scores)[::-1][: query.top]
        return [{**self.paragraphs[number], "score": float(scores[number])} for number in best]

    @command
    def embed(self, texts: list[str]) -> Any:
        """Returns the vectors of texts as one array."""
        return self.model.embed(texts, norm=True)

    @command(batch=32, wait_ms=5)
    def embed_one(self, calls: list[dict[str, str]]) -> list[Any]:
        """Returns the vector of one text."""
        return list(self.model.embed([call["text"] for call in calls], norm=True))
