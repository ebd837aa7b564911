"""The benchmarks run and write what they promise."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import storage
from echox_jax.errors import DataError, MissingExtraError
from launch.bench import loader as bench_loader
from tests.helpers.bench_jobs import PLACES, measure
from tests.helpers.processes import run_python


@pytest.mark.slow
def test_losses(tmp_path):
  sizes = ['--vocab=16384', '--width=16', '--frames=128', '--tokens=128', '--chunk=12']
  run_python('-m', 'launch.bench', 'losses', *sizes, f'--json={tmp_path}/found.json')
  found = json.loads((tmp_path / 'found.json').read_text())
  assert found['plain_temp_bytes'] > 8 * found['lean_temp_bytes'] and found['ratio'] > 1
  assert (
    found['loss_difference'] < 1e-5 and found['lean_seconds'] > 0 and found['plain_seconds'] > 0
  )


@pytest.mark.slow
def test_pseudo_labels(tmp_path):
  run_python(
    '-m',
    'launch.bench',
    'pseudo_labels',
    '--steps=3',
    f'--json={tmp_path}/found.json',
    timeout=1200,
  )
  found = json.loads((tmp_path / 'found.json').read_text())
  assert (
    found['ratio'] == found['on_the_fly_seconds'] / found['given_seconds']
    and found['on_the_fly_compile_seconds'] > 0
  )
  # whole budgets
  assert (
    0 < found['slices'] <= found['room'][0]
    and found['unit_words'] == found['slices'] * found['room'][1]
  )


@pytest.mark.slow
def test_checkpoints(bucket_folder):
  sizes = ('--width', 32, '--every', 2, '--checkpoints', 4)
  found = measure('checkpoints', '--workdir', bucket_folder, *sizes)
  assert found['checkpoints'] == 3 and found['megabytes'] > 0.1
  assert 0 < found['waiting'] < 1 and 0 < found['waiting_if_written_at_once'] < 1
  assert found['wait_seconds'] > 0 and found['write_seconds'] > 0 and found['step_seconds'] > 0
  assert not storage.tree(bucket_folder)


def test_a_bucket_that_is_far_away():
  """Every request takes longer, and what is written is read."""
  code = (
    'import time; from echox_jax import storage; began = time.monotonic()\n'
    'file = storage.atomic_write_bytes("gs://bucket/a", bytes(1 << 20)); wrote = time.monotonic()\n'
    'assert file.read_bytes() == bytes(1 << 20); read = time.monotonic()\n'
    'print(wrote - began, read - wrote)'
  )
  wrapped = ('-m', 'tests.helpers.buckets', '--latency', '0.4', '--', sys.executable, '-c', code)
  assert all(float(seconds) > 0.4 for seconds in run_python(*wrapped).split())


def test_padding(tmp_path):
  run_python('-m', 'launch.bench', 'padding', f'--json={tmp_path}/found.json')
  found = json.loads((tmp_path / 'found.json').read_text())
  assert max(found['s2t']['packed'].values()) < 0.1 and found['t2c']['packed']['positions'] < 0.1
  assert found['s2t']['bucketed']['states'] < 0.1 and min(found['s2t']['plain'].values()) > 0.5


def speech(folder, seconds=1.0, clips=60):
  """Answers, and questions, of noise; the answers have units of a language in which pairs
  repeat.
  """
  rng = np.random.default_rng(0)
  pairs = rng.integers(0, 20, (6, 2))
  text = lambda i: f'Number {i} is {PLACES[i % len(PLACES)]} and {PLACES[3 * i % len(PLACES)]}.'
  turn = lambda role, i: Turn(
    role,
    text(i),
    audio=(2000 * rng.normal(size=int(16000 * seconds))).astype(np.int16),
    units=np.repeat(pairs[rng.integers(0, 6, 12)].ravel(), 2).astype(np.int32),
  )
  for name, role, splits in (
    ('answers', 'assistant', ('train', 'holdout')),
    ('questions', 'user', ('train',)),
  ):
    dataset.write_dataset(
      folder,
      name,
      {split: [Example(f'{split}{i}', (turn(role, i),)) for i in range(clips)] for split in splits},
    )
  return folder


def test_loader(tmp_path, monkeypatch):
  monkeypatch.setattr(bench_loader, 'FORMATS', (('flac', 22_050, 1), ('mp3', 44_100, 2)))
  found = measure('loader', '--data', speech(tmp_path), '--minutes', 0.5, '--clip_seconds', 2)
  rows = found['by_format']
  assert list(rows) == ['flac 22.05 kHz mono', 'mp3 44.1 kHz stereo', '16-bit samples']
  assert (
    found['slowest']
    == min(row['realtime_per_core'] for name, row in rows.items() if name != '16-bit samples')
    > 0
  )
  assert (
    rows['16-bit samples']['realtime_per_core'] > found['realtime_per_core'] >= found['slowest']
  )
  assert (
    rows['mp3 44.1 kHz stereo']['megabytes_per_hour']
    < 100
    < rows['16-bit samples']['megabytes_per_hour']
    < 140
  )
  assert all(40 <= row['seconds'] <= 60 for row in rows.values())
  with pytest.raises(DataError, match='less than 9 minutes'):
    measure('loader', '--data', tmp_path, '--minutes', 9)


def test_corpus():
  found = measure('corpus', '--recordings', 200, '--latency', 0.001, '--minutes', 0.1)
  assert set(found['planned']) == {'librispeech', 'mls', 'pairs', 'manifest'}
  assert all(row['requests']['scandir'] >= 5 for row in found['planned'].values())
  assert found['read_in']['clips'] == 2 and found['read_in']['ratio'] > 0


def test_unit_language(tmp_path):
  sizes = [
    '--k',
    '1,2',
    '--vocabulary',
    '20,24,26',
    '--num_units',
    20,
    '--chosen_k',
    2,
    '--sequences',
    50,
  ]
  drawn = importlib.util.find_spec('matplotlib') is not None  # in the extra `demo`
  if not drawn:
    with pytest.raises(MissingExtraError, match='demo'):
      measure('unit_language', '--units', tmp_path, '--figure', tmp_path / 'p.png', *sizes)
  found = measure(
    'unit_language',
    '--units',
    speech(tmp_path),
    *(['--figure', tmp_path / 'p.png'] if drawn else []),
    *sizes,
  )
  assert found['units_per_second'] <= 25 and found['lossless'] == {
    'random': '50 of 50',
    'real': '50 of 50',
  }
  shares = {
    (row['kind'], row['k'], row['asked']): row['held_out']['share'] for row in found['curve']
  }
  assert shares['ngram', 1, 26] == 1 and 0.5 <= shares['ngram', 2, 26] < shares['ngram', 2, 24] < 1
  assert found['chosen']['held_out']['share'] == shares['ngram', 2, 26]
  assert not drawn or (tmp_path / 'p.png').read_bytes()[1:4] == b'PNG'
  with pytest.raises(DataError, match='no units'):
    measure('unit_language', '--units', no_units(tmp_path / 'none'), *sizes)


def no_units(folder):
  wave = np.ones(999, np.int16)
  dataset.write_dataset(
    folder,
    'answers',
    {
      split: [Example('a', (Turn('assistant', 'a', audio=wave),))] for split in ('train', 'holdout')
    },
  )
  return folder


def test_precompute_without_torch_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(MissingExtraError, match='crosscheck'):
    measure('precompute', '--data', tmp_path)
