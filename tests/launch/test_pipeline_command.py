"""The README's way from a folder of recordings and a list to a model, by its two commands; the
second tells mistakes at once.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import echox_jax
from echox_jax import audio, errors
from echox_jax.inference import engine
from launch import pipeline
from tests.helpers.paths import ROOT
from tests.helpers.words import COLOURS, PLACES


def _recordings(folder):
  """28 questions and answers that sound like vowels, in files of several kinds, and their list."""
  rng, lines = (
    np.random.default_rng(0),
    ['id\tquestion\tquestion_audio\tanswer\tanswer_audio\treferences'],
  )
  folder.mkdir()
  for i in range(28):
    colour, place = COLOURS[i % 14], PLACES[(3 * i) % 14]
    for name, seconds in ((f'q{i}', 1.2), (f'a{i}', 1.5)):
      rate, suffix = ((16000, 'wav'), (44100, 'flac'), (22050, 'mp3'))[i % 3]
      at = np.arange(round(seconds * rate)) / rate
      tones = sum(np.sin(2 * np.pi * at * rng.uniform(100, 3000)) for _ in range(5))
      soundfile.write(folder / f'{name}.{suffix}', 0.1 * tones + rng.normal(0, 0.01, len(at)), rate)
    lines.append(
      f'{i}\tWhat stands near the {place} number {i}?\tq{i}.{suffix}\tA {colour} tower '
      f'stands near the {place}.\ta{i}.{suffix}\t{colour}'
    )
  (folder / 'mine.tsv').write_text('\n'.join(lines) + '\n')
  return folder / 'mine.tsv'


@pytest.mark.slow
def test_from_a_folder_of_recordings_to_a_model(tmp_path):
  run = lambda *command: subprocess.run(
    [sys.executable, '-m', *map(str, command)],
    cwd=ROOT,
    check=True,
    timeout=1800,
    stdout=subprocess.PIPE,
    text=True,
  )
  out = run(
    'launch.corpus',
    '--manifest',
    _recordings(tmp_path / 'in'),
    '--data',
    tmp_path / 'mine' / 'data',
  ).stdout
  assert json.loads(out)['sets']['questions/train']['examples'] == 27
  train = (
    'launch.pipeline',
    '--config=configs/echox_nano.py',
    f'--workdir={tmp_path}/mine',
    '--config.train.steps=3',
    '--config.train.batch_size=4',
    '--config.engine.max_new_tokens=8',
  )
  assert '[7/7] export' in run(*train).stdout
  computed = tmp_path / 'mine' / 'precomputed' / 'answers' / 'dataset_info.json'
  made = computed.stat().st_mtime_ns
  assert (
    run(*train).stdout.count('is finished already') == 5 and computed.stat().st_mtime_ns == made
  )
  for stage in ('text', 's2t', 't2c', 'echo', 'vocoder'):
    records = map(
      json.loads, (tmp_path / 'mine' / stage / 'metrics.jsonl').read_text().splitlines()
    )
    losses = [record['loss'] for record in records if record['kind'] == 'train']
    assert losses and np.isfinite(losses).all(), stage
  model = echox_jax.load(tmp_path / 'mine' / 'model')
  assert list(engine.Engine(model).answer(audio.load_audio(tmp_path / 'in' / 'q1.flac')))


def test_a_mistake_in_a_later_stage_is_told_before_the_first_part(tmp_path, monkeypatch):
  monkeypatch.setattr(pipeline, 'run_all', lambda todo: pytest.fail('something ran'))

  def told(*options, match):
    monkeypatch.setattr(
      'sys.argv', ['pipeline', '--config=configs/echox_nano.py', f'--workdir={tmp_path}', *options]
    )
    with pytest.raises(errors.ConfigError, match=match):
      pipeline.main()

  told('--config.train.stepps=3', match='stepps')
  told('--stages=s2t,dance', match='dance')
  told('--colour=red', match='colour')


def test_the_parts_run_in_order_with_the_same_options(tmp_path, monkeypatch, capsys):
  ran = []
  monkeypatch.setattr(pipeline, 'run_all', lambda todo: ran.extend(todo) or 0)
  monkeypatch.setattr(
    'sys.argv',
    [
      'pipeline',
      '--config=configs/echox_8b.py',
      f'--workdir={tmp_path}',
      '--stages=s2t,t2c',
      '--config.train.steps=7',
    ],
  )
  pipeline.main()
  assert [step.name for step in ran] == ['precompute', 's2t', 't2c', 'export']
  assert ran[0].command == (
    'launch.precompute',
    '--config=configs/echox_8b.py:s2t',
    f'--workdir={tmp_path}',
    '--config.train.steps=7',
  )
  assert ran[2].command == (
    'launch.train',
    '--config=configs/echox_8b.py:t2c',
    f'--workdir={tmp_path}',
    '--config.train.steps=7',
  )
  assert str(tmp_path / 'model') in capsys.readouterr().out
