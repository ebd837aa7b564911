"""Llama, Qwen2 and Qwen3 models in GGUF files (the format of llama.cpp) -> the group `llm`, with
their byte-pair tokenizer.

Quantised tensors become float32 one at a time, when they are read. For a Llama, GGUF orders the
rows of the query and key projections like the original, with the two values of a rotary pair side
by side. We, like transformers, place them half a head apart, and so does GGUF for a Qwen.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from echox_jax import errors, tokenizer
from echox_jax.config import EchoXConfig, LlamaConfig, RopeScaling
from echox_jax.conversion import chat_template, gguf_tokenizer, lazy, llm_config, released
from echox_jax.conversion.imported import Imported
from echox_jax.models.llama import rope_frequencies

_TABLE = 'token_embd.weight'
_ROPE_FACTORS = 'rope_freqs.weight'  # llama3 scaling divides each rotary frequency by these
# Transformers' names (without `.weight` or `.bias`) -> GGUF's; layers are `model.layers.{}.` and
# `blk.{}.`.
_NAMES = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
  'input_layernorm': 'attn_norm',
  'post_attention_layernorm': 'ffn_norm',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
_LAYER, _LAYER_HERE = 'model.layers.{}.', 'blk.{}.'


def open_llm_gguf(source: Path, profile: str | None = None) -> Imported:
  """Opens a language model of a known family (`llm_config.FAMILIES`) in one GGUF file, quantised or
  not; tensors become float32.

  Args:
    source: the file.
    profile: the prompt profile; None = as the chat template in the file says, see `chat_template`.

  Raises:
    CheckpointError: the file is missing or damaged, or its architecture, rotary scaling, tokenizer
      or chat template is not supported.
    ConfigError: an unknown profile.
    MissingExtraError: a package of the extra `gguf` is not installed.
  """
  source = Path(source)
  reader, field = _open(source)
  entries = {tensor.name: _entry(source, tensor) for tensor in reader.tensors}
  factors = entries.pop(_ROPE_FACTORS, None)
  rows = entries[_TABLE].shape[0] if _TABLE in entries else 1  # reports a missing table later
  architecture = _architecture(source, field)
  llm = _config(
    source,
    architecture,
    field,
    factors.read() if factors else None,
    tied='output.weight' not in entries,
    vocab_size=rows,
  )
  heads = {}  # of the projections whose rows are in another order than ours
  if architecture == llm_config.LLAMA:
    heads = {'attn_q.weight': llm.num_heads, 'attn_k.weight': llm.num_kv_heads}
  for name, tensor in entries.items():
    part = name.partition('.')[2].partition('.')[2]
    # otherwise its shape is refused later
    if part in heads and len(tensor.shape) == 2 and tensor.shape[0] % (2 * heads[part]) == 0:
      entries[name] = _half_split(tensor, heads[part])
  what = f'the tokenizer in {source}'
  vocabulary = gguf_tokenizer.Vocabulary.read(field, what)
  foreign = gguf_tokenizer.foreign_tokenizer(vocabulary, what)
  cfg, notes = chat_template.configured(EchoXConfig(llm=llm), foreign, profile)
  own_rules = [
    dataclasses.replace(rule, name=_own_name(rule.name)) for rule in released.llm_rules(cfg)
  ]
  return Imported(
    f'the LLM in {source}',
    cfg,
    ('llm',),
    own_rules,
    lazy.LazyTensors(entries),
    {tokenizer.BPE_FILE: gguf_tokenizer.to_json(vocabulary)},
    notes=notes,
  )


def _open(source: Path) -> tuple[Any, Callable[..., Any]]:
  """The opened file, and its metadata: (name, default) -> value."""
  try:
    import gguf
  except ImportError as error:
    raise errors.MissingExtraError('gguf', 'gguf', 'A GGUF file') from error
  if not source.is_file():
    raise errors.CheckpointError(f'{source} is not a file: give a GGUF file.')
  try:
    reader = gguf.GGUFReader(source)
  except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
    raise errors.CheckpointError(
      f'{source} is not a GGUF file, or it is truncated or damaged '
      f'({error}): copy or download it again.'
    ) from error
  if reader.byte_order != 'I':
    raise errors.CheckpointError(
      f'{source} was written for machines with another byte order: convert the model for this one.'
    )
  absent = object()

  def field(name: str, default: Any = absent) -> Any:
    if name in reader.fields:
      return reader.fields[name].contents()
    if default is absent:
      raise errors.CheckpointError(
        f'{source} has no entry {name!r}: convert the model again with a newer llama.cpp.'
      )
    return default

  return reader, field


def _architecture(source: Path, field: Callable[..., Any]) -> str:
  """A key of `llm_config.FAMILIES`: transformers and llama.cpp call them alike."""
  found = field('general.architecture')
  if found not in llm_config.FAMILIES:
    raise errors.CheckpointError(
      f'{source} is of architecture {found!r}, which is not supported: use an LLM of one of '
      f'{", ".join(llm_config.FAMILIES)}.'
    )
  return found


def _config(
  source: Path,
  architecture: str,
  field: Callable[..., Any],
  factors: np.ndarray | None,
  tied: bool,
  vocab_size: int,
) -> LlamaConfig:
  def own(name, *default):
    return field(f'{architecture}.{name}', *default)

  heads, width = own('attention.head_count'), own('embedding_length')
  head_dim = own('attention.key_length', width // heads)
  for name, value, known in (
    ('rope.dimension_count', own('rope.dimension_count', head_dim), head_dim),
    ('attention.value_length', own('attention.value_length', head_dim), head_dim),
    ('rope.scaling.type', own('rope.scaling.type', 'none'), 'none'),
    ('expert_count', own('expert_count', 0), 0),
  ):
    if value != known:
      raise errors.CheckpointError(
        f'{source} has {architecture}.{name} {value}: only {known} is supported.'
      )
  family = llm_config.FAMILIES[architecture]
  llm = LlamaConfig(
    vocab_size=vocab_size,
    hidden_size=width,
    intermediate_size=own('feed_forward_length'),
    num_layers=own('block_count'),
    num_heads=heads,
    num_kv_heads=own('attention.head_count_kv', heads),
    head_dim=head_dim,
    rms_norm_eps=_shortest(own('attention.layer_norm_rms_epsilon')),
    rope_theta=_shortest(own('rope.freq_base', 10000.0)),
    tie_embeddings=tied,
    qkv_bias=family.qkv_bias,
    qk_norm=family.qk_norm,
    max_positions=own('context_length'),
  )
  return (
    llm
    if factors is None
    else dataclasses.replace(llm, rope_scaling=_rope_scaling(source, llm, factors))
  )


def _rope_scaling(source: Path, llm: LlamaConfig, factors: np.ndarray) -> RopeScaling:
  """llama3 scaling. The file holds only the resulting factor of each frequency, so the published
  settings are tried.
  """
  scaling = RopeScaling(factor=float(factors.max()))
  plain, scaled = (rope_frequencies(llm.head_dim, llm.rope_theta, s) for s in (None, scaling))
  if factors.shape != plain.shape or not np.allclose(plain / factors, scaled, rtol=1e-4):
    raise errors.CheckpointError(
      f'{source} scales rotary frequencies in an unknown way: use the safetensors of that model.'
    )
  return scaling


def _shortest(value: float) -> float:
  """A float32 as the decimal in which it was written (1e-5, not 9.999999747e-06)."""
  return float(str(np.float32(value)))


def _entry(source: Path, tensor: Any) -> lazy.Tensor:
  from gguf import quants

  shape = tuple(int(n) for n in reversed(tensor.shape))
  stored = quants.quant_shape_to_byte_shape(shape, tensor.tensor_type)
  read = functools.partial(
    _read, source, tensor.name, int(tensor.data_offset), stored, tensor.tensor_type, shape
  )
  return lazy.Tensor(shape, np.dtype(np.float32), read)


def _read(
  source: Path, name: str, offset: int, stored: tuple[int, ...], kind: Any, shape: tuple[int, ...]
) -> np.ndarray:
  """Reads a tensor as float32. Its bytes are read, not mapped (mapped pages count as memory)."""
  from gguf import quants

  with open(source, 'rb') as f:
    f.seek(offset)
    data = f.read(math.prod(stored))
  if len(data) < math.prod(stored):
    raise errors.CheckpointError(
      f'{source} ends within the tensor {name!r}: copy or download the file again.'
    )
  try:
    return (
      quants.dequantize(np.frombuffer(data, np.uint8).reshape(stored), kind)
      .reshape(shape)
      .astype(np.float32, copy=False)
    )
  except NotImplementedError as error:
    raise errors.CheckpointError(
      f'{source} holds the tensor {name!r} as {kind.name}, which cannot '
      'be read: use another quantisation.'
    ) from error


def _own_name(name: str) -> str:
  """GGUF's name of the tensor that transformers calls `name`."""
  layer = _LAYER_HERE if name.startswith(_LAYER) else ''
  part, _, leaf = name.removeprefix(_LAYER).rpartition('.')
  return f'{layer}{_NAMES[part]}.{leaf}'


def _half_split(tensor: lazy.Tensor, heads: int) -> lazy.Tensor:
  """Reorders projection rows from rotary pairs side by side to pairs half a head apart."""

  def read() -> np.ndarray:
    return (
      tensor.read().reshape(heads, -1, 2, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)
    )

  return dataclasses.replace(tensor, read=read)
