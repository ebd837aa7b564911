"""Scores a model: is its spoken answer as clever as its written one?

  python -m launch.evaluate --checkpoint out/demo/model --data DATA --out out/scores
  python -m launch.evaluate --rescore --out out/scores [--judge FOLDER]
  python -m launch.evaluate --rescore --out out/scores --compare out/scores-of-before

DATA is a list of questions (.tsv, .jsonl), a data set of launch.corpus, or a folder with the
Parquet or CSV files of Llama Questions, Web Questions, TriviaQA, OpenAudioBench, or SD-QA, MMSU,
OpenBookQA and IFEval of VoiceBench. echox_jax/evaluation/README.md describes scores, rules, judges
and files.

  T2T  written question -> written answer          T2S  written question -> spoken answer
  S2T  spoken question  -> written answer          S2S  spoken question  -> spoken answer

Every answer, transcript and sound is kept in OUT. The same command goes on where a stopped run was.
Several processes share the work: start the command once for each, with --num_processes and
--process_id; --rescore makes the scores when all are done.

--transcripts scores which words of the questions the model hears, and asks for no answers: see
launch/transcript_scores.py. The demo scores itself with --workdir WORKDIR instead of --data, and
OUT.json: see launch/demo_scores.py.
"""

import argparse
from collections.abc import Sequence

from echox_jax import errors, storage
from launch import cli, model_options


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line.

  Raises:
    EchoXError: options are missing or do not go together.
  """
  parser = argparse.ArgumentParser(
    prog='python -m launch.evaluate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  model_options.add(parser, required=False)
  parser.add_argument('--data', type=storage.check_readable, help='the questions')
  parser.add_argument('--out', required=True, type=storage.check_writable, help='folder to write')
  parser.add_argument(
    '--workdir', type=storage.check_readable, help='score the demo: its working folder'
  )
  parser.add_argument(
    '--transcripts', action='store_true', help='score what is heard, and ask for no answers'
  )
  parser.add_argument(
    '--noise',
    action='store_true',
    help='with --transcripts: also score whether it hears a question in noise',
  )
  parser.add_argument('--split', help='of DATA, where it has several (default test)')
  parser.add_argument('--ways', default='T2T,T2S,S2T,S2S', help='what is scored (default all)')
  parser.add_argument('--limit', type=int, help='ask this many questions alone, evenly spaced')
  parser.add_argument(
    '--judge',
    default='whisper-base',
    help='who listens: whisper-base, hama, a folder (local or gs://), or command:PROGRAM (default '
    '%(default)s)',
  )
  parser.add_argument('--quality', help='score the sound too: distillmos, or command:PROGRAM')
  parser.add_argument(
    '--batch', type=int, default=16, help='answers that are made together (default %(default)s)'
  )
  parser.add_argument(
    '--timed', type=int, default=24, help='questions asked alone for times (default %(default)s)'
  )
  parser.add_argument('--num_processes', type=int, default=1, help='processes that share the work')
  parser.add_argument('--process_id', type=int, default=0, help='which one this is, from 0')
  parser.add_argument('--rescore', action='store_true', help='score OUT again, without the model')
  parser.add_argument(
    '--compare', type=storage.check_readable, metavar='OTHER', help='show another OUT beside it'
  )
  args = parser.parse_args(argv)
  for name in ('limit', 'batch', 'num_processes'):
    if (value := getattr(args, name)) is not None and value < 1:
      raise errors.EchoXError(f'--{name} is {value}: give 1 or more.')
  if args.transcripts and (args.rescore or args.workdir is not None):
    raise errors.ConfigError('--transcripts hears anew: leave --rescore and --workdir out.')
  if args.noise and not args.transcripts:
    raise errors.ConfigError('--noise is an option of --transcripts: give both, or neither.')
  if not args.rescore and args.checkpoint is None:
    raise errors.ConfigError('--checkpoint is missing: name the model, or score with --rescore.')
  if not args.rescore and args.data is None and args.workdir is None:
    raise errors.ConfigError('--data is missing: name the questions, or score with --rescore.')
  return args


def main(argv: Sequence[str] | None = None) -> None:
  args = parse(argv)
  if args.transcripts:
    from launch import transcript_scores

    transcript_scores.run(args)
    return
  from launch import demo_scores, question_scores

  if args.workdir is not None and not args.rescore:
    demo_scores.run(args)
  else:
    question_scores.run(args)


if __name__ == '__main__':
  cli.run(main)
