"""Teaches a classifier of handwritten digits, one for each session."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from snakepit_bridge import Adapter, Context, Session, command

TEST = 400


class Lessons(Adapter):
    """The images belong to the worker; a model belongs to the session of its user."""

    def __init__(self) -> None:
        images, self.labels = load_digits(return_X_y=True)
        self.images = images / 16

    @command
    def images_of(self, digits: list[int], count: int) -> dict[str, Any]:
        """Returns some images of these digits, with their labels, to learn from."""
        known = np.flatnonzero(np.isin(self.labels[TEST:], digits))[:count] + TEST
        return {"images": self.images[known], "labels": self.labels[known].tolist()}

    @command
    def learn(self, images: np.ndarray, labels: list[int], context: Context) -> dict[str, Any]:
        """Goes on with the model of the session, or begins one."""
        model = context.session.setdefault("model", SGDClassifier(random_state=0))
        model.partial_fit(images, labels, classes=range(10))
        context.session["seen"] = context.session.get("seen", 0) + len(labels)
        accuracy = float(model.score(self.images[:TEST], self.labels[:TEST]))
        return {"seen": context.session["seen"], "accuracy": accuracy}

    def session_ended(self, session_id: str, session: Session) -> None:
        print(f"{session_id} has ended; its model has seen {session.get('seen', 0)} images")
