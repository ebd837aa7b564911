"""Compares this code with a golden set: arrays that the released code computed with its weights.

  python -m launch.verify --golden DIR [--json FILE]

DIR holds config.json, which has sizes and ids, and golden_*.npz. Weights are imported in the same
way as real checkpoints. Every array is a row of the table, with its largest error, the tolerance
and whether it passes. The exit code is 1 if a row fails. Sections whose files are not in DIR are
listed as absent.
"""

import argparse
import time

from echox_jax import errors, storage
from echox_jax.verification import rows as row_lib
from echox_jax.verification.golden import Golden
from echox_jax.verification.sections import SECTIONS, check
from launch import cli


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m launch.verify',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--golden', required=True, type=storage.check_readable, help='folder of the golden set'
  )
  parser.add_argument('--json', type=storage.check_writable, help='file to write the rows to')
  args = parser.parse_args(argv)

  with storage.local(args.golden) as folder:
    return _verify(args, Golden(folder))


def _verify(args: argparse.Namespace, golden: Golden) -> int:
  """Prints and writes the table; returns the exit code."""
  rows, absent = [], {}
  for name, section in SECTIONS.items():
    missing = golden.missing(section.files)
    if missing:
      absent[name] = missing
      print(f'{name}: absent, {args.golden} has no {", ".join(missing)}')
      continue
    began = time.perf_counter()
    found = check(golden, name)
    failed = sum(not row.passed for row in found)
    print(
      f'{name}: {len(found)} rows, {failed} failed, {time.perf_counter() - began:.1f} s', flush=True
    )
    rows += found
  if not rows:
    raise errors.DataError(
      f'{args.golden} holds no golden arrays: give the folder of a golden set.'
    )

  failed = [row.name for row in rows if not row.passed]
  print(
    f'\n{row_lib.table(rows)}\n\n{len(rows) - len(failed)} of {len(rows)} rows pass, '
    f'{len(absent)} sections absent'
  )
  if failed:
    print('failed: ' + ', '.join(failed))
  if args.json:
    storage.atomic_write_json(
      args.json,
      {
        'pass': not failed,
        'passed': len(rows) - len(failed),
        'failed': len(failed),
        'absent': absent,
        'rows': [row.to_json() for row in rows],
      },
    )
  return int(bool(failed))


if __name__ == '__main__':
  cli.run(main)
