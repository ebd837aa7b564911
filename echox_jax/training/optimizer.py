"""AdamW (paper, training settings known) or Muon, with warm-up, cosine decay and gradient clipping,
without weight decay on norms and biases.
"""

import jax
import optax
from optax import contrib

from echox_jax import errors
from echox_jax.training.experiment import OptimizerConfig

NAMES = ('adamw', 'muon')
_RMS = 0.2  # of Muon's steps, as of AdamW's (arXiv 2502.16982, section 2.2)
# names of norm scales and biases; layers are stacked, so array ranks do not identify them
_NOT_DECAYED = ('scale', 'bias')


def make_schedule(cfg: OptimizerConfig, steps: int) -> optax.Schedule:
  """Returns the learning rate schedule: linear warm-up, then a cosine from the peak to
  `end_fraction` of it.

  The warm-up takes at most half of the run, so a shortened run still reaches the peak and decays.
  """
  warmup = min(cfg.warmup_steps, steps // 2)
  start = cfg.learning_rate / (warmup + 1) if warmup else cfg.learning_rate
  return optax.warmup_cosine_decay_schedule(
    start, cfg.learning_rate, warmup, max(steps, 1), cfg.learning_rate * cfg.end_fraction
  )


def make_optimizer(cfg: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """Returns the optimizer for a run of `steps` steps; `clip_norm` 0 = no clipping.

  Raises:
    ConfigError: there is no such optimizer.
  """
  if cfg.name not in NAMES:
    raise errors.ConfigError(
      f'train.optimizer.name is {cfg.name!r}: use one of {", ".join(NAMES)}.'
    )
  clip = [optax.clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm > 0 else []
  schedule = make_schedule(cfg, steps)
  adamw = (
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.add_decayed_weights(cfg.weight_decay, mask=decayed),
    optax.scale_by_learning_rate(schedule),
  )
  if cfg.name == 'adamw':
    return optax.chain(*clip, *adamw)
  muon = contrib.muon(
    schedule,
    weight_decay=cfg.weight_decay,
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=_RMS,
  )
  return optax.chain(*clip, optax.partition({'muon': muon, 'adamw': optax.chain(*adamw)}, _kinds))


def decayed(params):
  """Returns a tree of bools: True where weight decay applies."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, params)


def _kinds(params):
  """Returns a tree of the optimizers that take the arrays."""

  def kind(path, _):
    names = [step.key for step in path]
    return 'muon' if names[-1] == 'kernel' and 'trunk' in names else 'adamw'

  return jax.tree_util.tree_map_with_path(kind, params)


def _matrices(kernels):
  """Returns which axes of kernels [layers,inputs,outputs] make the matrices."""
  return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(1, 2), kernels)
