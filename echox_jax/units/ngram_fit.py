"""Fits the words of the n-gram unit language on sharded sequences.

The paper (arXiv 2505.15333) says that the statistics are unsupervised, but not how they are
counted, smoothed and pruned. The method here is our own choice. All substrings of up to K units
that occur twice are candidates. EM re-estimates their probabilities (forward-backward over all
segmentations). Pruning then drops, step by step, the words that cost the least likelihood, down to
the vocabulary size. Single units are never dropped, so any sequence can be segmented.

Order 2 re-estimates word pairs on its own best segmentations, mixed with the 1-gram probabilities.

Every pass over the sequences is a function of one shard. Its results are summed in shard order in
float64, so they do not depend on which process computes which shard. The counts of a shard are
bounded: for each length the most frequent candidates that occur twice in that shard, and the most
frequent pairs. With a single shard, this only drops words that pruning would drop anyway.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Protocol, runtime_checkable

import numpy as np

from echox_jax.config import UnitFitConfig, UnitsConfig
from echox_jax.models.arrays import Int
from echox_jax.units.ngram import PAIR_WEIGHT, NgramModel, Word, normalised

Arrays = Mapping[str, np.ndarray]
Sequences = Iterable[Sequence[int] | Int[np.ndarray, ' _R']]  # of reduced units

# units; longer sequences are cut for counting, so that they can be processed as one batch
_CHUNK = 256
# subtracted from counts; otherwise long words seen two or three times win, which new speech lacks
_DISCOUNT = 3.0
_SEED_FACTOR = 20  # initial candidates of each length, in multiples of the vocabulary size
_FINAL_ITERATIONS = 2  # EM iterations after the last pruning
_PAIR_ITERATIONS = 3  # iterations of segmenting and counting for order 2
_MAX_PAIRS = 1 << 20  # limit per shard, and for the model


@runtime_checkable
class Shards(Protocol):
  """A sequence of shards, each a dict of named arrays."""

  def __iter__(self) -> Iterator[Arrays]:
    """Yields the shards in order."""

  def map(self, name: str, function: Callable[[Arrays], Arrays]) -> 'Shards':
    """Applies `function` to every shard; `name` is unique for each mapping."""


class InMemory(tuple):
  """Shards in the memory of one process."""

  def map(self, name: str, function: Callable[[Arrays], Arrays]) -> 'InMemory':
    del name
    return InMemory(map(function, self))


def make_shard(sequences: Sequences) -> Arrays:
  """Makes one shard of sequences: the concatenated `units` and the `lengths`."""
  sequences = [np.asarray(sequence, np.int32) for sequence in sequences]
  return {
    'units': np.concatenate([np.zeros(0, np.int32), *sequences]),
    'lengths': np.asarray([len(s) for s in sequences], np.int64),
  }


def fit(shards: Shards, cfg: UnitsConfig, how: UnitFitConfig) -> NgramModel:
  """Estimates words and probabilities; every unit below `cfg.num_units` becomes a word whose id is
  the unit.

  Args:
    shards: from `make_shard`.
    cfg: sizes.
    how: `ngram_order` and `em_iterations`.
  """
  model = _fit_unigram(shards, cfg, how.em_iterations)
  if how.ngram_order == 1:
    return model
  for i in range(_PAIR_ITERATIONS):
    model = dataclasses.replace(
      model,
      pairs=_mix(shards.map(f'pairs-{i}', functools.partial(_count_pairs, model)), model.log_probs),
    )
  return model


def _fit_unigram(shards: Shards, cfg: UnitsConfig, iterations: int) -> NgramModel:
  limit = _SEED_FACTOR * cfg.vocab_size
  counted = shards.map(
    'candidates',
    functools.partial(
      count_candidates, num_units=cfg.num_units, longest=cfg.max_word_units, limit=limit
    ),
  )
  candidates, counts = _merge(list(counted), limit)
  lattices = shards.map('lattices', functools.partial(_make_lattice, candidates))

  def expect(step: int) -> np.ndarray:
    """Returns the expected count of each candidate over all segmentations."""
    found = lattices.map(
      f'expected-{step}',
      lambda lattice: {'counts': _expected_counts(lattice['spans'], lattice['ends'], log_probs)},
    )
    return functools.reduce(np.add, (shard['counts'] for shard in found))

  log_probs = normalised(counts)
  longer = np.flatnonzero(candidates.lengths > 1)
  target = min(cfg.vocab_size - cfg.num_units, len(longer))
  shrink = (max(1, target) / max(1, len(longer))) ** (1 / max(1, iterations))
  for step in range(1, iterations + 1):
    counts = expect(step)
    log_probs = normalised(counts)
    size = target if step == iterations else max(target, round(len(longer) * shrink**step))
    alive = longer[np.isfinite(log_probs[longer])]
    without = _best_scores(candidates.alternatives[alive], candidates.lengths[alive], log_probs)
    loss = (counts[alive] - _DISCOUNT) * (log_probs[alive] - without)
    dropped = alive[np.argsort(-loss, kind='stable')[size:]]
    log_probs[dropped] = -np.inf
  for step in range(_FINAL_ITERATIONS):
    counts = expect(iterations + 1 + step)
    log_probs = normalised(np.where(np.isfinite(log_probs), counts, -np.inf))
  alive = longer[np.isfinite(log_probs[longer])]
  kept = np.concatenate(
    [np.arange(cfg.num_units), alive[np.argsort(-log_probs[alive], kind='stable')]]
  )
  return NgramModel(
    tuple(candidates.word(c) for c in kept.tolist()), tuple(log_probs[kept].tolist())
  )


class _Candidates:
  """Numbered words: single units first, then words of two units in order, and so on.

  Attributes:
    words: int[W_k,k] for each length k, sorted.
    lengths: int[W], units per word.
    alternatives: int32[W,K,K], the spans inside each word, except the word itself (see `spans`).
  """

  def __init__(self, words: Sequence[np.ndarray]):
    self.words = tuple(words)
    self.lengths = np.concatenate([np.full(len(some), some.shape[1]) for some in words])
    self._keys = [_keys(some) for some in words]
    self._starts = np.cumsum([0, *map(len, words)])
    rows = np.full((len(self.lengths), len(words)), -1, np.int64)
    for k, some in enumerate(words):
      rows[self._starts[k] : self._starts[k + 1], : k + 1] = some
    self.alternatives = self.spans(rows)
    self.alternatives[np.arange(len(rows)), self.lengths - 1, self.lengths - 1] = -1

  def word(self, number: int) -> Word:
    """Returns the units of a candidate."""
    k = self.lengths[number] - 1
    return tuple(self.words[k][number - self._starts[k]].tolist())

  def spans(self, rows: np.ndarray) -> np.ndarray:
    """Returns int32[S,L,K]: the candidate of length k + 1 that ends at each position of int[S,L]
    `rows`; -1 = none. `rows` are padded with -1.
    """
    spans = np.full((*rows.shape, len(self.words)), -1, np.int32)
    spans[:, :, 0] = rows
    for k in range(1, min(len(self.words), rows.shape[1])):
      ending = np.lib.stride_tricks.sliding_window_view(rows, k + 1, axis=1)
      whole = ending[:, :, -1] >= 0
      if not len(self._keys[k]) or not whole.any():
        continue
      asked = _keys(ending[whole])
      at = np.minimum(np.searchsorted(self._keys[k], asked), len(self._keys[k]) - 1)
      spans[:, k:, k][whole] = np.where(self._keys[k][at] == asked, self._starts[k] + at, -1)
    return spans


def _keys(words: np.ndarray) -> np.ndarray:
  """Converts int[W,k] words to bytes[W] with the same sort order."""
  return np.ascontiguousarray(words, '>u4').view(f'S{4 * words.shape[1]}').reshape(-1)


def _rows(shard: Arrays) -> np.ndarray:
  """Cuts the sequences into rows: int64[S,L], padded with -1."""
  ends = np.cumsum(shard['lengths'])
  pieces = [
    shard['units'][i : min(i + _CHUNK, end)]
    for end, length in zip(ends.tolist(), shard['lengths'].tolist())
    for i in range(end - length, end, _CHUNK)
  ]
  rows = np.full((max(1, len(pieces)), max([1, *map(len, pieces)])), -1, np.int64)
  for row, piece in zip(rows, pieces):
    row[: len(piece)] = piece
  return rows


def count_candidates(shard: Arrays, num_units: int, longest: int, limit: int) -> Arrays:
  """Counts each unit and, for k = 2 .. longest, the substrings that occur at least twice; keeps the
  `limit` most frequent, sorted.
  """
  rows = _rows(shard)
  found = {
    'words1': np.arange(num_units)[:, None],
    'times1': np.bincount(rows[rows >= 0], minlength=num_units),
  }
  shorter = rows  # id of the substring one unit shorter that ends here; -1 = none
  for k in range(1, longest):
    keys = np.full(rows.shape, -1, np.int64)
    keys[:, k:] = np.where(
      (shorter[:, k - 1 : -1] >= 0) & (rows[:, k:] >= 0),
      shorter[:, k - 1 : -1] * num_units + rows[:, k:],
      -1,
    )
    unique, first, inverse, times = np.unique(
      keys, return_index=True, return_inverse=True, return_counts=True
    )
    again = (times >= 2) & (unique >= 0)
    order = _most_frequent(np.flatnonzero(again), times, limit)
    row, last = np.unravel_index(first[order], rows.shape)
    found[f'words{k + 1}'] = rows[row[:, None], last[:, None] + np.arange(-k, 1)]
    found[f'times{k + 1}'] = times[order]
    shorter = np.where(again, np.arange(len(unique)), -1)[inverse.reshape(rows.shape)]
  return found


def _most_frequent(numbers: np.ndarray, times: np.ndarray, limit: int) -> np.ndarray:
  """Returns the `limit` of `numbers` with the highest `times`, sorted."""
  return np.sort(numbers[np.argsort(-times[numbers], kind='stable')[:limit]])


def _merge(counted: Sequence[Arrays], limit: int) -> tuple[_Candidates, np.ndarray]:
  """Merges the candidates of all shards, again the `limit` most frequent of each length; returns
  them and their counts float[W].
  """
  words, counts = [], []
  for k in range(1, len(counted[0]) // 2 + 1):
    some = np.concatenate([shard[f'words{k}'] for shard in counted])
    _, first, inverse = np.unique(_keys(some), return_index=True, return_inverse=True)
    times = np.bincount(
      inverse.reshape(-1),
      np.concatenate([shard[f'times{k}'] for shard in counted]),
      minlength=len(first),
    )
    order = np.arange(len(first)) if k == 1 else _most_frequent(np.arange(len(first)), times, limit)
    words.append(some[first[order]].reshape(-1, k))
    counts.append(times[order])
  return _Candidates(words), np.concatenate(counts)


def _make_lattice(candidates: _Candidates, shard: Arrays) -> Arrays:
  """Computes the `spans` of all candidates in the rows of a shard, and the `ends` of the rows."""
  rows = _rows(shard)
  return {'spans': candidates.spans(rows), 'ends': (rows >= 0).sum(axis=1)}


def _span_scores(spans: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
  """Returns float[S,L,K]: log probability of each span, -inf where there is none."""
  return np.append(log_probs, -np.inf)[spans]


def _best_scores(spans: np.ndarray, ends: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
  """Returns float[S]: log probability of each row's best segmentation; -inf if there is none."""
  scores = _span_scores(spans, log_probs)
  rows, length, longest = scores.shape
  best = np.full((rows, length + 1), -np.inf)
  best[:, 0] = 0
  for t in range(length):
    k = min(longest, t + 1)
    best[:, t + 1] = (best[:, t::-1][:, :k] + scores[:, t, :k]).max(axis=1)
  return best[np.arange(rows), ends]


