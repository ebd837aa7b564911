"""What an answer is made of, in the order in which it comes."""

import dataclasses

import numpy as np

BUDGETS = ('speech_positions', 'answer_tokens', 'slice_tokens', 'unit_words', 'frames', 'turns')


LEFT_OUT = ('unknown_unit_words', 'dropped_units')  # counters of `Done.overflow` without a budget


@dataclasses.dataclass(frozen=True)
class TextPiece:
  """A few more letters of the answer; `at` is in seconds since the question was given, as are all
  times below.
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
    cut_at: when the slice was complete as text.
    ready_at: when it was sound.
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
    text: all of it.
    waveform: float32[samples], 16 kHz, all slices one after the other.
    scores: trigger score of each spoken token.
    token_times: when each spoken token came.
    overflow: counters of what did not fit a static budget: `speech_positions` of the question,
      `answer_tokens` (1 = cut off), `slice_tokens` (slices split for length), `unit_words` (slices
      cut off), `frames`, `turns` (of the conversation, forgotten). And what was left out:
      `unknown_unit_words`, which the unit language does not have, and `dropped_units`, which the
      profile's `unit_id_limit` drops.
    first_audio_at: when the first sound was ready; None without sound.
    finished_at: when all was done.
  """

  text: str
  waveform: np.ndarray
  scores: tuple[float, ...]
  token_times: tuple[float, ...]
  overflow: dict[str, int]
  first_audio_at: float | None
  finished_at: float


Event = TextPiece | Sound | SpokenSlice | Done
