"""Fewer labels for CTC: a step of the stage `align` chooses among those that its batch says and
others at random, in place of the whole vocabulary of the LLM.

Of the work of `align`, nearly all is the product of frames and vocabulary. It is a sampled softmax
(Jean et al. 2015, arXiv 1412.2007): those at random stand for all that are not said, so that the
normaliser of each frame is right on average. Validation and inference know the whole vocabulary.
"""

import jax
import jax.numpy as jnp

from echox_jax import errors
from echox_jax.models.adapter import Candidates
from echox_jax.models.arrays import Array, Int
from echox_jax.prompts import IGNORE
from echox_jax.training.experiment import ExperimentConfig


def choose(
  key: Array, labels: Int[Array, '*b C'], vocabulary: int, count: int, blank: int
) -> Candidates:
  """Chooses `count` ids: all that are in `labels`, at most `count` - 1, and others at random.

  Args:
    key: of the random ones.
    labels: right-padded with IGNORE.
    vocabulary: number of ids.
    count: below `vocabulary`.
    blank: an id that is never chosen.
  """
  spoken = jnp.where(labels == IGNORE, blank, labels).reshape(-1)
  said = jnp.zeros(vocabulary, bool).at[spoken].set(True).at[blank].set(False)
  rank = said + jax.random.uniform(key, (vocabulary,))
  ids = jnp.sort(jax.lax.top_k(rank.at[blank].set(-1.0), count)[1])
  number = jnp.sum(said)
  others = (vocabulary - 1 - number) / jnp.maximum(count - number, 1)
  return Candidates(ids, jnp.where(said[ids], 1.0, others).astype(jnp.float32))


def check(experiment: ExperimentConfig) -> None:
  """Raises ConfigError if there are not enough candidates for whatever a batch may say."""
  count, vocabulary = experiment.train.loss.ctc_candidates, experiment.model.llm.vocab_size
  labels = experiment.data.max_ctc_labels
  rows = experiment.train.batch_size // experiment.train.accumulate_steps
  said = rows * labels
  if count and not said < count < vocabulary:
    raise errors.ConfigError(
      f'train.loss.ctc_candidates is {count}: it must be above the {said} labels that '
      f'{rows} rows may say (data.max_ctc_labels {labels}), '
      f'and below the vocabulary of {vocabulary}. 0 takes the whole vocabulary.'
    )
