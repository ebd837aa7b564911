"""Describes a folder of data sets.

  python -m launch.inspect DIR [--json FILE] [--picture FILE.png]
                               [--batch_size 16] [--config configs/echox_nano.py:s2t]
  python -m launch.inspect --schema

DIR is the folder that `python -m launch.corpus` (out/mine/data) or `python -m launch.precompute`
(out/mine/precomputed) wrote. The report has counts and hours of every set and split, lengths, a few
examples, the expected share of padding in a batch, damaged items, and what was left out when the
recordings were read. With --config it also has the padding at that stage's static sizes. --schema
prints the JSON schema of an example.
"""

import argparse
import json

from data_pipeline import inspection, schema
from echox_jax import errors, storage
from launch import cli


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.inspect',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'folder', nargs='?', type=storage.check_readable, metavar='DIR', help='folder of data sets'
  )
  parser.add_argument(
    '--schema', action='store_true', help='only print the JSON schema of an example'
  )
  parser.add_argument(
    '--json', type=storage.check_writable, metavar='FILE', help='also write the report to this file'
  )
  parser.add_argument(
    '--picture',
    type=storage.check_writable,
    metavar='FILE.png',
    help='draw histograms of the lengths (needs the extra `demo`)',
  )
  parser.add_argument(
    '--batch_size', type=int, default=16, help='for the padding forecast (default %(default)s)'
  )
  parser.add_argument(
    '--examples', type=int, default=2, help='examples to show per split (default %(default)s)'
  )
  parser.add_argument(
    '--config', metavar='FILE.py:STAGE', help='job whose static sizes the forecast uses'
  )
  args = parser.parse_args()
  if args.schema:
    print(json.dumps(schema.json_schema(), indent=2))
    return
  if not args.folder or args.batch_size < 1:
    raise errors.ConfigError(
      'DIR is missing: name the folder of data sets.'
      if not args.folder
      else '--batch_size must be at least 1: raise it.'
    )
  data = None
  if args.config:
    from launch import train

    data = train.parse(
      ['inspect', f'--config={args.config}', f'--workdir={args.folder}'], 'launch.inspect'
    )[0].data
  report, splits = inspection.inspect(
    args.folder, batch_size=args.batch_size, data=data, shown=args.examples, progress=True
  )
  print(inspection.in_text(report))
  if args.json:
    storage.atomic_write_json(args.json, report)
  if args.picture:
    inspection.draw(splits, args.picture)


if __name__ == '__main__':
  cli.run(main)
