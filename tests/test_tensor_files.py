"""safetensors files, read and written tensor by tensor."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from echox_jax import errors, storage, tensor_files
from echox_jax.tensor_files import TensorWriter, open_tensors, write_sharded

RNG = np.random.default_rng(0)
TENSORS = {
  'flags': np.array([True, False, True]),
  'a/kernel': RNG.normal(size=(5, 7)).astype(np.float32),
  'half': RNG.normal(size=(3, 2, 4)).astype(np.float16),
  'brain': RNG.normal(size=(6, 4)).astype(ml_dtypes.bfloat16),
  'ids': np.arange(9, dtype=np.int64),
  'one': np.array(3.5, np.float32),
  'none': np.zeros((0, 4), np.float32),
}
SPECS = {name: (value.shape, value.dtype) for name, value in TENSORS.items()}


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)


def write(path, tensors=TENSORS):
  with TensorWriter(
    path, {n: (v.shape, v.dtype) for n, v in tensors.items()}, {'format': 'pt'}
  ) as writer:
    for name, value in tensors.items():
      writer.write(name, value)


def test_the_library_reads_what_is_written_here(tmp_path):
  write(tmp_path / 'model.safetensors')
  same(safetensors.numpy.load_file(tmp_path / 'model.safetensors'), TENSORS)


def test_what_the_library_writes_is_read_here(tmp_path):
  safetensors.numpy.save_file(TENSORS, tmp_path / 'model.safetensors', {'any': 'text'})
  for path in (tmp_path, tmp_path / 'model.safetensors'):
    opened = open_tensors(path)
    same(dict(opened), TENSORS)
    assert opened.shapes == {n: v.shape for n, v in TENSORS.items()}
    assert opened.dtypes == {n: v.dtype for n, v in TENSORS.items()}
  np.testing.assert_array_equal(opened.rows('a/kernel', 1, 4), TENSORS['a/kernel'][1:4])


def test_rows_are_written_in_any_order_transposed_and_converted(tmp_path, monkeypatch):
  monkeypatch.setattr(tensor_files, '_CHUNK', 40)  # several parts a tensor
  stacked = RNG.normal(size=(3, 4, 5)).astype(np.float32)
  with TensorWriter(tmp_path / 'x.safetensors', {'w': ((3, 4, 5), ml_dtypes.bfloat16)}) as writer:
    for layer in (2, 0, 1):
      writer.write('w', np.ascontiguousarray(stacked[layer].T).T, layer)
  np.testing.assert_array_equal(
    open_tensors(tmp_path / 'x.safetensors')['w'], stacked.astype(ml_dtypes.bfloat16)
  )


def test_shards_and_their_index(tmp_path):
  written = write_sharded(tmp_path, SPECS, reversed(TENSORS.items()), max_shard_bytes=100)
  assert [p.name for p in written[:2]] == [
    'model-00001-of-00004.safetensors',
    'model-00002-of-00004.safetensors',
  ]
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert index['metadata']['total_size'] == sum(v.nbytes for v in TENSORS.values())
  assert index['weight_map'].keys() == TENSORS.keys()
  same(dict(open_tensors(tmp_path)), TENSORS)
  assert [p.name for p in write_sharded(tmp_path / 'one', SPECS, TENSORS.items())] == [
    'model.safetensors'
  ]


@pytest.mark.parametrize('leave_out', [0, 3])
def test_half_written_files_never_stay(tmp_path, leave_out):
  with pytest.raises(ValueError, match='not been written'):
    write_sharded(
      tmp_path,
      SPECS,
      [item for i, item in enumerate(TENSORS.items()) if i != leave_out],
      max_shard_bytes=100,
    )
  with pytest.raises(ZeroDivisionError), TensorWriter(tmp_path / 'x.safetensors', SPECS) as writer:
    writer.write('ids', TENSORS['ids'])
    raise ZeroDivisionError
  with pytest.raises(ValueError, match='shape'):
    write(tmp_path / 'x.safetensors', TENSORS) or write_sharded(
      tmp_path, SPECS, [('ids', np.zeros(3))]
    )
  # written whole before the last error
  assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']
  same(dict(open_tensors(tmp_path / 'x.safetensors')), TENSORS)


def with_header(header, data=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + data


def entry(shape=(1,), offsets=(0, 4), dtype='F32'):
  return {'w': {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}}


@pytest.mark.parametrize(
  'data, says',
  [
    (b'', 'not a safetensors file'),
    (b'PK\3\4' + bytes(100), 'not a safetensors file'),
    (b'\x80\x02}q\x00' * 40, 'not a safetensors file'),
    ((1 << 60).to_bytes(8, 'little') + b'{}', 'not a safetensors file'),
    ((500).to_bytes(8, 'little') + b'{}', 'cut short within its header'),
    ((1).to_bytes(8, 'little') + b'{}', 'not a safetensors file'),
    (with_header(b'[1, 2]'), 'not a table of tensors'),
    (with_header({'w': 3}), 'not a table of tensors'),
    (with_header(entry(), b'abc'), "cut short: it ends before the tensor 'w'"),
    (with_header(entry(), b'abcde'), 'bytes after'),
    (with_header(entry(offsets=(4, 8)), bytes(8)), "misplaces the tensor 'w'"),
    (with_header(entry(shape=(2,)), bytes(4)), "misplaces the tensor 'w'"),
    (with_header(entry(shape=(-1, -1)), bytes(4)), "misplaces the tensor 'w'"),
    (with_header(entry(dtype='Q4'), bytes(4)), "'w'.*Q4"),
  ],
)
def test_damaged_and_foreign_files(tmp_path, data, says):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(data)
  with pytest.raises(errors.CheckpointError, match=says) as error:
    open_tensors(tmp_path)
  assert str(path) in str(error.value)


def test_files_in_a_bucket(bucket_folder, monkeypatch):
  monkeypatch.setattr(tensor_files, '_CHUNK', 40)
  monkeypatch.setattr(tensor_files, '_FIRST', 64)  # shorter than the headers
  folder = storage.path(bucket_folder)
  write(folder / 'model.safetensors')
  assert storage.tree(folder) == [folder / 'model.safetensors']
  opened = open_tensors(bucket_folder)
  same(dict(opened), TENSORS)
  np.testing.assert_array_equal(opened.rows('a/kernel', 1, 4), TENSORS['a/kernel'][1:4])
  write_sharded(folder / 'parts', SPECS, TENSORS.items(), max_shard_bytes=100)
  same(dict(open_tensors(folder / 'parts')), TENSORS)
  assert len(storage.tree(folder / 'parts')) > 3
  with pytest.raises(ValueError, match='has not been written whole'):
    TensorWriter(folder / 'half', SPECS).__enter__().__exit__(None, None, None)
  whole = (folder / 'model.safetensors').read_bytes()
  for cut in (whole[:-1], whole[:30], b''):
    storage.atomic_write_bytes(folder / 'half', cut)
    with pytest.raises(errors.CheckpointError, match=f'{bucket_folder}/half is'):
      open_tensors(folder / 'half')
  storage.atomic_write_bytes(folder / 'model.safetensors', whole[:-1])
  with pytest.raises(errors.CheckpointError, match='ends within the tensor'):
    same(dict(opened), TENSORS)


def test_a_file_cut_after_opening(tmp_path):
  write(tmp_path / 'x.safetensors')
  opened = open_tensors(tmp_path / 'x.safetensors')
  (tmp_path / 'x.safetensors').write_bytes((tmp_path / 'x.safetensors').read_bytes()[:-60])
  with pytest.raises(errors.CheckpointError, match='x.safetensors ends within the tensor'):
    dict(opened)


def test_nothing_to_open(tmp_path):
  with pytest.raises(errors.CheckpointError, match='neither model.safetensors nor'):
    open_tensors(tmp_path)
  with pytest.raises(errors.CheckpointError, match='absent.safetensors does not exist'):
    open_tensors(tmp_path / 'absent.safetensors')


def lose_shard(folder, index):
  (folder / index['weight_map']['ids']).unlink()


def name_a_tensor_too_many(folder, index):
  index['weight_map']['extra.weight'] = index['weight_map']['ids']


def name_a_tensor_too_few(folder, index):
  del index['weight_map']['ids']


def leave_the_folder(folder, index):
  index['weight_map']['ids'] = '../secret.safetensors'


@pytest.mark.parametrize(
  'change, says',
  [
    (lose_shard, "names the shard model-.*which is missing .*'ids'"),
    (name_a_tensor_too_many, "'extra.weight' does not match .*model-.* lacks it"),
    (name_a_tensor_too_few, "'ids' does not match .*model-.* holds it"),
    (leave_the_folder, 'is not an index'),
    (lambda folder, index: index.clear(), 'is not an index'),
  ],
)
def test_a_wrong_index(tmp_path, change, says):
  write_sharded(tmp_path, SPECS, TENSORS.items(), max_shard_bytes=100)
  path = tmp_path / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  change(tmp_path, index)
  path.write_text(json.dumps(index))
  with pytest.raises(errors.CheckpointError, match=says) as error:
    open_tensors(tmp_path)
  assert path.name in str(error.value)
