"""Training that is killed at random moments: every example of an epoch once, as if nothing had
happened.
"""

import collections
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import storage
from echox_jax.tokenizer import train_tokenizer
from echox_jax.training import checkpoint, records
from tests.helpers.paths import ROOT

KILLS, STEPS, ITEMS = 20, 400, 60  # no kill comes after more than 19 steps


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


def run(folder, moment=None, steps=STEPS):
  """What a run printed; killed `seconds` after its n-th line where `moment` is (n, seconds)."""
  command = [sys.executable, '-m', 'tests.helpers.killed_jobs', str(folder), str(steps)]
  process = subprocess.Popen(
    command,
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  lines = []
  if moment is not None:
    lines = [process.stdout.readline() for _ in range(moment[0])]
    time.sleep(moment[1])
    process.send_signal(signal.SIGKILL)
  lines += process.stdout.read().splitlines(keepends=True)
  assert process.wait(timeout=300) == (0 if moment is None else -signal.SIGKILL)
  return [json.loads(line) for line in lines if line.endswith('\n')]


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path):
  whole, rng = prepare(tmp_path / 'whole'), np.random.default_rng(0)
  expected = {
    step: rows for kind, *values in run(whole) if kind == 'batch' for step, rows in [values]
  }
  assert list(expected) == list(range(1, STEPS + 1))
  killed = prepare(tmp_path / 'killed')
  runs = [run(killed, (int(rng.integers(0, 10)), float(rng.uniform(0, 0.3)))) for _ in range(KILLS)]
  runs.append(run(killed))
  assert runs[-1][-1] == ['finished']
  runs = [lines for lines in runs if lines]  # the others had not begun
  assert len(runs) > KILLS / 2
  began = [next((line[1] for line in lines if line[0] == 'restored'), 0) for lines in runs]
  assert began[-1] > 0
  accepted = collections.Counter()
  for lines, start, stop in zip(runs, began, [*began[1:], STEPS]):
    for step, rows in (line[1:] for line in lines if line[0] == 'batch'):
      assert rows == expected[step]  # also where it was lost
      accepted[step] += start < step <= stop
  assert accepted == dict.fromkeys(range(1, STEPS + 1), 1)

  taken = [row for step in range(1, STEPS + 1) for row in expected[step]]
  for start in range(0, len(taken) - ITEMS + 1, ITEMS):
    assert len(set(taken[start : start + ITEMS])) == ITEMS
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_groups(folder / 'text', ['llm']) for folder in (whole, killed)),
  )


@pytest.mark.parametrize('kills', [1, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_in_a_bucket(tmp_path, bucket_folder, kills):
  """Training that is killed with a bucket as its working folder ends as on local disk, with the
  records of every step.
  """
  steps, rng = 8 * kills + 4, np.random.default_rng(kills)
  whole, killed = prepare(tmp_path), prepare(storage.path(bucket_folder))
  run(whole, steps=steps)
  for kill in range(kills):
    # the first after the checkpoint of step 4: that of step 8 has waited for it
    lines = run(killed, (10, 0.05) if not kill else (8, float(rng.uniform(0, 0.4))), steps)
    assert not kill or lines[0][0] == 'restored'
  restored, *_, last = run(killed, steps=steps)
  assert restored[0] == 'restored' and restored[1] >= 4 and last == ['finished']
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_groups(folder / 'text', ['llm']) for folder in (whole, killed)),
  )
  kept = [
    [(r['step'], r['loss']) for r in records.read(folder / 'text' / 'metrics.jsonl') if 'loss' in r]
    for folder in (whole, killed)
  ]
  assert kept[0] == kept[1] and [step for step, _ in kept[0]] == list(range(2, steps + 1, 2))
