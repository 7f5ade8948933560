"""Reads handwritten digits with a small model."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from snakepit_bridge import Adapter, command


class Digits(Adapter):
    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        known, self.images, answers, self.labels = train_test_split(
            images / 16, labels, test_size=0.3, random_state=0
        )
        self.model = LogisticRegression(max_iter=1000).fit(known, answers)

    @command
    def batch_inference(self, batch_size: int = 32) -> Generator[dict[str, Any], None, None]:
        """Predicts the digit of each image outside the training set, with a confidence."""
        for start in range(0, len(self.images), batch_size):
            batch = self.model.predict_proba(self.images[start : start + batch_size])
            for image, odds in enumerate(batch, start):
                digit = int(odds.argmax())
                yield {
                    "image": image,
                    "prediction": digit,
                    "confidence": float(odds[digit]),
                    "label": int(self.labels[image]),
                }
