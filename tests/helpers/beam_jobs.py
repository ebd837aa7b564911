"""Jobs on Beam in which one shard fails once: a worker is lost while it writes."""

import functools
from pathlib import Path

from data_pipeline import parts, precompute, record_files
from data_pipeline.shards import Process
from tests.helpers import corpus_jobs, precompute_jobs

# any number of workers in this process, and Beam tries a shard again
THREADS = ('--runner=BundleBasedDirectRunner', '--direct_num_workers=2')
PROCESSES = (
  '--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner',
  '--direct_running_mode=multi_processing',
  '--direct_num_workers=2',
)


def fail_once(module, name: str, failed: Path, on: str) -> None:
  """Makes the function `name`, which writes a file, fail once for files called `on`."""
  write = getattr(module, name)
  if hasattr(write, '__wrapped__'):
    return

  @functools.wraps(write)
  def failing(path, *arguments):
    if on in path.name and not failed.exists():
      path.write_bytes(b'some')
      failed.touch()
      raise OSError('the worker is lost')
    return write(path, *arguments)

  setattr(module, name, failing)


def corpus(source: Path, data: Path, failed: Path, *, process: Process):
  fail_once(record_files, 'write', failed, '-00002-of-')
  return corpus_jobs.build(source, data, process)


def compute(workdir: Path, failed: Path, *, process: Process):
  fail_once(parts, 'write_part', failed, '00001-of-')
  return precompute.run(
    precompute_jobs.experiment(shard_examples=2, state_sets=('questions/train',)),
    workdir,
    precompute_jobs.make_encoders(),
    progress=False,
    process=process,
  )
