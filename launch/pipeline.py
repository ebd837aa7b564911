"""From data sets to a model that answers, in one command: precompute, all training stages, export.

  python -m launch.pipeline --config=configs/echox_nano.py --workdir=out/mine
                            [--stages=text,s2t,t2c,echo,vocoder] [--config.FIELD=VALUE ...]

Which stages a model takes, and in which order, is in the docstring of its config: nano learns from
`text` on; echox_135m has an LLM already, and its adapter learns the words first: --stages=align,s2t
and so on.

Reads the data sets under WORKDIR/data (made by `python -m launch.corpus`) and writes the model to
WORKDIR/model. Each part is a separate command that can be run by hand; all get the same
--config.FIELD=VALUE. If it is stopped, the same command continues where it was.

On several hosts, run the same command on each host, with WORKDIR on shared storage.
"""

import argparse
from collections.abc import Sequence

from echox_jax import storage
from launch import cli
from launch.steps import Step, run_all

STAGES = {
  'text': 'the LLM learns its facts from text',
  'align': 'the adapter learns which words it hears',
  's2t': 'the LLM learns to hear',
  't2c': 'a small decoder learns to turn text into unit words',
  'echo': 'the echo decoder learns to speak from the states of the LLM',
  'vocoder': 'the vocoder learns to turn units into sound',
}
DEFAULT_STAGES = ('text', 's2t', 't2c', 'echo', 'vocoder')


def steps(
  config: str, workdir: str, names: Sequence[str] = DEFAULT_STAGES, options: Sequence[str] = ()
) -> list[Step]:
  """All parts in order, from data sets to the model in `workdir/model`."""

  return [
    precompute(f'{config}:{names[0]}', workdir, options),
    *(train(config, workdir, name, options) for name in names),
    export(workdir),
  ]


def precompute(config: str, workdir: str, options: Sequence[str] = ()) -> Step:
  """What comes before all stages; the stage of the config does not matter."""
  command = ('launch.precompute', f'--config={config}', f'--workdir={workdir}', *options)
  return Step('precompute', 'speech becomes units and unit words', command)


def train(config: str, workdir: str, stage: str, options: Sequence[str] = ()) -> Step:
  """One stage."""
  command = ('launch.train', f'--config={config}:{stage}', f'--workdir={workdir}', *options)
  return Step(stage, STAGES[stage], command)


def export(workdir: str, options: Sequence[str] = ()) -> Step:
  """The last part: the model of a working folder, in `workdir/model`."""
  arguments = ('--checkpoint', str(workdir), '--to', 'safetensors', '--out', f'{workdir}/model')
  return Step(
    'export',
    'one folder to load',
    ('launch.convert', 'export', *arguments, *options),
    'model/model.safetensors',
    alone=True,
  )


def check(step: Step, program: str = 'launch.pipeline') -> None:
  """Reads the options of a part as the part itself will, to report a mistake in a later part now,
  not after hours; errors name `program`.

  Raises:
    ConfigError: an unknown stage, field or flag, or sizes that do not match.
  """
  # imported late: callers that only need the steps should not pay its memory
  from echox_jax.training import validation
  from launch import train

  if step.command[0] in ('launch.precompute', 'launch.train'):
    validation.check(train.parse(list(step.command), program)[0])


def check_finished(step: Step, program: str = 'launch.pipeline') -> None:
  """Looks whether a stage is finished already, and by another config.

  Raises:
    CheckpointError: it is.
  """
  from echox_jax.training import checkpoint, layout, loop
  from launch import train

  if step.command[0] != 'launch.train':
    return
  experiment, values = train.parse(list(step.command), program)
  folder = storage.path(values.workdir) / experiment.stage
  if checkpoint.read_finished(folder) is not None:
    loop.check_config(folder / layout.CONFIG, experiment)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m launch.pipeline',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--config', required=True, metavar='FILE.py', help='config file')
  parser.add_argument('--workdir', required=True, help='folder of data, checkpoints and model')
  parser.add_argument(
    '--stages', default=','.join(DEFAULT_STAGES), help='in order (default %(default)s)'
  )
  args, options = parser.parse_known_args(argv)
  todo = steps(args.config, args.workdir, stage_names(args.stages), options)
  for step in todo:
    check(step)
    check_finished(step)
  code = run_all(todo)
  if code == 0:
    print(
      f'the model is in {args.workdir}/model: python -m launch.respond --checkpoint '
      f'{args.workdir}/model question.wav -o reply.wav'
    )
  return code


def stage_names(text: str) -> list[str]:
  """The stages of a comma-separated list.

  Raises:
    ConfigError: there is no such stage.
  """
  from echox_jax.training import stages

  return [stages.get_stage(name).name for name in text.split(',')]


if __name__ == '__main__':
  cli.run(main)
