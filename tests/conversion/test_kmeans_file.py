"""k-means models of scikit-learn, read without it."""

import pickle

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.conversion import joblib_file
from echox_jax.units import kmeans
from tests.helpers import hostile_pickles
from tests.helpers.hostile_pickles import text
from tests.helpers.paths import GOLDEN

FILES = GOLDEN / 'files'
CENTROIDS = np.load(FILES / 'centroids.npy')
PROGRAMS = hostile_pickles.programs('MARK')
MODEL = b'csklearn.cluster.k_means_\nMiniBatchKMeans\n)\x81}'
WRAPPER = b'csklearn.externals.joblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}('


def old_model(order='C', shape=(2, 3), code='f8', data=None):
  """As joblib before 1.2 dumped models of scikit-learn before 0.22, protocol 2: no padding before
  the array.
  """
  data = np.arange(6.0).tobytes() if data is None else data
  sizes = b''.join(b'K' + bytes([n]) for n in shape)
  dtype = (
    b'cnumpy\ndtype\n('
    + text(code)
    + b'K\x00K\x01tR(K\x03'
    + text('<')
    + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
  )
  wrapper = (
    WRAPPER
    + text('subclass')
    + b'cnumpy\nndarray\n'
    + text('shape')
    + b'('
    + sizes
    + b't'
    + text('order')
    + text(order)
    + text('dtype')
    + dtype
    + text('allow_mmap')
    + b'\x88ub'
  )
  return b'\x80\x02' + MODEL + text('cluster_centers_') + wrapper + data + b'sb.'


@pytest.mark.parametrize(
  'name', ['kmeans.joblib', 'kmeans_zlib.joblib', 'kmeans_xz_protocol2.joblib', 'centroids.npy']
)
def test_models_of_scikit_learn(name):
  np.testing.assert_array_equal(joblib_file.open_kmeans(FILES / name), CENTROIDS, strict=True)


def test_float64_model_becomes_float32():
  centroids = joblib_file.open_kmeans(FILES / 'kmeans_full.joblib')
  assert (
    centroids.dtype == np.float32 and centroids.shape == (5, 4) and np.isfinite(centroids).all()
  )


@pytest.mark.parametrize('order', ['C', 'F'])
def test_models_of_older_joblib(tmp_path, order):
  (tmp_path / 'L11_km2.bin').write_bytes(old_model(order))
  expected = np.arange(6, dtype=np.float32).reshape((2, 3), order=order)
  np.testing.assert_array_equal(joblib_file.open_kmeans(tmp_path / 'L11_km2.bin'), expected)


def test_our_own_file(tmp_path):
  kmeans.save(tmp_path / 'kmeans.safetensors', CENTROIDS)
  np.testing.assert_array_equal(joblib_file.open_kmeans(tmp_path / 'kmeans.safetensors'), CENTROIDS)


@pytest.mark.parametrize('name', PROGRAMS)
@pytest.mark.parametrize(
  'compress', [lambda data: data, joblib_file.gzip.compress, joblib_file.zlib.compress]
)
def test_nothing_is_run(tmp_path, monkeypatch, name, compress):
  monkeypatch.chdir(tmp_path)
  program, said = PROGRAMS[name]
  (tmp_path / 'evil.bin').write_bytes(compress(program))
  with pytest.raises(errors.CheckpointError) as caught:
    joblib_file.open_kmeans(tmp_path / 'evil.bin')
  assert said in str(caught.value) and 'evil.bin' in str(caught.value)
  assert not (tmp_path / 'MARK').exists()


@pytest.mark.parametrize(
  'data, said',
  [
    (old_model(code='O'), 'a dtype O'),
    (old_model(code='i4,O'), 'a dtype i4,O'),
    (old_model(order='X'), 'no order'),
    (old_model(shape=(255, 255)), 'truncated'),
    (old_model(shape=(6,)), r'\[K,D\]'),
    (old_model(data=np.full(6, np.nan).tobytes()), 'finite numbers'),
    (old_model(code='S8'), r'\[K,D\]'),
    (pickle.dumps({'cluster_centers_': 1}), 'cluster_centers_'),
    (b'\x80\x02' + MODEL + b'b.', 'cluster_centers_'),
    (b'\x80\x02cjoblib.numpy_pickle\nNDArrayWrapper\n.', "'joblib.numpy_pickle.NDArrayWrapper'"),
    (b'PK\x03\x04', 'a zip archive'),
    (b'ZF0x10', 'before 0.10'),
    (b'\x04\x22\x4d\x18', 'lz4'),
    (b'\x1f\x8bnothing', 'truncated'),
    (b'\x78\x9cnothing', 'truncated'),
    (b'BZnothing', 'truncated'),
    (b'\xfd7zXZnothing', 'truncated'),
    (b'', 'truncated'),
  ],
)
def test_other_files(tmp_path, data, said):
  (tmp_path / 'km.bin').write_bytes(data)
  with pytest.raises(errors.CheckpointError, match=said):
    joblib_file.open_kmeans(tmp_path / 'km.bin')


@pytest.mark.parametrize(
  'name', ['kmeans.joblib', 'kmeans_zlib.joblib', 'kmeans_xz_protocol2.joblib']
)
def test_truncated_models(tmp_path, name):
  data = (FILES / name).read_bytes()
  for size in {*range(0, len(data), 211), len(data) - 1}:
    (tmp_path / name).write_bytes(data[:size])
    with pytest.raises(errors.CheckpointError, match=name):
      joblib_file.open_kmeans(tmp_path / name)


def test_unpacking_has_a_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(joblib_file, '_MAX_BYTES', 1 << 20)
  (tmp_path / 'bomb.bin').write_bytes(joblib_file.zlib.compress(bytes(1 << 22)))
  with pytest.raises(errors.CheckpointError, match='more than 1 MiB'):
    joblib_file.open_kmeans(tmp_path / 'bomb.bin')


def test_arrays_of_objects_are_not_loaded(tmp_path):
  np.save(tmp_path / 'objects.npy', np.array([[None]], object), allow_pickle=True)
  with pytest.raises(errors.CheckpointError, match='plain numbers'):
    joblib_file.open_kmeans(tmp_path / 'objects.npy')
  with pytest.raises(errors.CheckpointError, match='does not exist'):
    joblib_file.open_kmeans(tmp_path / 'absent.bin')
