"""The unit vocoder: released files, and its promises about lengths, padding and budgets (parity:
test_verify).
"""

import dataclasses
import json

from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import DurationPredictorConfig, EchoXConfig, VocoderConfig
from echox_jax.conversion import rules, torch_file, unit_vocoder, weight_norm
from echox_jax.models.convolution import overlap_add
from echox_jax.models.params import param_shapes
from echox_jax.models.vocoder import UnitVocoder, init_vocoder, inverse_stft, repeat_units
from tests.helpers import tiny
from tests.helpers.paths import GOLDEN


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'golden_vocoder.npz'))


def released(golden, prefix):
  values = json.loads((GOLDEN / 'config.json').read_text())['vocoder'][prefix]
  cfg = unit_vocoder.config_from_json(values)
  start = f'{prefix}w/'
  state = {key[len(start) :]: value for key, value in golden.items() if key.startswith(start)}
  return cfg, state


def apply(cfg, params, *args, method, frames=None):
  extra = () if frames is None else (frames,)
  with jax.default_matmul_precision('highest'):
    return jax.jit(
      lambda params, *args: UnitVocoder(cfg).apply({'params': params}, *args, *extra, method=method)
    )(params, *args)


def test_conversion_lists_every_problem(golden):
  cfg, state = released(golden, '')
  state = dict(state)
  del state['ups.1.weight_g']
  state['dict.weight'] = state['dict.weight'][:50]
  state['extra.bias'] = np.zeros(3)
  with pytest.raises(errors.CheckpointError) as caught:
    unit_vocoder.convert(state, cfg)
  for part in ('missing: ups.1.weight_g', 'wrong shape: dict.weight', 'not used: extra.bias'):
    assert part in str(caught.value)


@pytest.mark.parametrize('prefix', ['', 'spk/'])
def test_released_files_there_and_back(golden, prefix, tmp_path):
  cfg, state = released(golden, prefix)
  params = unit_vocoder.convert(state, cfg)
  unit_vocoder.save_released(tmp_path, params, cfg)
  opened = unit_vocoder.open_unit_vocoder(tmp_path / 'g_00500000')
  assert opened.config.vocoder == cfg and opened.groups == ('vocoder',)
  again = rules.convert(
    opened.tensors, opened.rules, opened.what, param_shapes(opened.config, opened.groups)
  )['vocoder']
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), again, params)
  exported = unit_vocoder.export_tensors(params, cfg)
  assert {name: value.shape for name, value in exported.items()} == {
    name: value.shape for name, value in state.items()
  }
  assert all(value.dtype == np.float32 for value in exported.values())


def test_weights_without_weight_norm_and_of_newer_torch(golden):
  cfg, state = released(golden, 'spk/')
  params = unit_vocoder.convert(state, cfg)
  newer = {
    name.replace('.weight_g', '.parametrizations.weight.original0').replace(
      '.weight_v', '.parametrizations.weight.original1'
    ): value
    for name, value in state.items()
  }
  plain = dict(unit_vocoder.generator_tensors(state, cfg))
  assert 'conv_pre.weight' in plain and not any('weight_' in name for name in plain)
  for other in (newer, plain):
    jax.tree.map(np.testing.assert_array_equal, unit_vocoder.convert(other, cfg), params)


@given(
  arrays.arrays(np.float32, (3, 2, 4), elements=st.floats(-1e6, 1e6, width=32)),
  st.sampled_from([0, 1, 2]),
)
def test_weight_norm_there_and_back(w, axis):
  g, v = weight_norm.unfold(w, axis)
  assert g.shape == weight_norm.shape_of_g(w.shape, axis) and g.dtype == v.dtype == np.float32
  np.testing.assert_array_equal(weight_norm.fold(g, v, axis), w, strict=True)


def test_weight_norm_is_that_of_torch():
  rng = np.random.default_rng(0)
  g, v = (
    rng.normal(size=(5, 1, 1)).astype(np.float32),
    rng.normal(size=(5, 4, 3)).astype(np.float32),
  )
  expected = g * v / np.linalg.norm(v.reshape(5, -1), axis=1)[:, None, None]
  np.testing.assert_allclose(weight_norm.fold(g, v), expected, rtol=1e-6)


@pytest.mark.parametrize(
  'cfg', [tiny.VOCODER, VocoderConfig(duration=DurationPredictorConfig(dilations=(1, 2)))]
)
def test_vocoders_that_have_no_released_layout(cfg):
  for call in (
    unit_vocoder.config_to_json,
    lambda cfg: unit_vocoder.convert({}, cfg),
    lambda cfg: unit_vocoder.export_tensors({}, cfg),
  ):
    with pytest.raises(
      errors.ConfigError, match='istft_hop, context_dilations or duration.dilations'
    ):
      call(cfg)


