"""Folders as released checkpoints have them, made of the golden weights."""

import json
from pathlib import Path

import numpy as np

from echox_jax import tensor_files
from tests.helpers.paths import GOLDEN

CONFIG = json.loads((GOLDEN / 'config.json').read_text())
# Our names of the special ids -> how they are written in a vocabulary of the tests.
TOKENS = {
  'bos': '<|begin_of_text|>',
  'start_header': '<|start_header_id|>',
  'end_header': '<|end_header_id|>',
  'eot': '<|eot_id|>',
  'nl': 'Ċ',
  'system': 'system',
  'user': 'user',
  'assistant': 'assistant',
  'speaker': 'speaker',
  'period': '.',
  'audio_patch': '<audio_patch>',
}


def weights(prefix: str, file: str = 'golden_weights.npz') -> dict[str, np.ndarray]:
  """Arrays of a golden file under `prefix`, without it."""
  golden = np.load(GOLDEN / file)
  return {
    name.removeprefix(prefix): golden[name] for name in golden.files if name.startswith(prefix)
  }


def write(
  folder: Path, tensors: dict[str, np.ndarray], config: dict, max_shard_bytes: int = 500_000
) -> Path:
  """A folder with config.json and sharded safetensors."""
  folder.mkdir(parents=True, exist_ok=True)
  tensor_files.write_sharded(
    folder, {n: (v.shape, v.dtype) for n, v in tensors.items()}, tensors.items(), max_shard_bytes
  )
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


def echox_config() -> dict:
  """The golden config as one flat config.json, with what no rule of the released code gives kept as
  sections.
  """
  return {
    **CONFIG['echox'],
    **{name: CONFIG[name] for name in ('ids', 'unit_translator', 'whisper_encoder', 'streaming')},
  }


def write_tokenizer(folder: Path, without: str = '', units: int = 200) -> None:
  """A tokenizer.json that holds the special tokens at the golden ids, and unit words behind
  them.
  """
  added = [
    {'id': CONFIG['ids'][name], 'content': token, 'special': True}
    for name, token in TOKENS.items()
    if token != without
  ]
  words = [f'▁{i}' if i < 150 else f'▁{i - 150}▁{i - 149}' for i in range(units)]
  added += [
    {'id': 1000 + i, 'content': f'<|unit_{word}|>', 'special': False}
    for i, word in enumerate(words)
  ]
  (folder / 'tokenizer.json').write_text(
    json.dumps({'model': {'type': 'BPE', 'vocab': {'a': 0}}, 'added_tokens': added})
  )
