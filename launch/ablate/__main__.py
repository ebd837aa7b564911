"""Ablations of echo training: trains and scores every variant in every seed, and compares them.

  python -m launch.ablate --out out/ablate --from out/demo
  python -m launch.ablate --out out/ablate --list

A cell is a variant and a seed. The earlier stages are taken from a finished `make demo` (--from) or
trained here; the text-to-codec model is always trained here, since that of the demo knows the
held-out answers. If it is stopped, the same command goes on. Run it several times at once, on one
folder, and the processes share the cells.

Writes results.md (tables and plain words), results.json, shares.png and latency.png. The answers
and models of all cells are under OUT/cells.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from echox_jax import errors, storage
from launch import cli
from launch.ablate import presets, work

_PRESET = 'preset.json'


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.ablate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--out', required=True, type=storage.local_only, help='folder to write')
  parser.add_argument(
    '--preset',
    default='nano',
    help=f'{", ".join(presets.PRESETS)} (default %(default)s; see launch/ablate/presets.py)',
  )
  parser.add_argument(
    '--from',
    dest='given',
    type=storage.local_only,
    metavar='DIR',
    help='folder of a finished `make demo`',
  )
  parser.add_argument('--list', action='store_true', help='only list the cells')
  args = parser.parse_args(argv)
  preset = presets.get_preset(args.preset)

  from echox_jax.evaluation import figures, normalise
  from launch.ablate import cells, results

  found = cells.Cells(preset, args.out, args.given)
  tasks = found.tasks()
  if args.list:
    print('\n'.join(task.name for task in tasks))
    return
  normalise.normalise('')  # reports a missing extra before the work, not after it
  figures.check_installed()
  check_same(args.out, preset, args.given)
  cli.keep_compiled_programs()
  notes = args.out / 'tasks'
  work.run_all(tasks, notes, lambda line: print(line, flush=True))
  print(results.write(preset, args.out, found.answers, work.seconds(notes)))
  print(f'-> {args.out / "results.md"}')


def check_same(out: Path, preset: presets.Preset, given: Path | None) -> None:
  """Raises ConfigError if `out` holds another ablation; notes which one it holds."""
  path = out / _PRESET
  wanted = dataclasses.asdict(preset) | {'config': preset.config.name}
  wanted |= {'from': str(given.absolute()) if given else None}
  wanted = json.loads(json.dumps(wanted))
  if not path.exists():
    storage.atomic_write_json(path, wanted)
  try:
    before = json.loads(path.read_text('utf-8'))
  except ValueError:
    before = None
  if before != wanted:
    raise errors.ConfigError(
      f'{out} holds another ablation (see {path}): use its preset and its --from, or give another '
      '--out.'
    )


if __name__ == '__main__':
  cli.run(main)
