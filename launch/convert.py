"""Turns checkpoints into formats that others load.

  python -m launch.convert export --checkpoint WORKDIR --to safetensors --out DIR

`safetensors` is our own parameter tree with its config, tokenizer and unit language: `echox_jax.load(DIR)` opens it.
"""

import argparse
from pathlib import Path

import jax

from echox_jax import bundle
from echox_jax import errors


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m launch.convert', description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  export = commands.add_parser('export', help='write a trained model as a folder that `echox_jax.load` opens')
  export.add_argument('--checkpoint', required=True, type=Path, help='working folder of the training stages')
  export.add_argument('--to', choices=['safetensors'], default='safetensors', help='format')
  export.add_argument('--out', required=True, type=Path, help='folder to write')
  args = parser.parse_args()
  from echox_jax.training import assemble  # training code is imported only where training folders are read
  config, params, tokenizer, unit_language = assemble.assemble(args.checkpoint)
  folder = bundle.save(args.out, config, params, tokenizer, unit_language)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{folder}: {count / 1e6:.1f} M parameters')


if __name__ == '__main__':
  errors.run_cli(main)
