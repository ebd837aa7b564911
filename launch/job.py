"""Runs one part of the whole way, or all of it: the one command that every cloud recipe starts.

  python -m launch.job corpus      --workdir=W [--manifest FILE | --reader NAME --source PATH ...]
  python -m launch.job precompute  --workdir=W --config=FILE.py
  python -m launch.job train STAGE --workdir=W --config=FILE.py
  python -m launch.job export      --workdir=W
  python -m launch.job evaluate    --workdir=W
  python -m launch.job pipeline    --workdir=W --config=FILE.py [--stages=s2t,t2c]

W is the working folder: data sets in W/data, results beside it, the model in W/model. Options that
are not listed below go to the command that does the part (`python -m launch.corpus --help`, ...);
`pipeline` is precompute, the stages and export.

Every part continues where it was stopped, so a scheduler may start the same command again and
again. On SIGTERM the part saves its state, and the exit code is 143. On several hosts, run the same
command on each: all hosts share corpus, precompute and train, the first one exports, and evaluate
wants a job of one host.
"""

import argparse
from collections.abc import Sequence
import os
import shlex

from echox_jax import errors
from echox_jax.parallel import distributed
from launch import cli, pipeline
from launch.steps import Step, run_all

VERBS = ('corpus', 'precompute', 'train', 'export', 'evaluate', 'pipeline')
_WITH_CONFIG = ('precompute', 'train', 'pipeline')


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
  """The options of a job, and those of the command that does it.

  Raises:
    ConfigError: a verb lacks its stage or config.
  """
  parser = argparse.ArgumentParser(
    prog='python -m launch.job',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('verb', choices=VERBS, help='the part')
  parser.add_argument('stage', nargs='?', help='train: text, align, s2t, t2c, echo or vocoder')
  parser.add_argument(
    '--workdir', required=True, metavar='W', help='working folder, local or gs://'
  )
  parser.add_argument('--config', metavar='FILE.py', help='config file, without a stage')
  parser.add_argument(
    '--stages', help='pipeline: in order (default: all but align; the large configs have no `text`)'
  )
  parser.add_argument(
    '--slices', type=int, default=1, help='TPU slices of the job (default %(default)s)'
  )
  parser.add_argument(
    '--models',
    metavar='DIR',
    help='folder of the pretrained parts of the large configs (default: models)',
  )
  parser.add_argument(
    '--dry_run', action='store_true', help='check the options, print the commands, run none'
  )
  args, options = parser.parse_known_args(argv)
  if args.verb in _WITH_CONFIG and not args.config:
    raise errors.ConfigError(f'{args.verb} needs --config=FILE.py, e.g. configs/echox_nano.py.')
  if (args.verb == 'train') != (args.stage is not None):
    raise errors.ConfigError(
      'train needs a stage, and nothing else takes one: text, align, s2t, t2c, echo or vocoder.'
    )
  return args, options


def steps(args: argparse.Namespace, options: Sequence[str]) -> list[Step]:
  """What a verb runs."""
  work = args.workdir.rstrip('/')
  if args.verb in _WITH_CONFIG and args.slices > 1:
    options = [f'--config.mesh.dcn_data={args.slices}', *options]
  if args.verb == 'pipeline':
    names = args.stages or ','.join(pipeline.DEFAULT_STAGES)
    return pipeline.steps(args.config, work, pipeline.stage_names(names), options)
  if args.verb == 'export':
    return [pipeline.export(work, options)]
  if args.verb == 'train':
    (stage,) = pipeline.stage_names(args.stage)
    return [pipeline.train(args.config, work, stage, options)]
  if args.verb == 'precompute':
    return [pipeline.precompute(args.config, work, options)]
  if args.verb == 'corpus':
    command = ('launch.corpus', '--data', f'{work}/data', *options)
    return [Step('corpus', 'recordings become data sets', command)]
  model, out = f'{work}/model', f'{work}/evaluation.json'
  command = ('launch.evaluate', '--checkpoint', model, '--workdir', work, '--out', out, *options)
  return [Step('evaluate', 'unseen voices ask, a judge listens', command)]


def main(argv: Sequence[str] | None = None) -> int:
  args, options = parse(argv)
  if args.models:
    os.environ['ECHOX_MODELS'] = args.models  # configs/full_size.py
  todo = steps(args, options)
  for step in todo:
    pipeline.check(step)
  if args.dry_run:
    for step in todo:
      print(shlex.join(('python', '-m', *step.command)))
    return 0
  if args.verb == 'evaluate' and distributed.make_plan('auto', None, None, None, os.environ):
    raise errors.EchoXError(
      'evaluate runs on one host and this job has several: start it on a slice of one host, such '
      'as v5litepod-8, or on one GPU node.'
    )
  return run_all(todo)


if __name__ == '__main__':
  cli.run(main)
