"""Makes the data sets for training: those of the demo, or of your own recordings.

  python -m launch.corpus --data out/demo/data
  python -m launch.corpus --data out/mine/data --manifest mine.tsv
  python -m launch.corpus --data out/mine/data --prefix libri_
                          --reader librispeech --source LibriSpeech

The first command makes the demo's questions and answers, spoken by packaged voices. The second
reads your own recordings, listed in a JSON-lines or TSV file.

Readers: manifest, dialogues, pairs, librispeech, mls. `--reader NAME --help` describes the layout
that a reader reads. Recordings may be wav, flac, mp3, ogg or opus, and with ffmpeg installed m4a
and others, at any usual rate and number of channels.

Unusable recordings (damaged, silent, over-long, without text, ...) are left out, counted, and
listed with the reason in DATA/quarantine.jsonl. If there are more than --max_quarantined allows,
the job stops before it writes anything. `python -m launch.inspect DATA` shows the result.
"""

import argparse
import json
from typing import Any

from data_pipeline import ingest, readers
from data_pipeline.corpus import sentences
from echox_jax import errors, storage
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
    help='seed of the phrasings, speeds and held-out answers of the demo',
  )
  parser.add_argument(
    '--extra_sentences',
    type=int,
    default=sentences.COUNT,
    help='demo: extra sentences of the answer voice, 3 seconds each (default %(default)s)',
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
      '--manifest cannot be combined with --reader or --source: give one or the other.'
    )
  if bool(reader) != bool(source):
    raise errors.ConfigError(
      '--reader and --source need each other: give both, or neither for the demo.'
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
