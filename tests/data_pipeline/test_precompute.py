"""Precompute fills the columns, skips what is done, keeps what was done when it is stopped, and
names what is wrong.
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from data_pipeline import batches, dataset, index, precompute, record_files, schema
from data_pipeline.schema import Example, Turn
from data_pipeline.shards import Process
from echox_jax import errors
from echox_jax.parallel import heartbeats
from echox_jax.tokenizer import TextTokenizer, precomputed_tokenizer
from echox_jax.units import extract, kmeans, unit_language
from launch import precompute as launch_precompute
from tests.helpers import batch_jobs, precompute_jobs
from tests.helpers.precompute_jobs import WORDS, experiment, make_encoders, write_raw


@pytest.fixture(scope='module')
def encoders():
  return make_encoders()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, encoders):
  folder = tmp_path_factory.mktemp('w')
  write_raw(folder / 'data')
  precompute.run(experiment(), folder, encoders, progress=False)
  return folder


def same_records(one, other):
  """All data sets of two working folders hold the same."""
  for name, split in (
    ('answers', 'train'),
    ('answers', 'holdout'),
    ('questions', 'train'),
    ('questions', 'test'),
  ):
    sources = [dataset.open_dataset(folder / 'precomputed', name, split) for folder in (one, other)]
    assert len(sources[0]) == len(sources[1])
    for a, b in zip(*sources):
      assert a.keys() == b.keys()
      for column in a:
        np.testing.assert_array_equal(a[column], b[column])


def test_heartbeats_tell_how_far_it_is(workdir):
  (beat,) = heartbeats.read(workdir)
  assert (beat.job, beat.state, beat.process, beat.processes) == ('precompute', 'finished', 0, 1)
  # every example is encoded for k-means, units, records...: more often than there are examples
  assert beat.step > 18 and beat.stage != 'starting'


def test_columns_hold_what_the_parts_give_one_by_one(workdir, encoders):
  raw, done = (
    list(dataset.read_examples(workdir / f, 'answers', 'holdout')) for f in ('data', 'precomputed')
  )
  centroids = kmeans.load(workdir / 'precomputed' / 'kmeans.safetensors')
  language = unit_language.UnitLanguage.load(workdir / 'precomputed' / 'unit_language.json')
  encoder = encoders.units()
  assert [e.id for e in raw] == [e.id for e in done]
  for before, after in zip(raw, done):
    (turn,), (filled,) = before.turns, after.turns
    (states,) = extract.encode_clips(encoder, [turn.audio / np.float32(32768)])
    np.testing.assert_array_equal(
      filled.units, kmeans.assign(states.layer.astype(np.float16).astype(np.float32), centroids)
    )
    assert not len(filled.audio)  # it is not stored twice
    assert filled.text == turn.text and len(filled.units) == len(turn.audio) // 320
    np.testing.assert_array_equal(
      language.decode(filled.unit_words), kmeans.reduce_units(filled.units)[0]
    )
    assert filled.unit_words.max() < 30


def test_questions_hold_final_states_in_the_place_of_audio(workdir, encoders):
  encoder = encoders.speech()
  for split in ('train', 'test'):
    for before, after in zip(
      *(dataset.read_examples(workdir / f, 'questions', split) for f in ('data', 'precomputed'))
    ):
      question = after.turns[0]
      (states,) = extract.encode_clips(encoder, [before.turns[0].audio / np.float32(32768)])
      np.testing.assert_allclose(
        question.states.astype(np.float32), states.final.astype(np.float32), atol=2e-2
      )
      assert (
        not len(question.audio) and question.text == before.turns[0].text and after.turns[1].text
      )


def test_stages_can_read_what_was_made(workdir):
  for stage in ('text', 's2t', 't2c', 'echo', 'vocoder'):
    settings = experiment(stage)
    assert next(batches.make_iterator(settings, workdir))
    assert batches.describe(settings, workdir)['left_out'] == {}


def test_report_and_tokenizer(workdir, encoders):
  report = precompute.run(experiment(), workdir, encoders, progress=False)
  assert report['ran'] == []
  assert (
    TextTokenizer(workdir / 'precomputed' / 'tokenizer.model').vocab_size
    == report['tokenizer_vocab_size']
    == 300
  )
  assert report['sets']['answers/train']['clips'] == 6
  assert 0 < report['unit_words_per_second'] <= report['units_per_second'] <= 50
  assert (
    set(report['compression']) == {'ngram', 'bpe', 'plain'}
    and report['compression']['plain']['units_per_word'] == 1
  )
  assert {path.name for path in (workdir / 'precomputed' / 'parts').iterdir()} == {
    'units',
    'tokens',
    'notes',
  }
  assert 'everything was there' in precompute.summary(report)


def test_only_what_changed_is_made_again(workdir, encoders, tmp_path):
  run = lambda **k: precompute.run(experiment(**k), tmp_path / 'w', encoders, progress=False)['ran']
  write_raw(tmp_path / 'w' / 'data')
  assert set(run()) >= {
    'tokenizer',
    'kmeans',
    'unit language',
    'data set answers',
    'data set questions',
  }
  assert run() == []
  assert run(units=dict(vocab_size=25)) == ['unit language', 'data set answers']
  again = run(units=dict(num_units=10, vocab_size=25))
  assert (
    'kmeans' in again
    and 'data set answers' in again
    and 'data set questions' not in again
    and 'tokenizer' not in again
  )
  # The same inputs give the same results elsewhere.
  first, second = (
    list(dataset.read_examples(f / 'precomputed', 'questions', 'test'))
    for f in (workdir, tmp_path / 'w')
  )
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a.turns[0].states, b.turns[0].states)


def test_a_run_that_is_stopped_goes_on_where_it_was(workdir, encoders, tmp_path, monkeypatch):
  write_raw(tmp_path / 'data')
  whole = record_files.write

  def stopped(path, examples, width):
    if 'train.array_record-00001' in path.name:
      next(iter(examples))
      path.write_bytes(b'some')
      raise KeyboardInterrupt
    return whole(path, examples, width)

  monkeypatch.setattr(record_files, 'write', stopped)
  with pytest.raises(KeyboardInterrupt):
    precompute.run(experiment(shard_examples=4), tmp_path, encoders, progress=False)
  monkeypatch.undo()
  made = tmp_path / 'precomputed'
  there = {
    path: path.stat().st_mtime_ns
    for path in made.rglob('*')
    if path.is_file() and 'writing' not in str(path)
  }
  assert {path.name for path in there} >= {
    'tokenizer.model',
    'kmeans.safetensors',
    'unit_language.json',
  }
  assert (
    len([path for path in there if path.name == 'spoken_turns-train.array_record-00000-of-00002'])
    == 1
  )
  with pytest.raises(errors.DataError, match='no data set'):
    dataset.open_dataset(made, 'answers', 'train')
  assert precompute.run(experiment(shard_examples=4), tmp_path, encoders, progress=False)[
    'ran'
  ] == ['data set answers', 'data set questions', 'tokens']
  assert all(path.stat().st_mtime_ns == time for path, time in there.items())
  assert not [path for path in made.rglob('*') if path.name == 'some' or path.suffix == '.tmp']
  same_records(workdir, tmp_path)


def test_two_processes_write_what_one_writes(encoders, tmp_path, monkeypatch):
  """Here as threads; test_precompute_kill has real ones."""
  precompute_jobs.count_few_parts_at_a_time(monkeypatch.setattr)
  jobs, barrier, reports = experiment(shard_examples=1), threading.Barrier(2), {}
  for folder in ('one', 'two'):
    write_raw(tmp_path / folder / 'data')
  precompute.run(jobs, tmp_path / 'one', encoders, progress=False)

  def work(index):
    process = Process(index, 2, lambda name: barrier.wait(60))
    reports[index] = precompute.run(
      jobs, tmp_path / 'two', encoders, progress=False, process=process
    )

  threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(120)
  assert {'units:answers/train', 'unit language', 'data set questions'} <= {*reports[0]['ran']} & {
    *reports[1]['ran']
  }
  one, two = (precompute_jobs.products(tmp_path / folder) for folder in ('one', 'two'))
  assert one == two and len([name for name in one if name.startswith('questions/')]) == 23


def test_the_manifest_is_right(workdir):
  folder = workdir / 'precomputed'
  manifest = json.loads((folder / 'manifest.json').read_text())
  left = {
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*')
    if path.is_file() and path.parts[len(folder.parts)] not in ('parts', 'index')
  }
  assert left == {*manifest['files'], 'manifest.json', 'precompute.json'}
  for name, about in manifest['files'].items():
    content = (folder / name).read_bytes()
    assert about == {'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)}
  assert manifest['versions']['jax'] and manifest['config']['precompute']['batch_seconds'] == 2.0


def test_stages_find_the_tables_of_sizes_made(workdir):
  tables = {path.name for path in (workdir / 'precomputed' / index.FOLDER).iterdir()}
  for stage in ('text', 's2t', 't2c', 'vocoder'):
    assert batches.describe(experiment(stage), workdir)['rows']
  assert {path.name for path in (workdir / 'precomputed' / index.FOLDER).iterdir()} == tables


def test_states_are_taken_over_where_only_units_have_changed(encoders, tmp_path):
  """A set with both: answers to what was said."""
  rng = np.random.default_rng(0)
  sound = lambda: (3000 * np.sin(np.cumsum(rng.uniform(0, 1, 9000)))).astype(np.int16)
  dataset.write_dataset(
    tmp_path / 'data',
    'talk',
    {
      'train': [
        Example(
          f't{i}',
          (
            Turn('user', 'Which sky is that?', audio=sound()),
            Turn('assistant', f'The {word} sky.', audio=sound()),
          ),
        )
        for i, word in enumerate(WORDS)
      ]
    },
  )
  names = ('talk/train',)
  jobs = lambda **units: experiment(
    units=units,
    unit_sets=names,
    state_sets=names,
    kmeans_sets=names,
    language_sets=names,
    shard_examples=5,
  )
  run = lambda encoders, **units: precompute.run(jobs(**units), tmp_path, encoders, progress=False)
  states = lambda: [
    example.turns[0].states
    for example in dataset.read_examples(tmp_path / 'precomputed', *names[0].split('/'))
  ]
  report = run(encoders)
  first = states()

  def refuse(*arguments):
    raise AssertionError('states are encoded again')

  no_encoding = dataclasses.replace(encoders.speech(), apply=refuse)
  assert (
    run(precompute.Encoders(encoders.units, lambda: no_encoding), num_units=10)['sets']
    == report['sets']
  )
  for a, b in zip(first, states()):
    np.testing.assert_array_equal(a, b)
  turn = next(dataset.read_examples(tmp_path / 'precomputed', *names[0].split('/'))).turns[1]
  assert turn.units.max() < 10 and len(turn.unit_words)


def test_kmeans_of_a_sample(encoders, tmp_path):
  """A part of the hours gives other centroids, all the hours those of everything."""
  fitted = []
  for i, hours in enumerate((0, 2.5 / 3600, 100)):
    write_raw(tmp_path / str(i) / 'data')
    report = precompute.run(
      experiment(kmeans_hours=hours, shard_examples=4, state_sets=()),
      tmp_path / str(i),
      encoders,
      progress=False,
    )
    fitted.append(kmeans.load(tmp_path / str(i) / 'precomputed' / 'kmeans.safetensors'))
    assert report['sets']['answers/train']['clips'] == 6  # units are made of all
  assert np.array_equal(fitted[0], fitted[2]) and not np.array_equal(fitted[0], fitted[1])


def test_given_files_are_used(workdir, encoders, tmp_path):
  write_raw(tmp_path / 'data')
  made = workdir / 'precomputed'
  settings = experiment(kmeans=str(made / 'kmeans.safetensors'))
  settings = dataclasses.replace(
    settings, tokenizer=dataclasses.replace(settings.tokenizer, model=str(made / 'tokenizer.model'))
  )
  precompute.run(settings, tmp_path, encoders, progress=False)
  for name in ('kmeans.safetensors', 'tokenizer.model'):
    assert (tmp_path / 'precomputed' / name).read_bytes() == (made / name).read_bytes()


def test_a_byte_pair_tokenizer_is_used_and_can_be_replaced(workdir, encoders, tmp_path):
  tokenizers = pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer, made.decoder = (
    tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    tokenizers.decoders.ByteLevel(),
  )
  special = [f'<|{i}|>' for i in range(16)]  # the ids that NANO_IDS takes
  made.train_from_iterator(
    [' '.join(WORDS)],
    tokenizers.trainers.BpeTrainer(
      vocab_size=290,
      special_tokens=special,
      show_progress=False,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  made.save(str(tmp_path / 'tokenizer.json'))
  write_raw(tmp_path / 'data')
  with_model = lambda stage, model: dataclasses.replace(
    experiment(stage, kmeans=str(workdir / 'precomputed' / 'kmeans.safetensors'), state_sets=()),
    tokenizer=dataclasses.replace(experiment().tokenizer, model=str(model)),
  )
  settings = with_model('t2c', tmp_path / 'tokenizer.json')
  assert precompute.run(settings, tmp_path, encoders, progress=False)['tokenizer_vocab_size'] == 290
  row = next(batches.make_iterator(settings, tmp_path))['input_ids'][0]
  answers = [
    example.turns[0].text
    for example in dataset.read_examples(tmp_path / 'data', 'answers', 'train')
  ]
  assert any(answer in made.decode(row[row < 290].tolist()) for answer in answers)
  precompute.run(
    with_model('t2c', workdir / 'precomputed' / 'tokenizer.model'),
    tmp_path,
    encoders,
    progress=False,
  )
  assert isinstance(precomputed_tokenizer(tmp_path / 'precomputed'), TextTokenizer)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(units=dict(vocab_size=2000)), 'unit_decoder.unit_vocab_size'),
    (dict(units=dict(num_units=2000)), 'vocoder.num_units'),
    (dict(unit_sets=(), state_sets=()), 'nothing to do'),
    (dict(shard_examples=0), 'shard_examples is 0'),
    (dict(language_sets=('speech/train',)), 'speech/train'),
    (dict(kmeans='nowhere.safetensors'), 'nowhere.safetensors'),
    (dict(unit_sets=('answers/train', 'songs/train')), 'songs'),
    (dict(unit_sets=('answers/train', 'answers/dev')), 'dev'),
    (dict(state_sets=('answers/train',)), "no audio of role 'user'"),
  ],
)
def test_what_cannot_work_is_one_sentence(encoders, tmp_path, change, message):
  write_raw(tmp_path / 'data')
  with pytest.raises(errors.EchoXError, match=message) as caught:
    precompute.run(experiment(**change), tmp_path, encoders, progress=False)
  assert '\n' not in str(caught.value)


def test_kmeans_of_another_width_or_size_is_one_sentence(encoders, tmp_path):
  write_raw(tmp_path / 'data')
  rng = np.random.default_rng(0)
  for shape, message in (((12, 5), 'width 5'), ((11, 16), '11 units')):
    kmeans.save(tmp_path / 'k', rng.normal(size=shape))
    with pytest.raises(errors.ConfigError, match=message):
      precompute.run(experiment(kmeans=str(tmp_path / 'k')), tmp_path, encoders, progress=False)


def test_short_clips_are_named(encoders, tmp_path):
  write_raw(tmp_path / 'data')
  dataset.write_dataset(
    tmp_path / 'data',
    'answers',
    {
      s: [Example('tiny one', (Turn('assistant', 'Red.', audio=np.ones(99, np.int16)),))]
      for s in ('train', 'holdout')
    },
  )
  with pytest.raises(errors.DataError, match="'tiny one' has only 99 samples"):
    precompute.run(experiment(), tmp_path, encoders, progress=False)


def test_command_line_says_how_to_make_missing_data(tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'launch.precompute',
      '--config=configs/echox_nano.py',
      f'--workdir={tmp_path}',
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert (
    done.returncode == 2
    and done.stderr.startswith('error: ')
    and 'launch.corpus' in done.stderr
    and done.stderr.count('\n') == 1
  )


def test_command_line_takes_part_in_a_job_of_several(monkeypatch, tmp_path):
  monkeypatch.setattr(
    sys,
    'argv',
    [
      'launch.precompute',
      '--config=configs/echox_nano.py',
      f'--workdir={tmp_path}',
      '--num_processes=2',
    ],
  )
  with pytest.raises(
    errors.ConfigError, match='--num_processes is given without --coordinator, --process_id'
  ):
    launch_precompute.main()


def test_audio_is_joined_row_by_row_and_only_that_of_the_same_content(encoders, tmp_path):
  write_raw(tmp_path / 'data')
  precompute.run(experiment(), tmp_path, encoders, progress=False)
  derived, raw = tmp_path / 'precomputed', tmp_path / 'data'
  stored = dataset.open_dataset(derived, 'answers', 'train')
  assert not any(len(record['audio']) for record in stored)
  joined = dataset.open_with_audio(derived, raw, 'answers', 'train')
  whole = list(map(schema.decode, joined))
  for heard, example in zip(dataset.read_examples(raw, 'answers', 'train'), whole, strict=True):
    np.testing.assert_array_equal(example.turns[0].audio, heard.turns[0].audio)
  # batches are those of a set that holds its audio itself
  of_joined = batch_jobs.take(batches.make_iterator(experiment('vocoder'), tmp_path), 5)
  dataset.write_dataset(tmp_path / 'copied' / 'precomputed', 'answers', {'train': whole})
  shutil.copy(derived / 'tokenizer.model', tmp_path / 'copied' / 'precomputed')
  of_copy = batch_jobs.take(batches.make_iterator(experiment('vocoder'), tmp_path / 'copied'), 5)
  for a, b in zip(of_joined, of_copy):
    batch_jobs.same(a, b)
  # a copy of the recordings is as good, whatever its times; other recordings are not
  shutil.copytree(raw, tmp_path / 'elsewhere', copy_function=shutil.copyfile)
  assert len(dataset.open_with_audio(derived, tmp_path / 'elsewhere', 'answers', 'train')) == 6
  assert (
    precompute.run(
      dataclasses.replace(experiment(), data_dir=str(tmp_path / 'elsewhere')),
      tmp_path,
      encoders,
      progress=False,
    )['ran']
    == []
  )
  dataset.write_dataset(tmp_path / 'elsewhere', 'answers', {'train': whole[:4] + whole[:2]})
  with pytest.raises(errors.DataError, match='was made from other content'):
    dataset.open_with_audio(derived, tmp_path / 'elsewhere', 'answers', 'train')


def test_a_unit_language_that_is_given_is_taken_as_it_is(workdir, tmp_path, encoders):
  """Another voice must be written in the words that the model knows."""
  fitted, rng = workdir / 'precomputed' / 'unit_language.json', np.random.default_rng(0)
  cfg, given = experiment().model.units, tmp_path / 'own.json'
  said = [kmeans.reduce_units(rng.integers(12, size=40))[0] for _ in range(20)]
  language = unit_language.fit(said, cfg, experiment().precompute.fit)
  language.save(given)
  assert given.read_bytes() != fitted.read_bytes()
  shutil.copytree(workdir / 'data', tmp_path / 'data')
  centroids = str(fitted.with_name('kmeans.safetensors'))
  choices = dict(kmeans=centroids, unit_language=str(given), language_sets=())
  report = precompute.run(experiment(**choices), tmp_path, encoders, progress=False)
  assert list(report['compression']) == ['ngram']
  assert (tmp_path / 'precomputed' / fitted.name).read_bytes() == given.read_bytes()
  for example in dataset.read_examples(tmp_path / 'precomputed', 'answers', 'train'):
    said = language.encode(kmeans.reduce_units(example.turns[0].units)[0])
    np.testing.assert_array_equal(example.turns[0].unit_words, said)
  with pytest.raises(errors.ConfigError, match="kind 'ngram' for 12 units, the config has 'plain'"):
    precompute.run(experiment(units=dict(language='plain'), **choices), tmp_path, encoders)
