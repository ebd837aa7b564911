"""The table of a data set: what it says, when it is made again, and that rows chosen from it are
those of the records.
"""

import gc
import itertools
import os
import shutil
import sys
import time

import numpy as np
import pytest

from data_pipeline import dataset, index, schema, selection, turns
from data_pipeline.schema import ASR, Example, Turn
from echox_jax import prompts
from echox_jax.errors import DataError
from echox_jax.prompts import NANO_IDS as ids
from echox_jax.tokenizer import TextTokenizer, train_tokenizer
from tests.helpers import batch_jobs
from tests.helpers.batch_jobs import FACTS, experiment


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Dialogues of several turns in `questions`, transcribed speech in `libri_transcripts`, raw and
  precomputed.
  """
  folder = tmp_path_factory.mktemp('i')
  train_tokenizer(
    [t for fact in FACTS for t in fact] + [prompts.TRANSCRIBE],
    folder / 'precomputed' / 'tokenizer.model',
    batch_jobs.V,
  )

  def dialogues():
    for i, ((question, answer), (other, reply)) in enumerate(itertools.pairwise(FACTS)):

      def heard(n, value=i):
        return np.full((n, 4), value, np.float16)

      yield Example(
        f'd{i}',
        (
          Turn('user', question, states=heard(10 + i)),
          Turn(
            'assistant',
            answer,
            units=np.arange(i, dtype=np.int32),
            unit_words=np.arange(i % 3, dtype=np.int32),
          ),
          Turn('user', other if i % 2 else '', states=heard(7)),
          Turn('assistant', reply, audio=np.ones(400 * (i % 4), np.int16)),
        ),
      )

  def transcripts():
    for i, (question, _) in enumerate(FACTS):
      yield Example(
        f't{i}',
        (
          Turn('user', question, states=np.full((12, 4), i, np.float16), category=ASR),
          Turn('assistant', question, category=ASR),
        ),
      )

  dataset.write_dataset(folder / 'precomputed', 'questions', {'train': dialogues()})
  dataset.write_dataset(folder / 'precomputed', 'libri_transcripts', {'train': transcripts()})
  return folder


@pytest.fixture
def collecting():
  """Garbage is collected all the time, and lets other threads run meanwhile."""

  def let_others_run(*_):
    time.sleep(0)

  before = gc.get_threshold(), sys.getswitchinterval()
  gc.callbacks.append(let_others_run)
  gc.set_threshold(5, 1, 1)
  sys.setswitchinterval(1e-6)
  yield
  gc.set_threshold(*before[0])
  sys.setswitchinterval(before[1])
  gc.callbacks.remove(let_others_run)


def test_many_threads_read_what_lies_beside_the_records(workdir, collecting):
  """Python 3.11 runs the parser that numpy needs in one thread at a time only."""
  stored = dataset.open_turns(workdir / 'precomputed', 'questions', 'train')
  many = turns.StoredTurns(stored.files * 400, stored.counts * 400)
  assert len(many.table()) == 400 * len(stored.table())


def open_table(workdir, name='questions', workers=0):
  folder = workdir / 'precomputed'
  return index.open_table(folder, folder, name, 'train', folder, workers)


def test_the_table_says_what_the_records_hold(workdir):
  table, encode = (
    open_table(workdir),
    TextTokenizer(workdir / 'precomputed' / 'tokenizer.model').encode,
  )
  turns = [
    (i, j, turn)
    for i, example in enumerate(
      dataset.read_examples(workdir / 'precomputed', 'questions', 'train')
    )
    for j, turn in enumerate(example.turns)
  ]
  assert isinstance(table, np.memmap) and len(table) == len(turns) == 96
  hashes = {}
  for line, (i, j, turn) in zip(table, turns):
    assert (line['example'], line['turn'], line['transcript']) == (i, j, False)
    assert line['role'] == schema.ROLES.index(turn.role)
    assert [line[name] for name in ('tokens', 'audio', 'units', 'unit_words', 'states')] == [
      len(x) for x in (encode(turn.text), turn.audio, turn.units, turn.unit_words, turn.states)
    ]
    assert (line['text'] == 0) == (turn.text == '')
    assert hashes.setdefault(turn.text, line['text']) == line['text']
  assert len(set(hashes.values())) == len(hashes)


def test_it_is_made_once_and_again_when_what_it_was_made_from_changes(
  workdir, tmp_path, monkeypatch
):
  shutil.copytree(workdir, tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w' / 'precomputed' / 'index', ignore_errors=True)
  made, write = [], index.write_table
  monkeypatch.setattr(
    index, 'write_table', lambda path, table: (made.append(path.name), write(path, table))
  )
  first = open_table(tmp_path / 'w').copy()
  np.testing.assert_array_equal(open_table(tmp_path / 'w'), first)
  assert len(made) == 1
  train_tokenizer(
    [t for fact in FACTS for t in fact], tmp_path / 'w' / 'precomputed' / 'tokenizer.model', 295
  )
  open_table(tmp_path / 'w')
  assert len(set(made)) == 2
  examples = list(dataset.read_examples(tmp_path / 'w' / 'precomputed', 'questions', 'train'))[:3]
  dataset.write_dataset(tmp_path / 'w' / 'precomputed', 'questions', {'train': examples})
  assert len(open_table(tmp_path / 'w')) == 12 and len(set(made)) == 3
  # nothing half-written is left
  assert sorted(os.listdir(tmp_path / 'w' / 'precomputed' / 'index')) == sorted(made)


def test_reading_processes_make_the_same_table(workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(index, '_PART', 7)
  expected = open_table(workdir)
  shutil.copytree(workdir, tmp_path / 'w', ignore=shutil.ignore_patterns('index'))
  np.testing.assert_array_equal(open_table(tmp_path / 'w', workers=2), expected)


def test_records_are_not_read_for_it(workdir, tmp_path):
  expected = open_table(workdir)
  shutil.copytree(workdir, tmp_path / 'w', ignore=shutil.ignore_patterns('index'))
  (record_file,) = (tmp_path / 'w' / 'precomputed' / 'questions').glob('*-of-00001')
  record_file.write_bytes(b'')
  table = open_table(tmp_path / 'w')
  np.testing.assert_array_equal(table, expected)
  # what lies beside the records is another matter
  shutil.rmtree(tmp_path / 'w' / 'precomputed' / 'index')
  beside = record_file.with_name(f'{record_file.name}.turns')
  beside.write_bytes(beside.read_bytes()[:99])
  with pytest.raises(DataError, match=r'.turns is damaged .* make that again'):
    open_table(tmp_path / 'w')
  beside.unlink()
  with pytest.raises(DataError, match=r'.turns is missing'):
    open_table(tmp_path / 'w')


def test_a_data_set_of_an_earlier_version_is_named(workdir, tmp_path):
  shutil.copytree(workdir, tmp_path / 'w', ignore=shutil.ignore_patterns('manifest.json'))
  with pytest.raises(DataError, match='earlier version, without the lengths'):
    open_table(tmp_path / 'w')
  with pytest.raises(DataError, match='earlier version'):
    dataset.open_dataset(tmp_path / 'w' / 'precomputed', 'questions', 'train')


def test_a_damaged_table_is_named(workdir, tmp_path):
  shutil.copytree(workdir, tmp_path / 'w', ignore=shutil.ignore_patterns('index'))
  open_table(tmp_path / 'w')
  (file,) = (tmp_path / 'w' / 'precomputed' / 'index').iterdir()
  file.write_bytes(file.read_bytes()[:40])
  with pytest.raises(DataError, match=r'questions-train-\w+.npy is damaged .* delete it'):
    open_table(tmp_path / 'w')


def test_every_exchange_of_a_dialogue_is_a_row_of_the_length_that_was_foretold(workdir):
  chosen = selection.select(experiment('s2t', max_tokens=200), workdir)
  assert len(chosen) == 24 + 12 and chosen.left_out == {'without text or speech': 12}
  for i, line in enumerate(chosen.rows):
    row = chosen[i]
    assert (len(row['input_ids']), len(row['ctc_labels']), len(row['states'])) == (
      line['tokens'],
      line['said'],
      line['states'],
    )
  spoken = selection.select(experiment('t2c', max_tokens=200, sets=('questions/train',)), workdir)
  assert spoken.left_out == {'without text or unit words': 48 - len(spoken)} and len(spoken) == 16
  assert [len(spoken[i]['input_ids']) for i in range(16)] == spoken.rows['tokens'].tolist()


def test_transcribed_speech_is_asked_for_its_words(workdir):
  model = TextTokenizer(workdir / 'precomputed' / 'tokenizer.model')
  settings = experiment(
    's2t', max_tokens=200, sets=('questions/train', 'libri_transcripts/train'), written_fraction=0.4
  )
  chosen = selection.select(settings, workdir)
  of_set = lambda number: [i for i, line in enumerate(chosen.rows) if line['source'] == number]
  # no transcript is a written question
  assert len(of_set(1)) == 25 and all(chosen.rows['states'][of_set(1)] == 12)
  for i, (question, _) in zip(of_set(1), FACTS):
    words = model.encode(question)
    row = chosen[i]
    asked = [
      1,
      3,
      1,
      7,
      4,
      1,
      5,
      ids.audio,
      1,
      *model.encode(prompts.TRANSCRIBE),
      2,
      3,
      1,
      8,
      4,
      1,
      5,
    ]
    assert row['input_ids'].tolist() == [*asked, 1, *words, 2]
    assert (
      row['labels'][len(asked) :].tolist() == [1, *words, 2] and row['ctc_labels'].tolist() == words
    )
  with pytest.raises(DataError, match='the sets have none'):
    selection.select(experiment('text', sets=('libri_transcripts/train',)), _raw(workdir))


def _raw(workdir):
  if not (workdir / 'data').exists():
    shutil.copytree(
      workdir / 'precomputed' / 'libri_transcripts', workdir / 'data' / 'libri_transcripts'
    )
  return workdir
