"""Export formats for other tools, and how each is written: completely or not at all."""

from collections.abc import Callable

from echox_jax import errors, model_folder, storage
from echox_jax.conversion import llm_export, released_export, stablehlo
from echox_jax.conversion import source as source_lib
from echox_jax.conversion.echox_hf import OWN_CONFIG
from echox_jax.conversion.source import ModelSource
from echox_jax.storage import Path

MAX_SHARD_BYTES = 5 * 10**9
# The released files hold 2 bytes per value (known from their sizes), but in which of the two
# formats is unknown. The authors trained in fp16.
DTYPE = 'float16'


def export(
  checkpoint: Path,
  to: str,
  out: Path,
  dtype: str | None = None,
  max_shard_bytes: int | None = None,
  base: Path | None = None,
) -> list[str]:
  """Writes a model in another format.

  Args:
    checkpoint: a model folder, or the working folder of training stages.
    to: one of `FORMATS`.
    out: the folder; replaces an earlier export of the same format there.
    dtype: dtype of the tensors, only with `echox` (default `DTYPE`) and `llm` (default: as stored).
    max_shard_bytes: size of one file, only with `echox` and `llm`; default `MAX_SHARD_BYTES`.
    base: a model folder; `checkpoint` is a working folder with another voice for it, see
      `source.with_voice`.

  Returns:
    Sentences about what was written and what was left out.

  Raises:
    EchoXError: the format is unknown, `checkpoint` is not a model or lacks what the format needs,
      or `out` is something else. Then `out` is unchanged.
  """
  if to not in FORMATS:
    raise errors.EchoXError(f'there is no export format {to!r}: use one of {", ".join(FORMATS)}.')
  options = {
    name: value
    for name, value in (('dtype', dtype), ('max_shard_bytes', max_shard_bytes))
    if value is not None
  }
  if options and to not in _WITH_OPTIONS:
    raise errors.EchoXError(
      f'the format {to!r} does not accept '
      f'{", ".join("--" + name.replace("_", "-") for name in options)}: '
      'leave it out.'
    )
  out, (is_own, write) = storage.path(out), FORMATS[to]
  model_folder.check_replaceable(out, is_own, f'an export of the format {to!r}')
  source = (
    source_lib.with_voice(storage.path(checkpoint), base)
    if base
    else source_lib.open_source(checkpoint)
  )
  with storage.atomic_dir(out, model_folder.CONFIG) as beside:
    notes = write(beside, source, **options)
  size = sum(map(storage.size, storage.tree(out)))
  return [f'{out}: {", ".join(source.groups)}; {size / 1e6:.1f} MB.', *notes]


def to_safetensors(folder: Path, source: ModelSource) -> list[str]:
  """Our own parameter tree with its config; `echox_jax.load` opens it."""
  model_folder.write_params(folder, source.specs, source.rows())
  model_folder.write_rest(folder, source.config, source.engine, source.files)
  return []


def to_stablehlo(folder: Path, source: ModelSource) -> list[str]:
  """The inference functions for cpu, cuda and tpu, beside the model itself."""
  to_safetensors(folder, source)
  left_out = stablehlo.write(folder, source.config, source.engine, source.specs)
  return [f'{name} is left out: the model has no {groups}.' for name, groups in left_out.items()]


def to_echox(
  folder: Path, source: ModelSource, dtype: str = DTYPE, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[str]:
  """The layout of the released checkpoints."""
  return released_export.write(folder, source, _known(dtype), max_shard_bytes)


def to_llm(
  folder: Path,
  source: ModelSource,
  dtype: str | None = None,
  max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
  """The LLM alone, as transformers reads it."""
  chosen = None if dtype is None else _known(dtype)
  return llm_export.write(folder, source, chosen, max_shard_bytes)


def _known(dtype: str) -> str:
  if dtype not in released_export.DTYPES:
    raise errors.EchoXError(
      f'there is no dtype {dtype!r}: use one of {", ".join(released_export.DTYPES)}.'
    )
  return dtype


def _is_stablehlo(folder: Path) -> bool:
  return model_folder.is_model(folder) and storage.is_file(folder / stablehlo.MANIFEST)


def _is_echox(folder: Path) -> bool:
  return model_folder.config_has(folder, OWN_CONFIG)


def _is_llm(folder: Path) -> bool:
  return model_folder.config_has(folder, llm_export.MARK)


# Format -> (whether a folder is such an export, writes one).
FORMATS: dict[str, tuple[Callable[[Path], bool], Callable[..., list[str]]]] = {
  'echox': (_is_echox, to_echox),
  'llm': (_is_llm, to_llm),
  'safetensors': (model_folder.is_model, to_safetensors),
  'stablehlo': (_is_stablehlo, to_stablehlo),
}
_WITH_OPTIONS = ('echox', 'llm')  # dtype and max_shard_bytes
