"""Tiny LLMs of each family under transformers' names, with random weights."""

import numpy as np

from tests.helpers import chat_folders, released_folder

SIZES = {
  'vocab_size': 320,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 256,
  'hidden_act': 'silu',
}
# As their config.json says it: of transformers 4 (`rope_theta`) and 5 (`rope_parameters`).
CONFIGS = {
  'qwen2': {
    'model_type': 'qwen2',
    'rms_norm_eps': 1e-6,
    'rope_theta': 1000000.0,
    'tie_word_embeddings': True,
    'use_sliding_window': False,
    'sliding_window': 32,
    'max_window_layers': 1,
  },
  'qwen3': {
    'model_type': 'qwen3',
    'rms_norm_eps': 1e-6,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 5000000.0},
    'head_dim': 12,  # 4 x 12 is not 32
    'attention_bias': False,
    'tie_word_embeddings': False,
    'layer_types': ['full_attention'] * 2,
  },
}
TEMPLATES = {'qwen2': chat_folders.QWEN_2_5, 'qwen3': chat_folders.QWEN_3}


def config(family: str, **changes) -> dict:
  """config.json of a family."""
  return SIZES | CONFIGS[family] | changes


def tensors(values: dict, seed: int = 0) -> dict[str, np.ndarray]:
  """Random tensors of the model that `values`, a config.json, describes."""
  rng, width, mlp = np.random.default_rng(seed), values['hidden_size'], values['intermediate_size']
  heads, kv_heads = values['num_attention_heads'], values['num_key_value_heads']
  head = values.get('head_dim', width // heads)
  rows = {'q': heads * head, 'k': kv_heads * head, 'v': kv_heads * head}
  vocabulary = (values['vocab_size'], width)
  table = {'model.embed_tokens.weight': vocabulary, 'model.norm.weight': (width,)}
  if not values['tie_word_embeddings']:
    table['lm_head.weight'] = vocabulary
  for layer in range(values['num_hidden_layers']):
    attention, before = f'model.layers.{layer}.self_attn', f'model.layers.{layer}'
    for letter, size in rows.items():
      table[f'{attention}.{letter}_proj.weight'] = (size, width)
      if values['model_type'] == 'qwen2':
        table[f'{attention}.{letter}_proj.bias'] = (size,)
      if values['model_type'] == 'qwen3' and letter != 'v':
        table[f'{attention}.{letter}_norm.weight'] = (head,)
    table[f'{attention}.o_proj.weight'] = (width, rows['q'])
    for part in ('gate', 'up'):
      table[f'{before}.mlp.{part}_proj.weight'] = (mlp, width)
    table[f'{before}.mlp.down_proj.weight'] = (width, mlp)
    for norm in ('input_layernorm', 'post_attention_layernorm'):
      table[f'{before}.{norm}.weight'] = (width,)

  def draw(name, shape):
    middle = 1.0 if 'norm' in name else 0.0
    return rng.normal(middle, 0.3, shape).astype(np.float32)

  return {name: draw(name, shape) for name, shape in table.items()}


def write(folder, family: str, without: str = '', template: bool = True, **changes):
  """A folder of transformers: config.json, safetensors, and a tokenizer with its chat template.

  `without`: a tensor to leave out; `changes`: of config.json, which the tensors do not follow.
  """
  own = tensors(config(family))
  own.pop(without, None)
  released_folder.write(folder, own, config(family, **changes), 20_000)
  if template:
    chat_folders.write(folder, TEMPLATES[family], cut='qwen2')
  return folder
