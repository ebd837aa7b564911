"""Unit language: reduced units <-> unit words of at most K units, lossless in both directions.

The config selects one of three kinds: `ngram` (the paper's), `bpe` (SentencePiece) and `plain` (one
word per unit, the baseline). In a language fitted here, words 0 .. num_units - 1 are the single
units, so any sequence can be encoded, even with units not seen in the fit. An external vocabulary
(`from_words`) may have any order and lack some single units.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import json
import os
import re
from typing import Any, Protocol, runtime_checkable

import numpy as np

from echox_jax import errors, storage
from echox_jax.config import UnitFitConfig, UnitsConfig
from echox_jax.models.arrays import Int
from echox_jax.units import bpe, ngram, ngram_fit

Word = tuple[int, ...]

SEPARATOR = '\u2581'  # before every unit of a written word: the released layout (facts 12)


@runtime_checkable
class Segmenter(Protocol):
  """Splits units into the words of one kind of language."""

  words: tuple[Word, ...]

  def segment(self, units: Sequence[int]) -> list[int]:
    """Returns the word ids of units."""

  def to_json(self) -> dict[str, Any]:
    """Returns the JSON that, with the words, restores the segmenter."""


@dataclasses.dataclass(frozen=True)
class PlainModel:
  """One word per unit."""

  words: tuple[Word, ...]

  @classmethod
  def fit(cls, sequences: Sequence[Sequence[int]], cfg: UnitsConfig) -> 'PlainModel':
    del sequences
    return cls(tuple((u,) for u in range(cfg.num_units)))

  def segment(self, units: Sequence[int]) -> list[int]:
    return list(units)

  def to_json(self) -> dict[str, Any]:
    return {}

  @classmethod
  def from_json(cls, words: tuple[Word, ...], values: dict[str, Any]) -> 'PlainModel':
    del values
    return cls(words)


_KINDS = {'ngram': ngram.NgramModel, 'bpe': bpe.BpeModel, 'plain': PlainModel}


@dataclasses.dataclass(frozen=True)
class UnitLanguage:
  """A fitted language: `encode` and `decode` are inverses of each other on units."""

  kind: str
  num_units: int
  model: Segmenter

  @property
  def vocab_size(self) -> int:
    """Number of words, U."""
    return len(self.model.words)

  @property
  def vocabulary(self) -> list[str]:
    """The words in id order, written as in the released vocabulary: `▁837▁81▁194`."""
    return [''.join(f'{SEPARATOR}{u}' for u in word) for word in self.model.words]

  def encode(self, reduced: Iterable[int] | Int[np.ndarray, ' R']) -> Int[np.ndarray, ' W']:
    """Returns the word ids, int32, of reduced units.

    Raises:
      DataError: the k-means has no such unit, or an external vocabulary cannot encode it.
    """
    units = np.asarray(reduced, np.int64).tolist()
    if units and not (min(units) >= 0 and max(units) < self.num_units):
      raise errors.DataError(
        f'Units must be in 0 to {self.num_units - 1}: use the k-means that '
        'the language was made with.'
      )
    absent = set(units) - self._single_units
    if absent:
      raise errors.DataError(
        f'the unit language has no word for the unit {min(absent)} alone: use '
        'one that has all single units.'
      )
    return np.array(self.model.segment(units), np.int32)

  def decode(self, ids: Iterable[int] | Int[np.ndarray, ' W']) -> Int[np.ndarray, ' R']:
    """Returns the reduced units, int32, of word ids.

    Raises:
      DataError: an id is outside the vocabulary.
    """
    ids = np.asarray(ids, np.int64).tolist()
    if ids and not (min(ids) >= 0 and max(ids) < self.vocab_size):
      raise errors.DataError(
        f'Unit words must be in 0 to {self.vocab_size - 1}: use the language they were made with.'
      )
    return np.array([u for i in ids for u in self.model.words[i]], np.int32)

  @functools.cached_property
  def _single_units(self) -> set[int]:
    return {word[0] for word in self.model.words if len(word) == 1}

  def compression(self, sequences: ngram_fit.Sequences) -> float:
    """Returns the unit words per reduced unit over all `sequences` (1 = plain; less = shorter)."""
    words = units = 0
    for sequence in sequences:
      words, units = words + len(self.encode(sequence)), units + len(sequence)
    return words / max(1, units)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes one JSON file."""
    storage.atomic_write_json(
      path,
      {
        'kind': self.kind,
        'num_units': self.num_units,
        'vocabulary': self.vocabulary,
        'model': self.model.to_json(),
      },
    )

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> 'UnitLanguage':
    """Reads a file that `save` wrote.

    Raises:
      CheckpointError: the file is missing or damaged.
    """
    try:
      saved = json.loads(storage.path(path).read_text('utf-8'))
      words = tuple(tuple(map(int, word.split(SEPARATOR)[1:])) for word in saved['vocabulary'])
      return cls(
        saved['kind'], saved['num_units'], _KINDS[saved['kind']].from_json(words, saved['model'])
      )
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
      raise errors.CheckpointError(
        f'{path} holds no unit language: run launch.precompute again.'
      ) from error


