"""Windows of sound equal the whole: for vocoders that end in an inverse STFT, one of which filters
pulses and noise, and for the released kind.
"""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.config import VocoderConfig
from echox_jax.decoding import speaking
from echox_jax.models import vocoder as vocoder_lib
from echox_jax.models.vocoder import UnitVocoder
from tests.helpers import tiny, tiny_model

ISTFT = tiny_model.tiny_config().vocoder
RELEASED = VocoderConfig(  # the public sizes but for the widths
  num_units=20, embedding_dim=8, model_in_dim=8, upsample_initial_channel=32
)
SOURCE = dataclasses.replace(
  ISTFT, context_dilations=(1, 3), source_filter=True, pitch=tiny.SOURCE_FILTER.pitch
)
TOTAL = 83  # frames of the slice


def state(cfg, total, going=False):
  """One row that holds `total` units of a frame each, and one that is empty."""
  made = speaking.empty(cfg, rows=2, max_words=4, max_frames=120)
  units = np.zeros((2, 120), np.int32)
  units[0, :total] = np.random.default_rng(0).integers(0, 20, total)
  return made.replace(
    units=jnp.asarray(units),
    durations=jnp.asarray((np.arange(120) < total)[None] * np.asarray([[1], [0]]), jnp.int32),
    timed=jnp.asarray([total, 0]),
    num_units=jnp.asarray([total, 0]),
    going=jnp.asarray([going, False]),
  )


VOCODERS = {'istft': ISTFT, 'released': RELEASED, 'source': SOURCE}


@pytest.fixture(scope='module', params=VOCODERS.values(), ids=VOCODERS)
def made(request):
  """(config, parameters, the sound of the whole slice)."""
  cfg = dataclasses.replace(tiny_model.tiny_config(), vocoder=request.param)
  params = nn.meta.unbox(jax.jit(lambda key: vocoder_lib.init_vocoder(key, cfg))(jax.random.key(0)))
  units = np.asarray(state(cfg, TOTAL).units)[:1]
  shown = np.arange(120)[None] < TOTAL
  whole = jax.jit(functools.partial(UnitVocoder(cfg.vocoder).apply, method='generate'))(
    {'params': params}, np.where(shown, units, 0), shown
  )
  return cfg, {'vocoder': params}, np.asarray(whole)[0, : TOTAL * 320]


@pytest.mark.parametrize('window', [7, 40])
def test_windows_join_to_the_whole(made, window):
  cfg, params, whole = made
  sound = jax.jit(
    lambda said, begin: speaking.sound(params, cfg, said, jnp.int32(0), begin, window)
  )
  said = state(cfg, TOTAL)
  pieces = [np.asarray(sound(said, begin)) for begin in range(0, TOTAL, window)]
  joined = np.concatenate(pieces)[: TOTAL * 320]
  np.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_a_window_is_final_before_the_slice_has_ended(made):
  """With `sound_context` frames behind it, whatever comes later; with fewer it is not."""
  cfg, params, whole = made
  context, window = vocoder_lib.sound_context(cfg.vocoder), 10
  sound = jax.jit(
    lambda said: speaking.sound(params, cfg, said, jnp.int32(0), jnp.int32(0), window)
  )
  early = np.asarray(sound(state(cfg, window + context, going=True)))
  np.testing.assert_allclose(
    early, whole[: window * 320], rtol=1e-5, atol=1e-5 * np.abs(whole).max()
  )
  too_early = np.asarray(sound(state(cfg, window + 1, going=True)))
  assert np.abs(too_early - whole[: window * 320]).max() > 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize('dilations, behind', [((), 2), ((1, 2, 4), 1)])
def test_durations_are_final_when_their_neighbours_are_known(made, dilations, behind):
  """A slice that grows: what is timed early is what one pass over the whole gives."""
  cfg, params, _ = made
  duration = dataclasses.replace(cfg.vocoder.duration, dilations=dilations)
  cfg = dataclasses.replace(cfg, vocoder=dataclasses.replace(cfg.vocoder, duration=duration))
  if dilations:
    params = nn.unbox({'vocoder': vocoder_lib.init_vocoder(jax.random.key(1), cfg)})
  params = {'vocoder': jax.tree.map(jnp.array, params['vocoder'])}
  proj = params['vocoder']['duration_predictor']['proj']
  proj['kernel'], proj['bias'] = 30 * proj['kernel'], proj['bias'] + 1.5  # from 1 frame to many
  time = jax.jit(functools.partial(speaking.time_units, params, cfg))
  said = state(cfg, 110)
  none, units = jnp.zeros_like(said.durations), said.units
  whole = np.asarray(
    UnitVocoder(cfg.vocoder).apply(
      {'params': params['vocoder']}, units[:1], np.arange(120)[None] < 110, method='durations'
    )
  )[0]
  assert len(set(whole[:110])) > 1
  said = said.replace(durations=none, timed=jnp.zeros(2, jnp.int32))
  for count, going in ((1, True), (5, True), (21, True), (98, True), (110, False)):
    there = np.arange(120)[None] < count
    said = time(
      said.replace(
        units=jnp.where(there, units, 0),
        num_units=jnp.asarray([count, 0]),
        going=jnp.asarray([going, False]),
      )
    )
    final = max(0, count - behind) if going else count
    assert said.timed.tolist() == [final, 0]
    np.testing.assert_array_equal(said.durations[0, :final], np.minimum(whole[:final], 120))


def test_the_spelling_leaves_out_and_counts():
  spelt = speaking.spelling([[1, 2], [3, 9, 4], []], vocab_size=5, limit=9)
  np.testing.assert_array_equal(spelt.units, [[1, 2], [3, 4], [0, 0], [0, 0], [0, 0]])
  assert spelt.lengths.tolist() == [2, 2, 0, 0, 0] and spelt.dropped.tolist() == [0, 1, 0, 0, 0]
  assert spelt.known == 3
