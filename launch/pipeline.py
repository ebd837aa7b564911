"""From data sets to a model that answers, in one command: precompute, all training stages, export.

  python -m launch.pipeline --config=configs/echox_nano.py --workdir=out/mine
                            [--stages=text,s2t,t2c,echo,vocoder] [--config.FIELD=VALUE ...]

Reads the data sets under WORKDIR/data (made by `python -m launch.corpus`) and writes the model to
WORKDIR/model. Each part is a separate command that can be run by hand; all get the same
--config.FIELD=VALUE. If it is stopped, the same command continues where it was.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import subprocess
import sys

from echox_jax import errors, storage
from echox_jax.storage import Path
from launch import cli

_STAGES = {
  'text': 'the LLM learns its facts from text',
  's2t': 'the LLM learns to hear',
  't2c': 'a small decoder learns to turn text into unit words',
  'echo': 'the echo decoder learns to speak from the states of the LLM',
  'vocoder': 'the vocoder learns to turn units into sound',
}


@dataclasses.dataclass(frozen=True)
class Step:
  """One part: a command, and the file that marks it as finished (None = the command checks)."""

  name: str
  title: str
  command: tuple[str, ...]
  proof: str | None = None


def steps(
  config: str, workdir: Path, names: Sequence[str] = tuple(_STAGES), options: Sequence[str] = ()
) -> list[Step]:
  """All parts in order, from data sets to the model in `workdir/model`."""

  def job(module, stage):
    return (f'launch.{module}', f'--config={config}:{stage}', f'--workdir={workdir}', *options)

  return [
    Step('precompute', 'speech becomes units and unit words', job('precompute', names[0])),
    *(Step(name, _STAGES[name], job('train', name)) for name in names),
    Step(
      'export',
      'one folder to load',
      (
        'launch.convert',
        'export',
        '--checkpoint',
        str(workdir),
        '--to',
        'safetensors',
        '--out',
        str(workdir / 'model'),
      ),
      'model/model.safetensors',
    ),
  ]


def run(step: Step) -> None:
  """Runs one part in its own process, so that its memory is freed afterwards.

  Raises:
    EchoXError: the part failed.
  """
  process = subprocess.Popen([sys.executable, '-m', *step.command])
  try:
    code = process.wait()
  finally:
    if process.poll() is None:  # interrupted here: the part saves its state and ends
      process.terminate()
      process.wait()
  if code:
    raise errors.EchoXError(
      f'the part {step.name!r} ended with exit code {code} (see its own message above): '
      'correct that and run the same command again; finished parts are kept.'
    )


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.pipeline',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--config', required=True, metavar='FILE.py', help='config file')
  parser.add_argument(
    '--workdir',
    required=True,
    type=storage.check_writable,
    help='folder of data, checkpoints and model',
  )
  parser.add_argument('--stages', default=','.join(_STAGES), help='in order (default %(default)s)')
  args, options = parser.parse_known_args()
  # imported late: callers that only need the steps should not pay its memory
  from echox_jax.training import stages, validation
  from launch import train

  todo = steps(
    args.config,
    args.workdir,
    [stages.get_stage(name).name for name in args.stages.split(',')],
    options,
  )
  for step in todo[:-1]:  # reports a mistake in a later stage now, not after hours
    validation.check(train.parse(list(step.command), 'launch.pipeline')[0])
  for number, step in enumerate(todo, 1):
    print(f'[{number}/{len(todo)}] {step.name}: {step.title}', flush=True)
    run(step)
  print(
    f'the model is in {args.workdir / "model"}: python -m launch.respond --checkpoint '
    f'{args.workdir / "model"} question.wav -o reply.wav'
  )


if __name__ == '__main__':
  cli.run(main)
