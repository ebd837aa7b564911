"""Programs that do the same work in turn, so that a machine that gets slower or faster does so for
all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Program = Callable[[], Mapping[str, float]]


def measure(
  rows: Mapping[str, Mapping[str, Program]], runs: int, say: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
  """Runs the programs of a row one after the other, `runs` + 1 times, then the next row.

  Args:
    rows: row -> who does it -> program, which gives seconds by figure.
    runs: how many count; the first time of each does not.
    say: is told the row.

  Returns:
    figure -> who -> seconds of every run that counts.
  """
  found: dict[str, dict[str, list[float]]] = {}
  for row, programs in rows.items():
    say(row)
    for run in range(runs + 1):
      for who, program in programs.items():
        for figure, seconds in program().items():
          times = found.setdefault(figure, {}).setdefault(who, [])
          if run:
            times.append(seconds)
  return found


def summary(times: Mapping[str, Sequence[float]], own: str) -> dict[str, Any]:
  """Median, least and most of each program, and the ratio of `own` to each of the others."""
  medians = {who: float(np.median(each)) for who, each in times.items()}
  return {
    'seconds': medians,
    'range': {who: [min(each), max(each)] for who, each in times.items()},
    'ratio': {who: medians[own] / seconds for who, seconds in medians.items() if who != own},
  }
