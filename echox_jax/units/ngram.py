"""The paper's unit language: words of at most K units under an n-gram model, segmented by dynamic programming.

The paper (arXiv 2505.15333) gives the segmentation, best(i) = max_{1<=k<=K} best(i-k) + log P(u_{i-k+1..i}), and says that the
statistics are unsupervised. How they are counted, smoothed and pruned is published nowhere; what follows is our own choice:
all substrings of up to K units that occur twice are candidates, their probabilities are re-estimated by EM (forward-backward
over all segmentations), and the words whose loss would cost the likelihood least are dropped, step by step, down to the
vocabulary size. Single units are never dropped, so that everything can be segmented.

Order 2 (state: position and length of the last word) re-estimates word pairs on its own best segmentations, mixed with the
1-gram probabilities.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from echox_jax.config import UnitsConfig

Word = tuple[int, ...]

_CHUNK = 256  # units; longer sequences are cut for counting, so that they can be treated side by side
_FLOOR = 0.01  # expected count that every single unit keeps, seen or not
_DISCOUNT = 3.0  # occurrences that do not speak for a word: else long words seen twice or thrice win, which new speech lacks
_SEED_FACTOR = 20  # candidates at the start, in vocabularies
_FINAL_ITERATIONS = 2  # of EM after the last pruning
_PAIR_ITERATIONS = 3  # of segmenting and counting for order 2
_PAIR_WEIGHT = 0.7  # of the pair estimate in P(word | last word); the rest is P(word)


@dataclasses.dataclass(frozen=True)
class NgramModel:
  """Words with log probabilities; `pairs` (log of the mixed P(word | last), for pairs seen in fitting) makes it order 2."""
  words: tuple[Word, ...]
  log_probs: tuple[float, ...]
  pairs: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    object.__setattr__(self, '_ids', {word: i for i, word in enumerate(self.words)})
    object.__setattr__(self, '_longest', max(map(len, self.words)))

  @classmethod
  def fit(cls, sequences: Sequence[Sequence[int]], cfg: UnitsConfig) -> 'NgramModel':
    """Estimates words and probabilities; every unit below `cfg.num_units` becomes a word, with the unit as its id."""
    model = _fit_unigram(sequences, cfg)
    if cfg.ngram_order == 1:
      return model
    for _ in range(_PAIR_ITERATIONS):
      model = dataclasses.replace(model, pairs=_count_pairs([model.segment(s) for s in sequences], model.log_probs))
    return model

  @classmethod
  def from_counts(cls, words: Sequence[Word], counts: Sequence[float]) -> 'NgramModel':
    """Words that were found elsewhere, with how often each occurs."""
    return cls(tuple(words), tuple(_normalised(np.asarray(counts, float)).tolist()))

  def segment(self, units: Sequence[int]) -> list[int]:
    """Word ids of the most probable segmentation."""
    return self._segment_by_pairs(units) if self.pairs else self._segment_by_words(units)

  def _segment_by_words(self, units: Sequence[int]) -> list[int]:
    units = tuple(units)
    best, last = [0.0], [-1]
    for i in range(1, len(units) + 1):
      top, choice = -math.inf, -1
      for start in range(max(0, i - self._longest), i):
        word = self._ids.get(units[start:i])
        if word is not None and best[start] + self.log_probs[word] > top:
          top, choice = best[start] + self.log_probs[word], word
      best.append(top)
      last.append(choice)
    ids, i = [], len(units)
    while i:
      ids.append(last[i])
      i -= len(self.words[last[i]])
    return ids[::-1]

  def _segment_by_pairs(self, units: Sequence[int]) -> list[int]:
    """States are (position, last word); a word is its length, given the position."""
    units = tuple(units)
    states: list[dict[int, tuple[float, int]]] = [{-1: (0.0, -1)}]  # at each position: last word -> (score, word before)
    backoff = math.log(1 - _PAIR_WEIGHT)
    for i in range(1, len(units) + 1):
      here = {}
      for start in range(max(0, i - self._longest), i):
        word = self._ids.get(units[start:i])
        if word is not None:
          alone = backoff + self.log_probs[word]
          here[word] = max((score + self.pairs.get((before, word), alone), before)
                           for before, (score, _) in states[start].items())
      states.append(here)
    ids, i = [], len(units)
    word = max(states[-1], key=lambda w: states[-1][w])
    while word != -1:
      ids.append(word)
      before = states[i][word][1]
      i -= len(self.words[word])
      word = before
    return ids[::-1]

  def to_json(self) -> dict[str, Any]:
    pairs = [[before, word, log_prob] for (before, word), log_prob in self.pairs.items()]
    return {'log_probs': list(self.log_probs), 'pairs': pairs}

  @classmethod
  def from_json(cls, words: tuple[Word, ...], values: Mapping[str, Any]) -> 'NgramModel':
    return cls(words, tuple(values['log_probs']), {(before, word): p for before, word, p in values['pairs']})


def _fit_unigram(sequences: Sequence[Sequence[int]], cfg: UnitsConfig) -> NgramModel:
  lattice = _Lattice.of(sequences, cfg.num_units, cfg.max_word_units, _SEED_FACTOR * cfg.vocab_size)
  log_probs = _normalised(lattice.counts)
  longer = np.flatnonzero(lattice.lengths > 1)
  target = min(cfg.vocab_size - cfg.num_units, len(longer))
  shrink = (max(1, target) / max(1, len(longer))) ** (1 / max(1, cfg.em_iterations))
  for step in range(1, cfg.em_iterations + 1):
    counts = _expected_counts(lattice.spans, lattice.ends, log_probs)
    log_probs = _normalised(counts)
    size = target if step == cfg.em_iterations else max(target, round(len(longer) * shrink ** step))
    alive = longer[np.isfinite(log_probs[longer])]
    without = _best_scores(lattice.alternatives[alive], lattice.lengths[alive], log_probs)
    loss = (counts[alive] - _DISCOUNT) * (log_probs[alive] - without)
    dropped = alive[np.argsort(-loss, kind='stable')[size:]]
    log_probs[dropped] = -np.inf
  for _ in range(_FINAL_ITERATIONS):
    counts = _expected_counts(lattice.spans, lattice.ends, log_probs)
    log_probs = _normalised(np.where(np.isfinite(log_probs), counts, -np.inf))
  alive = longer[np.isfinite(log_probs[longer])]
  kept = np.concatenate([np.arange(cfg.num_units), alive[np.argsort(-log_probs[alive], kind='stable')]])
  return NgramModel(tuple(lattice.words(kept)), tuple(log_probs[kept].tolist()))


def _normalised(counts: np.ndarray) -> np.ndarray:
  """Counts -> log probabilities; -inf stays (dropped), anything else is raised to the floor."""
  counts = np.where(np.isneginf(counts), 0.0, np.maximum(counts, _FLOOR))
  with np.errstate(divide='ignore'):
    return np.log(counts / counts.sum())


@dataclasses.dataclass(frozen=True)
class _Lattice:
  """All candidate words and where they occur; candidate u < num_units is the single unit u.

  Attributes:
    units: int32[S,L], sequences cut into rows, -1 beyond the end.
    ends: int[S], length of each row.
    spans: int32[S,L,K], the candidate that ends at a position with length k + 1; -1 = none.
    counts: float[W] occurrences.
    lengths: int[W] units in a word.
    where: int[W,2], row and last position of one occurrence ([0, 0] for unseen units).
    alternatives: int32[W,K,K], the spans inside each word, itself left out.
  """
  units: np.ndarray
  ends: np.ndarray
  spans: np.ndarray
  counts: np.ndarray
  lengths: np.ndarray
  where: np.ndarray
  alternatives: np.ndarray

  @classmethod
  def of(cls, sequences: Sequence[Sequence[int]], num_units: int, longest: int, max_candidates: int) -> '_Lattice':
    rows = [np.asarray(s[i:i + _CHUNK], np.int64) for s in sequences for i in range(0, len(s), _CHUNK)]
    ends = np.array([len(row) for row in rows] or [0])
    units = np.full((len(ends), max(1, ends.max())), -1, np.int64)
    for row, values in zip(units, rows):
      row[:len(values)] = values
    spans, counts, lengths, where = _candidates(units, num_units, longest, max_candidates)
    inner = np.arange(longest)[:, None]  # position in the word, against the length of the span that ends there
    position = where[:, 1, None] - lengths[:, None] + 1 + np.arange(longest)
    inside = spans[where[:, :1], np.clip(position, 0, units.shape[1] - 1)]
    spans_allowed = (np.arange(longest) <= inner)[None] & (inner < lengths[:, None, None])
    whole = (inner == lengths[:, None, None] - 1) & (np.arange(longest) == lengths[:, None, None] - 1)
    return cls(units, ends, spans, counts, lengths, where, np.where(spans_allowed & ~whole, inside, -1))

  def words(self, candidates: np.ndarray) -> list[Word]:
    """The units of each candidate."""
    out = []
    for c in candidates.tolist():
      row, last = self.where[c]
      n = self.lengths[c]
      out.append((c,) if n == 1 else tuple(self.units[row, last - n + 1:last + 1].tolist()))
    return out


def _candidates(units: np.ndarray, num_units: int, longest: int, max_candidates: int):
  """Single units and all substrings of up to `longest` units that occur twice, the most frequent first if there are too many."""
  spans = np.full((*units.shape, longest), -1, np.int32)
  spans[:, :, 0] = units
  counts = [np.bincount(units[units >= 0], minlength=num_units).astype(float)]
  lengths, where = [np.ones(num_units, int)], [np.zeros((num_units, 2), int)]
  shorter = units  # id of the substring of the last length that ends here, numbered by np.unique; -1 = none
  for k in range(1, longest):
    keys = np.full(units.shape, -1, np.int64)
    keys[:, k:] = np.where((shorter[:, k - 1:-1] >= 0) & (units[:, k:] >= 0), shorter[:, k - 1:-1] * num_units + units[:, k:], -1)
    found, first, inverse, times = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    again = (times >= 2) & (found >= 0)
    order = np.flatnonzero(again)
    order = np.sort(order[np.argsort(-times[order], kind='stable')[:max_candidates]])
    numbers = np.full(len(found), -1, np.int32)
    numbers[order] = sum(map(len, counts)) + np.arange(len(order))
    spans[:, :, k] = numbers[inverse.reshape(units.shape)]
    shorter = np.where(again, np.arange(len(found)), -1)[inverse.reshape(units.shape)]
    counts.append(times[order].astype(float))
    lengths.append(np.full(len(order), k + 1))
    where.append(np.stack(np.unravel_index(first[order], units.shape), axis=1))
  return spans, np.concatenate(counts), np.concatenate(lengths), np.concatenate(where)


def _span_scores(spans: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
  """float[S,L,K] log probability of each span, -inf where there is none."""
  return np.append(log_probs, -np.inf)[spans]


def _best_scores(spans: np.ndarray, ends: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
  """float[S]: log probability of the best segmentation of each row; -inf where there is none."""
  scores = _span_scores(spans, log_probs)
  rows, length, longest = scores.shape
  best = np.full((rows, length + 1), -np.inf)
  best[:, 0] = 0
  for t in range(length):
    k = min(longest, t + 1)
    best[:, t + 1] = (best[:, t::-1][:, :k] + scores[:, t, :k]).max(axis=1)
  return best[np.arange(rows), ends]


def _expected_counts(spans: np.ndarray, ends: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
  """float[W]: how often each word is expected over all segmentations (forward-backward)."""
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
    here = forward[:, :length - k] + scores[:, k:, k] + backward[:, k + 1:] - total[:, None]
    at = np.isfinite(here)
    counts += np.bincount(spans[:, k:, k][at], np.exp(here[at]), minlength=len(log_probs))
  return counts


def _count_pairs(segmented: Sequence[Sequence[int]], log_probs: Sequence[float]) -> dict[tuple[int, int], float]:
  """log P(word | last word) of the pairs in `segmented`, mixed with P(word); -1 stands before the first word."""
  pairs = Counter(pair for ids in segmented for pair in zip([-1, *ids], ids))
  before = Counter()
  for (last, _), times in pairs.items():
    before[last] += times
  return {(last, word): math.log(_PAIR_WEIGHT * times / before[last] + (1 - _PAIR_WEIGHT) * math.exp(log_probs[word]))
          for (last, word), times in pairs.items()}
