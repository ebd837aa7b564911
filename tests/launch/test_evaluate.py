"""The demo's evaluation of a tiny random model, with a judge that hears what we tell it."""

import json

import numpy as np
import pytest

from data_pipeline import dataset, schema
from echox_jax import audio, errors, rates, storage
from echox_jax.evaluation import judges, resynthesis
from echox_jax.evaluation import store as store_lib
from echox_jax.evaluation.questions import Question
from echox_jax.inference.engine import Engine
from launch import demo_scores, evaluate
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


@pytest.fixture
def run(workdir, monkeypatch):
  """Scores the demo in `workdir`; gives what it wrote."""
  bundle = tiny_model.tiny_bundle(workdir)
  tiny_model.write_model(workdir / 'model', bundle.config)
  monkeypatch.setattr('echox_jax.load', lambda folder, **options: bundle)
  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  monkeypatch.setattr(FakeJudge, 'judged', 0)

  def run(*options):
    out = workdir / 'evaluation.json'
    given = ['--checkpoint', str(workdir / 'model'), '--workdir', str(workdir), '--out', str(out)]
    evaluate.main([*given, '--batch', '2', '--timed', '1', *options])
    return json.loads(out.read_text())

  return run


def test_the_demo_is_an_evaluation_and_what_is_made_again(run, workdir):
  metrics = run('--limit', '3')
  assert metrics['questions'] == 3 and metrics['counts'] == {'voices': 2, 'holdout_answers': 1}
  assert metrics['s2s_exact_match'] == 1.0 and metrics['s2t_exact_match'] == 0.0
  assert metrics['s2t_s2s_gap'] == -1.0 and metrics['intervals']['s2s_exact_match'] == [1.0, 1.0]
  assert metrics['by_voice']['voice0'] == {  # of q0 and q2; q3 is of the other voice
    'questions': 2,
    'text_exact_match': 0.0,
    's2t_exact_match': 0.0,
    's2s_exact_match': 1.0,
    'reply_wer': metrics['by_voice']['voice0']['reply_wer'],
  }
  assert metrics['natural_wer'] == metrics['resynthesis_wer'] == 0.0
  assert metrics['units_per_second'] == 28.0 and metrics['overflow']['resynthesis_frames'] == 0
  assert metrics['first_audio_s'] > 0 and metrics['real_time_factor'] > 0
  assert 'faster-whisper' in metrics['judge'] and metrics['seconds']['total'] > 0
  assert 3 <= FakeJudge.judged <= 6  # replies that are alike are judged once
  kept = workdir / 'evaluation'
  lines = [json.loads(line) for line in (kept / 'scores.jsonl').read_text().splitlines()]
  assert [line['id'] for line in lines] == ['q0', 'q2', 'q3']
  assert lines[0]['right'] == {'T2T': False, 'S2T': False, 'S2S': True}
  assert len(list((kept / 'sounds').iterdir())) == 3 and (kept / 'report.html').exists()
  assert len(list((kept / 'resynthesis').glob('00000-*.wav'))) == len(resynthesis.KINDS)


@pytest.mark.slow
def test_the_same_data_give_the_same_scores_as_other_questions(run, workdir):
  metrics = run()
  given = ['--checkpoint', str(workdir / 'model'), '--data', str(workdir / 'data')]
  out = workdir / 'scores'
  evaluate.main([*given, '--out', str(out), '--batch', '2', '--timed', '1'])
  found = json.loads((out / 'scores.json').read_text())
  for name, (way, rule) in demo_scores._SHARES.items():
    estimate = found['ways'][way][rule]
    assert metrics[name] == estimate['value']
    assert metrics['intervals'][name] == [estimate['low'], estimate['high']]


def test_the_demo_goes_on_where_it_was_stopped(run, workdir, monkeypatch):
  whole = run()
  made = []
  monkeypatch.setattr(resynthesis.Resynthesis, 'make', lambda *args: made.append(args))
  monkeypatch.setattr('echox_jax.load', None)  # no model is needed any more, nor a judge
  monkeypatch.setattr(FakeJudge, 'judged', 0)
  again = run()
  changing = {'seconds'}
  assert {k: v for k, v in again.items() if k not in changing} == {
    k: v for k, v in whole.items() if k not in changing
  }
  assert not made and FakeJudge.judged == 0
  assert again['seconds']['total'] > whole['seconds']['warm_up']
  with pytest.raises(errors.DataError, match='another evaluation'):
    run('--limit', '2')


def test_one_engine_at_a_time_answers(run, monkeypatch):
  made = []

  class Counted(Engine):
    def __init__(self, model, **options):
      made.append(model.engine.conversations)
      super().__init__(model, **options)

  monkeypatch.setattr('echox_jax.inference.engine.Engine', Counted)
  run()
  assert made == [1, 2]  # for times, and for all else


def test_durations_of_the_recording_and_predicted_ones(tmp_path):
  """What is made again follows the durations that it is given."""
  bundle = tiny_model.tiny_bundle(tmp_path)
  engine = Engine(bundle)
  units = np.repeat(np.arange(10), 5)
  recording = resynthesis.Recording('Alpha.', np.ones(16000, np.int16), units)
  asked = [Question('a', 'What?', ('alpha',))]
  settings = {'name': 'x', 'task': 'answers', 'ways': ['T2T'], 'batch': 2, 'timed': 0}
  store = store_lib.create(tmp_path / 'out', settings, asked)
  remade = resynthesis.Resynthesis(store, [recording] * 3, 2)
  for batch in remade.unmade():
    remade.make(engine, batch)
  assert remade.unmade() == [] and remade.lost_frames() == 0
  true = audio.load_audio(store_lib.remade_sound(store.folder, 2, 'true'))
  assert len(true) == len(units) * rates.UNIT_HOP
  said = iter(['Alpha.', 'Alpha beta.', 'Beta.'] * 3)
  listener = judges.Listener('ear', {}, lambda waves: [next(said) for _ in waves])
  for batch in remade.unheard('ear'):
    remade.hear(listener, batch)
  found = remade.scores('ear')
  assert {kind: own.value for kind, own in found.items()} == dict(natural=0, predicted=1, true=1)
  assert resynthesis.Resynthesis(store, [], 2).scores('ear')['true'] is None


@pytest.mark.parametrize(
  'options, message',
  [
    (('--out', 'folder'), 'OUT.json'),
    (('--num_processes', '2'), 'one process'),
    (('--judge', 'hama'), 'hears words'),
  ],
)
def test_what_the_demo_cannot_do(run, options, message):
  with pytest.raises(errors.ConfigError, match=message):
    run(*options)


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
  out, model = f'{bucket_folder}/evaluation.json', str(tmp_path / 'model')
  tiny_model.write_model(tmp_path / 'model', bundle.config)
  evaluate.main(['--checkpoint', model, '--workdir', bucket_folder, '--out', out, '--limit', '2'])
  assert FakeJudge.cache == tmp_path / 'cache' / 'echox-jax' / 'judge'
  assert not list((tmp_path / 'here').iterdir())  # no folder called `gs:`
  assert json.loads(storage.path(out).read_text())['questions'] == 2
  assert storage.is_file(workdir / 'evaluation' / 'report.html')


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
