"""Ablations of echo training: trains and scores every variant in every seed, and compares them.

  python -m launch.ablate --out out/ablate --from out/demo
  python -m launch.ablate --out out/ablate --from out/demo --only a,e
  python -m launch.ablate --out out/ablate --so-far
  python -m launch.ablate --out out/ablate --list

A cell is a variant and a seed. The earlier stages are taken from a finished `make demo` (--from) or
trained here; the text-to-codec model is always trained here, since that of the demo knows the
held-out answers. If it is stopped, the same command goes on. Run it several times at once, on one
folder, and the processes share the cells. --only does a part of the work, and --so-far shows what
is finished; both share the folder too.

Writes results.md (tables and plain words), results.json, shares.png and latency.png. The answers
and models of all cells are under OUT/cells.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

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
  parser.add_argument(
    '--only',
    metavar='BLOCKS',
    help='do (or list, or show) only the cells that these blocks of the tables need, as a,e',
  )
  parser.add_argument('--list', action='store_true', help='only list the cells')
  parser.add_argument(
    '--so-far', action='store_true', help='do no work: only write the tables of finished cells'
  )
  args = parser.parse_args(argv)
  preset = presets.get_preset(args.preset)
  only = presets.chosen(preset, args.only) if args.only is not None else None

  from echox_jax.evaluation import figures, normalise
  from launch.ablate import cells, results

  found, notes = cells.Cells(preset, args.out, args.given), args.out / 'tasks'
  if args.list:
    print('\n'.join(task.name for task in found.tasks(only)))
    return
  figures.check_installed()  # reports a missing extra before the work, not after it
  if args.so_far:
    check_begun(args.out, preset)
    shown = only
  else:
    normalise.normalise('')
    check_same(args.out, preset, args.given)
    cli.keep_compiled_programs()
    work.run_all(found.tasks(only), notes, lambda line: print(line, flush=True))
    shown = None  # also what other runs in this folder finished
  print(results.write(preset, args.out, found.answers, work.seconds(notes), shown))
  print(f'-> {args.out / "results.md"}')


def check_same(out: Path, preset: presets.Preset, given: Path | None) -> None:
  """Raises ConfigError if `out` holds another ablation; notes which one it holds."""
  wanted = _described(preset) | {'from': str(given.absolute()) if given else None}
  if not (out / _PRESET).exists():
    storage.atomic_write_json(out / _PRESET, wanted)
  if _noted(out) != wanted:
    raise _another(out)


def check_begun(out: Path, preset: presets.Preset) -> None:
  """Raises ConfigError unless `out` holds an ablation of this preset."""
  if not (out / _PRESET).exists():
    raise errors.ConfigError(f'{out} holds no ablation: name the --out of one that was started.')
  if _noted(out) | {'from': None} != _described(preset) | {'from': None}:
    raise _another(out)


def _described(preset: presets.Preset) -> dict[str, Any]:
  table = dataclasses.asdict(preset) | {'config': preset.config.name}
  return json.loads(json.dumps(table))


def _noted(out: Path) -> dict[str, Any]:
  try:
    return json.loads((out / _PRESET).read_text('utf-8'))
  except ValueError:
    return {}


def _another(out: Path) -> errors.ConfigError:
  return errors.ConfigError(
    f'{out} holds another ablation (see {out / _PRESET}): use its preset and its --from, or give '
    'another --out.'
  )


if __name__ == '__main__':
  cli.run(main)
