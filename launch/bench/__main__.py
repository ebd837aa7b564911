"""Measures the cost of this program, piece by piece.

  python -m launch.bench MEASURE [--json FILE] [options]

`python -m launch.bench MEASURE --help` describes what is measured and how, and the names of the
figures in FILE.
"""

import argparse
import json

from echox_jax import storage
from launch import cli
from launch.bench import (
  checkpoints,
  corpus,
  loader,
  losses,
  padding,
  precompute,
  pseudo_labels,
  released,
  respond,
  serve,
  unit_language,
)

MEASURES = {
  'checkpoints': checkpoints,
  'corpus': corpus,
  'loader': loader,
  'losses': losses,
  'padding': padding,
  'precompute': precompute,
  'pseudo_labels': pseudo_labels,
  'released': released,
  'respond': respond,
  'serve': serve,
  'unit_language': unit_language,
}


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.bench',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(required=True, metavar='MEASURE')
  for name, module in MEASURES.items():
    command = commands.add_parser(
      name,
      help=module.__doc__.splitlines()[0],
      description=module.__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(measure=module.measure)
    command.add_argument(
      '--json',
      type=storage.check_writable,
      metavar='FILE',
      help='also write the figures to this file',
    )
    module.add_options(command)
  options = parser.parse_args()
  figures = options.measure(options)
  print(json.dumps(figures, indent=2))
  if options.json:
    storage.atomic_write_json(options.json, figures)


if __name__ == '__main__':
  cli.run(main)
