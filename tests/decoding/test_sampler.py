"""An answer begins as it is told to, and goes on as it likes."""

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.decoding import sampler


def test_an_answer_begins_as_it_is_told():
  logits = jnp.zeros((2, 9)).at[:, 4].set(5.0)
  given = np.full((2, sampler.BEGINS), -1, np.int32)
  given[1, :2] = 7, 3
  given[1, -1] = 8
  choose = jax.jit(sampler.choose)
  for temperature in (0.0, 0.3):
    ways = sampler.greedy(2)._replace(begins=given, temperature=jnp.full(2, temperature))
    said = [choose(logits, ways, jnp.full(2, step)).tolist() for step in range(sampler.BEGINS + 1)]
    rows = np.asarray(said).T
    assert rows[1, :2].tolist() == [7, 3] and rows[1, sampler.BEGINS - 1] == 8
    free = np.delete(rows[1], [0, 1, sampler.BEGINS - 1])
    if temperature == 0:
      assert set(free) == set(rows[0]) == {4}
