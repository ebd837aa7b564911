"""Training that is killed at random moments: every example of an epoch once, as if nothing had
happened.
"""

import collections
import functools
import itertools
import json
import signal
import time

import jax
import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import storage
from echox_jax.tokenizer import train_tokenizer
from echox_jax.training import checkpoint, records
from tests.helpers import kills
from tests.helpers.processes import start_job

KILLS, STEPS, ITEMS = 20, 100, 60


def prepare(folder):
  texts = [(f'What is {a} plus {b}?', f'It is {a + b}.') for a in range(10) for b in range(6)]
  train_tokenizer(
    [text for pair in texts for text in pair], folder / 'precomputed' / 'tokenizer.model', 292
  )
  dataset.write_dataset(
    folder / 'data',
    'questions',
    {
      'train': (
        Example(str(i), (Turn('user', question), Turn('assistant', answer)))
        for i, (question, answer) in enumerate(texts)
      )
    },
  )
  return folder


def start(compiled, steps, folder, processes, begun):
  assert processes == 1
  options = dict(workdir=str(folder), steps=steps, begun=str(begun))
  return [start_job('tests.helpers.killed_jobs', options, compiled)]


def lines_of(printed):
  return [json.loads(line) for line in printed.splitlines(keepends=True) if line.endswith('\n')]


def assert_same(whole, killed, steps):
  """Both have the same parameters, and the losses of the same steps, each once."""
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_groups(folder / 'text', ['llm']) for folder in (whole, killed)),
  )
  kept = [
    [(r['step'], r['loss']) for r in records.read(folder / 'text' / 'metrics.jsonl') if 'loss' in r]
    for folder in (whole, killed)
  ]
  assert kept[0] == kept[1] and [step for step, _ in kept[0]] == list(range(2, steps + 1, 2))


def began_at(lines):
  """The step that a run went on from; STEPS where the one before had done all before it was
  killed.
  """
  if lines == [['finished']]:
    return STEPS
  return next((line[1] for line in lines if line[0] == 'restored'), 0)


def assert_each_batch_counts_once(runs, expected):
  """`runs`: what each run of a folder printed; `expected`: rows by step."""
  runs = [lines for lines in runs if lines]  # the others had not begun to read
  assert runs[-1][-1] == ['finished']
  began = [began_at(lines) for lines in runs]
  accepted = collections.Counter()
  for lines, first, last in zip(runs, began, [*began[1:], STEPS]):
    for step, rows in (line[1:] for line in lines if line[0] == 'batch'):
      assert rows == expected[step]  # also where it was lost
      accepted[step] += first < step <= last
  assert accepted == dict.fromkeys(range(1, STEPS + 1), 1)


@pytest.mark.slow
@pytest.mark.parametrize('place', ['disk', 'bucket'])
def test_killed_at_twenty_moments(request, tmp_path, place):
  folder = storage.path(
    tmp_path / 'work' if place == 'disk' else request.getfixturevalue('bucket_folder')
  )
  job = kills.Job(functools.partial(start, tmp_path / 'compiled', STEPS))
  whole = prepare(tmp_path / 'whole')
  _, printed = kills.whole_run(job, whole, tmp_path / 'first')  # compiles for the others
  expected = {
    step: rows for kind, *values in lines_of(printed) if kind == 'batch' for step, rows in [values]
  }
  assert list(expected) == list(range(1, STEPS + 1))
  taken = [row for rows in expected.values() for row in rows]
  for first in range(0, len(taken) - ITEMS + 1, ITEMS):  # an epoch
    assert len(set(taken[first : first + ITEMS])) == ITEMS

  seconds, _ = kills.whole_run(job, prepare(folder / 'again'), tmp_path / 'second')
  assert_same(whole, folder / 'again', STEPS)
  resumed = 0
  folders = (prepare(folder / str(i)) for i in itertools.count())
  for killed, printed in kills.killed_runs(job, folders, KILLS, seconds, tmp_path):
    runs = list(map(lines_of, printed))
    assert_each_batch_counts_once(runs, expected)
    assert_same(whole, killed, STEPS)
    resumed += sum(lines[0][0] == 'restored' for lines in runs if lines)
  assert resumed > KILLS / 4  # many went on from a checkpoint


@pytest.mark.slow
def test_killed_in_a_bucket(tmp_path, bucket_folder):
  """Training that is killed with a bucket as its working folder ends as on local disk, with the
  records of every step.
  """
  job = kills.Job(functools.partial(start, tmp_path / 'compiled', 12))
  whole, killed = prepare(tmp_path / 'whole'), prepare(storage.path(bucket_folder))
  kills.whole_run(job, whole, tmp_path / 'first')
  (process,) = job.start(killed, 1, tmp_path / 'second')
  for step in range(1, 11):  # past the checkpoint of step 4: that of step 8 has waited for it
    said = json.loads(process.stdout.readline() or kills.finish([process]))
    assert said[:2] == ['batch', step]
  time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  _, printed = kills.whole_run(job, killed, tmp_path / 'third')
  restored, *_, last = lines_of(printed)
  assert restored[0] == 'restored' and restored[1] >= 4 and last == ['finished']
  assert_same(whole, killed, 12)
