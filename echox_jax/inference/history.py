"""What a conversation holds: its turns, and the place where the LLM keeps them."""

from collections.abc import Sequence
import dataclasses
from typing import Any


@dataclasses.dataclass
class Turn:
  """A question and its answer.

  Attributes:
    text: of the question, or what was written beside speech.
    prompt: ids of the question, up to where the answer begins.
    heard: `EmbeddedSpeech` of the question, one row; None = it was written.
    answer: ids of the answer, EOT left out.
  """

  text: str
  prompt: list[int]
  heard: Any = None
  answer: Sequence[int] = ()


@dataclasses.dataclass(eq=False)
class Conversation:
  """Turns so far; `row`: where the LLM holds them, None = nowhere at present."""

  turns: list[Turn] = dataclasses.field(default_factory=list)
  row: int | None = None
  busy: bool = False
