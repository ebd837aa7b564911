"""LLMs in GGUF files: parameters, sizes and tokenizer come out as they went in; what is not
known is refused.
"""

import dataclasses
import json
from pathlib import Path
import sys

import jax
import numpy as np
import pytest

from echox_jax import errors, prompts, tokenizer
from echox_jax.config import EchoXConfig, LlamaConfig, RopeScaling
from echox_jax.conversion import chat_template, gguf_tokenizer, llm_gguf, released, rules
from echox_jax.models.llama import rope_frequencies
from echox_jax.models.params import param_shapes
from tests.helpers import chat_folders

gguf = pytest.importorskip('gguf', reason='the package gguf is not installed')

CFG = LlamaConfig(
  vocab_size=270,
  hidden_size=32,
  intermediate_size=64,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  rope_theta=10000.0,
  tie_embeddings=True,
  max_positions=64,
)
# Architecture -> what it has that the others lack.
FAMILIES = {
  'llama': {},
  'qwen2': dict(qkv_bias=True, rope_theta=1e6),
  'qwen3': dict(qk_norm=True, head_dim=12, rms_norm_eps=1e-6),
}
TEXT = "We'll meet in 2024, won't we?\n\n  Été 日本 🙂"


def pair_neighbours(weight, heads):
  """The order of rows that the converter of llama.cpp writes."""
  return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def own_name(name):
  """What llama.cpp calls a tensor of transformers."""
  parts = {
    'embed_tokens': 'token_embd',
    'norm': 'output_norm',
    'lm_head': 'output',
    'q_norm': 'attn_q_norm',
    'k_norm': 'attn_k_norm',
    'q_proj': 'attn_q',
    'k_proj': 'attn_k',
    'v_proj': 'attn_v',
    'o_proj': 'attn_output',
    'gate_proj': 'ffn_gate',
    'up_proj': 'ffn_up',
    'down_proj': 'ffn_down',
    'input_layernorm': 'attn_norm',
    'post_attention_layernorm': 'ffn_norm',
  }
  *where, part, leaf = name.split('.')
  return '.'.join(([f'blk.{where[2]}'] if 'layers' in where else []) + [parts[part], leaf])


def vocabulary(size=CFG.vocab_size):
  """Byte-level BPE: two control tokens, the 256 bytes, merges; the rest fills up to `size`."""
  tokenizers = pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  merges = ['w e', 'Ġ i', 'Ġi n', '2 0', "' l", "'l l"]
  tokens = [
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
    *letters,
    *(merge.replace(' ', '') for merge in merges),
  ]
  tokens += [f'<|unused_{i}|>' for i in range(size - len(tokens))]
  return tokens, [3 if token.startswith('<|') else 1 for token in tokens], merges


def tensors_of(cfg, seed=0):
  """Random tensors under transformers' names."""
  wrapped = EchoXConfig(llm=cfg)
  shapes = rules.tensor_shapes(released.llm_rules(wrapped), param_shapes(wrapped, ('llm',)))
  rng = np.random.default_rng(seed)
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(
  path: Path,
  tensors,
  cfg=CFG,
  *,
  quantise=(),
  architecture='llama',
  pre='smollm',
  model='gpt2',
  extra=None,
  leave_out=(),
):
  """A GGUF file as llama.cpp's converter makes one."""
  writer = gguf.GGUFWriter(path, architecture)
  entries = {
    'context_length': cfg.max_positions,
    'embedding_length': cfg.hidden_size,
    'block_count': cfg.num_layers,
    'feed_forward_length': cfg.intermediate_size,
    'attention.head_count': cfg.num_heads,
    'attention.head_count_kv': cfg.num_kv_heads,
    'rope.dimension_count': cfg.head_dim,
    'attention.key_length': cfg.head_dim,
    'attention.value_length': cfg.head_dim,
  }
  for name, value in entries.items():
    if name not in leave_out:
      writer.add_uint32(f'{architecture}.{name}', value)
  writer.add_float32(f'{architecture}.attention.layer_norm_rms_epsilon', cfg.rms_norm_eps)
  writer.add_float32(f'{architecture}.rope.freq_base', cfg.rope_theta)
  tokens, kinds, merges = vocabulary(cfg.vocab_size)
  writer.add_tokenizer_model(model)
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(tokens)
  writer.add_token_types(kinds)
  writer.add_token_merges(merges)
  for name, value in tensors.items():
    heads = {'q_proj': cfg.num_heads, 'k_proj': cfg.num_kv_heads}.get(name.split('.')[-2])
    value = pair_neighbours(value, heads) if heads and architecture == 'llama' else value
    kind = next((k for k in quantise if value.ndim == 2), None)
    writer.add_tensor(
      own_name(name), value if kind is None else gguf.quants.quantize(value, kind), raw_dtype=kind
    )
  for name, value in (extra or {}).items():
    writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def parameters(imported):
  return rules.convert(
    imported.tensors, imported.rules, imported.what, param_shapes(imported.config, imported.groups)
  )


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('architecture', FAMILIES)
def test_sizes_and_parameters_come_back(tmp_path, architecture, tied):
  cfg = dataclasses.replace(CFG, **FAMILIES[architecture] | {'tie_embeddings': tied})
  tensors = tensors_of(cfg)
  imported = llm_gguf.open_llm_gguf(
    write(tmp_path / 'a.gguf', tensors, cfg, architecture=architecture)
  )
  assert imported.config.llm == cfg and imported.groups == ('llm',)
  expected = rules.convert(
    tensors, released.llm_rules(imported.config), 'it', param_shapes(imported.config, ('llm',))
  )
  jax.tree.map(np.testing.assert_array_equal, parameters(imported), expected)


