"""How much memory an import takes: a few tensors, whatever the size of the checkpoint."""

import json
import math
from pathlib import Path
import subprocess

import ml_dtypes
import numpy as np
import pytest

from echox_jax import tensor_files
from echox_jax.conversion import released, released_config, released_units, rules
from echox_jax.models.params import param_shapes
from tests.helpers.processes import run_python

_CHILD = """
import sys
from launch import convert

def peak():
  line = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
  return int(line.split()[1]) * 1024

before = peak()
convert.main(sys.argv[1:])
print(before, peak())
"""


def convert(*args) -> tuple[int, int]:
  """Runs launch.convert by itself; (peak memory after its imports, peak memory at the end) in
  bytes.
  """
  printed = run_python('-c', _CHILD, *map(str, args))
  before, peak = map(int, printed.split()[-2:])
  return before, peak


def write_released(folder: Path, max_shard_bytes: int, **sizes) -> int:
  """An EchoX checkpoint in bfloat16: random but for most of its tables, which are zeros that take
  no room on disk.

  Returns:
    Bytes of the largest shard.
  """
  config = {
    'rms_norm_eps': 1e-5,
    'rope_theta': 500000.0,
    'unit_output': 'finetune_kd',
    'unit_vocab_size': 7500,
    **sizes,
  }
  cfg = released_config.config_from_json(released_config.complete(config, {}, {}))
  own = released.s2t_rules(cfg) + released_units.unit_rules(cfg)
  shapes = rules.tensor_shapes(
    own, param_shapes(cfg, ('llm', 'adapter', 'unit_text_embedding', 'echo', 'denoising_adapter'))
  )
  shards, size = [{}], 0
  for name, shape in shapes.items():
    if size + 2 * math.prod(shape) > max_shard_bytes and shards[-1]:
      shards.append({})
      size = 0
    shards[-1][name] = shape
    size += 2 * math.prod(shape)
  folder.mkdir()
  rng, files = np.random.default_rng(0), {}
  for i, shard in enumerate(shards):
    header, end = {}, 0
    for name, shape in shard.items():
      header[name] = {
        'dtype': 'BF16',
        'shape': list(shape),
        'data_offsets': [end, end + 2 * math.prod(shape)],
      }
      end += 2 * math.prod(shape)
    text = json.dumps(header).encode()
    file = folder / f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors'
    with open(file, 'wb') as f:
      f.write(len(text).to_bytes(8, 'little') + text)
      f.truncate(8 + len(text) + end)
      for name, shape in shard.items():
        f.seek(8 + len(text) + header[name]['data_offsets'][0])
        f.write(
          rng.normal(size=min(1 << 20, math.prod(shape)))
          .astype(ml_dtypes.bfloat16)
          .view(np.uint8)
          .data
        )
    files[file] = list(shard)
  index = {'weight_map': {name: file.name for file, names in files.items() for name in names}}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  (folder / 'config.json').write_text(json.dumps(config))
  return max(file.stat().st_size for file in files)


def test_an_import_takes_less_than_its_largest_shard(tmp_path):
  largest = write_released(
    tmp_path / 'released',
    60 << 20,
    vocab_size=40000,
    hidden_size=512,
    intermediate_size=1024,
    num_hidden_layers=1,
    num_attention_heads=8,
    num_key_value_heads=4,
    unit_model='small',
  )
  before, peak = convert(
    'import', '--kind', 'echox', '--source', tmp_path / 'released', '--out', tmp_path / 'model'
  )
  assert (tmp_path / 'model' / 'model.safetensors').stat().st_size > 2.5 * largest
  # Tracing the models for their shapes takes some 60 MB whatever their size.
  assert peak - before < 1.3 * largest + (60 << 20), (before, peak, largest)


@pytest.mark.slow
def test_the_width_of_echox_8b(tmp_path):
  """Import -> export -> import of EchoX-8B with one LLM layer: the same numbers, and memory within
  1.3 x the largest shard.
  """
  largest = write_released(
    tmp_path / 'released',
    1_500_000_000,
    vocab_size=128257,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=1,
    num_attention_heads=32,
    num_key_value_heads=8,
    unit_model='medium',
  )
  before, peak = convert(
    'import', '--kind', 'echox', '--source', tmp_path / 'released', '--out', tmp_path / 'model'
  )
  print(
    f'import: largest shard {largest / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, '
    f'{before / 1e9:.2f} GB of it code'
  )
  assert peak < 1.3 * largest
  # zeros take no room again
  subprocess.run(['fallocate', '-d', tmp_path / 'model' / 'model.safetensors'], check=False)
  _, peak = convert(
    'export',
    '--checkpoint',
    tmp_path / 'model',
    '--to',
    'echox',
    '--dtype',
    'bfloat16',
    '--max-shard-bytes',
    1_500_000_000,
    '--out',
    tmp_path / 'again',
  )
  print(f'export: peak {peak / 1e9:.2f} GB')
  assert peak < 1.3 * largest
  first, again = (tensor_files.open_tensors(tmp_path / name) for name in ('released', 'again'))
  assert first.shapes == again.shapes and first.dtypes == again.dtypes
  for name in first:  # the export is the same file for file, so that its import is too
    np.testing.assert_array_equal(
      first[name].view(np.uint16), again[name].view(np.uint16), err_msg=name
    )
