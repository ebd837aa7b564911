"""A tiny Qwen3 under transformers' names that answers whatever it is asked in one short sentence.

Its first layer looks at some of the tokens that it has read; nothing else in it computes. The token
before decides which place of the sentence comes next, what is seen decides which of the words that
fit there.
"""

import json
from pathlib import Path

import numpy as np

from tests.helpers import chat_folders, families, released_folder

# The tokens of the empty thought, then those of each place: `Ha bas wy.`
_PLACES = (
  ('Ċ', 'ĊĊ', 'ĊĊĊ'),
  tuple('ABCDEHIMW'),
  tuple('aio'),
  ('Ġ',),
  tuple('bdfghklm'),
  ('as', 'is', 'er', 'us', 'nt', 'u', 'e'),
  ('Ġw',),
  tuple('ynr'),
  ('.',),
  ('<|im_end|>',),
)
_SURE = 400.0  # how much the place weighs, against the words that fit


def write(folder: Path) -> Path:
  """A folder of transformers: config.json, safetensors, and a tokenizer with its chat template."""
  chat_folders.write(folder, chat_folders.QWEN_3, cut='qwen2')
  found = json.loads((folder / 'tokenizer.json').read_text())
  ids = found['model']['vocab'] | {own['content']: own['id'] for own in found['added_tokens']}
  values = families.config('qwen3', max_position_embeddings=2048)
  return released_folder.write(folder, _tensors(values, ids), values, 20_000)


def _tensors(values: dict, ids: dict[str, int]) -> dict[str, np.ndarray]:
  rng, width, places = np.random.default_rng(0), values['hidden_size'], len(_PLACES)
  own = {
    name: np.ones_like(value) if 'norm' in name else np.zeros_like(value)
    for name, value in families.tensors(values).items()
  }
  # the first numbers of a vector say the place, the others what has been read
  words = own['model.embed_tokens.weight']
  words[:, places:] = rng.normal(size=(len(words), width - places))
  words[[i for token, i in ids.items() if token.startswith('<')]] = 0.0
  head = own['lm_head.weight']
  for place, tokens in enumerate(_PLACES):
    for token in tokens:
      words[ids[token]] = _SURE * np.eye(width)[place]
      if place:
        head[ids[token], place - 1] = 1.0
        head[ids[token], places:] = rng.normal(size=width - places)
  head[:] = head / _SURE
  for letter, numbers in (('q', slice(places)), ('k', slice(places, width))):
    seen = own[f'model.layers.0.self_attn.{letter}_proj.weight']
    seen[:, numbers] = rng.normal(size=seen[:, numbers].shape)
    own[f'model.layers.0.self_attn.{letter}_norm.weight'] *= 2
  value, out = (own[f'model.layers.0.self_attn.{part}_proj.weight'] for part in 'vo')
  kept = len(value) // 2  # the numbers of one head of values, which two heads of queries read
  value[:kept, places : places + kept] = np.eye(kept)
  out[places : places + kept, :kept] = 10 * np.eye(kept)
  return own
