"""The evaluation on a tiny random model, with a judge that hears what we tell it."""

import json

import numpy as np
import pytest

from data_pipeline import dataset, schema
from echox_jax import errors, storage
from echox_jax.evaluation import scores
from launch import evaluate
from tests.helpers import tiny_model

for package in ('whisper_normalizer', 'faster_whisper'):
  pytest.importorskip(package, reason="the judge is in the extra 'eval'")


class FakeJudge:
  """Hears "alpha" in everything and counts the clips."""

  judged, cache = 0, None

  def __init__(self, cache_dir):
    FakeJudge.cache = cache_dir

  def transcribe(self, waves):
    FakeJudge.judged += len(waves)
    return ['alpha'] * len(waves)


def asked(**changes) -> scores.Asked:
  values = dict(
    id='a',
    voice='v',
    category='sums',
    question='q',
    references=('five', '5'),
    written_answer='It is five.',
    answer='It is five.',
    transcript='It is 5.',
    slices=1,
    audio_s=2.0,
    first_audio_s=0.1,
    finished_s=0.5,
    text_s=0.2,
  )
  return scores.Asked(**values | changes)


def test_scores_by_voice_and_category():
  metrics = scores.summarise(
    [
      asked(),
      asked(voice='w', answer='It is six.', transcript='It is 6.'),
      asked(voice='w', category='other', transcript='', first_audio_s=None, audio_s=0.0),
    ]
  )
  assert (metrics['text_exact_match'], metrics['s2t_exact_match'], metrics['s2s_exact_match']) == (
    1.0,
    0.6667,
    0.3333,
  )
  assert (
    metrics['by_voice']['w']['s2t_exact_match'] == 0.5
    and metrics['by_category']['other']['s2s_exact_match'] == 0.0
  )
  assert metrics['reply_wer'] == pytest.approx(3 / 9, abs=1e-4)
  assert (
    metrics['silent_replies'] == 1
    and metrics['first_audio_s'] == 0.1
    and metrics['real_time_factor'] == 0.25
  )


@pytest.fixture
def workdir(tmp_path):
  return write_workdir(tmp_path)


def write_workdir(folder):
  sound = lambda seed: (tiny_model.question(1.0, seed) * 32767).astype(np.int16)

  def question(i):
    return schema.Example(
      f'q{i}',
      (
        schema.Turn(
          'user', f'What is {i}?', speaker=f'voice{i % 2}', category='sums', audio=sound(i)
        ),
        schema.Turn('assistant', 'alpha', category='sums', references=('alpha',)),
      ),
    )

  answer = schema.Example(
    'a', (schema.Turn('assistant', 'Alpha.', audio=sound(9), units=np.repeat(np.arange(10), 5)),)
  )
  dataset.write_dataset(folder / 'data', 'questions', {'test': map(question, range(4))})
  dataset.write_dataset(folder / 'precomputed', 'answers', {'holdout': [answer]})
  storage.atomic_write_json(
    folder / 'precomputed' / 'precompute.json',
    {'report': {'units_per_second': 28.0, 'unit_words_per_second': 13.0}},
  )
  return folder


def test_a_whole_evaluation(workdir, monkeypatch, tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  monkeypatch.setattr('echox_jax.load', lambda folder, **options: bundle)
  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  out = workdir / 'evaluation.json'
  evaluate.main(
    ['--checkpoint', 'unused', '--workdir', str(workdir), '--out', str(out), '--limit', '3']
  )
  metrics = json.loads(out.read_text())
  assert metrics['questions'] == 3 and metrics['counts'] == {'voices': 2, 'holdout_answers': 1}
  assert metrics['s2s_exact_match'] == 1.0 and metrics['s2t_exact_match'] == 0.0
  assert (
    metrics['natural_wer'] == metrics['resynthesis_wer'] == 0.0
    and metrics['units_per_second'] == 28.0
  )
  assert (
    metrics['first_audio_s'] > 0
    and metrics['real_time_factor'] > 0
    and 'faster-whisper' in metrics['judge']
  )
  assert 3 <= FakeJudge.judged <= 6  # replies that are alike are judged once
  lines = [
    json.loads(line) for line in (workdir / 'evaluation_questions.jsonl').read_text().splitlines()
  ]
  assert [line['id'] for line in lines] == ['q0', 'q2', 'q3'] and lines[0]['right'] == {
    'text': False,
    's2t': False,
    's2s': True,
  }
  assert (workdir / 'evaluation_examples' / 'real_answer.wav').exists()


def test_a_working_folder_in_a_bucket(bucket_folder, monkeypatch, tmp_path):
  """Everything is written to the bucket, except the judge's weights: those are joined in the local
  cache folder.
  """
  workdir, bundle = write_workdir(storage.path(bucket_folder)), tiny_model.tiny_bundle(tmp_path)
  monkeypatch.setattr('echox_jax.load', lambda folder, **options: bundle)
  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  out = f'{bucket_folder}/evaluation.json'
  evaluate.main(
    ['--checkpoint', 'unused', '--workdir', bucket_folder, '--out', out, '--limit', '2']
  )
  assert FakeJudge.cache == tmp_path / 'cache' / 'echox-jax' / 'judge'
  assert not list((tmp_path / 'here').iterdir())  # no folder called `gs:`
  assert json.loads(storage.path(out).read_text())['questions'] == 2
  assert storage.is_file(workdir / 'evaluation_examples' / 'real_answer.wav')


def test_precompute_must_have_run(workdir, monkeypatch):
  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  (workdir / 'precomputed' / 'precompute.json').unlink()
  with pytest.raises(errors.DataError, match='launch.precompute'):
    evaluate.main(
      [
        '--checkpoint',
        'unused',
        '--workdir',
        str(workdir),
        '--out',
        str(workdir / 'evaluation.json'),
      ]
    )
