"""Exported functions compute what the engine computes, for any batch size, and are lowered for
every platform.
"""

import dataclasses
import functools
import json

import jax
from jax import export
import numpy as np
import pytest
import safetensors.numpy

import echox_jax
from echox_jax import errors
from echox_jax.conversion import exporters, stablehlo
from echox_jax.decoding import generate
from echox_jax.inference import steps
from echox_jax.models import attention, trees
from echox_jax.models.params import param_shapes
from tests.helpers import tiny_model

NAMES = list(stablehlo.functions(tiny_model.tiny_config(), tiny_model.ENGINE))
SLOTS = 9


class Exported:
  """An exported folder, called as the docstring of `stablehlo` says: with JAX and the files
  alone.
  """

  def __init__(self, folder, cfg):
    self.folder, self.config = folder, cfg
    self.functions = json.loads((folder / 'manifest.json').read_text())['functions']
    self.weights = safetensors.numpy.load_file(folder / 'model.safetensors')
    self.artefacts = {}

  def artefact(self, name):
    if name not in self.artefacts:
      file = self.folder / f'{name}.stablehlo'
      self.artefacts[name] = export.deserialize(file.read_bytes())
    return self.artefacts[name]

  def call(self, name, **inputs):
    return self.artefact(name).call(
      {key: self.weights[key] for key in self.functions[name]['params']}, inputs
    )


@functools.cache
def exported_model(folder, profile):
  made = tiny_model.tiny_config()
  cfg = dataclasses.replace(
    made, profile=profile, adapter=dataclasses.replace(made.adapter, variant=profile)
  )
  tiny_model.write_model(folder / profile, cfg)
  # nothing is left out
  assert len(exporters.export(folder / profile, 'stablehlo', folder / f'{profile}-hlo')) == 1
  return Exported(folder / f'{profile}-hlo', cfg)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  return functools.partial(exported_model, tmp_path_factory.mktemp('stablehlo'))


def some_inputs(entry, cfg, batch):
  """Random inputs of a function as its manifest describes them."""
  rng = np.random.default_rng(batch)
  most = {
    'audio_lengths': 48000,
    'state_lengths': 150,
    'kept': 12,
    'slice_lengths': 6,
    'token': 40,
    'slot': SLOTS,
    'positions': 5,
    'ids': cfg.special_ids.audio,
    'units': 20,
    'frames': 20,
  }
  made = {}
  for item in entry['inputs']:
    shape = [{'b': batch, 'slots': SLOTS}.get(size, size) for size in item['shape']]
    if item['dtype'] == 'bool':
      value = np.arange(shape[-1]) < rng.integers(1, shape[-1], (*shape[:-1], 1))
    elif item['dtype'] == 'int32':
      value = rng.integers(most[item['name']] // 2, most[item['name']], shape)
    else:
      value = 0.5 * rng.normal(size=shape)
    made[item['name']] = np.asarray(value, item['dtype'])
  if 'ids' in made:
    made['ids'][:, 3] = cfg.special_ids.audio
  return made


@pytest.mark.parametrize(
  'name, profile, batch',
  [
    *((name, 'paper', 3) for name in NAMES),
    *(pytest.param(name, 'paper', 1, marks=pytest.mark.slow) for name in NAMES),
    *(
      pytest.param(name, 'released', 3, marks=pytest.mark.slow)
      for name in ('embed_speech', 'prefill_speech', 'generate_units')
    ),
  ],
)
def test_the_artefact_computes_what_the_engine_computes(models, name, profile, batch):
  model = models(profile)
  cfg, entry, function = (
    model.config,
    model.functions[name],
    stablehlo.functions(model.config, tiny_model.ENGINE)[name],
  )
  inputs = some_inputs(entry, cfg, batch)
  made = model.call(name, **inputs)
  ours = jax.jit(lambda params, *given: function.run(params, cfg, *given))
  wanted = ours(trees.unflatten(model.weights), *(inputs[n] for n in function.inputs))
  assert sorted(made) == sorted(function.outputs) == [item['name'] for item in entry['outputs']]
  for output, value in zip(function.outputs, wanted):
    np.testing.assert_allclose(made[output], value, rtol=1e-6, atol=1e-6, err_msg=output)


# of each kind one: an encoder, a step with a cache, a vocoder
QUICK = ('embed_speech', 'decode_step', 'waveform')


@pytest.mark.parametrize(
  'name', [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in QUICK)]
)
def test_every_platform_is_there_and_no_call_outside_stablehlo(models, name):
  entry, exported = models('paper').functions[name], models('paper').artefact(name)
  assert exported.platforms == ('cpu', 'cuda', 'tpu') == tuple(entry['platforms'])
  assert exported.calling_convention_version == entry['calling_convention_version']
  assert exported.fun_name == name
  calls = {
    line.split('custom_call @')[1].split('(')[0]
    for line in exported.mlir_module().splitlines()
    if 'custom_call @' in line
  }
  assert calls <= {'shape_assertion'}  # jax.export's own check of the batch size
  assert all(
    item['shape'][0] == 'b'
    for item in entry['inputs']
    if item['shape'] and not item['name'].startswith('cache')
  )


