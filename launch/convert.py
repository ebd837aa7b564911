"""Imports checkpoints from other formats, and exports ours to formats that other tools load.

  python -m launch.convert import  --kind echox --source EchoX-8B --out DIR
                                   --whisper whisper-large-v3 --vocoder g_00500000
  python -m launch.convert export  --checkpoint WORKDIR --to safetensors --out DIR
  python -m launch.convert weights --checkpoint WORKDIR/STAGE --out DIR
                                   --groups vocoder --dtype float16
  python -m launch.convert pack    --checkpoint DIR --out configs/pretrained/NAME

`import` writes a model folder that `echox_jax.load(DIR)` opens and that stages can start from
(`train.init_from`). It works tensor by tensor, with only a few in memory at a time. With `--format
orbax` it writes a sharded checkpoint. `export` writes a whole model from a working folder of
training or from a model folder. `safetensors` is our own parameter tree with its config, tokenizer
and unit language, which `echox_jax.load(DIR)` opens. `echox` is the layout of the released
checkpoints. `llm` is the language model alone, with LoRA merged, as transformers reads it.
`stablehlo` holds the inference functions for cpu, cuda and tpu with a symbolic batch
(echox_jax/conversion/stablehlo.py shows how to call them). `weights` writes parameter groups of one
stage, from which other runs can start (`train.init_from`). `pack` writes the trained parts of a
model folder small enough for a repository, from where `echox_jax.load(NAME)` puts it together.
"""

import argparse
import contextlib

from echox_jax import errors, model_folder, storage
from echox_jax.models import trees
from launch import cli


def export(args: argparse.Namespace) -> None:
  """Writes a model in our format or another."""
  from echox_jax.conversion import exporters

  print(
    *exporters.export(
      args.checkpoint, args.to, args.out, args.dtype, args.max_shard_bytes, args.base
    ),
    sep='\n',
  )


def weights(args: argparse.Namespace) -> None:
  """Writes some parameter groups of one stage's newest checkpoint."""
  from echox_jax.training import checkpoint

  params = checkpoint.load_groups(args.checkpoint, args.groups)
  flat = trees.flatten(params)
  model_folder.write_params(
    args.out,
    {
      key: (value.shape, value.dtype if args.dtype == 'keep' else args.dtype)
      for key, value in flat.items()
    },
    ((key, None, value) for key, value in flat.items()),
  )
  size = storage.size(args.out / model_folder.WEIGHTS)
  print(
    f'{args.out / model_folder.WEIGHTS}: '
    f'{sum(value.size for value in flat.values()) / 1e6:.1f} M parameters, {size / 1e6:.1f} MB'
  )


def pack(args: argparse.Namespace) -> None:
  """Writes the trained parts of a model folder."""
  from echox_jax.conversion import pretrained

  manifest = pretrained.pack(args.checkpoint, args.out, args.without)
  size = storage.size(args.out / pretrained.PACKED)
  print(f'{args.out}: {size / 1e6:.1f} MB; not in it: {", ".join(manifest["packages"]) or "-"}')
  for group, error in manifest['largest_error'].items():
    print(f'{group}: largest relative error of an array {error:.4f}')


def import_(args: argparse.Namespace) -> None:
  """Writes a model folder from a foreign checkpoint; what is in a bucket is copied here first."""
  with contextlib.ExitStack() as stack:
    for name in ('source', *_IMPORT_OPTIONS):
      if getattr(args, name):
        setattr(args, name, stack.enter_context(storage.local(getattr(args, name))))
    _import(args)


def _import(args: argparse.Namespace) -> None:
  from echox_jax.conversion import importers
  from echox_jax.parallel import sharding

  if args.kind == importers.KMEANS:
    units, width = importers.write_kmeans(args.source, args.out)
    print(f'{args.out}: {units} centroids of width {width}')
    return
  model_folder.check_replaceable(args.out)  # fail before anything is read
  options = {name: getattr(args, name) for name in ('profile', *_IMPORT_OPTIONS)}
  model = importers.open_model(args.kind, args.source, **options)
  print(*model.notes, sep='\n', end='\n' if model.notes else '')
  if args.format == 'orbax':
    from echox_jax.conversion import import_checkpoint  # needs the packages of training

    written = import_checkpoint.write_checkpoint(
      model, args.out, sharding.make_mesh(_mesh(args.mesh)), args.dtype
    )
  else:
    written = importers.write_model(model, args.out, args.dtype)
  print(f'{args.out}: {", ".join(model.groups)}; {written / 1e9:.2f} GB of parameters')


_IMPORT_OPTIONS = {
  'config': 'replaces the config.json of the source; may be a file of all sections',
  'base': 'folder of the model that --source is a LoRA for',
  'whisper': 'kind echox: the speech encoder, which its checkpoint lacks (folder, '
  'model.bin or packaged size)',
  'vocoder': 'kind echox: the unit vocoder (g_* file or folder)',
  'vocoder_config': 'kind echox: the JSON config of that vocoder, if not beside it',
  'unit_vocab': 'kind echox: file of the unit words, if not in the source',
}


