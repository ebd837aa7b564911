"""Makes the data sets for training: those of the demo, or of your own recordings.

  python -m launch.corpus --data out/demo/data
  python -m launch.corpus --data out/mine/data --manifest mine.tsv
  python -m launch.corpus --data out/mine/data --prefix libri_
                          --reader librispeech --source LibriSpeech
  python -m launch.corpus --data out/talker/data --recipe talker

The first command makes the demo's questions and answers, spoken by packaged voices. The second
reads your own recordings, listed in a JSON-lines or TSV file. The last one makes what the talker
learns from (extra `talker`): everyday questions, answered by a text model, and sentences to write
down, all spoken by packaged voices.

Readers: manifest, dialogues, pairs, librispeech, mls, tfds. `--reader NAME --help` describes the
layout that a reader reads. Recordings may be wav, flac, mp3, ogg or opus, and with ffmpeg installed
m4a and others, at any usual rate and number of channels.

Unusable recordings (damaged, silent, over-long, without text, ...) are left out, counted, and
listed with the reason in DATA/quarantine.jsonl. If there are more than --max_quarantined allows,
no data set appears or changes. `python -m launch.inspect DATA` shows the result.

A reading-in that was stopped in any way continues where it was when the same command runs again; it
repeats at most one shard. Finished shards are not read again, except to try a recording that was
left out and whose file has changed. To have a recording read again that was replaced under its old
name, delete its data set.

Several hosts do the work together if the same command runs on each of them, with the recordings and
DATA on storage that all of them see. The data sets are the same on any number of hosts. The demo is
made by one host.

--distributed, --coordinator, --num_processes, --process_id: how the hosts find one another, as in
launch.train
"""

import argparse
from collections.abc import Callable, Sequence
import functools
import json
from typing import Any

import jax

from configs import full_size
from data_pipeline import ingest, readers
from data_pipeline.corpus import sentences
from data_pipeline.corpus.talker import answers
from data_pipeline.corpus.talker import build as talker
from data_pipeline.shards import Process
from echox_jax import errors, storage
from echox_jax.parallel import distributed
from launch import cli

RECIPES = ('talker',)
_OF_RECIPES = (
  *('llm', 'share', 'sentences', 'test_questions'),
  'spoken_answers',
  *(f'spoken_{kind}' for kind in talker.ALONE_HOURS),
)
# what the answer voice says beside the answers
_ALONE = {
  'sentences': 'sentences',
  'parts': 'parts of answers, four words or more, as if they were sentences,',
  'words': 'lists of one to four random words',
  'numbers': 'phrases with numbers',
}
LLM = 'smollm2-135m'  # folder of the packaged model, where configs/echox_135m.py looks for it


