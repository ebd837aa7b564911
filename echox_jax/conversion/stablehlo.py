"""Exports the inference functions as StableHLO for cpu, cuda and tpu, with a symbolic batch size,
to answer without this package.

A folder holds `<function>.stablehlo` (serialized `jax.export` artefacts of
echox_jax/inference/steps.py), `manifest.json` (names, shapes and dtypes of all inputs and outputs)
and the model itself, whose `model.safetensors` holds the parameters. To call a function:

  import json, pathlib
  import jax.export, safetensors.numpy

  folder = pathlib.Path('out/stablehlo')
  functions = json.loads((folder / 'manifest.json').read_text())['functions']
  weights = safetensors.numpy.load_file(folder / 'model.safetensors')

  def call(name, **inputs):
    exported = jax.export.deserialize((folder / f'{name}.stablehlo').read_bytes())
    return exported.call({key: weights[key] for key in functions[name]['params']}, inputs)

  # {'states': ..., 'state_lengths': ...}
  states = call('encode_speech', audio=audio, audio_lengths=lengths)

`audio` is float32[b, 16000 * seconds], padded to the size in the manifest. A question goes through
encode_speech, embed_speech and prefill_speech (a written one through prefill_text); then sample,
decode_step, sample, ... until EOT. The states that predicted the tokens of a slice go through
generate_units, and the unit language turns the resulting unit words into units. The units go
through durations; each is repeated that often and goes through waveform. Flat order for other
runtimes: `params` as listed, then `inputs`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from flax import linen as nn
import jax
from jax import export
import jax.numpy as jnp

from echox_jax import errors, storage
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import generate
from echox_jax.inference import steps
from echox_jax.models import adapter, positions, trees
from echox_jax.models.adapter import EmbeddedSpeech
from echox_jax.models.params import init_groups

PLATFORMS = ('cpu', 'cuda', 'tpu')
MANIFEST = 'manifest.json'
Specs = Mapping[str, jax.ShapeDtypeStruct]
_PAST = ('cache_key', 'cache_value', 'keys', 'slot', 'positions')
_STATE = (*_PAST, 'hidden', 'logits')


@dataclasses.dataclass(frozen=True)
class Function:
  """One function to export.

  Attributes:
    params: the parameters that it reads: paths or prefixes of paths.
    inputs: names of its inputs.
    outputs: names of its outputs, in the order of `run`.
    run: (nested parameters, config, *inputs) -> outputs.
  """

  params: Sequence[str]
  inputs: Sequence[str]
  outputs: Sequence[str]
  run: Callable[..., Sequence[jax.Array]]


def functions(cfg: EchoXConfig, engine: EngineConfig) -> dict[str, Function]:
  """All functions by name, in the order in which a question passes through them."""
  head = 'llm/embed_tokens' if cfg.llm.tie_embeddings else 'llm/lm_head'

  def one(run):
    return lambda *args: (run(*args),)

  def prefill(params, cfg, *inputs):
    return _prefill(params, cfg, engine.max_new_tokens, *inputs)

  def generate_units(params, cfg, states, *ids_and_lengths):
    *ids, lengths = ids_and_lengths
    ids = ids[0] if ids else jnp.zeros(states.shape[:2], jnp.int32)  # none is read
    return steps.generate_units(params, cfg, engine.max_unit_words, states, ids, lengths)

  return {
    'encode_speech': Function(
      ('whisper',), ('audio', 'audio_lengths'), ('states', 'state_lengths'), steps.encode
    ),
    'embed_speech': Function(
      adapter.read_paths(cfg), ('states', 'state_lengths'), EmbeddedSpeech._fields, steps.embed
    ),
    'prefill_speech': Function(('llm',), ('ids', 'embeddings', 'kept'), _STATE, prefill),
    'prefill_text': Function(('llm',), ('ids',), _STATE, prefill),
    'sample': Function((head,), ('hidden', 'logits'), ('token', 'score'), steps.sample),
    'decode_step': Function(('llm',), (*_PAST, 'token'), _STATE, _decode_step),
    'generate_units': Function(
      ('denoising_adapter', 'echo', 'unit_text_embedding'),
      ('slice_states', *(('slice_ids',) if cfg.unit_decoder.text_fusion else ()), 'slice_lengths'),
      ('unit_words', 'unit_word_lengths', 'overflow'),
      generate_units,
    ),
    'durations': Function(
      ('vocoder/unit_embedding', 'vocoder/duration_predictor'),
      ('units', 'unit_mask'),
      ('durations',),
      one(steps.durations),
    ),
    'waveform': Function(('vocoder',), ('frames', 'frame_mask'), ('waveform',), one(steps.wave)),
  }


def write(
  folder: Path,
  cfg: EchoXConfig,
  engine: EngineConfig,
  params: Mapping[str, tuple[Sequence[int], Any]],
) -> dict[str, str]:
  """Writes the functions and their manifest into a model folder.

  Args:
    folder: holds the model's config, parameters and tokenizer.
    cfg: config of the model.
    engine: budgets of its answers, which are the static sizes.
    params: `group/path` -> (shape, dtype) of all parameters in the folder.

  Returns:
    Function -> the groups that it lacks, for functions that a partial model cannot have.

  Raises:
    CheckpointError: the folder has the parameters of no function.
    ConfigError: the budgets leave no positions for a question, see `positions.check`.
  """
  specs = {
    path: jax.ShapeDtypeStruct(tuple(shape), dtype) for path, (shape, dtype) in params.items()
  }
  groups = {path.split('/')[0] for path in specs}
  table = functions(cfg, engine)
  lacking = {
    name: sorted({prefix.split('/')[0] for prefix in function.params} - groups)
    for name, function in table.items()
  }
  if all(lacking.values()):
    raise errors.CheckpointError(
      f'{", ".join(sorted(groups)) or "an empty checkpoint"} computes no step of answering: give '
      'a checkpoint with more groups.'
    )
  positions.check(cfg, engine, groups)
  entries, inputs = {}, input_specs(cfg, engine)
  for name, function in table.items():
    if not lacking[name]:
      exported = export_function(cfg, engine, name, specs, inputs)
      storage.atomic_write_bytes(folder / f'{name}.stablehlo', bytes(exported.serialize()))
      entries[name] = _describe(function, exported, specs)
  storage.atomic_write_json(
    folder / MANIFEST,
    {
      'jax_version': jax.__version__,
      'calling_convention_version': export.maximum_supported_calling_convention_version,
      'platforms': PLATFORMS,
      'functions': entries,
    },
  )
  return {name: ', '.join(absent) for name, absent in lacking.items() if absent}


def export_function(
  cfg: EchoXConfig, engine: EngineConfig, name: str, params: Specs, inputs: Specs
) -> export.Exported:
  """One function of `functions`, ({path: array}, {input: array}) -> {output: array}.

  Args:
    cfg: config of the model.
    engine: budgets of its answers.
    name: name of the function.
    params: parameters of the model by path; the function takes those that it reads.
    inputs: inputs of all functions, see `input_specs`.
  """
  cfg, function = _portable(cfg), functions(cfg, engine)[name]

  def call(params: dict[str, jax.Array], inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    made = function.run(trees.unflatten(params), cfg, *(inputs[name] for name in function.inputs))
    return dict(zip(function.outputs, made, strict=True))

  call.__name__ = name  # name of the module in the artefact
  own = {path: params[path] for path in _own_params(function, params)}
  return export.export(jax.jit(call), platforms=PLATFORMS)(
    own, {name: inputs[name] for name in function.inputs}
  )


def _portable(cfg: EchoXConfig) -> EchoXConfig:
  """The model with an attention that every platform supports, whichever makes the artefact."""

  def plain(part):
    return dataclasses.replace(part, attention='xla')

  decoder = dataclasses.replace(cfg.unit_decoder, trunk=plain(cfg.unit_decoder.trunk))
  return dataclasses.replace(
    cfg, whisper=plain(cfg.whisper), llm=plain(cfg.llm), unit_decoder=decoder
  )


def input_specs(cfg: EchoXConfig, engine: EngineConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of all inputs by name. The batch `b`, and the `slots` of the KV cache in a
  step, are symbolic.
  """
  batch, slots = export.symbolic_shape('b, slots')

  def spec(dtype, *shape):
    return jax.ShapeDtypeStruct((batch, *shape), jnp.dtype(dtype))

  budget, max_slice_tokens = steps.buckets(cfg, engine), cfg.streaming.max_slice_tokens
  groups = tuple({'whisper', 'llm', *(path.split('/')[0] for path in adapter.read_paths(cfg))})
  params = nn.meta.unbox(jax.eval_shape(lambda: init_groups(jax.random.key(0), cfg, groups)))

  def shapes(run, *inputs, sizes=()):
    return jax.eval_shape(
      lambda params, *inputs: run(params, cfg, *sizes, *inputs), params, *inputs
    )

  known = {
    'audio': spec('float32', budget.samples[-1]),
    'audio_lengths': spec('int32'),
    'ids': spec('int32', budget.prompt[-1]),
    'token': spec('int32'),
    'slice_states': spec(cfg.llm.dtype, max_slice_tokens, cfg.llm.hidden_size),
    'slice_ids': spec(jnp.int32, max_slice_tokens),
    'slice_lengths': spec('int32'),
    'units': spec('int32', budget.frames[-1]),
    'unit_mask': spec('bool', budget.frames[-1]),
    'frames': spec('int32', budget.frames[-1]),
    'frame_mask': spec('bool', budget.frames[-1]),
  }
  known['states'], known['state_lengths'] = shapes(
    steps.encode, known['audio'], known['audio_lengths']
  )
  known |= shapes(steps.embed, known['states'], known['state_lengths'])._asdict()
  state = dict(zip(_STATE, shapes(_prefill, known['ids'], sizes=(engine.max_new_tokens,))))
  grown = {'cache_key': 3, 'cache_value': 3, 'keys': 1}  # axis of the slots
  for name, axis in grown.items():
    shape = list(state[name].shape)
    shape[axis] = slots
    state[name] = jax.ShapeDtypeStruct(tuple(shape), state[name].dtype)
  return known | state


