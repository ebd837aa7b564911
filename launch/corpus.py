"""Makes the data sets that training starts from: the demo's, or those of your own recordings.

  python -m launch.corpus --data out/demo/data
  python -m launch.corpus --data out/mine/data --manifest mine.tsv
  python -m launch.corpus --data out/mine/data --prefix libri_
                          --reader librispeech --source LibriSpeech

The first makes the demo's questions and answers, spoken by packaged voices. The second reads your
own recordings, listed in a JSON-lines or TSV file.

Readers: manifest, dialogues, pairs, librispeech, mls. `--reader NAME --help` shows what a reader
reads. Recordings may be wav, flac, mp3, ogg, opus, and where ffmpeg is installed m4a and others, of
any usual rate and number of channels.

What cannot be used (damaged, silent, over-long, without text, ...) is left out, listed with its
reason in DATA/quarantine.jsonl, and counted; more of it than --max_quarantined stops the job before
anything is written. `python -m launch.inspect DATA` shows what is there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from data_pipeline import ingest, readers
from data_pipeline.corpus import sentences
from echox_jax import errors
from launch import cli


def main() -> None:
  limits = ingest.Limits()
  parser = argparse.ArgumentParser(
    prog='python -m launch.corpus',
    description=__doc__,
    add_help=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '-h', '--help', action='store_true', help='show this, or with --reader what that reader reads'
  )
  parser.add_argument('--data', type=Path, help='folder to write the data sets to')
  parser.add_argument('--reader', metavar='NAME', help='layout of your recordings')
  parser.add_argument('--source', type=Path, help='file or folder that the reader reads')
  parser.add_argument(
    '--manifest', type=Path, metavar='FILE', help='the same as --reader manifest --source FILE'
  )
  parser.add_argument(
    '--prefix',
    default='',
    help='goes before the names of the sets, for several sources in one folder',
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
    help='keep sound files as they are, to be decoded whenever they are read; '
    'else samples at 16 kHz, 16 bits',
  )
  parser.add_argument(
    '--seed',
    type=int,
    default=0,
    help='picks phrasings, speeds and the held-out answers of the demo',
  )
  parser.add_argument(
    '--extra_sentences',
    type=int,
    default=sentences.COUNT,
    help='of the demo: what the answer voice speaks besides answers, 3 seconds '
    'each (default %(default)s)',
  )
  parser.add_argument(
    '--workers',
    type=int,
    default=2,
    help='processes that speak or decode at the same time (default %(default)s)',
  )
  args = parser.parse_args()
  if args.help:
    print(readers.get(args.reader).guide if args.reader else parser.format_help())
    return
  if not args.data:
    raise errors.ConfigError('--data is missing: name the folder to write the data sets to.')
  print(json.dumps(_build(args), indent=2))


def _build(args: argparse.Namespace) -> dict[str, Any]:
  reader, source = ('manifest', args.manifest) if args.manifest else (args.reader, args.source)
  if args.manifest and (args.reader or args.source):
    raise errors.ConfigError(
      '--manifest goes without --reader and --source: give one or the other.'
    )
  if bool(reader) != bool(source):
    raise errors.ConfigError(
      '--reader and --source go together: give both, or neither for the demo.'
    )
  if reader:
    limits = ingest.Limits(args.max_seconds, args.max_quarantined)
    return ingest.build(
      reader,
      source,
      args.data,
      prefix=args.prefix,
      limits=limits,
      keep_encoded=args.keep_encoded,
      workers=args.workers,
      progress=True,
    )
  from data_pipeline.corpus import build

  return build.build_corpus(
    args.data, seed=args.seed, workers=args.workers, extra_sentences=args.extra_sentences
  )


if __name__ == '__main__':
  cli.run(main)