def test_vocoder_files_that_are_not_there(golden, tmp_path):
  cfg, state = released(golden, '')
  source = torch_file.write_torch(tmp_path / 'g_1', {'generator': state})
  with pytest.raises(errors.CheckpointError, match='config.json is missing'):
    unit_vocoder.open_unit_vocoder(source)
  values = unit_vocoder.config_to_json(cfg)
  other = tmp_path / 'other.json'
  for text, error, said in [
    ('{', errors.ConfigError, 'other.json is not JSON'),
    ('[]', errors.ConfigError, 'not a JSON object'),
    (
      json.dumps({k: v for k, v in values.items() if k != 'upsample_rates'}),
      errors.ConfigError,
      "no 'upsample_rates'",
    ),
    (json.dumps(values | {'resblock': '2'}), errors.ConfigError, 'resblock 2'),
    (
      json.dumps(values | {'num_embeddings': 7}),
      errors.CheckpointError,
      r'dict.weight \[100, 16\] for \[7, 16\]',
    ),
  ]:
    other.write_text(text)
    with pytest.raises(error, match=said):
      unit_vocoder.open_unit_vocoder(source, other)
  other.write_text(json.dumps(values))
  assert unit_vocoder.open_unit_vocoder(tmp_path, other).config.vocoder == cfg
  torch_file.write_torch(tmp_path / 'g_2', {'discriminator': state})
  with pytest.raises(errors.CheckpointError, match='g_1, g_2 found'):
    unit_vocoder.open_unit_vocoder(tmp_path, other)
  with pytest.raises(errors.CheckpointError, match="no entry 'generator'"):
    unit_vocoder.open_unit_vocoder(tmp_path / 'g_2', other)


@pytest.mark.parametrize(
  'cfg',
  [
    tiny.VOCODER,
    dataclasses.replace(
      tiny.VOCODER,
      istft_n_fft=16,
      istft_hop=4,
      upsample_rates=(5, 4, 4),
      upsample_kernel_sizes=(11, 8, 8),
    ),
    dataclasses.replace(tiny.VOCODER, num_speakers=3, model_in_dim=16),
    tiny.SOURCE_FILTER,
    tiny.COUNTED,
  ],
)
def test_padding_does_not_change_a_clip(cfg):
  params = nn.meta.unbox(init_vocoder(jax.random.key(0), EchoXConfig(vocoder=cfg)))
  reduced = jax.random.randint(jax.random.key(1), (2, 6), 0, 20)
  mask = jnp.arange(6) < jnp.array([[6], [4]])
  long = apply(cfg, params, reduced, mask, method='synthesise', frames=40)
  assert long.waveform.shape == (2, 40 * 320)
  frames = int(long.num_frames[1])
  alone = apply(cfg, params, reduced[1:, :4], mask[1:, :4], method='synthesise', frames=frames)
  np.testing.assert_array_equal(alone.durations[0], long.durations[1, :4])
  np.testing.assert_allclose(alone.waveform[0], long.waveform[1, : frames * 320], atol=1e-5)
  assert not np.any(long.waveform[1, frames * 320 :])


def test_frames_over_the_budget_are_counted():
  units, mask, overflow = repeat_units(
    jnp.array([[7, 8, 9], [4, 5, 0]]), jnp.array([[2, 3, 4], [1, 2, 0]]), 6
  )
  np.testing.assert_array_equal(units, [[7, 7, 8, 8, 8, 9], [4, 5, 5, 0, 0, 0]])
  np.testing.assert_array_equal(mask.sum(1), [6, 3])
  np.testing.assert_array_equal(overflow, [3, 0])


def test_inverse_stft_restores_a_signal():
  n_fft, hop = 64, 16
  signal = np.random.default_rng(0).normal(size=640).astype(np.float32)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
  padded = np.pad(signal, n_fft // 2)
  frames = np.stack([padded[t * hop : t * hop + n_fft] * window for t in range(640 // hop + 1)])
  spectrum = np.fft.rfft(frames)[None]
  with jax.default_matmul_precision('highest'):
    restored = inverse_stft(
      (jnp.asarray(spectrum.real, jnp.float32), jnp.asarray(spectrum.imag, jnp.float32)),
      None,
      n_fft,
      hop,
    )
  np.testing.assert_allclose(restored[0], signal, atol=1e-4)


def test_overlap_add_of_an_uneven_frame():
  frames = jnp.ones((1, 3, 5, 1))
  np.testing.assert_array_equal(overlap_add(frames, 2)[0, :, 0], [1, 1, 2, 2, 3, 2, 2, 1, 1, 0])


def test_sizes_that_do_not_belong_together():
  with pytest.raises(errors.ConfigError, match='code_hop_size'):
    nn.meta.unbox(
      init_vocoder(
        jax.random.key(0), EchoXConfig(vocoder=dataclasses.replace(tiny.VOCODER, istft_hop=8))
      )
    )
