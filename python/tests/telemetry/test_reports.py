from __future__ import annotations

import json
import logging
import re
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from snakepit_bridge import Adapter, Context, command, testing
from snakepit_bridge._telemetry import events, progress


class Sent:
    """Keeps what is sent, and when."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, str]] = []
        self.at: list[float] = []
        self.events: list[tuple[str, bytes, bytes]] = []

    def progress(self, fraction: float, message: str) -> None:
        self.reports.append((fraction, message))
        self.at.append(time.monotonic())

    def telemetry(self, name: str, measurements: bytes, metadata: bytes) -> bool:
        self.events.append((name, measurements, metadata))
        return True


def test_the_first_and_the_last_report_are_sent_and_never_more_than_ten_a_second() -> None:
    sent = Sent()
    reports = progress.ProgressReports(sent)
    began = time.monotonic()
    while time.monotonic() - began < 0.35:
        reports.add(0.5, "again")
    reports.add(1.0, "last")
    reports.end()
    reports.add(0.0, "late")
    assert sent.reports[0] == (0.5, "again")
    assert sent.reports[-1] == (1.0, "last")
    assert len(sent.reports) >= 2
    between = [later - before for before, later in zip(sent.at, sent.at[1:])]
    # The last one does not wait.
    assert all(each >= progress.INTERVAL * 0.99 for each in between[:-1])


def test_a_report_that_had_to_wait_is_sent_without_another_one() -> None:
    sent = Sent()
    reports = progress.ProgressReports(sent)
    reports.add(0.0, "loading")
    reports.add(0.4, "epoch 2")
    deadline = time.monotonic() + 60
    while len(sent.reports) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sent.reports == [(0.0, "loading"), (0.4, "epoch 2")]
    reports.end()
    assert len(sent.reports) == 2


def test_events_beyond_the_limit_are_dropped_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "_budget", events._Budget())
    sent = Sent()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "snakepit_bridge"):
        for number in range(3 * events.MAX_EVENTS):
            events.send_telemetry(sent, "flood", {"number": number}, {})
    most = events.MAX_EVENTS * (2 + time.monotonic() - began)
    assert events.MAX_EVENTS <= len(sent.events) <= most
    assert sent.events[0] == ("flood", b'{"number":0}', b"{}")
    if len(sent.events) < 3 * events.MAX_EVENTS:
        assert "events of context.telemetry were dropped" in caplog.text


class Reporting(Adapter):
    @command
    def train(self, context: Context) -> str:
        context.progress(2, "beyond")
        context.telemetry("trained", {"epochs": 3})
        return "done"


def test_commands_that_report_can_be_tested() -> None:
    assert testing.call(Reporting, "train") == {"result": "done"}


class Number(float):
    """A number of another type, as numpy's are."""


def test_measurements_are_sent_as_numbers() -> None:
    sent = Sent()
    values = {"third": Fraction(1, 4), "large": 10**400, "own": Number(0.5), "one": np.int64(1)}
    events.send_telemetry(sent, "load", values, {})
    ((_name, measurements, _metadata),) = sent.events
    assert json.loads(measurements) == {"third": 0.25, "large": 10**400, "own": 0.5, "one": 1}


@pytest.mark.parametrize(
    ("name", "measurements", "metadata", "message"),
    [
        (5, {}, {}, "expected the event's name, a text of 1 to 200 characters, got 5"),
        ("\udc80", {}, {}, "expected the event's name, a text of 1 to 200 characters, got"),
        ("load", [1], {}, "expected a dict of the measurements of 'load', got list"),
        ("load", {}, "x.csv", "expected a dict of the metadata of 'load', got str"),
        ("load", {"rows": True}, {}, "'rows' is of type bool: put it into the metadata"),
        ("load", {"rows": float("inf")}, {}, "the measurement 'rows' of 'load' is inf"),
    ],
)
def test_an_event_that_cannot_be_sent_says_what_was_expected(
    name: Any, measurements: Any, metadata: Any, message: str
) -> None:
    sent = Sent()
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        events.send_telemetry(sent, name, measurements, metadata)
    assert sent.events == []


def test_a_message_that_utf_8_cannot_represent_is_sent_all_the_same() -> None:
    assert progress.checked_progress(0.5, "read \udc80.csv") == (0.5, "read ?.csv")


def test_a_fraction_is_put_into_its_range_and_a_message_is_cut() -> None:
    assert progress.checked_progress(2, "x" * 2000) == (1.0, "x" * progress.MAX_MESSAGE)
    assert progress.checked_progress(-1, "") == (0.0, "")
