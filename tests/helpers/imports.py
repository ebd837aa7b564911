"""Imports of released folders, as the command makes them."""

import json

import numpy as np

from echox_jax import tensor_files
from echox_jax.models.trees import flatten
from launch import convert
from tests.helpers import released_folder

WEIGHTS = released_folder.weights('echox/')
# the LLM alone
LLAMA_WEIGHTS = {
  name: value
  for name, value in WEIGHTS.items()
  if name == 'lm_head.weight'
  or name.startswith(('model.layers.', 'model.norm.', 'model.embed_tokens.'))
}
LLAMA_CONFIG = released_folder.CONFIG['echox'] | {'model_type': 'llama'}


def run(kind: str, source, out, *more) -> None:
  convert.main(
    ['import', '--kind', kind, '--source', str(source), '--out', str(out), *map(str, more)]
  )


def llama_folder(folder):
  """A Llama of transformers without a tokenizer."""
  return released_folder.write(folder, LLAMA_WEIGHTS, LLAMA_CONFIG)


def same(found, wanted):
  found, wanted = flatten(dict(found)), flatten(dict(wanted))
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def lora(folder, rank=4, settings=None, width=64):
  """A LoRA on two projections, with one module saved whole."""
  rng = np.random.default_rng(0)
  names = [
    'model.layers.0.self_attn.q_proj',
    'model.layers.1.self_attn.k_proj',
    'unit_translator.model.layers.1.self_attn.q_proj',
  ]
  tensors = {}
  for name in names:
    out, inside = WEIGHTS[f'{name}.weight'].shape
    inside = width if inside == 64 else inside
    tensors[f'base_model.model.{name}.lora_A.weight'] = rng.normal(size=(rank, inside)).astype(
      np.float32
    )
    tensors[f'base_model.model.{name}.lora_B.weight'] = rng.normal(size=(out, rank)).astype(
      np.float32
    )
  tensors['base_model.model.model.mm_projector1.weight'] = WEIGHTS['model.mm_projector1.weight'] + 1
  folder.mkdir()
  tensor_files.write_sharded(
    folder,
    {n: (v.shape, v.dtype) for n, v in tensors.items()},
    tensors.items(),
    prefix='adapter_model',
  )
  (folder / 'adapter_config.json').write_text(
    json.dumps({'peft_type': 'LORA', 'r': rank, 'lora_alpha': 16} | (settings or {}))
  )
  return names, tensors