def main() -> None:
  args = parse()
  if args is None:
    return
  distributed.initialise(args.distributed, args.coordinator, args.num_processes, args.process_id)
  summary = _build(args)
  if distributed.is_first():
    print(json.dumps(summary, indent=2))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace | None:
  """The command line; None if it asks for help, which has been given.

  Raises:
    ConfigError: options are missing or do not go together.
  """
  limits, sharing = ingest.Limits(), ingest.Sharing()
  parser = argparse.ArgumentParser(
    prog='python -m launch.corpus',
    description=__doc__,
    add_help=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '-h', '--help', action='store_true', help='show this, or with --reader describe that layout'
  )
  parser.add_argument(
    '--data', type=storage.check_writable, help='folder to write the data sets to'
  )
  parser.add_argument('--reader', metavar='NAME', help='layout of your recordings')
  parser.add_argument(
    '--source', type=storage.check_readable, help='file or folder that the reader reads'
  )
  parser.add_argument(
    '--manifest',
    type=storage.check_readable,
    metavar='FILE',
    help='the same as --reader manifest --source FILE',
  )
  parser.add_argument(
    '--fields',
    type=_fields,
    metavar='NAME=FIELD,...',
    help='which field holds what, for the reader tfds where types leave a choice',
  )
  parser.add_argument(
    '--prefix', default='', help='prefix of the data set names, for several sources in one folder'
  )
  parser.add_argument(
    '--max_seconds',
    type=float,
    default=limits.max_seconds,
    help='longest recording (default %(default)s)',
  )
  parser.add_argument(
    '--max_quarantined',
    type=float,
    default=limits.max_quarantined,
    help='share of the items that may be left out (default %(default)s)',
  )
  parser.add_argument(
    '--keep_encoded',
    action='store_true',
    help='store the sound files themselves and decode them at every reading, '
    'instead of 16-bit samples at 16 kHz',
  )
  parser.add_argument(
    '--seed',
    type=int,
    default=0,
    help='demo and recipe: seed of phrasings, voices, speeds and of what is held out',
  )
  parser.add_argument(
    '--recipe', metavar='NAME', help=f'a corpus that is made: {", ".join(RECIPES)}'
  )
  parser.add_argument(
    '--llm',
    type=storage.check_readable,
    metavar='DIR',
    help='recipe: folder of an imported chat model, which answers (default: the packaged SmolLM2, '
    f'imported to {full_size.models_dir()}/{LLM})',
  )
  parser.add_argument(
    '--share', type=float, help='recipe: share of the corpus, 0.01 to 1, for trials (default 1)'
  )
  parser.add_argument(
    '--sentences',
    type=float,
    metavar='SHARE',
    help='recipe: share of the sentences to be written down, --share to 1; they cost no answers '
    '(default: --share)',
  )
  parser.add_argument(
    '--test_questions',
    type=float,
    metavar='SHARE',
    help='recipe: share of the test questions, --share to 1, so that scores of a small corpus have '
    'narrow intervals (default: --share)',
  )
  parser.add_argument(
    '--spoken_answers',
    type=functools.partial(_spoken, '--spoken_answers'),
    metavar='N',
    help='recipe: how many answers are spoken, as a number such as 5000, or as hours such as 20h '
    '(default 20h)',
  )
  for kind, hours in talker.ALONE_HOURS.items():
    parser.add_argument(
      f'--spoken_{kind}',
      type=functools.partial(_spoken, f'--spoken_{kind}'),
      metavar='N',
      help=f'recipe: how many {_ALONE[kind]} it says, too, in the same way (default {hours:g}h, or '
      'the --share of them)',
    )
  parser.add_argument(
    '--extra_sentences',
    type=int,
    default=sentences.COUNT,
    help='demo: extra sentences of the answer voice, 3 seconds each (default %(default)s)',
  )
  parser.add_argument(
    '--unheard',
    action='store_true',
    help='demo: also ask all facts whose answers are held out, in the test voices (data set '
    'unheard)',
  )
  parser.add_argument(
    '--workers',
    type=int,
    default=2,
    help='processes of this host that speak or decode at the same time (default %(default)s)',
  )
  parser.add_argument(
    '--shard_examples',
    type=int,
    default=sharing.shard_examples,
    help='examples of a shard, which one host reads in at a time (default %(default)s)',
  )
  parser.add_argument(
    '--wait_seconds',
    type=float,
    default=sharing.wait_seconds,
    help='how long a host waits for the next shard of another one before it gives up '
    '(default %(default)s)',
  )
  parser.add_argument(
    '--heartbeat_seconds',
    type=float,
    default=10.0,
    help='how often a host tells that it lives, for launch.status; 0 = never (default %(default)s)',
  )
  parser.add_argument(
    '--distributed', default='auto', choices=distributed.MODES, help=argparse.SUPPRESS
  )
  parser.add_argument('--coordinator', help=argparse.SUPPRESS)
  parser.add_argument('--num_processes', type=int, help=argparse.SUPPRESS)
  parser.add_argument('--process_id', type=int, help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.help:
    print(readers.get(args.reader).guide if args.reader else parser.format_help())
    return None
  if not args.data:
    raise errors.ConfigError('--data is missing: name the folder to write the data sets to.')
  _check_recipe(args)
  if args.manifest and (args.reader or args.source):
    raise errors.ConfigError(
      '--manifest cannot be combined with --reader or --source: give one or the other.'
    )
  if args.manifest:
    args.reader, args.source = 'manifest', args.manifest
  if bool(args.reader) != bool(args.source):
    raise errors.ConfigError(
      '--reader and --source need each other: give both, or neither for the demo.'
    )
  return args


def reading_in(
  args: argparse.Namespace, workers: int, heartbeat_seconds: float
) -> Callable[..., dict[str, Any]]:
  """`ingest.build` with what the command line says; `workers`, `heartbeat_seconds`: see
  `ingest.Sharing`.
  """
  return functools.partial(
    ingest.build,
    args.reader,
    args.source,
    args.data,
    prefix=args.prefix,
    limits=ingest.Limits(args.max_seconds, args.max_quarantined),
    keep_encoded=args.keep_encoded,
    sharing=ingest.Sharing(args.shard_examples, workers, args.wait_seconds, heartbeat_seconds),
    fields=args.fields,
  )


def _check_recipe(args: argparse.Namespace) -> None:
  """Raises ConfigError if the options of a recipe cannot be."""
  if args.recipe is None:
    for option in _OF_RECIPES:
      if getattr(args, option) is not None:
        raise errors.ConfigError(f'--{option} is an option of recipes: add --recipe talker.')
    return
  if args.recipe not in RECIPES:
    raise errors.ConfigError(
      f'there is no recipe {args.recipe!r}: use one of {", ".join(RECIPES)}.'
    )
  if args.manifest or args.reader or args.source:
    raise errors.ConfigError(
      '--recipe cannot be combined with --manifest, --reader or --source: give one or the other.'
    )
  if args.share is not None and not 0.01 <= args.share <= 1:
    raise errors.ConfigError(f'--share is {args.share:g}: give a share from 0.01 to 1.')
  least = args.share or 1.0
  for option in ('sentences', 'test_questions'):
    given = getattr(args, option)
    if given is not None and not least <= given <= 1:
      raise errors.ConfigError(
        f'--{option} is {given:g}: give a share from that of --share, {least:g}, to 1.'
      )


def _spoken(option: str, text: str) -> talker.Spoken:
  """`5000` or `20h`, as this option has it."""
  try:
    number = float(text.removesuffix('h'))
  except ValueError:
    number = 0.0
  if not 0 < number < float('inf'):
    raise errors.ConfigError(
      f'{option} is {text!r}: give a number such as 5000, or hours such as 20h.'
    )
  if text.endswith('h'):
    return talker.Spoken(hours=number)
  return talker.Spoken(texts=number)


def _fields(text: str) -> dict[str, str]:
  """`audio=speech,text=words` -> the names by what they hold."""
  pairs = [part.partition('=') for part in text.split(',')]
  if not all(name and field for name, _, field in pairs):
    raise errors.ConfigError(f'--fields is {text!r}: write NAME=FIELD, with commas between them.')
  return {name: field for name, _, field in pairs}


def _build(args: argparse.Namespace) -> dict[str, Any]:
  if args.reader:
    process = Process(jax.process_index(), jax.process_count(), distributed.barrier)
    read = reading_in(args, args.workers, args.heartbeat_seconds)
    return read(process=process, progress=True)
  if jax.process_count() > 1:
    raise errors.ConfigError(
      'the demo and recipes are made by one process: run this command on one host, or name '
      'recordings with --manifest or --reader.'
    )
  if args.recipe:
    return _build_talker(args)
  from data_pipeline.corpus import build

  return build.build_corpus(
    args.data,
    seed=args.seed,
    workers=args.workers,
    extra_sentences=args.extra_sentences,
    names=('answers', 'questions', *(('unheard',) if args.unheard else ())),
  )


def _build_talker(args: argparse.Namespace) -> dict[str, Any]:
  cli.keep_compiled_programs()
  llm = args.llm or answers.packaged_model(storage.path(full_size.models_dir()) / LLM)
  usual = talker.Options(llm)
  asked = {kind: getattr(args, f'spoken_{kind}') for kind in talker.ALONE_HOURS}
  alone = {kind: spoken for kind, spoken in asked.items() if spoken is not None}
  options = talker.Options(
    llm,
    args.share or usual.share,
    sentences=args.sentences,
    tests=args.test_questions,
    spoken=args.spoken_answers or usual.spoken,
    alone=alone,
    seed=args.seed,
  )
  return talker.build(
    args.data,
    options,
    limits=ingest.Limits(args.max_seconds, args.max_quarantined),
    sharing=ingest.Sharing(args.shard_examples, args.workers, args.wait_seconds),
    progress=True,
  )


if __name__ == '__main__':
  cli.run(main, distributed.leave)
