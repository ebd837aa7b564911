"""The unit vocoder, with and without duration prediction, for one speaker and for several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import EchoXConfig, VocoderConfig
from echox_jax.conversion import unit_vocoder
from echox_jax.models import trees
from echox_jax.models.params import param_shapes
from echox_jax.models.vocoder import UnitVocoder
from echox_jax.verification.golden import Golden
from echox_jax.verification.rows import Row, close, identical

FILES = ('vocoder',)


def rows(golden: Golden) -> list[Row]:
  """Rows `log_dur`, `dur`, `wav` (predicted durations) and `wav_no_dur` of every vocoder in the
  config, and the parameter count of a generator of the public config.
  """
  found = [row for prefix in golden.config('vocoder') for row in _vocoder_rows(golden, prefix)]
  cfg = VocoderConfig()
  shapes = param_shapes(EchoXConfig(vocoder=cfg), ('vocoder',))
  ones = trees.unflatten({path: np.ones(shape, np.float32) for path, shape in shapes.items()})[
    'vocoder'
  ]
  numbers = sum(tensor.size for tensor in unit_vocoder.export_tensors(ones, cfg).values())
  return [
    *found,
    identical(
      'vocoder/public_generator_params', numbers, golden['vocoder']['public_generator_params']
    ),
  ]


def load(golden: Golden, prefix: str = '') -> tuple[VocoderConfig, dict[str, Any]]:
  """Config and parameters of the vocoder under `prefix`."""
  cfg = unit_vocoder.config_from_json(golden.config('vocoder')[prefix])
  return cfg, unit_vocoder.convert(golden['vocoder'].under(f'{prefix}w/'), cfg)


def _vocoder_rows(golden: Golden, prefix: str) -> list[Row]:
  arrays, (cfg, params) = golden['vocoder'], load(golden, prefix)
  array, name = (lambda key: arrays[f'{prefix}{key}']), f'vocoder/{prefix}'
  code = jnp.asarray(array('code'), jnp.int32)
  frames = int(array('dur').sum())

  @jax.jit
  def run(params, code):
    def apply(*args, method):
      return UnitVocoder(cfg).apply({'params': params}, *args, method=method)

    mask = jnp.ones(code.shape, bool)
    return (
      apply(code, mask, method='duration_outputs')[..., 0],
      apply(code, mask, frames, method='synthesise'),
      apply(code, method='generate'),
    )

  log_durations, speech, plain = run(params, code)
  return [
    close(f'{name}log_dur', log_durations, array('log_dur')),
    identical(f'{name}dur', speech.durations, array('dur')),
    close(f'{name}wav', np.ravel(speech.waveform), array('wav')),
    close(f'{name}wav_no_dur', np.ravel(plain), array('wav_no_dur')),
  ]
