"""Checkpoints of torch: read as torch reads them, written as torch reads them, and nothing in them
is run.
"""

import copyreg
import pickle
import zipfile

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import ml_dtypes
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.conversion import hubert_fairseq, rules, torch_file
from echox_jax.models.params import param_shapes
from tests.helpers import hostile_pickles
from tests.helpers.hostile_pickles import plain, text
from tests.helpers.paths import GOLDEN

FILES = GOLDEN / 'files'
DTYPES = ('float64', 'float32', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
PROGRAMS = hostile_pickles.programs('MARK')


def archive(path, program, entries=(), compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', compression) as f:
    for name, data in [('archive/data.pkl', program), *entries]:
      f.writestr(name, data)
  return path


def storage(cls='FloatStorage', key='0', elements=2):
  return (
    b'('
    + text('storage')
    + f'ctorch\n{cls}\n'.encode()
    + text(key)
    + text('cpu')
    + plain(elements)
    + b'tQ'
  )


def tensor(shape, strides, offset=0, **of):
  parts = storage(**of) + plain(offset) + plain(shape) + plain(strides)
  return b'ctorch._utils\n_rebuild_tensor\n(' + parts + b'tR.'


@pytest.mark.parametrize('name', ['torch_zip.pt', 'torch_legacy.pt'])
def test_files_of_torch(name):
  loaded = torch_file.load_torch(FILES / name)
  assert loaded['steps'] == 7
  tensors = torch_file.tensors_of(FILES / name, loaded, 'generator')
  base = np.arange(24, dtype=np.float32)
  expected = {
    'a': base[:6].reshape(2, 3),
    'half': np.arange(4, dtype=np.float16),
    'bf': np.array([1.5, -2.25], ml_dtypes.bfloat16),
    'i64': np.arange(3),
    'u8': np.arange(3, dtype=np.uint8),
    'flag': np.array([True, False]),
    'scalar': np.array(2.5),
    'empty': np.zeros((0, 4), np.float32),
    'transposed': base.reshape(4, 6).T,
    'slice': base[5:17:3],
    'param': base[2:4],
  }
  assert list(tensors) == list(expected)
  for key, value in expected.items():
    assert (tensors.shapes[key], tensors.dtypes[key]) == (value.shape, value.dtype)
    np.testing.assert_array_equal(tensors[key], value, strict=True)


def test_fairseq_checkpoint():
  opened = hubert_fairseq.open_hubert_fairseq(FILES / 'hubert_fairseq.pt')
  cfg = opened.config.hubert
  assert (cfg.hidden_size, cfg.num_heads, cfg.num_layers, cfg.conv_dim, cfg.conv_stride) == (
    8,
    2,
    1,
    (4,) * 7,
    (5, 2, 2, 2, 2, 2, 2),
  )
  params = rules.convert(
    opened.tensors, opened.rules, opened.what, param_shapes(opened.config, opened.groups)
  )
  assert params['hubert']['pos_conv']['kernel'].shape == (16, 2, 8)


def test_foreign_records_hold_what_they_were_given():
  loaded = torch_file.load_torch(FILES / 'hubert_fairseq.pt', torch_file.FAIRSEQ_RECORDS)
  assert loaded['args'].name == 'argparse.Namespace' and loaded['args'].state == {'seed': 1}
  assert loaded['extra_state'] == {'val_loss': 2.5, 'meters': {'a': 1}}
  (dictionary,) = loaded['task_state']['dictionaries']
  assert dictionary.name == 'fairseq.data.dictionary.Dictionary' and dictionary.state[
    'symbols'
  ] == ['<s>', 'a']
  with pytest.raises(
    errors.CheckpointError, match="hubert_fairseq.pt asks for 'omegaconf.dictconfig.DictConfig'"
  ):
    torch_file.load_torch(FILES / 'hubert_fairseq.pt')


@pytest.mark.parametrize(
  'values, fits',
  [
    ({}, True),
    ({'layer_norm_first': True}, False),
    ({'normalize': True}, False),
    ({'extractor_mode': 'layer_norm'}, False),
    ({'conv_feature_layers': '[(4,10,5)] + [(4,3,2)] * 6'}, True),
    ({'conv_feature_layers': '[(4,10,5)]*3'}, False),
    ({'conv_feature_layers': '__import__("os")'}, False),
  ],
)
def test_fairseq_config_decides(tmp_path, values, fits):
  loaded = torch_file.load_torch(FILES / 'hubert_fairseq.pt', torch_file.FAIRSEQ_RECORDS)
  tensors = torch_file.tensors_of('x', loaded, 'model')
  if fits:
    assert hubert_fairseq.config_of(tmp_path, tensors, values).conv_stride == (5, 2, 2, 2, 2, 2, 2)
  else:
    with pytest.raises(errors.CheckpointError):
      hubert_fairseq.config_of(tmp_path, tensors, values)


@given(
  st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(DTYPES).flatmap(
      lambda dtype: arrays.arrays(
        dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
      )
    ),
    max_size=4,
  )
)
@settings(max_examples=60, deadline=None)
def test_write_then_read_is_the_identity(tmp_path_factory, tree):
  path = tmp_path_factory.mktemp('torch') / 'file.pt'
  torch_file.write_torch(path, {'model': tree, 'empty': {}})
  loaded = torch_file.load_torch(path)
  assert loaded['empty'] == {}
  read = torch_file.tensors_of(path, loaded, 'model')
  assert list(read) == list(tree)
  for name, value in tree.items():
    np.testing.assert_array_equal(read[name], value, strict=True)


def test_bfloat16_layouts_and_byte_orders_are_written(tmp_path):
  tree = {
    'bf': np.arange(5).astype(ml_dtypes.bfloat16),
    'big': np.arange(4, dtype='>f4'),
    'columns': np.arange(6.0).reshape(2, 3).T,
  }
  path = torch_file.write_torch(tmp_path / 'a.pt', {'model': tree})
  read = torch_file.tensors_of(path, torch_file.load_torch(path), 'model')
  for name, value in tree.items():
    np.testing.assert_array_equal(read[name], value)
  with zipfile.ZipFile(path) as f:  # as torch writes it: aligned, uncompressed, one folder
    assert {info.filename for info in f.infolist()} == {
      'archive/data.pkl',
      'archive/byteorder',
      'archive/version',
      *(f'archive/data/{i}' for i in range(3)),
    }
  with pytest.raises(errors.CheckpointError, match='model/x is of type complex128'):
    torch_file.write_torch(tmp_path / 'b.pt', {'model': {'x': np.zeros(2, complex)}})
  assert not (tmp_path / 'b.pt').exists()


@pytest.mark.parametrize('name', PROGRAMS)
@pytest.mark.parametrize('layout', ['zip', 'legacy'])
def test_nothing_is_run(tmp_path, monkeypatch, name, layout):
  monkeypatch.chdir(tmp_path)
  program, said = PROGRAMS[name]
  path = tmp_path / 'evil.pt'
  if layout == 'zip':
    archive(path, program)
  else:
    path.write_bytes(program)
  with pytest.raises(errors.CheckpointError) as caught:
    torch_file.load_torch(path, torch_file.FAIRSEQ_RECORDS)
  assert said in str(caught.value) and 'evil.pt' in str(caught.value)
  assert not (tmp_path / 'MARK').exists()


def test_registered_extensions_are_not_used(tmp_path):
  copyreg.add_extension('os', 'system', 7)
  try:
    with pytest.raises(errors.CheckpointError, match='extension 7'):
      torch_file.load_torch(archive(tmp_path / 'a.pt', PROGRAMS['extension'][0]))
  finally:
    copyreg.remove_extension('os', 'system', 7)


@pytest.mark.parametrize(
  'program, said',
  [
    (b'K\x01Q.', 'persistent id'),
    (b'(lQ.', 'persistent id'),
    (b'P1\n.', 'persistent id'),
    (b'(' + text('module') + b'NNNNtQ.', 'persistent id'),
    (b'(' + text('storage') + b'NNNNtQ.', 'storage of no known type'),
    (storage(elements=-2) + b'.', 'storage of no known type'),
    (storage(key='9') + b'.', 'storage 9 is missing'),
    (storage(cls='QInt8Storage') + b'.', "'torch.QInt8Storage'"),
    (tensor((3,), (1,)), 'larger than its storage'),
    (tensor((2,), (1,), offset=1), 'larger than its storage'),
    (tensor((2,), (1,), elements=3), 'storage 0 is missing or too short'),
    (tensor((2,), ()), 'sizes cannot be'),
    (tensor((1 << 31, 1 << 31), (0, 0)), 'sizes cannot be'),
    (tensor((-1,), (1,)), 'not integers from 0'),
    (tensor((2,), (-1,)), 'not integers from 0'),
    (b'ctorch._utils\n_rebuild_tensor\n(NK\x00))tR.', 'no plain storage'),
    (b'ctorch._utils\n_rebuild_qtensor\n.', "'torch._utils._rebuild_qtensor'"),
  ],
)
def test_tensors_that_cannot_be(tmp_path, program, said):
  path = archive(tmp_path / 'odd.pt', program, [('archive/data/0', bytes(8))])
  with pytest.raises(errors.CheckpointError) as caught:
    torch_file.load_torch(path)
  assert said in str(caught.value)


def test_repeated_values_are_read(tmp_path):
  """A stride of 0, as `expand` makes."""
  path = archive(
    tmp_path / 'a.pt', tensor((3, 2), (0, 1)), [('archive/data/0', np.float32([1, 2]).tobytes())]
  )
  np.testing.assert_array_equal(torch_file.load_torch(path).read(), [[1, 2]] * 3)


@pytest.mark.parametrize('name', ['torch_zip.pt', 'torch_legacy.pt'])
def test_truncated_files(tmp_path, name):
  data = (FILES / name).read_bytes()
  path = tmp_path / name
  for size in {*range(0, len(data), 61), len(data) - 1}:
    path.write_bytes(data[:size])
    with pytest.raises(errors.CheckpointError, match=name):
      torch_file.load_torch(path)


@given(st.sampled_from(['torch_zip.pt', 'torch_legacy.pt']), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_files_give_one_kind_of_error(tmp_path_factory, name, data):
  """Or other numbers, where the damage is in them: torch does not check its sums either."""
  damaged = bytearray((FILES / name).read_bytes())
  for _ in range(data.draw(st.integers(1, 3))):
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
  path = tmp_path_factory.getbasetemp() / f'damaged_{name}'
  path.write_bytes(damaged)
  try:
    loaded = torch_file.load_torch(path)
    dict(torch_file.tensors_of(path, loaded, 'generator'))
  except errors.CheckpointError as error:
    assert name in str(error)


def test_storage_keys_that_cannot_be_hashed(tmp_path):
  """The list behind the objects of an old file, with tuples in tuples in it."""
  heads = (torch_file._LEGACY_MAGIC, torch_file._LEGACY_VERSION, {'little_endian': True}, None)
  bomb = b')' + b'2\x86' * 60
  path = tmp_path / 'bomb.pt'
  path.write_bytes(b''.join(map(pickle.dumps, heads)) + b'(' + bomb + b'l.' + bytes(8))
  with pytest.raises(errors.CheckpointError, match='bomb.pt is truncated or damaged'):
    torch_file.load_torch(path)


def test_other_files(tmp_path):
  for name, data, said in [
    ('text.pt', b'hello there', 'text.pt'),
    ('empty.pt', b'', 'empty.pt'),
    ('plain.pt', pickle.dumps({'a': 1}), 'not a checkpoint of torch'),
  ]:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(errors.CheckpointError, match=said):
      torch_file.load_torch(tmp_path / name)
  with pytest.raises(errors.CheckpointError, match='does not exist'):
    torch_file.load_torch(tmp_path / 'absent.pt')
  with pytest.raises(errors.CheckpointError, match='compressed'):
    torch_file.load_torch(
      archive(tmp_path / 'deflated.pt', b'N.' * 50, compression=zipfile.ZIP_DEFLATED)
    )
  with pytest.raises(errors.CheckpointError, match='big-endian'):
    torch_file.load_torch(archive(tmp_path / 'big.pt', b'N.', [('archive/byteorder', b'big')]))
  with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as f:
    f.writestr('a.txt', 'a')
  with pytest.raises(errors.CheckpointError, match='data.pkl'):
    torch_file.load_torch(tmp_path / 'other.zip')


def test_entries_that_are_not_there(tmp_path):
  loaded = torch_file.load_torch(FILES / 'torch_zip.pt')
  with pytest.raises(errors.CheckpointError, match="no entry 'model'.*generator, steps"):
    torch_file.tensors_of('a.pt', loaded, 'model')
  with pytest.raises(errors.CheckpointError, match='not tensors \\(n\\)'):
    torch_file.tensors_of('a.pt', {'model': {'n': 3}}, 'model')
