"""The recorded answers to questions, found by the text of the answer: several voices ask one
question, and one recording answers it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from data_pipeline import dataset, index, schema
from data_pipeline.turns import ASSISTANT
from echox_jax import errors, storage
from echox_jax.storage import Path


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings:
  """Recorded answers with random access by the hash of their text.

  Attributes:
    sources: the opened data sets.
    turns: one line of the tables (`turns.TURN`) for each text, sorted by its hash.
    places: number of the data set of each.
  """

  sources: tuple[Sequence[Mapping[str, Any]], ...]
  turns: np.ndarray
  places: np.ndarray

  def lengths(self, texts: np.ndarray) -> np.ndarray:
    """Unit words of the recording of each text, int[N]; 0 = there is none. `texts`: uint64[N]."""
    at = self._at(texts)
    return np.where(self.turns['text'][at] == texts, self.turns['unit_words'][at], 0)

  def words(self, text: np.uint64) -> np.ndarray:
    """int32[W]: the unit words of a text that has a recording."""
    at = int(self._at(np.asarray([text], np.uint64))[0])
    turn = self.turns[at]
    record = self.sources[self.places[at]][int(turn['example'])]
    return schema.decode(record).turns[int(turn['turn'])].unit_words

  def _at(self, texts: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(self.turns['text'], texts), len(self.turns) - 1)


def open_recordings(
  precomputed: Path,
  names: Sequence[tuple[str, str]],
  workers: int = 0,
  cache: storage.Cache | None = None,
) -> Recordings:
  """Opens precomputed sets, each (name, split). If a text was recorded more than once, the first
  recording counts; `workers` are as for `index.open_table`, `cache` as for `dataset.open_dataset`.

  Raises:
    DataError: a set is missing, damaged, or has no recorded answer.
  """
  sources = tuple(dataset.open_dataset(precomputed, *name, cache) for name in names)
  tables = [
    index.open_table(precomputed, precomputed, *name, precomputed, workers) for name in names
  ]
  turns = np.concatenate(tables)
  places = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
  spoken = np.flatnonzero((turns['role'] == ASSISTANT) & (turns['unit_words'] > 0))
  if not len(spoken):
    raise errors.DataError(
      f'{", ".join(map("/".join, names))} in {precomputed} have no recorded answers with unit '
      'words: name sets of precompute.unit_sets in data.recordings.'
    )
  _, first = np.unique(turns['text'][spoken], return_index=True)
  return Recordings(sources, turns[spoken[first]], places[spoken[first]])