def from_words(
  words: Sequence[str], counts: Sequence[float] | None, num_units: int
) -> UnitLanguage:
  """Makes a language from an external vocabulary. Words are written as `▁837▁81▁194` or
  `837_81_194`; their order gives the ids.

  Args:
    words: may contain words without units, which produce no sound.
    counts: frequency of each word, for encoding; None = all equal.
    num_units: number of units of the k-means.

  Raises:
    DataError: a word has a unit that the k-means does not have, or two words have the same units.
  """
  parsed = [tuple(map(int, re.findall(r'[0-9]+', word))) for word in words]
  seen = set()
  for text, word in zip(words, parsed):
    if word and (word in seen or max(word) >= num_units):
      raise errors.DataError(
        f'the unit word {text!r} occurs twice or holds a unit beyond {num_units - 1}: give the '
        'vocabulary of the checkpoint.'
      )
    seen.add(word)
  return UnitLanguage(
    'ngram',
    num_units,
    ngram.NgramModel.from_counts(parsed, [1.0] * len(parsed) if counts is None else counts),
  )


def fit(
  sequences: ngram_fit.Sequences, cfg: UnitsConfig, how: UnitFitConfig = UnitFitConfig()
) -> UnitLanguage:
  """Fits the language that `cfg.language` names on reduced units.

  The vocabulary may be smaller than `cfg.vocab_size` if the sequences have too few repeated words.
  All sequences are in memory: for a large corpus, fit on a sample of a few million units or use
  `fit_shards`.

  Raises:
    ConfigError: see `check`.
    DataError: a unit is outside 0 .. num_units - 1.
  """
  check(cfg, how)
  sequences = [np.asarray(s, np.int64).tolist() for s in sequences]
  if any(s and not (min(s) >= 0 and max(s) < cfg.num_units) for s in sequences):
    raise errors.DataError(
      f'Units must be in 0 to {cfg.num_units - 1}: use the k-means of this config.'
    )
  if cfg.language == 'ngram':
    return fit_shards(ngram_fit.InMemory([ngram_fit.make_shard(sequences)]), cfg, how)
  return UnitLanguage(cfg.language, cfg.num_units, _KINDS[cfg.language].fit(sequences, cfg))


def fit_shards(
  shards: ngram_fit.Shards, cfg: UnitsConfig, how: UnitFitConfig = UnitFitConfig()
) -> UnitLanguage:
  """Fits an n-gram language on shards of reduced units; only the counts are held in memory.

  Raises:
    ConfigError: see `check`.
  """
  check(cfg, how)
  return UnitLanguage('ngram', cfg.num_units, ngram_fit.fit(shards, cfg, how))


def check(cfg: UnitsConfig, how: UnitFitConfig = UnitFitConfig()) -> None:
  """Checks the settings of a unit language.

  Raises:
    ConfigError: the kind is unknown, the vocabulary is smaller than the number of units, K < 1, or
      the order is neither 1 nor 2.
  """
  if cfg.language not in _KINDS:
    raise errors.ConfigError(f'units.language is {cfg.language!r}: use one of {", ".join(_KINDS)}.')
  if cfg.language != 'plain' and cfg.vocab_size < cfg.num_units:
    raise errors.ConfigError(
      f'units.vocab_size is {cfg.vocab_size}: it must hold the {cfg.num_units} single units.'
    )
  if cfg.max_word_units < 1 or how.ngram_order not in (1, 2):
    raise errors.ConfigError(
      'units.max_word_units must be at least 1 and precompute.fit.ngram_order 1 or 2: change the '
      'config.'
    )