def _prefill(
  params: dict,
  cfg: EchoXConfig,
  max_new_tokens: int,
  ids: jax.Array,
  embeddings: jax.Array | None = None,
  kept: jax.Array | None = None,
) -> Sequence[jax.Array]:
  return _flat(
    steps.prefill(
      params,
      cfg,
      max_new_tokens,
      ids,
      None if embeddings is None else EmbeddedSpeech(embeddings, kept, None),
    )
  )


def _decode_step(
  params: dict, cfg: EchoXConfig, key: jax.Array, value: jax.Array, *rest: jax.Array
) -> Sequence[jax.Array]:
  *past, token = rest
  return _flat(
    generate.decode_step(
      params,
      cfg,
      generate.TextState({'key': key, 'value': value}, *past, hidden=None, logits=None),
      token,
    )
  )


def _flat(state: generate.TextState) -> Sequence[jax.Array]:
  """The leaves in the order of `_STATE`."""
  return (
    state.cache['key'],
    state.cache['value'],
    state.keys,
    state.slot,
    state.positions,
    state.hidden,
    state.logits,
  )


def _own_params(function: Function, params: Specs) -> list[str]:
  """Paths of the parameters that a function reads, in its argument order."""
  return sorted(
    path for path in params if any(path.startswith(f'{prefix}/') for prefix in function.params)
  )


def _describe(function: Function, exported: export.Exported, params: Specs) -> dict[str, Any]:
  """A function's entry in the manifest, in the order of the flat calling convention."""
  paths = _own_params(function, params)

  def label(name, aval):
    return {
      'name': name,
      'shape': [d if isinstance(d, int) else str(d) for d in aval.shape],
      'dtype': aval.dtype.name,
    }

  return {
    'file': f'{exported.fun_name}.stablehlo',
    'platforms': exported.platforms,
    'calling_convention_version': exported.calling_convention_version,
    'params': paths,
    'inputs': [
      label(*pair)
      for pair in zip(sorted(function.inputs), exported.in_avals[len(paths) :], strict=True)
    ],
    'outputs': [
      label(*pair) for pair in zip(sorted(function.outputs), exported.out_avals, strict=True)
    ],
  }
