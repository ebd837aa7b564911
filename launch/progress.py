"""The progress bar of commands that work through a list."""

from collections.abc import Iterable
import sys

from tqdm import tqdm


def bar(items: Iterable, title: str) -> tqdm:
  """A progress bar with the time left; prints seldom if the output is not a terminal."""
  return tqdm(
    items, desc=title, mininterval=0.2 if sys.stderr.isatty() else 20.0, dynamic_ncols=True
  )
