"""The unit language of a large corpus: several processes count shards into files, and each process
adds up all counts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from data_pipeline import parts
from data_pipeline.fingerprints import fingerprint
from data_pipeline.shards import SharedWork
from echox_jax import tensor_files
from echox_jax.config import UnitFitConfig, UnitsConfig
from echox_jax.storage import Path
from echox_jax.units import kmeans, ngram_fit, unit_language
from echox_jax.units.unit_language import UnitLanguage

LANGUAGES = ('ngram', 'bpe', 'plain')  # compared in the report
# most reduced units for SentencePiece and the comparison: 40 h of speech
SAMPLE_UNITS = 1 << 22
_PARTS_A_SHARD = 16  # parts of units counted at a time


@dataclasses.dataclass(frozen=True)
class StoredShards:
  """Shards for `ngram_fit`: `map` writes one file per shard, from the process that owns the shard.

  Attributes:
    work: the share of this process.
    step: name of the step.
    folder: folder of the files, with a subfolder for each `map`.
    inputs: fingerprint of the inputs of each shard.
    read: number of a shard -> its arrays.
  """

  work: SharedWork
  step: str
  folder: Path
  inputs: tuple[str, ...]
  read: Callable[[int], ngram_fit.Arrays]

  def __iter__(self) -> Iterator[ngram_fit.Arrays]:
    return map(self.read, range(len(self.inputs)))

  def map(
    self, name: str, function: Callable[[ngram_fit.Arrays], ngram_fit.Arrays]
  ) -> 'StoredShards':
    outputs = {
      self.folder / name / f'{i:05d}': fingerprint(inputs, name)
      for i, inputs in enumerate(self.inputs)
    }
    self.work.run(
      self.step, outputs, lambda i, beside: parts.write_arrays(beside, function(self.read(i)))
    )
    paths = list(outputs)
    return dataclasses.replace(
      self, inputs=tuple(outputs.values()), read=lambda i: tensor_files.open_tensors(paths[i])
    )


def reduced(paths: Iterable[Path]) -> Iterator[np.ndarray]:
  """The reduced units of every clip in some parts of units."""
  return (kmeans.reduce_units(units)[0] for units in parts.iterate_parts(paths))


def fit_stored(
  work: SharedWork,
  step: str,
  folder: Path,
  paths: Sequence[Path],
  inputs: str,
  cfg: UnitsConfig,
  how: UnitFitConfig,
) -> UnitLanguage:
  """Fits the n-gram language on all parts of units in `paths`. Every process calls this and gets
  the same language.

  Args:
    work, step: the step that makes it.
    folder: folder of the counts; they are not needed afterwards.
    paths: parts of units.
    inputs: fingerprint of the units, `cfg` and `how`.
    cfg: sizes.
    how: fit settings.
  """
  groups = [paths[i : i + _PARTS_A_SHARD] for i in range(0, len(paths), _PARTS_A_SHARD)]
  return unit_language.fit_shards(
    StoredShards(
      work,
      step,
      folder,
      tuple(fingerprint(inputs, i) for i in range(len(groups))),
      lambda i: ngram_fit.make_shard(reduced(groups[i])),
    ),
    cfg,
    how,
  )


def sample(paths: Sequence[Path], units: int) -> list[np.ndarray]:
  """Reduced units of clips spread over all parts, at most about `SAMPLE_UNITS`; `units`: the number
  of reduced units in all parts.
  """
  share = min(1.0, SAMPLE_UNITS / max(1, units))
  return [clip for i, clip in enumerate(reduced(paths)) if parts.is_chosen(i, share)]


def compare(
  own: UnitLanguage | None,
  cfg: UnitsConfig,
  how: UnitFitConfig,
  fitted_on: Sequence[np.ndarray],
  others: Sequence[np.ndarray],
) -> tuple[UnitLanguage, dict[str, Any]]:
  """Fits each kind of language except `own` on a sample, and measures how far each one compresses
  the sample and other units.

  Returns:
    The language that `cfg` names. For each kind `vocab_size` and `units_per_word`, and
    `units_per_word_held_out` if there are others.
  """
  chosen, compression = own, {}
  for kind in dict.fromkeys((*LANGUAGES, cfg.language)):
    language = (
      own
      if own and kind == own.kind
      else unit_language.fit(fitted_on, dataclasses.replace(cfg, language=kind), how)
    )
    compression[kind] = measure(language, fitted_on)
    if others:
      held_out = measure(language, others)['units_per_word']
      compression[kind]['units_per_word_held_out'] = held_out
    if kind == cfg.language:
      chosen = language
  return chosen, compression


def measure(language: UnitLanguage, clips: Sequence[np.ndarray]) -> dict[str, Any]:
  """`vocab_size` of a language, and `units_per_word` of reduced units in it."""
  return {
    'vocab_size': language.vocab_size,
    'units_per_word': round(1 / language.compression(clips), 3),
  }
