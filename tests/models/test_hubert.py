"""HuBERT encoder: clips in a batch, names of weights (parity with the released code:
test_verify).
"""

import json

from flax import linen as nn
import jax
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.conversion import hubert_hf
from echox_jax.models import hubert
from tests.helpers.paths import GOLDEN


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def golden():
  return np.load(GOLDEN / 'golden_hubert.npz')


@pytest.fixture(scope='module')
def tensors(golden):
  return {name.removeprefix('w/'): golden[name] for name in golden.files if name.startswith('w/')}


@pytest.fixture(scope='module')
def cfg():
  return hubert_hf.encoder_config(json.loads((GOLDEN / 'config.json').read_text())['hubert'])


@pytest.fixture(scope='module')
def encode(cfg, tensors):
  params = {'params': hubert_hf.encoder_params(tensors, cfg)}
  apply = jax.jit(hubert.HubertEncoder(cfg).apply, static_argnums=3)
  return lambda audio, lengths=None, layer=None: apply(params, audio, lengths, layer)


def test_batched_clips_give_the_states_they_give_alone(encode, cfg, golden):
  wave = golden['wave'][0]
  lengths = np.array([16000, 9123])
  batch = np.stack([wave, wave[::-1]])
  together = encode(batch, lengths)
  for i, n in enumerate(lengths):
    states = hubert.num_states(cfg, n)
    np.testing.assert_allclose(together[i, :states], encode(batch[i : i + 1, :n])[0], atol=1e-4)


def test_fairseq_names_give_the_same_parameters(cfg, tensors):
  back = {
    r'feature_projection.layer_norm': 'layer_norm',
    'feature_projection.projection': 'post_extract_proj',
    'encoder.pos_conv_embed.conv.parametrizations.weight.original0': 'encoder.pos_conv.0.weight_g',
    'encoder.pos_conv_embed.conv.parametrizations.weight.original1': 'encoder.pos_conv.0.weight_v',
    'encoder.pos_conv_embed.conv.bias': 'encoder.pos_conv.0.bias',
    'conv_layers.0.layer_norm': 'conv_layers.0.2',
    '.conv.weight': '.0.weight',
    '.attention.': '.self_attn.',
    'feed_forward.intermediate_dense': 'fc1',
    'feed_forward.output_dense': 'fc2',
    'masked_spec_embed': 'mask_emb',
  } | {f'layers.{i}.layer_norm': f'layers.{i}.self_attn_layer_norm' for i in range(3)}
  renamed = {}
  for name, value in tensors.items():
    for ours, theirs in back.items():
      name = name.replace(ours, theirs) if not name.startswith('encoder.layer_norm') else name
    renamed[name] = value
  assert 'encoder.layers.2.self_attn_layer_norm.bias' in renamed and 'layer_norm.bias' in renamed
  jax.tree.map(
    np.testing.assert_array_equal,
    hubert_hf.encoder_params(renamed, cfg),
    hubert_hf.encoder_params(tensors, cfg),
  )


def test_converted_tree_is_the_models_own(cfg, tensors):
  init = jax.eval_shape(
    hubert.HubertEncoder(cfg).init, jax.random.key(0), np.zeros((1, 16000), np.float32)
  )
  boxes = jax.tree.leaves(init, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  assert all(
    isinstance(box, nn.LogicallyPartitioned) and len(box.names) == box.value.ndim for box in boxes
  )
  shapes = jax.tree.map(lambda x: x.shape, nn.meta.unbox(init)['params'])
  assert jax.tree.map(lambda x: x.shape, hubert_hf.encoder_params(tensors, cfg)) == shapes


def test_missing_tensors_are_listed(cfg, tensors):
  changed = {k: v for k, v in tensors.items() if k != 'encoder.layers.1.attention.k_proj.bias'}
  with pytest.raises(
    errors.CheckpointError, match='missing: encoder.layers.1.attention.k_proj.bias'
  ):
    hubert_hf.encoder_params(changed, cfg)


def test_other_variants_are_refused(cfg):
  with pytest.raises(errors.CheckpointError, match='base'):
    hubert_hf.encoder_config({'do_stable_layer_norm': True})