def _mesh(text: str) -> dict[str, int]:
  """`data=1,fsdp=8` -> sizes by axis."""
  try:
    sizes = {name: int(size) for name, size in (part.split('=') for part in text.split(','))}
  except ValueError as error:
    raise errors.ConfigError(
      f'--mesh {text} is not of the form data=1,fsdp=8: give sizes by axis.'
    ) from error
  from echox_jax.parallel import sharding

  unknown = sizes.keys() - set(sharding.AXES)
  if unknown:
    raise errors.ConfigError(
      f'--mesh names {", ".join(sorted(unknown))}: use the axes {", ".join(sharding.AXES)}.'
    )
  return sizes


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.convert',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(required=True)
  foreign = commands.add_parser('import', help='write a model folder from a checkpoint of others')
  foreign.add_argument(
    '--kind',
    required=True,
    help='echox, llm (Llama, Qwen2, Qwen2.5, Qwen3), llm-gguf, whisper, whisper-ct2, hubert, '
    'hubert-fairseq, unit-vocoder or kmeans',
  )
  foreign.add_argument(
    '--source',
    required=True,
    type=storage.check_readable,
    help='folder or file of the checkpoint (whisper-ct2: or tiny.en, base)',
  )
  foreign.add_argument('--out', required=True, type=storage.check_writable, help='folder to write')
  for name, text in _IMPORT_OPTIONS.items():
    foreign.add_argument(f'--{name.replace("_", "-")}', type=storage.check_readable, help=text)
  foreign.add_argument(
    '--profile',
    help=(
      'kinds llm and llm-gguf: the prompt profile: paper, released, chatml, llama3 or qwen3 '
      '(default: according to the chat template of the tokenizer)'
    ),
  )
  foreign.add_argument(
    '--dtype',
    choices=['keep', 'float32', 'bfloat16'],
    default='keep',
    help='dtype of the parameters (default: unchanged)',
  )
  foreign.add_argument(
    '--format',
    choices=['safetensors', 'orbax'],
    default='safetensors',
    help='orbax: a sharded checkpoint',
  )
  foreign.add_argument(
    '--mesh',
    default='fsdp=-1',
    help='orbax: devices by axis, e.g. data=1,fsdp=8; -1 = all remaining devices (default)',
  )
  foreign.set_defaults(run=import_)
  whole = commands.add_parser('export', help='write a trained or imported model in another format')
  whole.add_argument(
    '--checkpoint',
    required=True,
    type=storage.check_readable,
    help='working folder of the training stages, or a model folder',
  )
  whole.add_argument(
    '--to', default='safetensors', help='safetensors (default), echox, llm or stablehlo'
  )
  whole.add_argument(
    '--dtype',
    help='echox and llm: float16 (default of echox, as released), bfloat16 or float32; '
    'default of llm: as stored',
  )
  whole.add_argument(
    '--max-shard-bytes', type=int, help='echox, llm: size of one file of tensors (default: 5 GB)'
  )
  whole.add_argument(
    '--base',
    type=storage.check_readable,
    metavar='DIR',
    help='take the voice alone from --checkpoint (t2c, echo decoder, vocoder), and all else from '
    'this model folder (launch.voice)',
  )
  whole.add_argument('--out', required=True, type=storage.check_writable, help='folder to write')
  whole.set_defaults(run=export)
  part = commands.add_parser(
    'weights', help='write parameter groups of one stage, to start other runs from'
  )
  part.add_argument(
    '--checkpoint', required=True, type=storage.check_readable, help='folder of the stage'
  )
  part.add_argument('--groups', required=True, nargs='+', help='parameter groups')
  part.add_argument(
    '--dtype',
    choices=['keep', 'float32', 'float16'],
    default='float32',
    help='dtype of the parameters; keep: unchanged',
  )
  part.add_argument(
    '--out', required=True, type=storage.check_writable, help='folder to write model.safetensors to'
  )
  part.set_defaults(run=weights)
  packed = commands.add_parser('pack', help='write the trained parts of a model, as int8')
  packed.add_argument(
    '--checkpoint', required=True, type=storage.local_only, help='exported model folder'
  )
  packed.add_argument('--out', required=True, type=storage.local_only, help='folder to write')
  packed.add_argument(
    '--without',
    type=lambda names: names.split(','),
    default=(),
    metavar='GROUPS',
    help='parameter groups that are left out, such as t2c, which only training needs',
  )
  packed.set_defaults(run=pack)
  args = parser.parse_args(argv)
  args.run(args)


if __name__ == '__main__':
  cli.run(main)
