"""Sound -> what the LLM hears, and its transcript."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import errors, prompts
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import ctc_beam, rescoring
from echox_jax.decoding.ctc_beam import Hypotheses
from echox_jax.inference import steps
from echox_jax.models import adapter, echox
from echox_jax.models.adapter import EmbeddedSpeech
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.llama import apply_llm


def check(cfg: EchoXConfig, budgets: EngineConfig) -> None:
  """Checks how a model is to hear.

  Raises:
    ConfigError: its LLM cannot choose among hypotheses, or there are too few nodes to do so.
  """
  if not budgets.hypotheses:
    return
  if cfg.adapter.output != 'words':
    raise errors.ConfigError(
      f'engine.hypotheses is {budgets.hypotheses}, but what this model hears are no words '
      f'(adapter.output is {cfg.adapter.output!r}): set engine.hypotheses to 0.'
    )
  if budgets.hypotheses < 0 or budgets.hypothesis_nodes < 1:
    raise errors.ConfigError(
      f'engine.hypotheses is {budgets.hypotheses} and engine.hypothesis_nodes '
      f'{budgets.hypothesis_nodes}: give 0 or more, and 1 or more.'
    )


class Found(NamedTuple):
  """What may have been said.

  Attributes:
    hypotheses: likeliest first.
    nodes: int32[Q], labels of all of them; those with which several begin count once.
    overflow: int32[Q], labels of the best path that find no slot.
  """

  hypotheses: Hypotheses
  nodes: Array
  overflow: Array


def hear(
  budgets: EngineConfig,
  params: dict,
  cfg: EchoXConfig,
  audio: Float[Array, 'Q S'],
  lengths: Int[Array, ' Q'],
) -> tuple[EmbeddedSpeech, Int[Array, 'Q L']] | Found:
  """Sound at 16 kHz -> (what the LLM hears, CTC labels of its slots, the blank beyond them), or
  what it has to `choose` among.
  """
  states, state_lengths = steps.encode(params, cfg, audio, lengths)
  if not budgets.hypotheses:
    speech = echox.embed_speech(params, cfg, states, state_lengths)
    return speech.for_llm(), speech.labels
  frames, frame_lengths = echox.speech_frames(params, cfg, states, state_lengths)
  blank, slots = cfg.special_ids.audio, cfg.adapter.shrink_budget
  labels = ctc_beam.frame_labels(
    frames.astype(cfg.adapter.dtype), adapter.ctc_table(params, cfg), blank, cfg.adapter.ctc_chunk
  )
  hypotheses = ctc_beam.search(labels, frame_lengths, budgets.hypotheses, slots)
  nodes = jax.vmap(rescoring.count)(hypotheses.ids, hypotheses.lengths)
  return Found(hypotheses, nodes, _too_many(labels, frame_lengths, blank, slots))


def choose(
  budgets: EngineConfig, nodes: int, params: dict, cfg: EchoXConfig, found: Found
) -> tuple[EmbeddedSpeech, Int[Array, 'Q L']]:
  """The words that the LLM finds likeliest, as it reads written ones, or none where they are less
  sure than `least_surety`; `nodes`: how many labels it reads. Returns what `hear` does without
  hypotheses.
  """
  context = prompts.before_speech(cfg.special_ids, prompts.get_profile(cfg.profile))
  weights = rescoring.Weights(budgets.lm_weight, budgets.label_bonus)
  of_all = found.hypotheses
  best, surety = rescoring.choose(params, cfg, context, weights, nodes, of_all)
  ids, kept = (jax.vmap(lambda row, at: row[at])(x, best) for x in (of_all.ids, of_all.lengths))
  if budgets.least_surety:
    kept = jnp.where(surety < budgets.least_surety, 0, kept)
  in_use = jnp.arange(ids.shape[1]) < kept[:, None]
  said = jnp.where(in_use, ids, cfg.special_ids.audio)
  embeddings = jnp.where(in_use[..., None], apply_llm(params, cfg, 'embed', said), 0)
  return EmbeddedSpeech(embeddings, kept, found.overflow), said


def _too_many(
  labels: ctc_beam.FrameLabels, lengths: Int[Array, ' Q'], blank: int, slots: int
) -> Int[Array, ' Q']:
  """How many labels of the best path find no slot."""
  path = jnp.where(labels.blank > labels.scores[..., 0], blank, labels.ids[..., 0])
  real = jnp.arange(path.shape[1]) < lengths[:, None]
  return adapter.select(adapter.kept_frames(path, real, blank, first_stays=False), slots)[2]
