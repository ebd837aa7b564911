"""Scores of an evaluation, from the questions, answers and transcripts."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

import numpy as np

from echox_jax.evaluation import judge as judge_lib
from echox_jax.evaluation.exist_match import exist_match
from echox_jax.evaluation.normalise import normalise


@dataclasses.dataclass(frozen=True)
class Asked:
  """One question asked by one voice, and its answers.

  Attributes:
    id: id of the question.
    voice: the voice that asked.
    category: kind of question.
    question: its words.
    references: accepted answers.
    written_answer: the model's answer to the written question.
    answer: its text answer to the spoken question.
    transcript: what the judge heard in its spoken answer.
    slices: number of slices of the spoken answer.
    audio_s: seconds of the spoken answer.
    first_audio_s: seconds until the first sound; None = nothing was spoken.
    finished_s: seconds until everything was finished.
    text_s: seconds until the last word of the text.
    alone: whether the times are those of a question that was answered alone; others were answered
      in a batch.
  """

  id: str
  voice: str
  category: str
  question: str
  references: tuple[str, ...]
  written_answer: str
  answer: str
  transcript: str
  slices: int
  audio_s: float
  first_audio_s: float | None
  finished_s: float
  text_s: float
  alone: bool = True

  def marks(self) -> dict[str, bool]:
    """Whether the answer was right: `text` (written question), `s2t` (spoken question), `s2s`
    (heard in the reply).
    """
    return {
      'text': exist_match(self.written_answer, self.references),
      's2t': exist_match(self.answer, self.references),
      's2s': exist_match(normalise(self.transcript), map(normalise, self.references)),
    }


def wer(pairs: Iterable[tuple[str, str]]) -> float | None:
  """Word error rate of (text, transcript) pairs, both normalised; None without pairs."""
  pairs = [(normalise(text), normalise(transcript)) for text, transcript in pairs]
  return round(judge_lib.wer(*zip(*pairs)), 4) if pairs else None


def summarise(asked: Sequence[Asked]) -> dict[str, Any]:
  """Exact-match shares, word error rate of the replies, and times: over all, by voice and by
  category.
  """

  def by(field: str) -> dict[str, Any]:
    names = sorted({getattr(a, field) for a in asked})
    return {name: _scores([a for a in asked if getattr(a, field) == name]) for name in names}

  spoken = [a for a in asked if a.first_audio_s is not None]
  timed = [a for a in spoken if a.alone]
  return {
    **_scores(asked),
    'first_audio_s': _median([a.first_audio_s for a in timed]),
    'real_time_factor': _median([a.finished_s / a.audio_s for a in timed]),
    'silent_replies': len(asked) - len(spoken),
    'slices_per_answer': round(float(np.mean([a.slices for a in asked])), 2),
    'sound_before_text_ended': round(
      float(np.mean([a.first_audio_s < a.text_s for a in timed])) if timed else 0.0, 4
    ),
    'by_voice': by('voice'),
    'by_category': by('category'),
  }


def _scores(asked: Sequence[Asked]) -> dict[str, Any]:
  marks = [a.marks() for a in asked]

  def share(kind):
    return round(float(np.mean([m[kind] for m in marks])), 4)

  return {
    'questions': len(asked),
    'text_exact_match': share('text'),
    's2t_exact_match': share('s2t'),
    's2s_exact_match': share('s2s'),
    'reply_wer': wer((a.answer, a.transcript) for a in asked),
  }


def _median(values: Sequence[float]) -> float | None:
  return round(float(np.median(values)), 4) if len(values) else None
