"""Turns checkpoints into formats that others load.

  python -m launch.convert export  --checkpoint WORKDIR --to safetensors --out DIR
  python -m launch.convert weights --checkpoint WORKDIR/STAGE --groups vocoder --dtype float16 --out DIR

`export` writes a whole model: our own parameter tree with its config, tokenizer and unit language; `echox_jax.load(DIR)` opens
it. `weights` writes parameter groups of one stage, for other runs to start from (`train.init_from`).
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from echox_jax import bundle
from echox_jax import errors
from echox_jax import files
from echox_jax import trees


def export(args: argparse.Namespace) -> None:
  """Writes the model that the finished stages of a working folder make."""
  from echox_jax.training import assemble  # training code is imported only where training folders are read
  config, params, tokenizer, unit_language = assemble.assemble(args.checkpoint)
  folder = bundle.save(args.out, config, params, tokenizer, unit_language)
  print(f'{folder}: {sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.1f} M parameters')


def weights(args: argparse.Namespace) -> None:
  """Writes some parameter groups of one stage's newest checkpoint."""
  from echox_jax.training import checkpoint
  params = checkpoint.load_groups(args.checkpoint, args.groups)
  flat = {key: np.ascontiguousarray(value, args.dtype) for key, value in trees.flatten(params).items()}
  file = files.atomic_write_bytes(args.out / bundle.WEIGHTS, safetensors.numpy.save(flat))
  print(f'{file}: {sum(value.size for value in flat.values()) / 1e6:.1f} M parameters, {file.stat().st_size / 1e6:.1f} MB')


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m launch.convert', description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(required=True)
  whole = commands.add_parser('export', help='write a trained model as a folder that `echox_jax.load` opens')
  whole.add_argument('--checkpoint', required=True, type=Path, help='working folder of the training stages')
  whole.add_argument('--to', choices=['safetensors'], default='safetensors', help='format')
  whole.add_argument('--out', required=True, type=Path, help='folder to write')
  whole.set_defaults(run=export)
  part = commands.add_parser('weights', help='write parameter groups of one stage, to start other runs from')
  part.add_argument('--checkpoint', required=True, type=Path, help='folder of the stage')
  part.add_argument('--groups', required=True, nargs='+', help='parameter groups')
  part.add_argument('--dtype', choices=['float32', 'float16'], default='float32', help='of the numbers written')
  part.add_argument('--out', required=True, type=Path, help='folder to write model.safetensors to')
  part.set_defaults(run=weights)
  args = parser.parse_args()
  args.run(args)


if __name__ == '__main__':
  errors.run_cli(main)