@pytest.mark.parametrize(
  'kind, tolerance', [('F16', 2e-3), ('BF16', 2e-2), ('Q8_0', 2e-2), ('Q4_1', 0.3)]
)
def test_quantised_tensors_are_near(tmp_path, kind, tolerance):
  tensors = tensors_of(CFG)
  imported = llm_gguf.open_llm_gguf(
    write(tmp_path / 'a.gguf', tensors, quantise=[gguf.GGMLQuantizationType[kind]])
  )
  for name, value in tensors.items():
    read = imported.tensors[own_name(name)]
    assert read.dtype == np.float32 and imported.tensors.shapes[own_name(name)] == value.shape
    np.testing.assert_allclose(read, value, atol=tolerance)


def test_llama_3_scaling_is_found_in_its_factors(tmp_path):
  cfg = LlamaConfig(
    **{
      **CFG.__dict__,
      'head_dim': 64,
      'rope_theta': 500000.0,
      'rope_scaling': RopeScaling(factor=32.0),
    }
  )
  factors = rope_frequencies(64, 500000.0, None) / rope_frequencies(64, 500000.0, cfg.rope_scaling)
  imported = llm_gguf.open_llm_gguf(
    write(tmp_path / 'a.gguf', tensors_of(cfg), cfg, extra={'rope_freqs.weight': factors})
  )
  assert imported.config.llm == cfg
  with pytest.raises(errors.CheckpointError, match='frequencies'):
    llm_gguf.open_llm_gguf(
      write(
        tmp_path / 'b.gguf', tensors_of(cfg), cfg, extra={'rope_freqs.weight': np.sqrt(factors)}
      )
    )


@pytest.mark.parametrize(
  'pre, pieces',
  [
    ('smollm', ['we', 'Ġin', 'Ġ', '2', '0', '2', '4', "'ll"]),
    ('gpt-2', ['we', 'Ġin', 'Ġ', '20', '2', '4', "'ll"]),
    ('llama-bpe', ['we', 'Ġin', 'Ġ', '20', '2', '4', "'ll"]),
    ('qwen2', ['we', 'Ġin', 'Ġ', '2', '0', '2', '4', "'ll"]),
  ],
)
def test_tokenizer_cuts_text_as_the_file_says(tmp_path, pre, pieces):
  imported = llm_gguf.open_llm_gguf(write(tmp_path / 'a.gguf', tensors_of(CFG), pre=pre))
  (tmp_path / tokenizer.BPE_FILE).write_bytes(imported.files[tokenizer.BPE_FILE])
  model = tokenizer.load_tokenizer(tmp_path)
  assert model.vocab_size == CFG.vocab_size
  assert [model.piece(i) for i in model.encode("we in 2024'll")] == pieces
  assert model.decode(model.encode(TEXT)) == TEXT
  assert (model.encode('e\u0301') == model.encode('é')) == (pre == 'qwen2')  # NFC
  assert not {0, 1, 2} & set(model.encode('<|im_start|>user<|im_end|>'))


def configured(tokens, merges, bos, eos, pre='smollm', template=None, profile=None):
  kinds = [3 if token.startswith('<|') else 1 for token in tokens]
  vocabulary = gguf_tokenizer.Vocabulary(tokens, kinds, merges, pre, bos, eos, template)
  return chat_template.configured(
    EchoXConfig(), gguf_tokenizer.foreign_tokenizer(vocabulary, 'it'), profile
  )


