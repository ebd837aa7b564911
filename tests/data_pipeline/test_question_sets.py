"""Public question sets are read as they are."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile

from data_pipeline import question_sets
from echox_jax import audio
from echox_jax.errors import DataError
from echox_jax.evaluation import questions

pyarrow = pytest.importorskip('pyarrow', reason="Parquet needs the extra 'eval'")
WAVE = np.sin(np.arange(8000) / 20).astype(np.float32) / 2


def sound(subtype='PCM_16', kind='WAV'):
  buffer = io.BytesIO()
  soundfile.write(buffer, WAVE, 16000, subtype=subtype, format=kind)
  return {'bytes': buffer.getvalue(), 'path': 'x.wav'}


def parquet(folder, rows, name='test-00000-of-00001'):
  from pyarrow import parquet

  folder.mkdir(parents=True, exist_ok=True)
  parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f'{name}.parquet')
  return folder


TRIVIA = {'value': 'Paris', 'aliases': ['Paree'], 'normalized_aliases': ['paris', 'Paree']}
CASES = {
  'TwinkStart llama': ({'Questions': 'Where?', 'Answer': 'Paris', 'audio': sound()}, ('Paris',)),
  'TwinkStart web': (
    {'question': 'Where?', 'answers': ['Paris', 'Paree'], 'audio': sound('FLOAT')},
    ('Paris', 'Paree'),
  ),
  'TwinkStart trivia': (
    {'question': 'Where?', 'answer': ['Paris', 'Paree'], 'audio': sound()},
    ('Paris', 'Paree'),
  ),
  'fixie trivia': (
    {'question': 'Where?', 'answer': TRIVIA, 'question_audio': sound()},
    ('Paris', 'Paree', 'paris'),
  ),
  'VoiceBench sd-qa': ({'prompt': 'Where?', 'reference': 'Paris', 'audio': sound()}, ('Paris',)),
}


@pytest.mark.parametrize('name', CASES)
def test_parquet(tmp_path, name):
  row, references = CASES[name]
  (read,) = question_sets.read(parquet(tmp_path / 'data', [row]).parent)
  assert (read.text, read.references) == ('Where?', references)
  np.testing.assert_allclose(read.sound(), WAVE, atol=1e-4)
  questions.check([read], name, True, True)
  assert questions.task_of([read]) == questions.ANSWERS


def test_multiple_choice_and_instructions(tmp_path):
  rows = [
    {'prompt': 'Which? A. x', 'reference': letter, 'audio': sound(), 'domain': 'law'}
    for letter in 'AD'
  ]
  read = question_sets.read(parquet(tmp_path / 'mmsu', rows))
  assert questions.task_of(read) == questions.CHOICE and read[0].category == 'law'
  row = {
    'key': 7,
    'prompt': 'Write.',
    'instruction_id_list': ['punctuation:no_comma', 'length_constraints:number_words'],
    'kwargs': [{'num_words': None, 'relation': None}, {'num_words': 9, 'relation': 'at least'}],
    'audio': sound(),
  }
  (read,) = question_sets.read(parquet(tmp_path / 'ifeval', [row]))
  assert read.id == '7' and questions.task_of([read]) == questions.INSTRUCTIONS
  assert read.instructions == (
    ('punctuation:no_comma', {}),
    ('length_constraints:number_words', {'num_words': 9, 'relation': 'at least'}),
  )
  assert questions.of_row(json.loads(json.dumps(read.row()))).row() == read.row()


OPEN_AUDIO_BENCH = [
  ({'Questions': 'Where?', 'Answer': 'Paris; or so'}, ('Paris; or so',)),
  ({'question': 'Where?', 'answers': 'Paris;Paree'}, ('Paris', 'Paree')),
  (
    {
      'question': 'Where?',
      'answer_normalized_value': 'paris',
      'answer_normalized_aliases': 'paree,paris',
    },
    ('paris', 'paree'),
  ),
]


def open_audio_bench(folder, row):
  (folder / 'audios').mkdir(parents=True)
  soundfile.write(folder / 'audios' / '1.mp3', WAVE, 16000)
  with open(folder / f'{folder.name}.csv', 'w', newline='') as f:
    writer = csv.DictWriter(f, [*row, 'audio_filename'])
    writer.writeheader()
    writer.writerow(row | {'audio_filename': '1.mp3'})
  return folder


@pytest.mark.parametrize('row, references', OPEN_AUDIO_BENCH)
def test_csv_with_sounds_beside_it(tmp_path, row, references):
  (read,) = question_sets.read(open_audio_bench(tmp_path / 'trivia_qa', row))
  assert (read.text, read.references) == ('Where?', references)
  assert abs(len(read.sound()) - len(WAVE)) < 2000


def test_splits(tmp_path):
  row = CASES['TwinkStart llama'][0]
  folder = parquet(tmp_path / 'data', [row, row], 'train-00000-of-00001')
  assert len(question_sets.read(tmp_path)) == 2
  parquet(folder, [row], 'aus-00000-of-00001')
  with pytest.raises(DataError, match='splits aus, train.*--split'):
    question_sets.read(tmp_path)
  assert len(question_sets.read(tmp_path, 'aus')) == 1
  parquet(folder, [row] * 3, 'test-00000-of-00002')
  parquet(folder, [row] * 2, 'test-00001-of-00002')
  assert len(question_sets.read(tmp_path)) == 5


def test_lists(tmp_path):
  audio.write_wav(tmp_path / 'a.wav', WAVE)
  lines = ['id\tquestion\tquestion_audio\tanswer\treferences\tspeaker\tsplit']
  lines += ['1\tWhere?\ta.wav\tIn Paris.\tParis|Paree\tann\ttest', '2\tWho?\ta.wav\tMe.\t\t\ttrain']
  (tmp_path / 'list.tsv').write_text('\n'.join(lines))
  (read,) = question_sets.read(tmp_path / 'list.tsv')
  assert (read.id, read.references, read.voice) == ('1', ('Paris', 'Paree'), 'ann')
  assert len(read.sound()) == len(WAVE)


def unreadable(folder):
  """Sets that cannot be used, and what is said of them."""
  good = CASES['TwinkStart llama'][0]
  yield folder / 'nothing', 'there is no question set'
  yield parquet(folder / 'asr', [{'text': 'x', 'audio': sound()}]), 'no layout of a question set'
  yield parquet(folder / 'alpaca', [{'prompt': 'x', 'audio': sound()}]), 'judged by an LLM'
  bbh = {'prompt': 'x', 'reference': 'yes', 'id': 'navigate_1', 'audio': sound()}
  yield parquet(folder / 'bbh', [bbh]), 'BIG-Bench Hard'
  (folder / 'two').mkdir()
  for name in 'ab':
    parquet(folder / 'two' / name, [good])
  yield folder / 'two', 'several sets .a, b.'
  (folder / 'damaged').mkdir()
  (folder / 'damaged' / 'test.parquet').write_bytes(b'PAR1 no')
  yield folder / 'damaged', 'no Parquet file, or damaged'
  (folder / 'empty').mkdir()
  yield folder / 'empty', 'neither Parquet files nor one CSV file'
  (folder / 'list.jsonl').write_text(
    '{"id": "1", "question": "x", "answer": "y", "question_audio": "no.wav"}\n'
  )
  yield folder / 'list.jsonl', 'no.wav, which does not exist'
  (folder / 'bad.jsonl').write_text('{"id": "1"}\n')
  yield folder / 'bad.jsonl', "bad.jsonl:1 has no text in 'answer'"


@pytest.mark.parametrize('number', range(9))
def test_what_cannot_be_read_is_one_sentence(tmp_path, number):
  path, message = list(unreadable(tmp_path))[number]
  with pytest.raises(DataError, match=message):
    question_sets.read(path)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'Answer': ''}, "'00001' of set lacks accepted answers"),
    ({'Answer': None}, 'lacks accepted answers'),
    ({'audio': None}, 'lacks sound'),
    ({'audio': {'bytes': None, 'path': 'gone.wav'}}, 'lacks sound'),
    ({'Questions': ' '}, 'lacks text'),
  ],
)
def test_a_question_that_lacks_something_is_one_sentence(tmp_path, change, message):
  good = CASES['TwinkStart llama'][0]
  read = question_sets.read(parquet(tmp_path, [good, good | change]))
  with pytest.raises(DataError, match=message):
    questions.check(read, 'set', True, True)
  with pytest.raises(DataError, match='id .a. stands 2 times'):
    questions.check([questions.Question('a'), questions.Question('a')], 'set', True, True)
  with pytest.raises(DataError, match='no questions'):
    questions.check([], 'set', True, True)


def test_damaged_sound_is_one_sentence(tmp_path):
  row = CASES['TwinkStart llama'][0] | {'audio': {'bytes': b'RIFF no', 'path': ''}}
  (read,) = question_sets.read(parquet(tmp_path, [row]))
  with pytest.raises(audio.AudioError, match='sound of row 0 is damaged'):
    read.sound()
