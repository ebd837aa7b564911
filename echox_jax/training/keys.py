"""Where the random numbers of a run come from: one seed, and streams that never meet."""

import jax

# Folded in before the number of a step, so that no step shares its key with the initialisation of a
# parameter group, which folds in the group's number (`models.params.init_groups`).
_STEPS = 0x57E9


def init_key(seed: int) -> jax.Array:
  """The key that fresh parameters are made from."""
  return jax.random.key(seed)


def step_key(seed: int, step: jax.Array | int) -> jax.Array:
  """The key of a step, from its number alone: a resumed run draws what an uninterrupted one
  draws.
  """
  return jax.random.fold_in(jax.random.fold_in(init_key(seed), _STEPS), step)
