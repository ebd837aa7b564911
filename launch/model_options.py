"""How a command opens a model folder: the options that `launch.respond` and `launch.evaluate`
share.
"""

import argparse
import dataclasses
import typing

from echox_jax import errors, storage

if typing.TYPE_CHECKING:
  from echox_jax.inference.chat import Model


def add(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
  """Adds the options; `required`: whether a command never goes without a model."""
  parser.add_argument(
    '--checkpoint',
    required=required,
    type=folder,
    help='exported model folder, or a model of this repository: echox-nano',
  )
  parser.add_argument('--dtype', help='float32 or bfloat16: what computes (default: as exported)')
  parser.add_argument(
    '--int8',
    action='store_true',
    help='hold the weights as int8: less memory, and faster where tokens wait for it',
  )
  parser.add_argument(
    '--engine',
    action='append',
    default=[],
    metavar='NAME=NUMBER',
    help='another budget than the folder has, such as first_slice_tokens=6 (may be repeated)',
  )


def folder(name: str) -> storage.Path:
  """The model folder that a user names; raises as `pretrained.find`, `storage.check_readable`."""
  from echox_jax.conversion import pretrained

  return storage.check_readable(pretrained.find(name))


def open_model(args: argparse.Namespace) -> 'Model':
  """Opens the model folder that the options name.

  Raises:
    EchoXError: as `echox_jax.load`; or --engine names no budget, or gives it no number.
  """
  import echox_jax
  from echox_jax.config import EngineConfig

  kinds, changes = typing.get_type_hints(EngineConfig), {}
  for option in args.engine:
    name, _, number = option.partition('=')
    try:
      changes[name] = kinds[name](number)
    except (KeyError, ValueError) as error:
      raise errors.ConfigError(
        f'--engine {option} is no budget: write NAME=NUMBER with one of {", ".join(kinds)}.'
      ) from error
  model: Model = echox_jax.load(args.checkpoint, dtype=args.dtype, int8=args.int8)
  return dataclasses.replace(model, engine=dataclasses.replace(model.engine, **changes))
