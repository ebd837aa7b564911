"""What a conversation holds: its turns, and the place where the LLM keeps them."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any


@dataclasses.dataclass
class Turn:
  """A question and its answer.

  Attributes:
    text: of the question, or what was written beside speech.
    prompt: ids of the question, up to where the answer begins.
    heard: `EmbeddedSpeech` of the question, one row; None = it was written.
    kept: positions of its speech; 0 = none.
    answer: ids of the answer, EOT left out.
  """

  text: str
  prompt: list[int]
  heard: Any = None
  kept: int = 0
  answer: Sequence[int] = ()

  def positions(self) -> int:
    """Positions of the LLM that it takes, BOS and EOT of the answer included."""
    return len(self.prompt) + max(self.kept - 1, 0) + len(self.answer) + 2


@dataclasses.dataclass(eq=False)
class Conversation:
  """Turns so far; `row`: where the LLM holds them, None = nowhere at present."""

  turns: list[Turn] = dataclasses.field(default_factory=list)
  row: int | None = None
  busy: bool = False

  def positions(self) -> int:
    """Positions that its turns take."""
    return sum(turn.positions() for turn in self.turns)

  def pieces(
    self, lay_out: Callable[[Sequence[int]], list[int]], most: int
  ) -> Iterator[tuple[list[int], Any]]:
    """What has to be read to hold it again: ids, at most `most`, and the speech among them.

    Args:
      lay_out: ids of an answer -> the same with BOS and EOT, as the template has them.
      most: ids of a piece.
    """
    for turn in self.turns:
      yield turn.prompt, turn.heard
      rest = lay_out(turn.answer)
      for begin in range(0, len(rest), most):
        yield rest[begin : begin + most], None
