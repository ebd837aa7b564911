"""Trains one stage of EchoX.

  python -m launch.train --config=configs/echox_nano.py:STAGE --workdir=DIR
                         [--config.train.steps=100 ...]

STAGE is text, align, s2t, t2c, echo or vocoder. Any field of the config can be set on the command
line. If a run was stopped, the same command continues it; a finished stage stays unchanged.
Checkpoints, metrics and the config are under DIR/STAGE. `python -m launch.status DIR` shows how the
run stands.

Every `train.eval_every` steps the stage is evaluated on `data.eval_sets`, the held-out data sets.
train.tensorboard=True also writes the metrics as TensorBoard event files.

On several hosts, run the same command on each host, with DIR on shared storage. A run may continue
on another number of hosts and devices.
"""

import logging
import re
import sys

from absl import flags
import jax
from ml_collections import config_flags

from data_pipeline import batches
from echox_jax import config as config_lib
from echox_jax import errors, storage
from echox_jax.conversion import whisper_ct2
from echox_jax.parallel import distributed
from echox_jax.training import loop, profiling
from echox_jax.training.experiment import ExperimentConfig
from launch import cli

_HELP = ('-h', '--help', '-help')
_FLAGS = """
--workdir: folder of data, checkpoints and metrics
--compilation_cache: folder that keeps compiled programs between runs
--distributed: how processes find one another: auto (the default: detects TPU pods, Slurm and Open
  MPI), none, slurm, mpi
--coordinator=HOST:PORT --num_processes=N --process_id=I: set this by hand; process 0 listens at
  HOST:PORT
--profile=START:STOP: trace these steps into DIR/STAGE/profile"""


def parse(
  argv: list[str], program: str = 'launch.train'
) -> tuple[ExperimentConfig, flags.FlagValues]:
  """The job and the flags of a command line (program name first); errors name `program`.

  Raises:
    ConfigError: an unknown flag, field, config file or stage, or a value of the wrong type.
  """
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file(
    'config', None, 'Config file and stage: FILE.py:STAGE.', flag_values=values, sys_argv=argv
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder of data, checkpoints and metrics.', flag_values=values
  )
  flags.DEFINE_string(
    'compilation_cache',
    None,
    'Folder that keeps compiled programs between runs.',
    flag_values=values,
  )
  flags.DEFINE_string('distributed', 'auto', 'How processes find one another.', flag_values=values)
  flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.', flag_values=values)
  flags.DEFINE_integer('num_processes', None, 'Number of processes.', flag_values=values)
  flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.', flag_values=values)
  flags.DEFINE_string('profile', None, 'Steps to trace, START:STOP.', flag_values=values)
  try:
    rest = values(argv)
    # absl reports a config file that it could not read only here
    job = config.value and config.value.to_dict()
  except errors.EchoXError:
    raise
  except (AttributeError, KeyError) as error:
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    reason = ' '.join(str(inner.args[0] if inner.args else inner).split()).rstrip('?')
    raise errors.ConfigError(
      f'the config has no field {reason}: correct the command line (see '
      f'`python -m {program} --help`).'
    ) from error
  except (flags.Error, OSError, ImportError, SyntaxError, TypeError, ValueError) as error:
    # a traceback may come before the reason
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    reason = re.sub(r'^\w+Error: ', '', last.strip()).rstrip('.')
    raise errors.ConfigError(
      f'{reason}: correct the command line (see `python -m {program} --help`).'
    ) from error
  missing = [name for name in ('config', 'workdir') if values[name].value is None]
  if missing or len(rest) > 1:
    what = f'--{missing[0]} is missing' if missing else f'{rest[1]!r} is not an option'
    raise errors.ConfigError(
      f'{what}: run `python -m {program} --config=configs/echox_nano.py:STAGE --workdir=DIR`.'
    )
  return config_lib.build(ExperimentConfig, job), values


def main() -> int:
  if any(argument in _HELP for argument in sys.argv[1:]):
    print(__doc__ + _FLAGS)
    return 0
  logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax reports every step of a save
  experiment, values = parse(sys.argv)
  workdir = storage.check_writable(values.workdir)
  profile = profiling.parse(values.profile)
  distributed.initialise(
    values.distributed, values.coordinator, values.num_processes, values.process_id
  )
  if values.compilation_cache:
    programs = storage.check_writable(values.compilation_cache)
    jax.config.update('jax_compilation_cache_dir', str(programs))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
  summary = loop.train(
    experiment, workdir, batches.make_iterator, profile, whisper_ct2.packaged_encoder
  )
  # jobs that wait for this stage must not start
  code = 0 if summary['finished'] else distributed.STOPPED
  if not distributed.is_first():
    return code
  if summary.get('already_finished'):
    print(f'stage {summary["stage"]} is finished already ({summary["steps"]} steps).')
  elif summary['finished']:
    evaluation = summary['evaluation']  # may come from an earlier step
    held_out = (
      f', held-out loss {evaluation["loss"]:.4g}'
      if evaluation.get('step') == summary['steps']
      else ''
    )
    print(
      f'stage {summary["stage"]} finished: {summary["steps"]} steps, loss '
      f'{summary["metrics"]["loss"]:.4g}{held_out}, '
      f'{summary["seconds"] / 60:.1f} min.'
    )
  else:
    print(
      f'stopped after step {summary["steps"]} of stage {summary["stage"]}: run the same '
      'command again to continue.',
      file=sys.stderr,
    )
  return code


if __name__ == '__main__':
  cli.run(main, distributed.leave)
