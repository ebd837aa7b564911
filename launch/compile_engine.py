"""Lowers the programs of the engine for a mesh that need not exist, for `launch.compile_check`.

They are the programs that answer questions: the same functions, budgets, states and shardings.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from echox_jax import model_folder, prompts
from echox_jax.config import EchoXConfig
from echox_jax.decoding import speaking
from echox_jax.inference import placement, programs, steps
from echox_jax.inference.answering import Request
from echox_jax.models import log_mel, positions
from echox_jax.training import flops
from echox_jax.training.experiment import ExperimentConfig

_TIMING = ('unit_embedding', 'duration_predictor')  # what speaking needs of the vocoder
_GROUPS = {
  'hear': model_folder.HEARING,
  'prefill': ('llm',),
  'decode': ('llm',),
  'speak': ('unit_text_embedding', 'echo', 'vocoder'),
}
PROGRAMS = tuple(_GROUPS)


def lower(
  name: str, experiment: ExperimentConfig, mesh: Mesh
) -> tuple[jax.stages.Lowered, dict[str, Any], float]:
  """Returns a program with bfloat16 weights, its parameters (shapes), and the FLOPs of the model.

  Args:
    name: one of `PROGRAMS`.
    experiment: the job; `engine` has the budgets.
    mesh: what everything is split over.

  Raises:
    ConfigError: the mesh does not fit the parameters.
  """
  cfg = placement.with_dtype(experiment.model, 'bfloat16')
  params, cfg = placement.abstract(cfg, _GROUPS[name], mesh)
  if name == 'speak':
    params['vocoder'] = {part: params['vocoder'][part] for part in _TIMING}
  made = programs.Programs(cfg, experiment.engine, mesh)
  lowering: dict[str, Callable[..., jax.stages.Lowered]] = {
    'hear': _hear,
    'prefill': _prefill,
    'decode': _decode,
    'speak': _speak,
  }
  return lowering[name](made, params, cfg, experiment), params, _flops(name, experiment)


def _hear(
  made: programs.Programs, params: dict, cfg: EchoXConfig, experiment: ExperimentConfig
) -> jax.stages.Lowered:
  samples = steps.buckets(cfg, experiment.engine).samples[-1]
  return made.hear.lower(params, jax.ShapeDtypeStruct((1, samples), 'float32'), _ints(1))


def _prefill(
  made: programs.Programs, params: dict, cfg: EchoXConfig, experiment: ExperimentConfig
) -> jax.stages.Lowered:
  thinking, _ = made.abstract_states()
  ids = _ints(1, experiment.engine.max_prompt_tokens)
  heard = steps.EmbeddedSpeech(
    jax.ShapeDtypeStruct((1, cfg.adapter.shrink_budget, cfg.llm.hidden_size), cfg.adapter.dtype),
    _ints(1),
    _ints(1),
  )
  sampling = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1,), x.dtype), Request().sampling())
  return made.read_first.lower(params, thinking, _ints(1), ids, heard, sampling, _ints(1))


def _decode(
  made: programs.Programs, params: dict, cfg: EchoXConfig, experiment: ExperimentConfig
) -> jax.stages.Lowered:
  thinking, _ = made.abstract_states()
  return made.decode_chunk.lower(params, thinking, _ints())


def _speak(
  made: programs.Programs, params: dict, cfg: EchoXConfig, experiment: ExperimentConfig
) -> jax.stages.Lowered:
  _, saying = made.abstract_states()
  words = cfg.unit_decoder.unit_vocab_size
  spelling = speaking.Spelling(
    _ints(words, cfg.units.max_word_units), _ints(words), _ints(words), _ints()
  )
  active = jax.ShapeDtypeStruct(saying.going.shape, bool)
  return made.speak_chunk.lower(params, saying, spelling, active, _ints())


def _flops(name: str, experiment: ExperimentConfig) -> float:
  """A question of the longest size; a token of every answer; a unit word of every slice."""
  cfg, engine = experiment.model, experiment.engine
  if name == 'hear':
    states = log_mel.num_frames(steps.buckets(cfg, engine).samples[-1]) // 2
    if cfg.pad_audio_to_30_s:
      states = cfg.whisper.max_positions
    return (
      flops.log_mel_forward(cfg.whisper.num_mel_bins, 1, 2 * states)
      + flops.whisper_forward(cfg.whisper, 1, states)
      + flops.adapter_forward(cfg, 1, states // 2)['layers']
    )
  width, vocabulary = cfg.llm.hidden_size, cfg.llm.vocab_size
  if name == 'prefill':
    length = engine.max_prompt_tokens + positions.speech(cfg)
    parts = flops.llama_forward(cfg.llm, 1, length)
    return parts['base'] + parts['attention'] + flops.head_forward(width, vocabulary, 1)
  if name == 'decode':
    rows, slots = engine.conversations, min(engine.max_context, cfg.llm.max_positions)
    return flops.llama_step(cfg.llm, rows, slots) + flops.head_forward(width, vocabulary, rows)
  trunk, rows = cfg.unit_decoder.trunk, programs.speaking_rows(engine)
  slots = positions.slice_row(cfg, positions.max_unit_words(cfg, engine.max_unit_words))
  free = prompts.get_profile(cfg.profile).free_unit_ids
  choices = cfg.unit_decoder.unit_vocab_size + (vocabulary if free else 1)
  return flops.llama_step(trunk, rows, slots) + flops.head_forward(trunk.hidden_size, choices, rows)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, 'int32')
