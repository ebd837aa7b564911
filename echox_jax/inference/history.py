"""What a conversation holds: its turns, and the place where the LLM keeps them."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
  """What was said, heard before it is asked.

  Attributes:
    wave: the very array that was heard.
    speech: `EmbeddedSpeech`, one row.
    labels: int[1,S], CTC labels of its slots.
  """

  wave: np.ndarray
  speech: Any
  labels: Any

  def ids(self, blank: int) -> list[int]:
    """Gives the ids of what was said, as the CTC head of the adapter has it; waits for them."""
    return [label for label in jax.device_get(self.labels)[0].tolist() if label != blank]


@dataclasses.dataclass(eq=False)
class Turn:
  """A question and its answer.

  Attributes:
    text: of the question, or what was written beside speech.
    prompt: ids of the question, up to where the answer begins.
    heard: `EmbeddedSpeech` of the question, one row; None = it was written.
    answer: ids of the answer, EOT left out.
    marks: (ids, samples at 16 kHz) of the answer at the end of each slice that was spoken.
  """

  text: str
  prompt: list[int]
  heard: Any = None
  answer: Sequence[int] = ()
  marks: Sequence[tuple[int, int]] = ()

  def ids_heard(self, samples: int) -> int:
    """Gives the ids of the answer that are heard in so many samples of its sound; of a slice that
    breaks off, the share that was heard.
    """
    ids = before = 0
    for stop, end in self.marks:
      if samples < end:
        return ids + (stop - ids) * (samples - before) // (end - before)
      ids, before = stop, end
    return ids


@dataclasses.dataclass(eq=False)
class Conversation:
  """Turns so far; `row`: where the LLM holds them, None = nowhere at present."""

  turns: list[Turn] = dataclasses.field(default_factory=list)
  row: int | None = None
  busy: bool = False
