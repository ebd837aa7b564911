"""The precompute job against the same work by transformers and torch: the same units, in less
time.
"""

import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import audio, rates
from tests.helpers import crosscheck
from tests.helpers.bench_jobs import PLACES, measure


def human_answers(folder, clips=45):
  """Pieces of two seconds of a real reader, who may come to words again."""
  wave = audio.to_int16(crosscheck.human_speech())
  starts = np.linspace(0, len(wave) - 2 * rates.SAMPLE_RATE, clips).astype(int)
  dataset.write_dataset(
    folder,
    'answers',
    {
      'train': [
        Example(
          str(i),
          (
            Turn(
              'assistant',
              f'Number {i} is {PLACES[i % len(PLACES)]}.',
              audio=wave[start : start + 2 * rates.SAMPLE_RATE],
            ),
          ),
        )
        for i, start in enumerate(starts)
      ]
    },
  )
  return folder


@pytest.mark.slow
def test_precompute_gives_the_units_of_transformers_and_is_not_slower(tmp_path):
  for package in ('torch', 'transformers'):
    pytest.importorskip(package, reason=f'{package} is not installed')
  found = measure('precompute', '--data', human_answers(tmp_path), '--minutes', 1.5)
  assert found['clips'] == 45 and found['audio_minutes'] == 1.5
  print(
    {name: found[name]['same_units'] for name in ('peer', 'peer_unpadded')},
    found['ratio'],
    found['ratio_unpadded'],
  )
  # padding changes some
  assert min(found[name]['same_units'] for name in ('peer', 'peer_unpadded')) > 0.8, found
  assert found['ratio'] > 1.5, found
