"""Finds the paragraphs of documents whose meaning is nearest to a question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wordllama

from snakepit_bridge import Adapter, command

#: Shorter paragraphs, headings for example, are not indexed.
MIN_WORDS = 8


@dataclass
class Query:
    question: str
    top: int = 3


class SemanticSearch(Adapter):
    """Keeps one index. The model, 16 MB, is in the package: nothing is downloaded."""

    def __init__(self) -> None:
        folder = Path(wordllama.__file__).parent
        self.model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
        self.paragraphs: list[dict[str, Any]] = []
        self.vectors = np.zeros((0, 256), np.float32)

    @command
    def index(self, documents: dict[str, str]) -> dict[str, int]:
        """Adds documents, given as a map of names to texts; returns the size of the index."""
        found = [
            {"document": name, "text": " ".join(paragraph.split())}
            for name, text in documents.items()
            for paragraph in text.split("\n\n")
            # Tables and code have little meaning to a model of words.
            if len(paragraph.split()) >= MIN_WORDS and paragraph[0] not in "|`"
        ]
        if found:
            vectors = self.model.embed([each["text"] for each in found], norm=True)
            self.paragraphs += found
            self.vectors = np.vstack([self.vectors, vectors])
        return {"paragraphs": len(self.paragraphs)}

    @command(batch=32, wait_ms=5)
    def search(self, queries: list[Query]) -> list[list[dict[str, Any]]]:
        """Returns the nearest paragraphs, each with the cosine of its angle as the score."""
        vectors = self.model.embed([query.question for query in queries], norm=True)
        scores = vectors @ self.vectors.T
        return [self._best(query, row) for query, row in zip(queries, scores)]

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