def _expected_counts(spans: np.ndarray, ends: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
  """Returns float[W]: expected count of each word over all segmentations (forward-backward)."""
  scores = _span_scores(spans, log_probs)
  rows, length, longest = scores.shape
  forward = np.full((rows, length + 1), -np.inf)
  backward = np.full((rows, length + 1), -np.inf)
  forward[:, 0] = 0
  backward[np.arange(rows), ends] = 0
  for t in range(length):
    k = min(longest, t + 1)
    forward[:, t + 1] = np.logaddexp.reduce(forward[:, t::-1][:, :k] + scores[:, t, :k], axis=1)
  for t in range(length - 1, -1, -1):
    ahead = range(min(longest, length - t))
    paths = [backward[:, t]] + [backward[:, t + 1 + k] + scores[:, t + k, k] for k in ahead]
    backward[:, t] = np.logaddexp.reduce(paths)
  total = forward[np.arange(rows), ends]
  counts = np.zeros(len(log_probs))
  for k in range(min(longest, length)):
    here = forward[:, : length - k] + scores[:, k:, k] + backward[:, k + 1 :] - total[:, None]
    at = np.isfinite(here)
    counts += np.bincount(spans[:, k:, k][at], np.exp(here[at]), minlength=len(log_probs))
  return counts


def _count_pairs(model: NgramModel, shard: Arrays) -> Arrays:
  """Counts the word pairs in the best segmentations, in order of first occurrence; -1 precedes the
  first word.
  """
  pairs = Counter()
  for sequence in np.split(shard['units'], np.cumsum(shard['lengths'])[:-1]):
    ids = model.segment(sequence.tolist())
    pairs.update(zip([-1, *ids], ids))
  return _bounded(pairs)


def _bounded(pairs: Mapping[tuple[int, int], int]) -> Arrays:
  """Returns the most frequent of the counted `pairs`, in their original order."""
  words, times = (
    np.asarray(list(pairs), np.int64).reshape(-1, 2),
    np.asarray(list(pairs.values()), np.int64),
  )
  kept = _most_frequent(np.arange(len(times)), times, _MAX_PAIRS)
  return {'words': words[kept], 'times': times[kept]}


def _mix(counted: Shards, log_probs: Sequence[float]) -> dict[tuple[int, int], float]:
  """Returns log P(word | last word) of the pairs of all shards, mixed with P(word)."""
  pairs = Counter()
  for shard in counted:
    for pair, times in zip(map(tuple, shard['words'].tolist()), shard['times'].tolist()):
      pairs[pair] += times
  kept = _bounded(pairs)
  words, times = kept['words'].tolist(), kept['times'].tolist()
  before = Counter()
  for (last, _), count in zip(words, times):
    before[last] += count
  return {
    (last, word): math.log(
      PAIR_WEIGHT * count / before[last] + (1 - PAIR_WEIGHT) * math.exp(log_probs[word])
    )
    for (last, word), count in zip(words, times)
  }
