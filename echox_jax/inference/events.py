"""The events of a streamed answer, in the order in which they occur."""

from collections.abc import Mapping
import dataclasses

import numpy as np

# Counters of `Done.overflow`, and what they tell.
_BUDGETS = ('speech_positions', 'answer_tokens', 'slice_tokens', 'unit_words', 'frames', 'turns')
_LEFT_OUT = ('unknown_unit_words', 'dropped_units')
_TELL = {
  **dict.fromkeys(_BUDGETS, 'did not fit the budgets of this model'),
  **dict.fromkeys(_LEFT_OUT, 'were left out of the speech'),
  'text_loops': 'ended the answer, which said the same over and over',
  'retried_slices': 'were spoken again, since the first try went wrong',
  'unit_loops': 'said the same words over and over: the repetitions are cut off',
  'silent_slices': 'have text, but no speech',
  'mismatched_slices': 'said too much or too little for their text',
}
COUNTERS = tuple(_TELL)


@dataclasses.dataclass(frozen=True)
class TextPiece:
  """The next piece of the answer's text. `at`, like all times below, is in seconds since the
  question was given.
  """

  text: str
  at: float


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
  """A piece of sound, to be played behind the pieces before it.

  Attributes:
    slice: number of the slice that it belongs to.
    waveform: float32[samples], 16 kHz.
    at: when it was ready.
  """

  slice: int
  waveform: np.ndarray
  at: float


@dataclasses.dataclass(frozen=True, eq=False)
class SpokenSlice:
  """A part of the answer that has been spoken.

  Attributes:
    index: 0, 1, 2...
    text: its words.
    tokens: (start, stop) among the spoken tokens of the answer.
    unit_words: int32[words].
    units: int32[units], reduced.
    waveform: float32[samples], 16 kHz; empty where the echo decoder said nothing.
    cut_at: when the text of the slice was complete.
    ready_at: when its audio was ready.
  """

  index: int
  text: str
  tokens: tuple[int, int]
  unit_words: np.ndarray
  units: np.ndarray
  waveform: np.ndarray
  cut_at: float
  ready_at: float


@dataclasses.dataclass(frozen=True, eq=False)
class Done:
  """The end of the answer.

  Attributes:
    text: the full text.
    waveform: float32[samples], 16 kHz, all slices concatenated.
    scores: trigger score of each spoken token.
    token_times: when each spoken token was generated.
    overflow: counters of items over a static budget: `speech_positions` of the question,
      `answer_tokens` (1 = cut off), `slice_tokens` (slices split for length), `unit_words` (slices
      cut off), `frames`, `turns` (turns of the conversation that were forgotten). It also counts
      dropped items: `unknown_unit_words`, which the unit language lacks, and `dropped_units`, which
      the profile's `unit_id_limit` removes. `text_loops`: 1 = a loop of tokens ended the text. And
      it counts slices: `retried_slices`, tried once
      more since something was wrong, and those where it still is: `unit_loops`, whose repetitions
      are cut off, `silent_slices` without any word, and `mismatched_slices`, which say too much or
      too little for their text.
    first_audio_at: when the first audio was ready; None without audio.
    finished_at: when the answer was complete.
  """

  text: str
  waveform: np.ndarray
  scores: tuple[float, ...]
  token_times: tuple[float, ...]
  overflow: dict[str, int]
  first_audio_at: float | None
  finished_at: float


Event = TextPiece | Sound | SpokenSlice | Done


def notes(overflow: Mapping[str, int]) -> list[str]:
  """Gives a sentence for each counter of `Done.overflow` that is not 0."""
  return [f'{n} {name.replace("_", " ")} {_TELL[name]}' for name, n in overflow.items() if n]
