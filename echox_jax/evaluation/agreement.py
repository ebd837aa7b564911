"""How alike two answers to one question are: ROUGE-L (Lin 2004, section 3), over normalised words.

Where no accepted answer decides, as in small talk, it says whether the model answers by ear what it
answers in writing.
"""

from collections.abc import Sequence

import numpy as np

from echox_jax.evaluation.normalise import normalise

ALIKE = 0.6  # from here on, one answer equals or paraphrases the other


def rouge_l(one: str, other: str) -> float:
  """The F-measure, with equal weights, of the longest common subsequence of words; 1 if neither
  text has words.
  """
  words, others = normalise(one).split(), normalise(other).split()
  if not words and not others:
    return 1.0
  return 2 * _common(words, others) / (len(words) + len(others))


def _common(words: Sequence[str], others: Sequence[str]) -> int:
  """The length of the longest common subsequence, row by row."""
  longest, others = np.zeros(len(others) + 1, int), np.asarray(others, object)
  for word in words:
    longest[1:] = np.maximum.accumulate(np.maximum(longest[1:], longest[:-1] + (others == word)))
  return int(longest[-1])
