"""Frozen parameters are written once, checkpoints refer to them; a wrong reference is an error."""

import json
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys

from etils import epath
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from echox_jax import errors, sharding, tensor_files
from echox_jax.training import checkpoint, checksum, init_from, stages, state
from echox_jax.trees import flatten, unflatten
from launch import convert
from tests import frozen_jobs, training_jobs

ROOT = Path(__file__).parent.parent
JOB = training_jobs.experiment('s2t', frozen_dtype='bfloat16')


class Rows:
  """An iterator with nothing but a state."""

  def __init__(self, taken=0):
    self.taken = taken

  def get_state(self):
    return {'taken': self.taken}

  def set_state(self, state):
    self.taken = state['taken']


def filled(seed=0, job=JOB):
  """A state with random values on one device."""
  rng = np.random.default_rng(seed)
  fill = lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding)
  return jax.tree.map(fill, abstract(job))


def abstract(job=JOB):
  mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
  return state.abstract_state(stages.get_stage(job.stage), job, mesh)


def write(workdir, current, steps=(3,), keep=2):
  """Saves `steps` of a run that is in state `current` all the time."""
  checkpoints = checkpoint.Checkpoints(workdir / 's2t', keep)
  checkpoints.write_frozen(current.frozen)
  for step in steps:
    meta = {'step': step, 'sources': {}}
    checkpoints.save(step, current.params(), current.opt_state, Rows(step), meta)
  checkpoints.close()
  checkpoint.mark_finished(workdir / 's2t', {'steps': steps[-1]})


def write_as_before(workdir, current, step=3):
  """Saves `step` as earlier versions did: all parameters in the checkpoint, and no reference."""
  with ocp.CheckpointManager((workdir / 's2t' / 'checkpoints').absolute()) as manager:
    manager.save(step, args=ocp.args.Composite(
        params=ocp.args.PyTreeSave(current.params()),
        opt_state=ocp.args.PyTreeSave(current.opt_state),
        meta=ocp.args.JsonSave({'step': step, 'sources': {}, 'data': {'taken': step}})))
  checkpoint.mark_finished(workdir / 's2t', {'steps': step})


def restore(workdir, current=None):
  """(params, optimizer state) of the newest checkpoint; with `current` the run saves one more."""
  checkpoints, wanted, rows = checkpoint.Checkpoints(workdir / 's2t', 2), abstract(), Rows()
  step = checkpoints.latest_step()
  try:
    params, opt_state, meta = checkpoints.restore(step, wanted.params(), wanted.opt_state, rows)
    assert rows.taken == meta['step'] == step
    if current is not None:
      checkpoints.write_frozen(current.frozen)
      checkpoints.save(step + 1, params, opt_state, Rows(step + 1), {'step': step + 1})
  finally:
    checkpoints.close()
  return params, opt_state


def read_by_another_stage(workdir):
  """What the stage `echo` takes from this one."""
  job = training_jobs.experiment('echo', init_from=('s2t',), frozen_dtype='bfloat16')
  (source,) = init_from.open_sources(stages.get_stage('echo'), job, workdir)
  wanted = flatten(abstract(job).params())
  specs = {path: leaf for path, leaf in wanted.items() if path in source.shapes}
  return source.read(specs)


def read_on_the_host(workdir):
  return dict(checkpoint.open_groups(workdir / 's2t', ('llm', 'adapter')))


def names(folder):
  return set(flatten(ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder.absolute())).tree))


def written(folder):
  """When and where the files in `folder` were written."""
  return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.rglob('*')}


def size(folder):
  return sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())


def same(found, wanted):
  found, wanted = (v if '/' in next(iter(v)) else flatten(v) for v in (found, wanted))
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    assert found[name].dtype == value.dtype, name
    np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), err_msg=name)


def test_frozen_parameters_are_written_once_and_stay(tmp_path):
  current = filled()
  write(tmp_path, current, steps=(3,))
  frozen = tmp_path / 's2t' / 'frozen'
  before = written(frozen)
  restore(tmp_path, current)
  restore(tmp_path, current)
  steps = tmp_path / 's2t' / 'checkpoints'
  assert {path.name for path in steps.iterdir()} == {'4', '5'}  # the first of three is gone
  assert written(frozen) == before
  for step in ('4', '5'):
    assert names(steps / step / 'params') == set(flatten(current.trainable))
  assert names(frozen) == set(flatten(current.frozen))
  params, opt_state = restore(tmp_path)
  same(params, current.params())
  jax.tree.map(np.testing.assert_array_equal, opt_state, current.opt_state)
  same(read_on_the_host(tmp_path), current.params())
  same(read_by_another_stage(tmp_path), current.params())


