"""Random keys of a run: independent streams from one seed."""

import jax

# Folded in before the step number. Otherwise a step could share its key with the initialisation of
# a parameter group, which folds in the group's index (`models.params.init_groups`).
_STEPS = 0x57E9


def init_key(seed: int) -> jax.Array:
  """Returns the key for parameter initialisation."""
  return jax.random.key(seed)


def step_key(seed: int, step: jax.Array | int) -> jax.Array:
  """Returns the key of a step. It depends only on the step number, so a resumed run draws the same
  random numbers as an uninterrupted one.
  """
  return jax.random.fold_in(jax.random.fold_in(init_key(seed), _STEPS), step)
