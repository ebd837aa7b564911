"""What real speech loses on the way through its units: held-out recordings are made again from
their units by the vocoder, and a judge listens.

It is kept in the folder of an evaluation (see `store`), in batches:

  resynthesis/00003-natural.wav, 00003-predicted.wav, 00003-true.wav
                        the recording number 3; the same with predicted durations of its units, and
                        with those of the recording
  resynthesis/00000.json, heard/JUDGE/resynthesis/00000.json
                        a finished batch, and what a judge heard in it
"""

from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from echox_jax import audio, storage
from echox_jax.evaluation import intervals, judge, listening
from echox_jax.evaluation.judges import Listener
from echox_jax.evaluation.normalise import normalise
from echox_jax.evaluation.store import REMADE, Store, remade_sound
from echox_jax.inference.engine import Engine
from echox_jax.units import kmeans

KINDS = ('natural', 'predicted', 'true')


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
  """Speech with its text.

  Attributes:
    text: what is said.
    wave: int16[samples], 16 kHz.
    units: int[frames], with repeats.
  """

  text: str
  wave: np.ndarray
  units: np.ndarray


class Resynthesis:
  """The part of a store that belongs to some recordings.

  Args:
    store: of the evaluation.
    recordings: all of them, in order.
    size: recordings of a batch.
  """

  def __init__(self, store: Store, recordings: Sequence[Recording], size: int):
    self._store, self._recordings, numbers = store, recordings, range(len(recordings))
    self.batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]

  def unmade(self) -> list[int]:
    """Numbers of the batches that are still to be made."""
    return [batch for batch in range(len(self.batches)) if not self._store.has(REMADE, batch)]

  def unheard(self, judge_name: str) -> list[int]:
    """Numbers of the batches that a judge has not heard."""
    kind = _heard_by(judge_name)
    return [batch for batch in range(len(self.batches)) if not self._store.has(kind, batch)]

  def make(self, engine: Engine, batch: int) -> None:
    """Makes the recordings of a batch again, and writes them down when all are made."""
    rows = []
    for number in self.batches[batch]:
      own = self._recordings[number]
      units, durations = kmeans.reduce_units(own.units)
      predicted, lost = engine.vocode(units)
      waves = (own.wave, predicted, engine.vocode(units, durations)[0])
      for kind, wave in zip(KINDS, waves, strict=True):
        if len(wave):
          audio.write_wav(remade_sound(self._store.folder, number, kind), wave)
      rows.append({'number': number, 'text': own.text, 'lost_frames': lost})
    self._store.write(REMADE, batch, rows)

  def hear(self, listener: Listener, batch: int) -> None:
    """Writes what a judge hears in a finished batch."""
    numbers = self.batches[batch]
    waves = [_load(remade_sound(self._store.folder, n, kind)) for n in numbers for kind in KINDS]
    texts = iter(listener.hear(waves))
    rows = [{'number': n} | {kind: next(texts) for kind in KINDS} for n in numbers]
    self._store.write(_heard_by(listener.name), batch, rows)

  def scores(self, judge_name: str) -> dict[str, intervals.Estimate | None]:
    """Word error rate of each kind against the texts, both normalised; None without recordings."""
    made, heard = self._rows(REMADE), self._rows(_heard_by(judge_name))
    texts, found = [row['text'] for row in made], {}
    for kind in KINDS:
      errors = [
        judge.word_errors(normalise(text), normalise(row[kind]))
        for text, row in zip(texts, heard, strict=True)
      ]
      edits, words = zip(*errors) if errors else ((), ())
      found[kind] = intervals.ratio(edits, words, texts)
    return found

  def lost_frames(self) -> int:
    """Frames that did not fit the budgets of the model."""
    return sum(row['lost_frames'] for row in self._rows(REMADE))

  def _rows(self, kind: str) -> list[dict[str, Any]]:
    return [row for batch in range(len(self.batches)) for row in self._store.read(kind, batch)]


def _load(path: storage.Path) -> np.ndarray:
  return audio.load_audio(path) if storage.is_file(path) else np.zeros(0, np.float32)


def _heard_by(judge_name: str) -> str:
  return str(Path(listening.heard_by(judge_name)) / REMADE)
