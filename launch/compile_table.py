"""Compiles every row of the table of full-size jobs, and prints what a chip holds, receives and
computes in a step.

  python -m launch.compile_table --out DIR [--rows NAME ...] [--again]

A row is a run of `launch.compile_check` in its own process. It takes some ten minutes of one core
and 8 GB of memory, and writes the report DIR/NAME.json. Existing rows are kept, so the command
continues where it was stopped. It needs what `launch.compile_check` needs.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from typing import Any

from echox_jax import errors, storage
from launch import cli


@dataclasses.dataclass(frozen=True)
class Row:
  """One job on one topology.

  Attributes:
    name: name of its report.
    config: file and stage.
    topology, slices: the chips.
    batch: rows over all chips.
    more: further arguments of `launch.compile_check`.
  """

  name: str
  config: str
  topology: str
  batch: int
  slices: int = 1
  more: tuple[str, ...] = ()

  def arguments(self) -> list[str]:
    """Of `launch.compile_check`."""
    return [
      f'--config={self.config}',
      f'--topology={self.topology}',
      f'--slices={self.slices}',
      f'--config.train.batch_size={self.batch}',
      *self.more,
    ]


def _stage(name: str, stage: str, topology: str, chips: int, slices: int = 1) -> Row:
  """A stage of the 8B with eight rows per chip; echo training has room for three slices per row."""
  batch = 8 * chips
  more = (f'--config.train.loss.slices_per_batch={3 * batch}',) if stage == 'echo' else ()
  return Row(f'8b-{stage}-{name}', f'configs/echox_8b.py:{stage}', topology, batch, slices, more)


# Answering: weights over eight chips, and two such groups with half of the conversations each.
_SERVING = (
  '--config.mesh.data=2',
  '--config.mesh.fsdp=1',
  '--config.mesh.tensor=8',
  '--config.engine.conversations=32',
)
ROWS = (
  *(
    _stage(name, stage, topology, chips, slices)
    for name, topology, chips, slices in (
      ('16', 'v5e:4x4', 16, 1),
      ('64', 'v5e:8x8', 64, 1),
      ('256', 'v5e:16x16', 256, 1),
      ('2x256', 'v5e:16x16', 512, 2),
    )
    for stage in ('s2t', 'echo')
  ),
  Row('3b-s2t-8', 'configs/echox_3b.py:s2t', 'v5e:2x4', 64),
  Row('3b-echo-8', 'configs/echox_3b.py:echo', 'v5e:2x4', 64),
  Row('8b-t2c-4', 'configs/echox_8b.py:t2c', 'v5e:2x2', 256),
  Row('3b-t2c-4', 'configs/echox_3b.py:t2c', 'v5e:2x2', 64),
  Row('8b-prefill-16', 'configs/echox_8b.py:s2t', 'v5e:4x4', 32, 1, ('--step=prefill', *_SERVING)),
  Row('8b-decode-16', 'configs/echox_8b.py:s2t', 'v5e:4x4', 32, 1, ('--step=decode', *_SERVING)),
  Row('vocoder-4', 'configs/echox_8b.py:vocoder', 'v5e:2x2', 64),
)


def line(name: str, report: dict[str, Any]) -> str:
  """A row of the printed table."""

  def gib(n):
    return f'{n / 2**30:.1f}'

  if 'error' in report:
    job = f'{name} | {report["chips"]} | {report["batch_size"]}'
    return f'| {job} | does not fit | | | | | | | {report["compile_s"]:.0f} |'

  def seconds(term):
    return '–' if report[term] is None else f'{report[term]:.2f}'

  received = '–' if report['ici_bytes_per_chip'] is None else gib(report['ici_bytes_per_chip'])
  bound = (
    '–' if report['mfu_bound'] is None else f'{report["mfu_bound"]:.2f} ({report["slowest_term"]})'
  )
  return (
    f'| {name} | {report["chips"]} | {report["batch_size"]} | '
    f'{gib(report["peak_bytes_per_chip"])} | {received} | '
    + ' | '.join(seconds(term) for term in ('compute_s', 'hbm_s', 'ici_s', 'dcn_s'))
    + f' | {bound} | {report["compile_s"]:.0f} |'
  )


HEADER = (
  '| row | chips | batch | GiB a chip | GiB received a step | compute s | hbm s | ici s | '
  'dcn s | MFU at most | compile s |\n'
  '|---|---|---|---|---|---|---|---|---|---|---|'
)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m launch.compile_table',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--out', required=True, type=storage.check_writable, help='folder of the reports'
  )
  parser.add_argument(
    '--rows',
    nargs='+',
    metavar='NAME',
    help=f'of {", ".join(row.name for row in ROWS)} (default: all)',
  )
  parser.add_argument(
    '--again', action='store_true', help='also compile rows whose report already exists'
  )
  args = parser.parse_args(argv)
  known = {row.name: row for row in ROWS}
  unknown = [name for name in args.rows or () if name not in known]
  if unknown:
    raise errors.EchoXError(f'there is no row {unknown[0]!r}: use {", ".join(known)}.')
  storage.make_folder(args.out)
  failed = []
  for name in args.rows or known:
    file = args.out / f'{name}.json'
    if args.again or not file.is_file():
      print(f'{name} ...', file=sys.stderr, flush=True)
      done = subprocess.run(
        [sys.executable, '-m', 'launch.compile_check', *known[name].arguments(), f'--json={file}'],
        check=False,
        stdout=subprocess.DEVNULL,
      )
      failed += [name] if done.returncode not in (0, 1) or not file.is_file() else []
  print(HEADER)
  for name in known:
    file = args.out / f'{name}.json'
    if file.is_file():
      print(line(name, json.loads(file.read_text('utf-8'))))
  if failed:
    print(f'not compiled: {", ".join(failed)}; run the same command again.', file=sys.stderr)
  return 1 if failed else 0


if __name__ == '__main__':
  cli.run(main)
