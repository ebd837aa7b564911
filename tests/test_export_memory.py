"""What training left becomes a model leaf by leaf, on the host: stored dtypes, little memory."""

import dataclasses
import math

import jax
import ml_dtypes
import numpy as np
import pytest

from echox_jax import config, files, sharding, tensor_files
from echox_jax.training import checkpoint, loop, stages, state
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.trees import flatten
from echox_jax.units import unit_language
from tests import memory, tiny_model

ROWS = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32) / 8


class Rows:
  """An iterator with nothing but a state."""

  def get_state(self):
    return {}


def experiment(stage):
  """A stage of a model of 400 MB: LLM in bfloat16, head of the adapter in float32, little else."""
  cfg = tiny_model.tiny_config()
  llm = dataclasses.replace(
      cfg.llm, vocab_size=30000, lora=dataclasses.replace(cfg.llm.lora, rank=4), hidden_size=768,
      intermediate_size=2048, num_layers=12, num_heads=12, num_kv_heads=4, head_dim=64)
  discriminators = config.build(type(cfg.discriminators), dict(
      periods=(2,), period_channels=(4, 8), num_scales=1, scale_channels=(4, 8),
      scale_kernel_sizes=(15, 5), scale_strides=(2, 1), scale_groups=(1, 1)))
  model = dataclasses.replace(cfg, llm=llm, discriminators=discriminators)
  job = ExperimentConfig(stage=stage, model=model)
  return dataclasses.replace(job, data=dataclasses.replace(job.data, cached_states=False),
                             train=dataclasses.replace(job.train, frozen_dtype='bfloat16'))


def train(workdir, stage):
  """Leaves a finished stage with random parameters; returns its state."""
  job = experiment(stage)
  mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
  shapes = state.abstract_state(stages.get_stage(stage), job, mesh)
  fill = lambda leaf: jax.device_put(np.resize(ROWS.astype(leaf.dtype), leaf.shape), leaf.sharding)
  current = jax.tree.map(fill, shapes)
  checkpoints = checkpoint.Checkpoints(workdir / stage, 1)
  checkpoints.write_frozen(current.frozen)
  checkpoints.save(5, current.params(), current.opt_state, Rows(), {})
  checkpoints.close()
  files.atomic_write_json(workdir / stage / loop.CONFIG, config.to_dict(job))
  checkpoint.mark_finished(workdir / stage, {'steps': 5})
  return current


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A working folder, the parameters of the model in it, and their bytes."""
  folder = tmp_path_factory.mktemp('workdir')
  echo, vocoder = (train(folder, stage) for stage in ('echo', 'vocoder'))
  precomputed = folder / 'precomputed'
  precomputed.mkdir()
  tiny_model.train_tokenizer([tiny_model.WORDS] * 3, precomputed / 'tokenizer.model', 320)
  units = dataclasses.replace(experiment('echo').model.units, vocab_size=30)
  language = unit_language.fit([[1, 2, 3, 4, 1, 2, 3, 4], [5, 1, 2, 3, 6]] * 3, units)
  language.save(precomputed / 'unit_language.json')
  params = flatten(echo.params() | {'vocoder': vocoder.params()['vocoder']})
  flat = {path: np.asarray(leaf) for path, leaf in params.items() if not path.startswith('t2c/')}
  return folder, flat, sum(leaf.nbytes for leaf in flat.values())


def check_memory(size, before, peak, live, share):
  print(f'model {size / 1e6:.0f} MB, before {before / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB: '
        f'{(peak - before) / size:.2f} x the model')
  assert size > 300e6
  assert peak - before < share * size
  assert live == 0  # no parameter is on a device


def check_values(out, wanted):
  found = tensor_files.open_tensors(out)
  assert found.dtypes == {path: leaf.dtype for path, leaf in wanted.items()}
  assert found.dtypes['llm/trunk/layers/mlp/up_proj/kernel'] == ml_dtypes.bfloat16
  assert found.dtypes['adapter/ctc_head/embedding'] == np.float32
  for path, leaf in wanted.items():
    np.testing.assert_array_equal(found[path].view(np.uint8), leaf.view(np.uint8), err_msg=path)


def test_export_of_a_working_folder(workdir, tmp_path):
  folder, wanted, size = workdir
  out = tmp_path / 'model'
  taken = memory.convert('export', '--checkpoint', folder, '--to', 'safetensors', '--out', out)
  check_memory(size, *taken, share=0.8)
  check_values(out, wanted)


def test_weights_of_a_stage(workdir, tmp_path):
  folder, wanted, size = workdir
  groups = ('llm', 'adapter')
  taken = memory.convert(
      'weights', '--checkpoint', folder / 'echo', '--groups', *groups, '--out', tmp_path)
  check_memory(size, *taken, share=0.8)
  check_values(tmp_path, {path: v for path, v in wanted.items() if path.split('/')[0] in groups})


def test_export_in_the_released_layout(workdir, tmp_path):
  """Layer by layer, LoRA folded in on the host."""
  folder, wanted, size = workdir
  out = tmp_path / 'echox'
  taken = memory.convert(
      'export', '--checkpoint', folder, '--to', 'echox', '--dtype', 'bfloat16', '--out', out)
  check_memory(size, *taken, share=1.0)
  found = tensor_files.open_tensors(out)
  path = 'llm/trunk/layers/self_attn/q_proj'
  names = [f'{path}/{leaf}' for leaf in ('kernel', 'lora_a', 'lora_b')]
  kernel, a, b = (wanted[name][7].astype(np.float32) for name in names)
  lora = experiment('echo').model.llm.lora
  merged = (kernel + a @ b * (lora.alpha / lora.rank)).astype(ml_dtypes.bfloat16)
  np.testing.assert_array_equal(found['model.layers.7.self_attn.q_proj.weight'], merged.T)
  plain = wanted['llm/trunk/layers/mlp/up_proj/kernel'][7]
  np.testing.assert_array_equal(found['model.layers.7.mlp.up_proj.weight'], plain.T)
  assert math.prod(found.shapes['lm_head.weight']) == wanted['llm/lm_head/embedding'].size


@pytest.mark.slow
def test_export_to_stablehlo(workdir, tmp_path):
  folder, wanted, size = workdir
  out = tmp_path / 'model'
  taken = memory.convert('export', '--checkpoint', folder, '--to', 'stablehlo', '--out', out)
  check_memory(size, *taken, share=0.8)
  check_values(out, wanted)
