"""What the cross-checks on real weights share: speech of a real person, and how an error is judged
and reported.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from echox_jax import audio, rates

_LIBRIVOX = Path(
  '/usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav'
)


def package_file(package: str, name: str) -> Path:
  """A file in an installed package, which is not imported; skips the test where it is not
  installed.
  """
  spec = importlib.util.find_spec(package)
  if spec is None:
    pytest.skip(f'the package {package} is not installed')
  return Path(spec.submodule_search_locations[0]) / name


def human_speech(seconds: float = 20.0) -> np.ndarray:
  """float32[samples], 16 kHz: a LibriVox reader (Debian's pocketsphinx-testdata), or where that is
  absent a clip of `moonshine-voice`.
  """
  path = (
    _LIBRIVOX if _LIBRIVOX.is_file() else package_file('moonshine_voice', 'assets/two_cities.wav')
  )
  return audio.load_audio(path)[: round(seconds * rates.SAMPLE_RATE)]


def within(record_property, what: str, found, expected, limit: float) -> None:
  """Fails where the largest absolute difference exceeds `limit`; reports it (shown by `pytest -s`,
  kept in JUnit files).
  """
  found, expected = np.asarray(found), np.asarray(expected)
  assert found.shape == expected.shape
  error = float(np.max(np.abs(found - expected)))
  record_property(what, error)
  print(
    f'\n{what}: largest difference {error:.2e} (limit {limit:.0e}), values up to '
    f'{np.max(np.abs(expected)):.3g}'
  )
  assert error <= limit
