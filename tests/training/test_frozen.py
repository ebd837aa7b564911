"""Frozen parameters are written once a run; what refers to them notices when they are gone or
changed.
"""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from echox_jax import errors, tensor_files
from echox_jax.models.trees import flatten
from echox_jax.training import checkpoint, frozen, init_from, stages, state
from tests.helpers import saved_states, training_jobs
from tests.helpers.processes import run_python


def lora_job(**changes):
  """Stage t2c: the text table is frozen, the decoder is trained."""
  return training_jobs.experiment('t2c', frozen_dtype='bfloat16', **changes)


@pytest.fixture
def saved(tmp_path):
  filled, _ = saved_states.save(tmp_path, lora_job(), steps=(3, 6))
  return tmp_path, filled


def restore(workdir, job):
  abstract = state.abstract_state(stages.get_stage('t2c'), job, saved_states.one_device())
  checkpoints = checkpoint.Checkpoints(workdir / 't2c', keep=2)
  try:
    return checkpoints.restore(
      6,
      abstract.trainable,
      abstract.frozen,
      abstract.opt_state,
      training_jobs.text_rows(job, workdir),
    )
  finally:
    checkpoints.close()


def test_checkpoints_hold_what_is_trained_and_a_reference(saved):
  workdir, filled = saved
  folder = workdir / 't2c'
  trained = ocp.PyTreeCheckpointHandler().metadata(folder / 'checkpoints' / '6' / 'params').tree
  assert flatten(trained).keys() == flatten(filled.trainable).keys()
  assert len(list((folder / 'frozen').iterdir())) == 1  # once, for both steps
  assert checkpoint.param_shapes(folder) == {
    path: leaf.shape for path, leaf in flatten(filled.params()).items()
  }
  trainable, kept, _, _ = restore(workdir, lora_job())
  jax.tree.map(np.testing.assert_array_equal, (trainable, kept), (filled.trainable, filled.frozen))


def test_groups_come_as_they_are_stored_and_on_no_device(saved, monkeypatch):
  workdir, filled = saved
  monkeypatch.setattr(jax, 'device_put', None)
  groups = checkpoint.load_groups(workdir / 't2c', ['t2c', 'unit_text_embedding'])
  found, expected = flatten(groups), flatten(filled.params())
  assert all(type(leaf) is np.ndarray for leaf in found.values())
  assert {path: leaf.dtype for path, leaf in found.items()} == {
    path: leaf.dtype for path, leaf in expected.items()
  }
  assert found['unit_text_embedding/embedding'].dtype == ml_dtypes.bfloat16
  for path, leaf in expected.items():
    np.testing.assert_array_equal(found[path], leaf)


def test_another_stage_starts_from_trained_and_frozen_parameters(saved):
  workdir, filled = saved
  source = init_from.open_source(str(workdir / 't2c'), stages.get_stage('echo'), workdir)
  specs = {
    path: jax.ShapeDtypeStruct(leaf.shape, np.float32, sharding=leaf.sharding)
    for path, leaf in flatten(filled.params()).items()
  }
  for path, leaf in source.read(specs).items():
    np.testing.assert_array_equal(leaf, flatten(filled.params())[path].astype(np.float32))


def test_frozen_parameters_that_were_moved_are_named(saved):
  workdir, _ = saved
  (workdir / 't2c' / 'frozen').rename(workdir / 'elsewhere')
  for use in (
    lambda: restore(workdir, lora_job()),
    lambda: checkpoint.load_groups(workdir / 't2c', ['t2c']),
    lambda: checkpoint.param_shapes(workdir / 't2c'),
  ):
    with pytest.raises(
      errors.CheckpointError,
      match=r'frozen parameters in .* missing: move '
      r'that folder back',
    ):
      use()
  (workdir / 'elsewhere').rename(workdir / 't2c' / 'frozen')
  restore(workdir, lora_job())


