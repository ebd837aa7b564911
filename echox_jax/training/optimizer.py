"""AdamW with warm-up, cosine decay and gradient clipping, without weight decay on norms and biases
(paper, training settings known).
"""

import jax
import optax

from echox_jax.training.experiment import OptimizerConfig

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
  """Returns the optimizer for a run of `steps` steps; `clip_norm` 0 = no clipping."""
  clip = [optax.clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm > 0 else []
  return optax.chain(
    *clip,
    optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
    optax.add_decayed_weights(cfg.weight_decay, mask=decayed),
    optax.scale_by_learning_rate(make_schedule(cfg, steps)),
  )


def decayed(params):
  """Returns a tree of bools: True where weight decay applies."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NOT_DECAYED, params)
