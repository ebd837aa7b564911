"""The paper's unit language: words of at most K units under an n-gram model, segmented by dynamic
programming.

The paper (arXiv 2505.15333) gives the segmentation, best(i) = max_{1<=k<=K} best(i-k) + log
P(u_{i-k+1..i}). Order 2 uses pairs of words (state: position and length of the last word).
`ngram_fit` finds the words.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from echox_jax.models.arrays import Float

Word = tuple[int, ...]

PAIR_WEIGHT = 0.7  # weight of the pair estimate in P(word | last word); the rest is P(word)
_FLOOR = 0.01  # minimum expected count of every single unit, seen or not


@dataclasses.dataclass(frozen=True)
class NgramModel:
  """Words with log probabilities. With `pairs` (log of the mixed P(word | last), for pairs seen in
  the fit) the model has order 2.
  """

  words: tuple[Word, ...]
  log_probs: tuple[float, ...]
  pairs: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    object.__setattr__(self, '_ids', {word: i for i, word in enumerate(self.words)})
    object.__setattr__(self, '_longest', max(map(len, self.words)))

  @classmethod
  def from_counts(cls, words: Sequence[Word], counts: Sequence[float]) -> 'NgramModel':
    """Makes a model from external words and their counts."""
    return cls(tuple(words), tuple(normalised(np.asarray(counts, float)).tolist()))

  def segment(self, units: Sequence[int]) -> list[int]:
    """Returns the word ids of the most probable segmentation."""
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
    """States are (position, last word); the position and the word's length identify a word."""
    units = tuple(units)
    # at each position: last word -> (score, word before)
    states: list[dict[int, tuple[float, int]]] = [{-1: (0.0, -1)}]
    backoff = math.log(1 - PAIR_WEIGHT)
    for i in range(1, len(units) + 1):
      here = {}
      for start in range(max(0, i - self._longest), i):
        word = self._ids.get(units[start:i])
        if word is not None:
          alone = backoff + self.log_probs[word]
          here[word] = max(
            (score + self.pairs.get((before, word), alone), before)
            for before, (score, _) in states[start].items()
          )
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
    return cls(
      words, tuple(values['log_probs']), {(before, word): p for before, word, p in values['pairs']}
    )


def normalised(counts: Float[np.ndarray, ' W']) -> Float[np.ndarray, ' W']:
  """Turns counts into log probabilities; -inf (a dropped word) stays, other counts are at least the
  floor.
  """
  counts = np.where(np.isneginf(counts), 0.0, np.maximum(counts, _FLOOR))
  with np.errstate(divide='ignore'):
    return np.log(counts / counts.sum())
