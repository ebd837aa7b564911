"""The precompute job against the same work by transformers and torch: the same units, in less time."""

import pytest

from tests.test_bench import measure, speech


@pytest.mark.slow
def test_precompute_gives_the_units_of_transformers_and_is_not_slower(tmp_path):
  for package in ('torch', 'transformers'):
    pytest.importorskip(package, reason=f'{package} is not installed')
  found = measure('precompute', '--data', speech(tmp_path, seconds=2.0), '--minutes', 1.5)
  assert found['clips'] == 45 and found['audio_minutes'] == 1.5
  assert min(found[name]['same_units'] for name in ('peer', 'peer_unpadded')) > 0.5, found  # of noise; 0.96 of speech
  assert found['ratio'] > 1.5, found
