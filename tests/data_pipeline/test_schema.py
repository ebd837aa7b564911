"""Records keep what they were given, on disk too."""

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipeline import dataset, schema
from echox_jax import audio
from echox_jax.errors import DataError

FIELDS = ('role', 'text', 'speaker', 'language', 'source', 'category', 'references')
ARRAYS = ('audio', 'units', 'unit_words', 'states')


def same(a: schema.Example, b: schema.Example) -> None:
  assert a.id == b.id and len(a.turns) == len(b.turns)
  for x, y in zip(a.turns, b.turns):
    assert all(getattr(x, f) == getattr(y, f) for f in FIELDS)
    for f in ARRAYS:
      assert getattr(x, f).dtype == getattr(y, f).dtype
      if len(getattr(x, f)) or len(getattr(y, f)):
        np.testing.assert_array_equal(getattr(x, f), getattr(y, f))


def example(name='a', turns=2, samples=7, frames=0, width=4) -> schema.Example:
  rng = np.random.default_rng(len(name) + samples)
  return schema.Example(
    name,
    tuple(
      schema.Turn(
        role=schema.ROLES[i % 2],
        text=f'text {i} é',
        speaker='joe',
        references=('seven', '7'),
        audio=rng.integers(-9, 9, samples * i).astype(np.int16),
        units=np.arange(i * 3, dtype=np.int32),
        unit_words=np.arange(i, dtype=np.int32),
        states=rng.normal(size=(frames * i, width)).astype(np.float16),
      )
      for i in range(turns)
    ),
  )


@st.composite
def examples(draw):
  width = draw(st.integers(1, 5))

  def turn():
    def array(low, high, dtype):
      return np.asarray(draw(st.lists(st.integers(low, high), max_size=9)), dtype)

    frames = draw(st.integers(0, 4))
    return schema.Turn(
      role=draw(st.sampled_from(schema.ROLES)),
      text=draw(st.text(max_size=20)),
      speaker=draw(st.text(max_size=5)),
      references=tuple(draw(st.lists(st.text(max_size=5), max_size=3))),
      audio=array(-32768, 32767, np.int16),
      units=array(0, 999, np.int32),
      unit_words=array(0, 9999, np.int32),
      states=np.arange(frames * width, dtype=np.float16).reshape(frames, width),
    )

  return schema.Example(
    draw(st.text(max_size=8)), tuple(turn() for _ in range(draw(st.integers(1, 4))))
  )


@given(examples())
@settings(max_examples=50, deadline=None)
def test_encode_then_decode_gives_the_example_back(e):
  record = schema.encode(e)
  assert tuple(record) == schema.COLUMNS
  same(schema.decode(record), e)
  same(schema.decode({**record, 'id': record['id'].encode(), 'turns': record['turns'].encode()}), e)


@pytest.mark.parametrize('frames', [0, 5])
def test_dataset_round_trip_keeps_order_and_splits(tmp_path, frames):
  train = [example(f'{i}', samples=i, frames=frames) for i in range(12)]
  test = [example('other', turns=3, frames=frames)]
  dataset.write_dataset(tmp_path, 'questions', {'train': train, 'test': test})
  source = pickle.loads(pickle.dumps(dataset.open_dataset(tmp_path, 'questions', 'train')))
  assert len(source) == 12
  for i in (11, 0, 5):
    same(schema.decode(source[i]), train[i])
    assert schema.text_turns(source[i])[1]['text'] == 'text 1 é'
  assert dataset.split_names(tmp_path, 'questions') == ('test', 'train')
  same(next(iter(dataset.read_examples(tmp_path, 'questions', 'test'))), test[0])
  assert [p.name for p in tmp_path.iterdir()] == ['questions']


def test_a_failed_write_keeps_the_earlier_data_set(tmp_path):
  dataset.write_dataset(tmp_path, 'speech', {'train': [example('kept')]})

  def broken():
    yield example('new')
    raise ValueError('disk full')

  with pytest.raises(ValueError):
    dataset.write_dataset(tmp_path, 'speech', {'train': broken()})
  assert [e.id for e in dataset.read_examples(tmp_path, 'speech', 'train')] == ['kept']
  assert [p.name for p in tmp_path.iterdir()] == ['speech']
  dataset.write_dataset(tmp_path, 'speech', {'train': [example('new')]})
  assert [e.id for e in dataset.read_examples(tmp_path, 'speech', 'train')] == ['new']


def test_clear_errors(tmp_path):
  with pytest.raises(DataError, match='there is no data set'):
    dataset.open_dataset(tmp_path, 'none', 'train')
  with pytest.raises(DataError, match='empty'):
    dataset.write_dataset(tmp_path, 'x', {'train': []})
  dataset.write_dataset(tmp_path, 'x', {'train': [example()]})
  with pytest.raises(DataError, match="no split 'test'.*train"):
    dataset.open_dataset(tmp_path, 'x', 'test')
  (tmp_path / 'x' / 'dataset_info.json').write_text('{')
  with pytest.raises(DataError, match='damaged'):
    dataset.open_dataset(tmp_path, 'x', 'train')
  with pytest.raises(DataError, match='role'):
    schema.encode(schema.Example('e', (schema.Turn(role='robot'),)))
  with pytest.raises(DataError, match='states of shape'):
    schema.encode(example(frames=2, width=4), width=8)
  record = schema.encode(example())
  with pytest.raises(DataError, match='damaged'):
    schema.decode({**record, 'audio': record['audio'][1:]})
  with pytest.raises(DataError, match='lacks the columns units'):
    schema.decode({k: v for k, v in record.items() if k != 'units'})


def test_a_kept_recording_is_decoded_when_read(tmp_path):
  wave = (np.sin(np.arange(4000) / 9) * 9000).astype(np.int16)
  file = audio.write_wav(tmp_path / 'a.wav', wave).read_bytes()
  spoken = schema.Turn('user', 'hello', audio=wave, recording=np.frombuffer(file, np.uint8))
  e = schema.Example(
    'e',
    (
      schema.Turn('assistant', 'not kept', audio=wave[:50]),
      spoken,
      schema.Turn('assistant', 'no sound'),
    ),
  )
  dataset.write_dataset(tmp_path, 'kept', {'train': [e]}, keep_encoded=True)
  dataset.write_dataset(tmp_path, 'samples', {'train': [e]})
  record = dataset.open_dataset(tmp_path, 'kept', 'train')[0]
  assert (
    len(record['audio']) == 50
    and len(record['recordings']) == len(file)
    and record['audio_lengths'].tolist() == [50, 4000, 0]
  )
  for name in ('kept', 'samples'):
    same(next(dataset.read_examples(tmp_path, name, 'train')), e)
  for damage, message in (
    (dict(recordings=record['recordings'] * 0), 'damaged'),
    (dict(audio_lengths=record['audio_lengths'] + [0, 1, 0]), '4000 samples'),
  ):
    with pytest.raises(DataError, match=message):
      schema.decode({**record, **damage})
