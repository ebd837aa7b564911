"""Finds loops: a decoder that says the same few unit words over and over, or an LLM its tokens."""

import jax.numpy as jnp

from echox_jax.models.arrays import Array, Bool, Int

# Words of the longest round that is noticed, tokens of the longest of an answer, and how many have
# to be repeated however short the round: real speech says a word twice, and silence a few times.
ROUNDS, TEXT_ROUNDS = 8, 32
_LEAST = 8


def repeated(
  held: Int[Array, 'R L'], words: Int[Array, 'R N'], count: Int[Array, ' R'], word: Int[Array, ' R']
) -> Int[Array, 'R L']:
  """Counts the newest words that are the same as the word 1, 2 ... L words before them.

  Args:
    held: the counts before `word`.
    words: words so far.
    count: how many they are.
    word: the next word of each row.
  """
  at = count[:, None] - 1 - jnp.arange(held.shape[1])
  before = jnp.take_along_axis(words, jnp.clip(at, 0, words.shape[1] - 1), axis=1)
  return jnp.where((at >= 0) & (before == word[:, None]), held + 1, 0)


def in_loop(held: Int[Array, 'R L'], times: int) -> Bool[Array, ' R']:
  """Tells the rows that have said a round of words `times` times; 0 = no row."""
  if not times:
    return jnp.zeros(held.shape[0], bool)
  rounds = 1 + jnp.arange(held.shape[1])
  return jnp.any(held >= jnp.maximum(rounds * (times - 1), _LEAST), axis=1)
