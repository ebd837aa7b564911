"""Own recordings become data sets; every mistake in a manifest is named with its line."""

import json

import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline import manifest
from echox_jax import audio
from echox_jax.errors import DataError


def _write(folder, rows):
  for i in range(2):
    audio.write_wav(folder / f'{i}.wav', np.sin(np.arange(1600 * (i + 1))).astype(np.float32) / 2)
  path = folder / 'manifest.jsonl'
  path.write_text('\n'.join(r if isinstance(r, str) else json.dumps(r) for r in rows), 'utf-8')
  return path


def _row(name, **changes):
  return {'id': name, 'question': 'what is one?', 'question_audio': '0.wav', 'answer': 'One is one.', 'answer_audio': '1.wav', **changes}


def test_manifest_becomes_data_sets(tmp_path):
  path = _write(tmp_path, [_row('a', references=['one']), _row('b', split='test'), _row('c', question_audio=None)])
  sizes = manifest.build_from_manifest(path, tmp_path / 'data')
  assert sizes == {'questions/train': 1, 'questions/test': 1, 'answers/train': 2, 'answers/holdout': 1}
  question = next(dataset.read_examples(tmp_path / 'data', 'questions', 'train'))
  assert [t.role for t in question.turns] == ['user', 'assistant']
  assert len(question.turns[0].audio) == 1600 and not len(question.turns[1].audio)
  assert question.turns[1].references == ('one',)
  answers = list(dataset.read_examples(tmp_path / 'data', 'answers', 'train'))
  assert [e.id for e in answers] == ['a', 'c'] and len(answers[0].turns[0].audio) == 3200


@pytest.mark.parametrize('rows, named', [
    (['{"id": '], ':1 is not valid JSON'),
    (['[1]'], ':1 is not a JSON object'),
    ([_row('a'), _row('a')], "repeats the id 'a' of line 1"),
    ([_row('a', answer=' ')], "no text in 'answer'"),
    ([_row('a', question_audio='missing.wav')], 'missing.wav'),
    ([_row('a', split='dev')], "split 'dev'"),
    ([_row('a', colour='red')], 'unknown fields colour'),
    ([_row('a', references='one')], 'references'),
    ([_row('a')], 'nothing for questions/test'),
    ([''], 'holds no lines'),
])
def test_mistakes_are_named(tmp_path, rows, named):
  path = _write(tmp_path, rows)
  with pytest.raises(DataError, match=named):
    manifest.build_from_manifest(path, tmp_path / 'data')
  assert not (tmp_path / 'data').exists()
