"""Words that are near in meaning, near in sound, or neither, found by rule: the "Hello", the
"High" and the rest of a "Hi" (paper, figure 1).

Meaning: both words answer the same kind of question, and sound unlike each other. Sound: their
phonemes are alike, and they answer no common kind of question. Unrelated: neither. No neighbour is
in an answer with its anchor, which makes states alike whatever the words, and none shares a token
with it, which makes embeddings alike.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses

import numpy as np

from echox_jax import errors
from echox_jax.evaluation.judge import word_errors

LIKE, UNLIKE = 0.5, 0.7  # shares of phonemes to change: at most, at least
MIXED = ('', 'general')  # categories whose answers have nothing in common
_STRESS = 'ˈˌ '


@dataclasses.dataclass(frozen=True)
class Word:
  """A word.

  Attributes:
    text, phonemes: how it is written, and spoken.
    kinds: categories of the questions that it answers; empty = it answers none.
    beside: words of the answers that it is in.
    tokens: ids that it is written with.
  """

  text: str
  phonemes: str
  kinds: frozenset[str]
  beside: frozenset[str]
  tokens: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """An anchor, and one word of each kind."""

  anchor: str
  meaning: str
  sound: str
  unrelated: str


def vocabulary(
  answers: Iterable[tuple[str, Sequence[tuple[str, Iterable[int]]], Sequence[str]]],
  phonemes_of: Callable[[str], str],
) -> list[Word]:
  """The words of answers, sorted.

  Args:
    answers: (category, words of the answer with the ids of their tokens, references).
    phonemes_of: word -> phonemes, one letter each; '' = unknown, and the word is left out.
  """
  kinds: dict[str, set[str]] = {}
  beside: dict[str, set[str]] = {}
  tokens: dict[str, set[int]] = {}
  for category, answer, references in answers:
    for word, ids in answer:
      kinds.setdefault(word, set())
      beside.setdefault(word, set()).update(other for other, _ in answer)
      tokens.setdefault(word, set()).update(ids)
    for reference in references:
      if category not in MIXED and reference.lower() in kinds:
        kinds[reference.lower()].add(category)
  spoken = {word: phonemes_of(word) for word in sorted(kinds)}
  return [
    Word(word, said, *(frozenset(found[word]) for found in (kinds, beside, tokens)))
    for word, said in spoken.items()
    if said
  ]


def neighbours(words: Iterable[Word], seed: int = 0) -> list[Neighbours]:
  """The neighbours of each word that has all three. The word nearest in sound is taken; the others
  are drawn.

  Raises:
    DataError: no word has all three.
  """
  words, found = list(words), []
  for number, anchor in enumerate(words):
    rng = np.random.default_rng([seed, number])
    if not anchor.kinds:
      continue
    apart = (w for w in words if w.text not in anchor.beside and not w.tokens & anchor.tokens)
    others = [(distance(anchor, w), w) for w in apart]
    sound = [(d, w.text) for d, w in others if d <= LIKE and not w.kinds & anchor.kinds]
    meaning = [w.text for d, w in others if d >= UNLIKE and w.kinds & anchor.kinds]
    unrelated = [w.text for d, w in others if d >= UNLIKE and not w.kinds & anchor.kinds]
    if sound and meaning and unrelated:
      near, far = (some[int(rng.integers(len(some)))] for some in (meaning, unrelated))
      found.append(Neighbours(anchor.text, near, min(sound)[1], far))
  if not found:
    raise errors.DataError(
      'no word of the answers has a neighbour in meaning and one in sound: give a corpus whose '
      'questions have categories and references, with more answers.'
    )
  return found


def distance(a: Word, b: Word) -> float:
  """Share of the phonemes of the longer word that must change to make one the other."""
  edits, _ = word_errors(' '.join(a.phonemes), ' '.join(b.phonemes))
  return edits / max(len(a.phonemes), len(b.phonemes))


def packaged_phonemes() -> Callable[[str], str]:
  """The pronunciations of the demo's answer voice, without stress.

  Raises:
    MissingExtraError: the voice is not installed.
  """
  errors.require('hibari', 'demo', 'Finding words that sound alike')
  from hibari.g2p import G2P

  speak = G2P()
  drop = str.maketrans('', '', _STRESS)
  return lambda word: speak(word).translate(drop)
