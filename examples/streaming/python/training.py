"""Trains a small neural network on handwritten digits."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Optional

from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from snakepit_bridge import Adapter, command


class Training(Adapter):
    def __init__(self) -> None:
        images, self.labels = load_digits(return_X_y=True)
        self.images = images / 16
        self.model: Optional[MLPClassifier] = None

    @command
    def train_model(
        self, epochs: int = 100, hidden: int = 32, rate: float = 0.02
    ) -> Generator[dict[str, Any], None, None]:
        """Trains on the images once per epoch, and yields the losses after each epoch.

        Training ends with the stream; the model stays as it is then.
        """
        images, held_out, labels, answers = self._split()
        self.model = MLPClassifier((hidden,), learning_rate_init=rate, random_state=0)
        for epoch in range(1, epochs + 1):
            self.model.partial_fit(images, labels, classes=range(10))
            held_out_loss = log_loss(answers, self.model.predict_proba(held_out))
            yield {"epoch": epoch, "loss": self.model.loss_, "held_out_loss": held_out_loss}

    @command
    def accuracy(self) -> float:
        """Returns the share of images outside the training set that the model reads correctly."""
        if self.model is None:
            raise ValueError("no model has been trained: call train_model first")
        _, held_out, _, answers = self._split()
        return float(self.model.score(held_out, answers))

    def _split(self) -> list[Any]:
        return train_test_split(self.images, self.labels, test_size=0.3, random_state=0)
