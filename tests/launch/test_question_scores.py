"""Evaluating a tiny random model on a question set: whole, killed, shared, scored again."""

import dataclasses
import functools
import json
import sys

import pytest

from echox_jax import audio, errors
from echox_jax.evaluation import asking
from echox_jax.evaluation import store as store_lib
from echox_jax.inference.engine import Engine
from launch import evaluate
from tests.helpers import tiny_model

for package in ('whisper_normalizer', 'scipy'):
  pytest.importorskip(package, reason="the scores need the extra 'eval'")

QUESTIONS = 5
EAR = f'command:{sys.executable} -m tests.helpers.ear'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A model folder; every engine for it is compiled once."""
  folder = tmp_path_factory.mktemp('model')
  bundle = tiny_model.tiny_bundle(folder)
  tiny_model.write_model(folder / 'model', bundle.config)

  @functools.cache
  def engine(conversations, hears, speaks):
    budgets = dataclasses.replace(bundle.engine, conversations=conversations)
    model = dataclasses.replace(bundle, engine=budgets)
    return Engine(model, hears=hears, speaks=speaks)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('echox_jax.load', lambda folder, **options: bundle)
    patch.setattr(
      'echox_jax.inference.engine.Engine',
      lambda model, hears, speaks: engine(model.engine.conversations, hears, speaks),
    )
    yield folder / 'model'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """A list of five questions by two voices; two of them have the same words."""
  folder = tmp_path_factory.mktemp('data')
  lines = ['id\tquestion\tquestion_audio\tspeaker\tcategory\tanswer\treferences']
  for i in range(QUESTIONS):
    audio.write_wav(folder / f'{i}.wav', tiny_model.question(1.0, i))
    lines.append(f'q{i}\tWhat is {i % 4}?\t{i}.wav\tvoice{i % 2}\tsums\tAlpha.\talpha|omega')
  (folder / 'list.tsv').write_text('\n'.join(lines) + '\n')
  return folder / 'list.tsv'


def evaluated(model, data, out, *options):
  """Runs the command with a judge that hears "alpha" in everything."""
  given = ['--checkpoint', str(model), '--data', str(data), '--out', str(out)]
  evaluate.main([*given, '--batch', '2', '--timed', '1', '--judge', EAR, *options])
  return out


@pytest.fixture
def run(model, data, tmp_path):
  """Runs the command; gives what it wrote."""

  def run(*options, out=tmp_path / 'out', data=data):
    return evaluated(model, data, out, *options)

  return run


def scores(out):
  return json.loads((out / store_lib.SCORES).read_text())


def parts(out):
  """What was answered and heard, by file; without times."""
  found = {
    path.relative_to(out).as_posix(): path.read_bytes()
    for kind in ('heard', 'sounds', 'questions')
    for path in sorted((out / kind).rglob('*'))
    if path.is_file()
  }
  for path in (out / 'answers').iterdir():
    rows = json.loads(path.read_text())
    found[path.name] = [{k: v for k, v in row.items() if k != 'times'} for row in rows]
  return found


@pytest.fixture(scope='module')
def whole(model, data, tmp_path_factory):
  """An evaluation that nobody interrupts."""
  return evaluated(model, data, tmp_path_factory.mktemp('whole') / 'out')


def test_four_ways_are_scored_and_everything_is_kept(whole):
  found = scores(whole)
  assert set(found['ways']) == {'T2T', 'T2S', 'S2T', 'S2S'} and found['questions'] == QUESTIONS
  assert found['task'] == 'answers' and found['times']['first_audio_s'] > 0
  # the judge hears "alpha" in every sound, and the random model never writes it
  assert found['ways']['S2S']['exist_match']['value'] == 1.0
  assert found['ways']['S2T']['exist_match']['value'] == 0.0
  assert found['gaps']['S2T - S2S']['value'] == -1.0
  assert found['speech']['units_per_second'] > 0 and set(found['by_voice']) == {'voice0', 'voice1'}
  # equal questions are asked in writing once
  asked = store_lib.open_store(whole)
  assert found['times']['timed_questions'] == 1 and asked.batches[: asked.alone] == [
    [('spoken', 0)]
  ]
  assert set(found['by_voice']['voice0']['S2S']) == set(found['ways']['S2S'])
  assert sum(map(len, asked.batches)) == QUESTIONS + 4
  assert len(list((whole / 'questions').iterdir())) == QUESTIONS
  lines = [json.loads(line) for line in (whole / 'scores.jsonl').read_text().splitlines()]
  assert [line['id'] for line in lines] == [f'q{i}' for i in range(QUESTIONS)]
  assert lines[0]['right'] == {'T2T': False, 'T2S': True, 'S2T': False, 'S2S': True}


def test_a_killed_evaluation_repeats_at_most_one_batch(whole, run, monkeypatch, tmp_path):
  answered, answer = [], asking.answer_batch

  def dies_in_the_third(engine, store, batch, asked):
    if len(answered) == 2:
      raise KeyboardInterrupt
    answer(engine, store, batch, asked)
    answered.append(batch)

  monkeypatch.setattr(asking, 'answer_batch', dies_in_the_third)
  with pytest.raises(KeyboardInterrupt):
    run()
  assert answered == [0, 1] and not (tmp_path / 'out' / store_lib.SCORES).exists()

  def counts(engine, store, batch, asked):
    answered.append(batch)
    answer(engine, store, batch, asked)

  monkeypatch.setattr(asking, 'answer_batch', counts)
  out = run()
  assert answered == list(range(5)) and parts(out) == parts(whole)


def test_a_full_disk_keeps_what_is_finished(whole, run, monkeypatch, tmp_path):
  write = audio.write_wav

  def full(path, wave, *rest):
    if path.name == 'spoken-00001.wav':
      raise OSError(28, 'No space left on device', str(path))
    return write(path, wave, *rest)

  monkeypatch.setattr(audio, 'write_wav', full)
  with pytest.raises(OSError, match='No space left'):
    run()
  out = tmp_path / 'out'
  finished = sorted(path.name for path in (out / 'answers').iterdir())
  assert finished == ['00000.json', '00001.json', '00002.json']
  monkeypatch.setattr(audio, 'write_wav', write)
  assert parts(run()) == parts(whole)


def test_processes_share_the_work(whole, run, capsys):
  two = ('--num_processes', '2', '--process_id')
  out = run(*two, '1')
  assert '3 of 5 batches are left' in capsys.readouterr().out
  assert not (out / store_lib.SCORES).exists()
  run(*two, '0')  # the last one scores
  assert parts(out) == parts(whole)
  kept = {'ways', 'gaps', 'counts', 'by_voice', 'by_length', 'speech'}
  assert {k: scores(out)[k] for k in kept} == {k: scores(whole)[k] for k in kept}


def test_scores_are_made_again_without_the_model(whole, monkeypatch):
  before = scores(whole)
  (whole / store_lib.SCORES).unlink()
  monkeypatch.setattr('echox_jax.load', None)
  monkeypatch.setattr('echox_jax.evaluation.commands.lines', None)  # nor the judge
  evaluate.main(['--rescore', '--out', str(whole), '--judge', EAR])
  assert scores(whole) == before


def test_another_judge_listens_to_what_is_kept(whole):
  deaf = f'{EAR} --deaf'
  evaluate.main(['--rescore', '--out', str(whole), '--judge', deaf, '--quality', f'{EAR} --length'])
  found = scores(whole)
  assert found['ways']['S2S']['exist_match']['value'] == 0.0
  assert found['ways']['S2S']['wer']['value'] == 1.0
  seconds = [row['audio_s'] for row in spoken_answers(whole)]
  assert found['ways']['S2S']['quality']['value'] == pytest.approx(
    sum(seconds) / len(seconds), abs=1e-3
  )
  evaluate.main(['--rescore', '--out', str(whole), '--judge', EAR])


def spoken_answers(out):
  rows = [row for path in (out / 'answers').iterdir() for row in json.loads(path.read_text())]
  return [row for row in rows if row['asked'] == 'spoken']


def test_text_alone_needs_no_judge(run):
  out = run('--ways', 'T2T', '--limit', '2', '--judge', '/nowhere')
  assert set(scores(out)['ways']) == {'T2T'} and not (out / 'sounds').exists()


def test_what_the_model_cannot_take_counts_as_wrong(run, tmp_path):
  audio.write_wav(tmp_path / 'long.wav', tiny_model.question(4.0))
  line = {'id': 'a', 'question': 'What?', 'question_audio': 'long.wav', 'answer': 'alpha'}
  (tmp_path / 'one.jsonl').write_text(json.dumps(line) + '\n')
  found = scores(run('--ways', 'S2T,S2S', data=tmp_path / 'one.jsonl'))
  assert found['counts']['refused'] == 1 and found['ways']['S2S']['exist_match']['value'] == 0.0


def test_a_folder_holds_one_evaluation(whole, run, tmp_path):
  with pytest.raises(errors.DataError, match=r'another evaluation \(batch differ\)'):
    run('--batch', '3', out=whole)
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.tex').touch()
  with pytest.raises(errors.DataError, match='holds no evaluation'):
    run(out=tmp_path / 'mine')


@pytest.mark.parametrize(
  'options, message',
  [
    (['--ways', 'T2X'], '--ways'),
    (['--batch', '0'], '--batch is 0'),
    (['--process_id', '1'], 'out of range'),
    (['--judge', '/nowhere'], 'neither whisper-base'),
    (['--quality', 'mos'], '--quality mos'),
    (['--compare', '/nowhere'], 'holds no evaluation'),
    (['--checkpoint', '/nowhere'], 'not an exported model'),
    (['--split', 'train'], "no lines of the split 'train'"),
  ],
)
def test_bad_options_are_one_sentence_before_anything_is_written(run, tmp_path, options, message):
  with pytest.raises(errors.EchoXError, match=message):
    run(*options)
  assert not (tmp_path / 'out').exists() or not (tmp_path / 'out' / 'answers').exists()


def test_an_unfinished_evaluation_cannot_be_scored(run, tmp_path):
  run('--num_processes', '2', '--process_id', '1')
  with pytest.raises(errors.DataError, match='3 of 5 batches are missing'):
    evaluate.main(['--rescore', '--out', str(tmp_path / 'out'), '--judge', EAR])
  with pytest.raises(errors.DataError, match='holds no evaluation'):
    evaluate.main(['--rescore', '--out', str(tmp_path / 'nothing')])


def test_a_missing_extra_is_one_sentence_before_the_work(run, monkeypatch, tmp_path):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(errors.MissingExtraError, match=r'scipy.*echox-jax\[eval\]'):
    run()
  assert not (tmp_path / 'out').exists()