def test_an_artefact_has_no_kernel_of_the_platform_that_makes_it(monkeypatch):
  monkeypatch.setattr(attention, 'current_platform', lambda: 'tpu')
  made = tiny_model.tiny_config()
  cfg = dataclasses.replace(made, whisper=dataclasses.replace(made.whisper, attention='auto'))
  params = {
    path: jax.ShapeDtypeStruct(shape, np.float32)
    for path, shape in param_shapes(cfg, ('whisper',)).items()
  }
  exported = stablehlo.export_function(
    cfg, tiny_model.ENGINE, 'encode_speech', params, stablehlo.input_specs(cfg, tiny_model.ENGINE)
  )
  assert (
    exported.platforms == ('cpu', 'cuda', 'tpu') and 'tpu_custom_call' not in exported.mlir_module()
  )


def test_an_adapter_that_hears_with_the_llm_takes_its_embeddings():
  made = tiny_model.tiny_config()
  adapter = dataclasses.replace(made.adapter, tied_ctc=True, drop_blank=True)
  cfg = dataclasses.replace(made, adapter=adapter)
  params = tiny_model.tiny_params(cfg)
  flat, inputs = trees.flatten(params), stablehlo.input_specs(cfg, tiny_model.ENGINE)
  specs = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in flat.items()}
  made = stablehlo.export_function(cfg, tiny_model.ENGINE, 'embed_speech', specs, inputs)
  own = {
    path: leaf for path, leaf in flat.items() if path.startswith(('adapter/', 'llm/embed_tokens/'))
  }
  shape, lengths = inputs['states'].shape[1:], np.array([20, 11], np.int32)
  states = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  found = made.call(own, {'states': states, 'state_lengths': lengths})
  expected = steps.embed(params, cfg, states, lengths)
  np.testing.assert_array_equal(found['kept'], expected.kept)
  np.testing.assert_allclose(found['embeddings'], expected.embeddings, atol=1e-5)


def test_a_question_passes_through_the_functions(models):
  """Prefill and steps with the artefacts alone say what the engine's loop says."""
  model = models('paper')
  cfg = model.config
  call = lambda name, **pool: model.call(
    name, **{item['name']: pool[item['name']] for item in model.functions[name]['inputs']}
  )
  audio = np.stack(
    [
      np.pad(tiny_model.question(s, i), (0, 48000 - round(16000 * s)))
      for i, s in enumerate((1.5, 3.0))
    ]
  )
  ids = np.full((2, 48), cfg.special_ids.pad, np.int32)
  ids[:, :6] = [1, 7, cfg.special_ids.audio, 40, 41, 8]
  heard = call(
    'embed_speech',
    **call('encode_speech', audio=audio, audio_lengths=np.asarray([24000, 48000], np.int32)),
  )
  state = call('prefill_speech', ids=ids, **heard)
  said = []
  for _ in range(5):
    token = call('sample', **state)['token']
    said.append(token)
    state = call('decode_step', token=token, **state)

  tree = trees.unflatten(model.weights)
  encode = jax.jit(lambda params, *inputs: steps.encode(params, cfg, *inputs))
  states, lengths = encode(tree, audio, np.asarray([24000, 48000]))
  ours = jax.jit(functools.partial(generate.generate_text, cfg=cfg, max_tokens=20))(
    tree, ids=ids, states=states, state_lengths=lengths
  )
  for row, length in zip(range(2), ours.lengths):
    shown = min(5, int(length))
    np.testing.assert_array_equal(np.stack(said, axis=1)[row, :shown], ours.ids[row, :shown])


def test_what_a_part_of_a_model_cannot_do_is_listed(tmp_path):
  cfg = tiny_model.tiny_config()
  shapes = param_shapes(cfg, ('vocoder',))
  left_out = stablehlo.write(
    tmp_path, cfg, tiny_model.ENGINE, {path: (shape, np.float32) for path, shape in shapes.items()}
  )
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    'durations.stablehlo',
    'manifest.json',
    'waveform.stablehlo',
  ]
  assert left_out[
    'generate_units'
  ] == 'denoising_adapter, echo, unit_text_embedding' and left_out.keys() == set(NAMES) - {
    'durations',
    'waveform',
  }
  with pytest.raises(errors.CheckpointError, match='hubert computes no step of answering'):
    stablehlo.write(tmp_path, cfg, tiny_model.ENGINE, {'hubert/x': ((1,), np.float32)})


def test_functions_beyond_the_positions_of_the_model_are_not_written(tmp_path):
  cfg = tiny_model.tiny_config()
  tiny_model.write_model(
    tmp_path / 'model', dataclasses.replace(cfg, llm=dataclasses.replace(cfg.llm, max_positions=30))
  )
  with pytest.raises(
    errors.ConfigError, match='no position for a question .* since llm.max_positions is 30'
  ):
    exporters.export(tmp_path / 'model', 'stablehlo', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_an_exported_folder_is_a_model_folder_too(models):
  model = models('paper')
  assert echox_jax.load(model.folder).config == model.config
