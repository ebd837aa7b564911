"""Whisper's log-mel spectrogram for every number of bands in the set, and its mel filters alone."""

import functools
import re

import jax
import numpy as np

from echox_jax.models import log_mel
from echox_jax.verification.golden import Golden
from echox_jax.verification.rows import Row, close

FILES = ('mel',)
_FILTERS = 1e-6  # absolute tolerance; the filters are of order 0.01


def rows(golden: Golden) -> list[Row]:
  """Rows `logmelM` and `mel_filtersM`, M bands."""
  arrays = golden['mel']
  wave = log_mel.pad_or_trim(arrays['wave'])[None]
  found = []
  for name in arrays:
    bands = int((re.search(r'\d+$', name) or [0])[0])
    if name.startswith('logmel'):
      mel = jax.jit(functools.partial(log_mel.log_mel, num_mel_bins=bands))(wave)
      found.append(close(f'log_mel/{name}', np.asarray(mel[0]).T, arrays[name]))
    elif name.startswith('mel_filters'):
      found.append(close(f'log_mel/{name}', log_mel.mel_filters(bands), arrays[name], _FILTERS))
  return found
