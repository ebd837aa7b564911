"""Reads recordings in, or computes the inputs of training, on Apache Beam (extra `beam`).

  python -m launch.beam corpus     CORPUS OPTIONS     -- BEAM OPTIONS
  python -m launch.beam precompute PRECOMPUTE OPTIONS -- BEAM OPTIONS

The options before `--` are those of launch.corpus or launch.precompute, which write the same bytes.
Those after it are Beam's: --runner=DataflowRunner --project=... --region=...
--sdk_container_image=..., or --runner=FlinkRunner --flink_master=..., or --runner=SparkRunner
--spark_master_url=..., or on this machine

  --runner=FnApiRunner --direct_running_mode=multi_processing --direct_num_workers=4

Workers need this package (an image that holds it) and the storage of sources and results under the
same paths, such as gs://. Each shard of a step is one element; the runner distributes these, tries
failed ones again and adds workers. (FnApiRunner does not try again: start the command again.) This
process lists, fits k-means and the unit language on what the workers counted, and publishes. A
stopped command continues where it was.
"""

import dataclasses
import functools
import json
import sys

from data_pipeline import precompute
from echox_jax import errors, storage
from launch import cli, corpus, train

_LOCAL = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'


def main() -> None:
  kind, *rest = sys.argv[1:] or ['']
  own, flags = rest, []
  if '--' in rest:
    at = rest.index('--')
    own, flags = rest[:at], rest[at + 1 :]
  if kind not in ('corpus', 'precompute'):
    if kind and kind not in ('-h', '--help'):
      raise errors.ConfigError(f'there is no job {kind!r}: write corpus or precompute first.')
    print(__doc__)
    return
  errors.require('apache_beam', 'beam', 'Running a job on Apache Beam')
  flags = [f'--runner={_LOCAL}' if flag == '--runner=FnApiRunner' else flag for flag in flags]
  (_corpus if kind == 'corpus' else _precompute)(own, flags)


def _corpus(options: list[str], flags: list[str]) -> None:
  from data_pipeline import beam_engine  # imports Beam

  args = corpus.parse(options)
  if args is None:
    return
  if not args.reader:
    raise errors.ConfigError('Beam reads recordings in: name them with --manifest or --reader.')
  # Beam has workers of its own; they tell no heartbeats, for the runner watches them
  here, there = (
    corpus.reading_in(args, workers=0, heartbeat_seconds=seconds)
    for seconds in (args.heartbeat_seconds, 0.0)
  )
  print(json.dumps(beam_engine.run(here, there, flags), indent=2))


def _precompute(options: list[str], flags: list[str]) -> None:
  from data_pipeline import beam_engine

  experiment, values = train.parse(['launch.beam', *options], 'launch.precompute')
  workdir = storage.check_writable(values.workdir)
  quiet = dataclasses.replace(experiment, heartbeat_seconds=0.0)
  here, there = (
    functools.partial(precompute.run, which, workdir, progress=False)
    for which in (experiment, quiet)
  )
  print(precompute.summary(beam_engine.run(here, there, flags)))


if __name__ == '__main__':
  cli.run(main)
