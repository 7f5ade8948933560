"""Draws the weather of an airport as a picture."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from statistics import mean

import matplotlib as mpl
from matplotlib import pyplot as plt

from snakepit_bridge import Adapter, command

# Draws into memory: a worker has no screen.
mpl.use("Agg")


class Plots(Adapter):
    @command
    def monthly(self, path: str, columns: list[str], title: str = "") -> bytes:
        """Returns a PNG with the monthly means of columns of a CSV file, a line for each origin."""
        values: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column in columns:
                    if row[column] != "NA":
                        key = (column, row["origin"], int(row["month"]))
                        values[key].append(float(row[column]))
        figure, axes = plt.subplots(
            len(columns), sharex=True, squeeze=False, figsize=(6, 2.2 * len(columns)), dpi=80
        )
        try:
            for column, (axis,) in zip(columns, axes):
                for origin in sorted({key[1] for key in values if key[0] == column}):
                    months = sorted(key[2] for key in values if key[:2] == (column, origin))
                    means = [mean(values[column, origin, month]) for month in months]
                    axis.plot(months, means, marker=".", label=origin)
                axis.set_ylabel(column)
            axes[0][0].set_title(title)
            axes[0][0].legend()
            axes[-1][0].set_xlabel("month")
            figure.tight_layout()
            output = io.BytesIO()
            figure.savefig(output, format="png", metadata={"Software": None})
            return output.getvalue()
        finally:
            plt.close(figure)