def test_frozen_parameters_of_another_run_are_refused(saved, tmp_path):
  workdir, _ = saved
  saved_states.save(tmp_path / 'other', lora_job(), seed=1)
  (ours,), (theirs,) = (
    (path / 't2c' / 'frozen').iterdir() for path in (workdir, tmp_path / 'other')
  )
  shutil.rmtree(ours)
  shutil.copytree(theirs, ours)
  for use in (
    lambda: restore(workdir, lora_job()),
    lambda: checkpoint.load_groups(workdir / 't2c', ['unit_text_embedding']),
  ):
    with pytest.raises(errors.CheckpointError, match='do not match the checksum .* another run'):
      use()
  # The list of sums is the right one, the arrays are not.
  (ours / frozen.SUMS).write_text(json.dumps(_sums_of_seed_0(tmp_path)))
  for use in (
    lambda: restore(workdir, lora_job()),
    lambda: checkpoint.load_groups(workdir / 't2c', ['unit_text_embedding']),
  ):
    with pytest.raises(
      errors.CheckpointError, match='at unit_text_embedding/embedding.* do not match'
    ):
      use()


def test_frozen_parameters_that_cannot_be_read_are_not_to_be_removed(saved):
  """Removing the folder, the remedy for a damaged checkpoint, would lose what all checkpoints
  need.
  """
  workdir, _ = saved
  (folder,) = (workdir / 't2c' / 'frozen').iterdir()
  shutil.rmtree(folder / frozen.PARAMS)
  for use in (
    lambda: restore(workdir, lora_job()),
    lambda: checkpoint.load_groups(workdir / 't2c', ['unit_text_embedding']),
  ):
    with pytest.raises(
      errors.CheckpointError, match='do not match the checksum .* copy that folder again'
    ):
      use()


def _sums_of_seed_0(tmp_path):
  saved_states.save(tmp_path / 'again', lora_job())
  (folder,) = (tmp_path / 'again' / 't2c' / 'frozen').iterdir()
  return json.loads((folder / frozen.SUMS).read_text())


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16, np.float16])
def test_the_sum_is_the_same_on_devices_and_on_the_host(dtype, monkeypatch):
  monkeypatch.setattr(frozen, '_ELEMENTS', 100)
  array = np.random.default_rng(0).normal(size=(3, 17, 24)).astype(dtype)
  total = frozen.host_sum(array)
  assert int(frozen.device_sum(array)) == total
  changed, swapped = array.copy(), array.copy()
  changed[2, 3, 4] += dtype(1)
  swapped[0, 0, 0], swapped[0, 0, 1] = array[0, 0, 1], array[0, 0, 0]
  assert len({total, frozen.host_sum(changed), frozen.host_sum(swapped)}) == 3


def test_a_checkpoint_of_before_there_were_references(tmp_path):
  """All parameters in `params`, nothing beside them: resumed, started from and exported as ever."""
  job = lora_job()
  filled, stage = saved_states.filled_state(job, 0), tmp_path / 't2c'
  manager = ocp.CheckpointManager(stage.absolute() / 'checkpoints')
  iterator = training_jobs.text_rows(job, tmp_path)
  manager.save(
    6,
    args=ocp.args.Composite(
      params=ocp.args.PyTreeSave(filled.params()),
      opt_state=ocp.args.PyTreeSave(filled.opt_state),
      meta=ocp.args.JsonSave({'step': 6, 'data': iterator.get_state()}),
    ),
  )
  manager.close()
  checkpoint.mark_finished(stage, {'steps': 6})
  trainable, kept, opt_state, meta = restore(tmp_path, job)
  jax.tree.map(
    np.testing.assert_array_equal,
    (trainable, kept, opt_state),
    (filled.trainable, filled.frozen, filled.opt_state),
  )
  assert 'frozen' not in meta
  groups = checkpoint.load_groups(stage, ['t2c', 'unit_text_embedding'])
  jax.tree.map(np.testing.assert_array_equal, groups, jax.device_get(filled.params()))
  assert checkpoint.param_shapes(stage) == {
    path: leaf.shape for path, leaf in flatten(filled.params()).items()
  }