def test_ids_of_a_vocabulary_without_a_template_are_those_that_it_has():
  tokens, _, merges = vocabulary()
  cfg, (note,) = configured(tokens, merges, 1, 2)
  ids = cfg.special_ids
  assert cfg.profile == 'paper' and 'no chat template' in note
  assert (ids.bos, ids.start_header, ids.eot, ids.pad) == (0, 1, 2, 2)
  assert tokens[ids.nl] == tokens[ids.end_header] == 'Ċ' and tokens[ids.period] == '.'
  assert ids.user == ids.bos  # no such word in this vocabulary
  assert ids.audio == len(tokens)  # nor a token to spare


def test_ids_of_a_chat_model_are_those_of_its_template():
  tokens, _, merges = vocabulary()
  cfg, _ = configured(tokens, merges, 1, 2, template=chat_folders.SMOLLM2)
  ids = cfg.special_ids
  assert cfg.profile == 'chatml' and 'SmolLM' in cfg.system_message
  assert (ids.bos, ids.start_header, ids.eot, ids.pad, tokens[ids.nl]) == (0, 1, 2, 2, 'Ċ')
  assert [''.join(tokens[i] for i in getattr(ids, role)) for role in prompts.ROLES] == list(
    prompts.ROLES
  )
  with pytest.raises(errors.CheckpointError, match='matches no profile'):
    configured(tokens, merges, 1, 2, template=chat_folders.UNKNOWN['separator'])
  assert (
    configured(tokens, merges, 1, 2, template=chat_folders.UNKNOWN['separator'], profile='chatml')[
      0
    ].special_ids
    == ids
  )


@pytest.mark.parametrize('template, profile', [(None, 'paper'), (chat_folders.RELEASED, 'paper')])
def test_special_ids_of_llama_3(template, profile):
  named = [
    '<|begin_of_text|>',
    '<|start_header_id|>',
    '<|end_header_id|>',
    '<|eot_id|>',
    '<|reserved_special_token_0|>',
    'Ċ',
    'system',
    'user',
    'assistant',
    'speaker',
    '.',
  ]
  letters = sorted({letter for name in named[6:] for letter in name} - {'.'})
  cfg, _ = configured([*named, *letters], [], 0, 3, pre='llama-bpe', template=template)
  ids = cfg.special_ids
  assert cfg.profile == profile
  assert [
    ids.bos,
    ids.start_header,
    ids.end_header,
    ids.eot,
    ids.audio,
    ids.nl,
    ids.system,
    ids.user,
    ids.assistant,
    ids.speaker,
    ids.period,
  ] == list(range(11))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'architecture': 'gemma3'}, "'gemma3', which is not supported: use an LLM of one of llama"),
    ({'architecture': 'qwen2'}, 'missing: blk.0.attn_k.bias'),
    ({'model': 'llama'}, 'byte-pair'),
    ({'pre': 'tekken'}, 'tekken'),
    ({'leave_out': ['block_count']}, 'llama.block_count'),
    ({'extra': {'blk.0.attn_q.bias': np.zeros(32, np.float32)}}, 'attn_q.bias'),
  ],
)
def test_other_models_are_refused_by_name(tmp_path, changes, message):
  with pytest.raises(errors.CheckpointError, match=message):
    parameters(llm_gguf.open_llm_gguf(write(tmp_path / 'a.gguf', tensors_of(CFG), **changes)))


def test_missing_tensors_are_listed(tmp_path):
  tensors = tensors_of(CFG)
  del tensors['model.layers.1.mlp.up_proj.weight'], tensors['model.embed_tokens.weight']
  with pytest.raises(
    errors.CheckpointError, match='missing: blk.1.ffn_up.weight, token_embd.weight'
  ):
    parameters(llm_gguf.open_llm_gguf(write(tmp_path / 'a.gguf', tensors)))


@pytest.mark.parametrize('kept', [0, 3, 100, 3000, -1000])
def test_truncated_files_are_refused(tmp_path, kept):
  path = write(tmp_path / 'a.gguf', tensors_of(CFG))
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(errors.CheckpointError, match='a.gguf'):
    llm_gguf.open_llm_gguf(path)


def test_other_files_are_refused(tmp_path):
  (tmp_path / 'a.gguf').write_text(json.dumps({'not': 'gguf'}) * 10)
  for path in (tmp_path / 'a.gguf', tmp_path / 'absent.gguf', tmp_path):
    with pytest.raises(errors.CheckpointError, match='GGUF'):
      llm_gguf.open_llm_gguf(path)


def test_without_its_package_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(errors.MissingExtraError, match=r'echox-jax\[gguf\]'):
    llm_gguf.open_llm_gguf(tmp_path / 'a.gguf')
