"""A corpus of a million examples: how soon the table of its lengths and the first batch are there,
and how much memory a process takes.

Making it and its table takes most of the time. The figures are printed by
`python -m pytest -m slow -s tests/data_pipeline/test_million.py`.
"""

import json
import time

import numpy as np
import pytest

from data_pipeline import batches, dataset, index, record_files, schema, turns
from data_pipeline.schema import Example, Turn
from data_pipeline.shards import ranges
from echox_jax import rates
from echox_jax.tokenizer import train_tokenizer
from tests.helpers import words
from tests.helpers.batch_jobs import experiment
from tests.helpers.processes import run_python

ITEMS, SHARD = 1_000_000, 512
WORDS = words.PLACES + words.COLOURS
SETTINGS = dict(max_tokens=64, max_states=8, max_ctc_labels=20)
OPEN = """
import json, multiprocessing, os, sys, time
from pathlib import Path
started = time.monotonic()
from data_pipeline import batches
from tests.data_pipeline.test_million import SETTINGS
from tests.helpers.batch_jobs import experiment
data = json.loads(sys.argv[2])
imported, cpu = time.monotonic(), time.process_time()
iterator = batches.make_iterator(experiment('s2t', batch_size=32, **SETTINGS, **data), sys.argv[1])
next(iterator)
seconds, cpu = time.monotonic() - imported, time.process_time() - cpu
for _ in range(200):
  next(iterator)

def peak(pid):
  return int(Path(f'/proc/{pid}/status').read_text().split('VmHWM:')[1].split()[0]) / 2 ** 20

workers = multiprocessing.active_children()
print(json.dumps({'import_seconds': imported - started, 'seconds': seconds, 'cpu_seconds': cpu,
                  'gib': peak(os.getpid()),
                  'worker_gib': max((peak(worker.pid) for worker in workers), default=0.0)}),
      flush=True)
for worker in workers:  # what reads ahead does not end by itself
  worker.kill()
os._exit(0)
"""


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A million questions of one state to seven."""
  folder = tmp_path_factory.mktemp('million')
  train_tokenizer(
    [f'Number {i}? It is {i}.' for i in range(200)], folder / 'precomputed' / 'tokenizer.model', 290
  )
  examples = (
    Example(
      str(i),
      (
        Turn('user', f'Number {i}?', states=np.full((1 + i % 7, 4), i % 1000, np.float16)),
        Turn('assistant', f'It is {i}.'),
      ),
    )
    for i in range(ITEMS)
  )
  dataset.write_dataset(folder / 'precomputed', 'questions', {'train': examples})
  started = time.monotonic()
  assert batches.describe(experiment('s2t', workers=2, **SETTINGS), folder) == {
    'stage': 's2t',
    'sets': ['questions/train'],
    'rows': ITEMS,
    'left_out': {},
  }
  print(f'the table was made in {time.monotonic() - started:.0f} s')
  return folder


@pytest.mark.slow
@pytest.mark.parametrize(
  'data',
  [{}, dict(workers=2), dict(packing=True, buckets=(4,)), dict(packing=True, weights=(1.0,))],
)
def test_the_first_batch_of_a_million_is_there_at_once(workdir, data):
  printed = run_python('-c', OPEN, str(workdir), json.dumps(data), timeout=600)
  found = json.loads(printed.splitlines()[-1])
  print(data, found)
  assert found['gib'] <= 1 and found['worker_gib'] <= 1
  assert found['seconds'] <= 10


def said(number):
  """An example of realistic texts, without its sound."""
  rng = np.random.default_rng(number)
  question, answer = (
    ' '.join(WORDS[i] for i in rng.integers(len(WORDS), size=size)) for size in (20, 30)
  )
  turns = Turn('user', f'{question}?', speaker='anna'), Turn('assistant', f'{answer}.')
  return Example(f'recording_{number:07d}', turns)


@pytest.fixture(scope='module')
def recordings(tmp_path_factory):
  """Texts and lengths of a million recordings of 9 s: 288 GB of audio, which nothing may need."""
  data, files = tmp_path_factory.mktemp('recordings'), {}
  (data / 'questions').mkdir()
  shards = ranges(ITEMS, SHARD)
  for name, numbers in zip(record_files.file_names('train', len(shards)), shards):
    collected = turns.Collector()
    for number in numbers:
      lengths = np.array([9 * rates.SAMPLE_RATE - number % 1000, 0], np.int32)
      collected.add(schema.encode(said(number)) | {'audio_lengths': lengths})
    collected.write(data / 'questions' / f'{name}{turns.SUFFIX}')
    about = dict(examples=len(numbers), samples=0, sha256=name, bytes=1)
    files[name] = about
  manifest = data / 'questions' / record_files.MANIFEST
  record_files.write_metadata({'train': files}, 1, False, '', {}, manifest)
  return data


@pytest.mark.slow
def test_the_table_of_a_million_recordings_is_there_in_seconds(recordings, tmp_path):
  """Tokens are counted by precompute, shard by shard, on all hosts."""
  train_tokenizer([' '.join(WORDS)] * 9, tmp_path / 'tokenizer.model', 300)
  counter, started = (
    index.TokenCounter(recordings, 'questions', 'train', tmp_path),
    time.monotonic(),
  )
  counted = counter(range(SHARD * 20))
  print(f'tokens: {SHARD * 20 / (time.monotonic() - started):.0f} records a second and process')
  shards = len(ranges(ITEMS, SHARD))
  tokens = [np.resize(counted, 2 * len(numbers)) for numbers in ranges(ITEMS, SHARD)]
  started = time.monotonic()
  table = index.open_table(tmp_path, recordings, 'questions', 'train', tmp_path, tokens=tokens)
  seconds = time.monotonic() - started
  print(f'the table of {len(table)} turns in {shards} files: {seconds:.1f} s')
  assert len(table) == 2 * ITEMS and table['example'][-1] == ITEMS - 1
  assert table['audio'][2 * 1234] == 9 * rates.SAMPLE_RATE - 234
  assert seconds <= 10