def test_a_run_that_starts_again_replaces_what_it_had_frozen(tmp_path):
  first = frozen.write(tmp_path, saved_states.filled_state(lora_job(), 0).frozen)
  assert frozen.write(tmp_path, saved_states.filled_state(lora_job(), 0).frozen) == first
  second = frozen.write(tmp_path, saved_states.filled_state(lora_job(), 1).frozen)
  assert second != first and [
    f'frozen/{path.name}' for path in (tmp_path / 'frozen').iterdir()
  ] == [second['folder']]
  assert frozen.write(tmp_path, {}) is None


def test_the_checksum_does_not_depend_on_the_mesh():
  """On eight virtual devices, split two ways, and on one."""
  printed = run_python('-c', _ON_EIGHT)
  assert len(set(printed.split())) == 1 and len(printed.split()) == 3


_ON_EIGHT = """
import jax
jax.config.update('jax_num_cpu_devices', 8)
import numpy as np, tempfile, pathlib
from jax.sharding import NamedSharding, PartitionSpec as P
from echox_jax.parallel import sharding
from echox_jax.training import frozen
array = np.random.default_rng(0).normal(size=(2, 16, 24)).astype(np.float32)
for sizes, spec in (({'fsdp': 8}, P(None, 'fsdp')), ({'data': 8}, P()),
                    ({'fsdp': 4, 'tensor': 2}, P('tensor', None, 'fsdp'))):
  where = NamedSharding(sharding.make_mesh(sizes), spec)
  with tempfile.TemporaryDirectory() as folder:
    params = {'llm': {'kernel': jax.device_put(array, where)}}
    print(frozen.write(pathlib.Path(folder), params)['checksum'])
"""


_EXPORT = """
import sys
import pathlib
from launch import convert
from echox_jax.training import checkpoint
checkpoint.param_shapes(pathlib.Path(sys.argv[3]))  # starts what reads checkpoints

def peak():
  line = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
  return int(line.split()[1]) * 1024

before = peak()
convert.main(sys.argv[1:])
print(before, peak())
"""


@pytest.mark.slow
def test_an_export_takes_little_more_memory_than_the_model(tmp_path):
  """Groups of 340 MB in the proportions of a large model, most of them frozen in bfloat16."""
  rng = np.random.default_rng(0)

  def filled(dtype, *sizes):
    return {
      str(i): jax.numpy.asarray(rng.standard_normal((8, 1000, size), np.float32).astype(dtype))
      for i, size in enumerate(sizes)
    }

  trained, kept = (
    {'adapter': filled(np.float32, 500, 500, 300, 300)},
    {'llm': filled(ml_dtypes.bfloat16, *[3000] * 3, *[1000] * 8)},
  )
  reference = frozen.write(tmp_path / 's2t', kept)
  checkpoints = checkpoint.Checkpoints(tmp_path / 's2t', keep=1)
  checkpoints.save(
    1,
    trained,
    trained,
    training_jobs.text_rows(training_jobs.experiment(), tmp_path),
    {'step': 1, 'frozen': reference},
  )
  checkpoints.close()
  size = sum(leaf.nbytes for leaf in jax.tree.leaves((trained, kept)))
  printed = run_python(
    '-c',
    _EXPORT,
    'weights',
    '--checkpoint',
    tmp_path / 's2t',
    '--groups',
    'llm',
    'adapter',
    '--dtype',
    'keep',
    '--out',
    tmp_path / 'out',
  )
  before, peak = map(int, printed.split()[-2:])
  print(f'{(peak - before) / size:.2f} x the model')
  assert peak - before < 1.3 * size, (before, peak, size)
  tensors = tensor_files.open_tensors(tmp_path / 'out' / 'model.safetensors')
  assert tensors.dtypes['adapter/0'] == np.float32 and tensors.dtypes['llm/0'] == ml_dtypes.bfloat16
