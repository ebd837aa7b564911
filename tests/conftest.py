"""Settings that must stand before JAX starts, and fixtures that several folders share."""

import os
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # What one test has compiled the next one finds, in whatever process, for as long as a run lasts.
  _COMPILED = tempfile.TemporaryDirectory(prefix='echox-jax-tests-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _COMPILED.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
# The tests compile much and compute little: unoptimised code, in one piece and without fusions that
# pass through MLIR, is made in less than half of the time. Tolerances are the same.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 '
  '--xla_cpu_use_fusion_emitters=false',
)

from tests.helpers import buckets

buckets.set_environment()

from jaxtyping import install_import_hook

# Shapes and dtypes that annotations name are checked wherever a test calls such a function.
CHECKED = ('models', 'decoding', 'units', 'inference', 'training.losses', 'training.chunked_losses')
install_import_hook([f'echox_jax.{name}' for name in CHECKED], 'beartype.beartype')

import uuid

import pytest

from tests.helpers import batch_jobs


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Questions asked by two voices, answers with units and unit words, raw and precomputed."""
  folder = tmp_path_factory.mktemp('w')
  batch_jobs.write_sets(folder)
  return folder


@pytest.fixture(scope='session')
def emulator():
  """Runs an emulator of Google Cloud Storage; skips the test where that cannot run."""
  reason = buckets.why_not()
  if reason:
    pytest.skip(reason)
  with buckets.running():
    yield


@pytest.fixture
def bucket_folder(emulator):
  """A folder of its own in a bucket, as text."""
  return f'gs://{buckets.BUCKET}/{uuid.uuid4().hex[:8]}'
