"""HuBERT: convolution features, the states after every layer, and the units from one layer."""

import functools

import jax
import numpy as np

from echox_jax.conversion import hubert_hf
from echox_jax.models import hubert
from echox_jax.units import kmeans
from echox_jax.verification.golden import Golden
from echox_jax.verification.rows import Row, close, identical

FILES = ('hubert',)


def rows(golden: Golden) -> list[Row]:
  """Rows `conv_features`, `hidden_states_k`, and units, reduced units and durations."""
  arrays = golden['hubert']
  cfg = hubert_hf.encoder_config(golden.config('hubert'))
  params = hubert_hf.encoder_params(arrays.under('w/'), cfg)
  wave = arrays['wave']
  lengths = np.full(len(wave), wave.shape[1])
  convolve = jax.jit(hubert.FeatureExtractor(cfg).apply)
  features = convolve({'params': params['feature_extractor']}, wave, lengths)
  found = [
    close('hubert/conv_features', np.asarray(features).swapaxes(1, 2), arrays['conv_features'])
  ]
  encode = functools.partial(hubert.HubertEncoder(cfg).apply, {'params': params}, wave, lengths)
  states = jax.jit(lambda: [encode(layer) for layer in range(cfg.num_layers + 1)])()
  found += [
    close(f'hubert/hidden_states_{layer}', x, arrays[f'hidden_states_{layer}'])
    for layer, x in enumerate(states)
  ]
  units = np.asarray(
    kmeans.assign(states[int(arrays['kmeans_layer'])][0], arrays['kmeans_centroids'])
  )
  reduced, durations = kmeans.reduce_units(units)
  return [
    *found,
    identical('hubert/units', units, arrays['units']),
    identical('hubert/units_reduced', reduced, arrays['units_reduced']),
    identical('hubert/durations', durations, arrays['durations']),
  ]
