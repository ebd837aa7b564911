"""Lowers the programs of the engine for a mesh that need not exist, for `launch.compile_check`.

They are the programs that answer questions: the same functions, budgets, states and shardings.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from echox_jax import model_folder, prompts
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import speaking
from echox_jax.inference import placement, programs, steps
from echox_jax.inference.answering import Request
from echox_jax.models import adapter, log_mel, positions
from echox_jax.training import flops
from echox_jax.training.experiment import ExperimentConfig

_TIMING = ('unit_embedding', 'duration_predictor')  # what speaking needs of the vocoder


class _Program(NamedTuple):
  """A program of the engine: the parameter groups that it takes, what lowers it, and what counts
  the FLOPs of the model in it.
  """

  groups: tuple[str, ...]
  lower: Callable[
    [programs.Programs, dict[str, Any], EchoXConfig, ExperimentConfig], jax.stages.Lowered
  ]
  flops: Callable[[EchoXConfig, EngineConfig], float]


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
  program = _PROGRAMS[name]
  params, cfg = placement.abstract(cfg, program.groups, mesh)
  if name == 'hear' and 'llm/embed_tokens' in adapter.read_paths(cfg):
    llm = placement.abstract(cfg, ('llm',), mesh)[0]['llm']
    params['llm'] = {'embed_tokens': llm['embed_tokens']}
  if name == 'speak':
    params['vocoder'] = {part: params['vocoder'][part] for part in _TIMING}
  made = programs.Programs(cfg, experiment.engine, mesh)
  lowered = program.lower(made, params, cfg, experiment)
  return lowered, params, program.flops(experiment.model, experiment.engine)


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
  return made.decode_chunk.lower(params, thinking, _ints(*thinking.going.shape), _ints())


def _speak(
  made: programs.Programs, params: dict, cfg: EchoXConfig, experiment: ExperimentConfig
) -> jax.stages.Lowered:
  _, saying = made.abstract_states()
  words = cfg.unit_decoder.unit_vocab_size
  spelling = speaking.Spelling(
    _ints(words, cfg.units.max_word_units), _ints(words), _ints(words), _ints()
  )
  active = jax.ShapeDtypeStruct(saying.going.shape, bool)
  rows = _ints(*saying.going.shape)
  return made.speak_chunk.lower(params, saying, rows, spelling, active, _ints())


def _hear_flops(cfg: EchoXConfig, engine: EngineConfig) -> float:
  """A question of the longest size."""
  states = log_mel.num_frames(steps.buckets(cfg, engine).samples[-1]) // 2
  parts = ('layers',) if engine.hypotheses else ('layers', 'output')
  if cfg.pad_audio_to_30_s:
    states = cfg.whisper.max_positions
  return (
    flops.log_mel_forward(cfg.whisper.num_mel_bins, 1, 2 * states)
    + flops.whisper_forward(cfg.whisper, 1, states)
    + sum(flops.adapter_forward(cfg, 1, states // 2)[part] for part in parts)
  )


def _prefill_flops(cfg: EchoXConfig, engine: EngineConfig) -> float:
  """A question of the longest size."""
  parts = flops.llama_forward(cfg.llm, 1, engine.max_prompt_tokens + positions.speech(cfg))
  head = flops.head_forward(cfg.llm.hidden_size, cfg.llm.vocab_size, 1)
  return parts['base'] + parts['attention'] + head


def _decode_flops(cfg: EchoXConfig, engine: EngineConfig) -> float:
  """A token of every answer."""
  rows, slots = engine.conversations, min(engine.max_context, cfg.llm.max_positions)
  head = flops.head_forward(cfg.llm.hidden_size, cfg.llm.vocab_size, rows)
  return flops.llama_step(cfg.llm, rows, slots) + head


def _speak_flops(cfg: EchoXConfig, engine: EngineConfig) -> float:
  """A unit word of every slice."""
  trunk, rows = cfg.unit_decoder.trunk, programs.speaking_rows(engine)
  slots = positions.slice_row(cfg, positions.max_unit_words(cfg, engine.max_unit_words))
  free = prompts.get_profile(cfg.profile).free_unit_ids
  choices = cfg.unit_decoder.unit_vocab_size + (cfg.llm.vocab_size if free else 1)
  return flops.llama_step(trunk, rows, slots) + flops.head_forward(trunk.hidden_size, choices, rows)


_PROGRAMS = {
  'hear': _Program(model_folder.HEARING, _hear, _hear_flops),
  'prefill': _Program(('llm',), _prefill, _prefill_flops),
  'decode': _Program(('llm',), _decode, _decode_flops),
  'speak': _Program(('unit_text_embedding', 'echo', 'vocoder'), _speak, _speak_flops),
}
PROGRAMS = tuple(_PROGRAMS)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, 'int32')