def test_a_checkpoint_is_smaller_by_what_is_frozen(tmp_path):
  job = training_jobs.experiment('s2t', vocab_size=4000)
  current = filled(job=job)
  for way in (write, write_as_before):
    way(tmp_path / way.__name__, current)
  folders = [tmp_path / way.__name__ / 's2t' / 'checkpoints' for way in (write, write_as_before)]
  new, old = map(size, folders)
  frozen = sum(leaf.nbytes for leaf in jax.tree.leaves(current.frozen))
  assert old - new > 0.8 * frozen  # random numbers are stored compressed by a tenth
  assert size(tmp_path / 'write' / 's2t' / 'frozen') > 0.8 * frozen


def test_a_stage_that_trains_all_has_no_frozen_folder(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'text', keep=1)
  job = training_jobs.experiment('text', rank=0)
  current = filled(job=job)
  checkpoints.write_frozen(current.frozen)
  checkpoints.save(1, current.params(), current.opt_state, Rows(), {})
  checkpoints.close()
  assert {path.name for path in (tmp_path / 'text').iterdir()} == {'checkpoints'}
  meta = tmp_path / 'text' / 'checkpoints' / '1' / 'meta' / 'metadata'
  assert 'frozen' not in json.loads(meta.read_text())


def put(folder, tree):
  """Writes arrays to `folder`, whatever is there."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(epath.Path(folder.absolute()), args=ocp.args.PyTreeSave(tree), force=True)


def moved(workdir):
  (workdir / 's2t' / 'frozen').rename(workdir / 'elsewhere')


def overwritten(workdir):
  for file in (workdir / 's2t' / 'frozen').rglob('*'):
    if file.is_file():
      file.write_bytes(b'nothing')


def cut_short(workdir):
  """The tables of what it holds are whole."""
  for file in (workdir / 's2t' / 'frozen').rglob('d/*'):
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def of_another_run(workdir):
  write(workdir / 'other', filled(seed=1))
  shutil.rmtree(workdir / 's2t' / 'frozen')
  shutil.copytree(workdir / 'other' / 's2t' / 'frozen', workdir / 's2t' / 'frozen')


def of_another_stage(workdir):
  shutil.rmtree(workdir / 's2t' / 'frozen')
  put(workdir / 's2t' / 'frozen', {'t2c': jnp.ones(3)})


@pytest.mark.parametrize('damage, problem', [
    (moved, 'are missing'), (overwritten, 'cannot be read'), (cut_short, 'cannot be read'),
    (of_another_run, 'are damaged or of another run .the checksum of llm/.* differs'),
    (of_another_stage, 'are of another run .llm/.* is not among them')])
@pytest.mark.parametrize('read', [restore, read_by_another_stage, read_on_the_host])
def test_a_wrong_reference_is_one_clear_error(tmp_path, damage, problem, read):
  write(tmp_path, filled())
  damage(tmp_path)
  with pytest.raises(errors.CheckpointError) as caught:
    read(tmp_path)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  caught.match('the frozen parameters in .*/s2t/frozen, which the checkpoint .*/checkpoints/3 '
               f'refers to, {problem}.*: put the folder back')


def test_one_changed_bit_is_noticed(tmp_path):
  current = filled()
  write(tmp_path, current)
  changed = dict(flatten(current.frozen))
  name = next(name for name in changed if name.endswith('up_proj/kernel'))
  bits = np.asarray(changed[name]).copy()
  bits.view(np.uint16)[0, 0, 0] ^= 1
  changed[name] = jnp.asarray(bits)
  put(tmp_path / 's2t' / 'frozen', unflatten(changed))
  for read in (restore, read_on_the_host):
    with pytest.raises(errors.CheckpointError, match=f'the checksum of {name} differs'):
      read(tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_resumed_read_and_exported(tmp_path):
  current = filled()
  write_as_before(tmp_path, current)
  same(read_on_the_host(tmp_path), current.params())
  same(read_by_another_stage(tmp_path), current.params())
  stage, out = str(tmp_path / 's2t'), str(tmp_path / 'out')
  convert.main(['weights', '--checkpoint', stage, '--groups', 'llm', '--out', out])
  same(dict(tensor_files.open_tensors(out)), {'llm': current.params()['llm']})
  params, opt_state = restore(tmp_path, current)
  same(params, current.params())
  jax.tree.map(np.testing.assert_array_equal, opt_state, current.opt_state)
  # What is saved from now on is as in a new run.
  assert names(tmp_path / 's2t' / 'checkpoints' / '4' / 'params') == set(flatten(current.trainable))
  same(restore(tmp_path)[0], current.params())


def test_what_a_run_left_before_its_first_checkpoint_is_replaced(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 's2t', 1)
  checkpoints.write_frozen(filled(seed=1).frozen)
  checkpoints.close()
  killed = tmp_path / 's2t' / 'frozen.orbax-checkpoint-tmp'  # as a killed process leaves it
  shutil.copytree(tmp_path / 's2t' / 'frozen', killed)
  (tmp_path / 's2t' / 'frozen' / '_METADATA').unlink()  # killed while it was replaced
  current = filled()
  write(tmp_path, current)
  same(restore(tmp_path)[0], current.params())
  assert not killed.exists()


def test_frozen_parameters_that_do_not_fit_on_the_disk(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  checkpoints = checkpoint.Checkpoints(tmp_path / 's2t', 1)
  monkeypatch.setattr(checkpoint.ocp.PyTreeCheckpointHandler, 'save', full)
  with pytest.raises(errors.CheckpointError, match='cannot be written .No space left.*: make'):
    checkpoints.write_frozen(filled().frozen)
  checkpoints.close()
  assert not (tmp_path / 's2t' / 'frozen').exists()


def test_other_dtypes_are_verified_as_they_are_stored(tmp_path):
  """A stage that wants float32 of what another one froze in bfloat16, and the other way round."""
  for stored, wanted in (('bfloat16', 'float32'), ('float32', 'bfloat16')):
    current = filled(job=training_jobs.experiment('s2t', frozen_dtype=stored))
    write(tmp_path / stored, current)
    specs = {path: leaf.update(dtype=wanted) for path, leaf in flatten(abstract().frozen).items()}
    found = checkpoint.load_params(tmp_path / stored / 's2t', specs)
    same(found, {path: value.astype(wanted) for path, value in flatten(current.frozen).items()})


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16, np.int8])
def test_checksums_of_numpy_and_of_devices_are_one(dtype):
  rng = np.random.default_rng(0)
  for shape in ((), (1,), (3, 5, 7), (2, 1 << 20), (3, 1023, 1025)):  # the last: of parts of blocks
    array = np.asarray(100 * rng.normal(size=shape)).astype(dtype)
    assert checksum.of_devices({'a': jnp.asarray(array)}) == {'a': checksum.of_host(array)}


def test_checksums_tell_changes_and_places():
  rng = np.random.default_rng(0)
  array = rng.normal(size=(3, 1 << 20)).astype(np.float32)
  changed = [array.copy() for _ in range(5)]
  changed[0][2, 77] += 1
  changed[1][0, :100] = 0
  changed[2][[0, 1]] = array[[1, 0]]  # whole blocks
  changed[3][0, [5, 6]] = array[0, [6, 5]]
  changed[4] = array.reshape(2, 3, -1).transpose(1, 0, 2).reshape(array.shape).copy()
  assert len({checksum.of_host(value) for value in (array, *changed)}) == 6


def test_two_processes_write_what_one_reads_and_the_other_way_round(tmp_path):
  """On other meshes: the checksums are those of the values."""
  for name in ('one', 'wrong'):
    write(tmp_path / name, filled())
  of_another_run(tmp_path / 'wrong')
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  started = [subprocess.Popen(
      [sys.executable, '-m', 'tests.frozen_jobs', str(tmp_path), str(port), str(process)], cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'}) for process in range(2)]
  done = [process.communicate(timeout=300) for process in started]
  assert not any(process.returncode for process in started), done[0][1][-3000:] + done[1][1][-3000:]
  assert [out.splitlines()[-2:] for out, _ in done] == [['read', 'CheckpointError']] * 2
  wanted = frozen_jobs.values(abstract().params())
  same(read_on_the_host(tmp_path / 'two'), wanted)
  same(restore(tmp_path / 'two')[0], wanted)
  assert not [path for path in (tmp_path / 'two').rglob('*') if 'tmp' in path.name]
