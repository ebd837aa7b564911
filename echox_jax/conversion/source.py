"""The input of an export: a model folder, read tensor by tensor, or the finished stages of a
working folder.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

from echox_jax import errors, model_folder, storage, tensor_files
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion import lazy
from echox_jax.models import lora, trees
from echox_jax.storage import Path

# Files that a model folder may hold beside config and parameters.
TOKENIZER_FILES = (
  'tokenizer.model',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
)
_FILES = (*TOKENIZER_FILES, model_folder.UNIT_LANGUAGE, model_folder.KMEANS)


@dataclasses.dataclass(frozen=True)
class ModelSource:
  """A model to export.

  Attributes:
    name: for messages.
    config: config of the model.
    engine: budgets of its answers.
    tensors: `group/path` -> array; `shapes` and `dtypes` are known, and it may have `rows` to read
      a part.
    files: name in a model folder -> file to copy.
  """

  name: str
  config: EchoXConfig
  engine: EngineConfig
  tensors: Mapping[str, np.ndarray]
  files: Mapping[str, Path]

  @property
  def groups(self) -> tuple[str, ...]:
    """Its parameter groups, sorted."""
    return tuple(sorted({path.split('/')[0] for path in self.tensors}))

  @property
  def specs(self) -> dict[str, tensor_files.Spec]:
    """`group/path` -> (shape, dtype)."""
    return {path: (entry.shape, entry.dtype) for path, entry in lazy.entries(self.tensors).items()}

  def require(self, groups: Iterable[str], purpose: str) -> None:
    """Raises CheckpointError if one of `groups` is missing."""
    missing = [group for group in groups if group not in self.groups]
    if missing:
      raise errors.CheckpointError(
        f'{self.name} lacks the parameters of {", ".join(missing)}, '
        f'which {purpose} needs: '
        'train the stages that make them, or import a checkpoint that '
        'has them.'
      )

  def read(self, path: str, layer: int | None = None) -> np.ndarray:
    """One parameter, or one row of its first axis, with LoRA merged in."""
    value = self._stored(path, layer)
    module = path.removesuffix('/kernel')
    pair = [f'{module}/{leaf}' for leaf in lora.LEAVES]
    if pair[0] not in self.tensors:
      return value
    leaves = {'kernel': value} | {
      leaf: self._stored(name, layer) for leaf, name in zip(lora.LEAVES, pair)
    }
    return np.asarray(lora.merge(leaves, self.config.llm.lora)['kernel'])

  def rows(self) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """All parameters as stored, one in memory at a time, for `model_folder.write_params`."""
    return ((path, None, self.tensors[path]) for path in self.tensors)

  def _stored(self, path: str, layer: int | None) -> np.ndarray:
    if layer is None:
      return self.tensors[path]
    rows = getattr(self.tensors, 'rows', None)
    return rows(path, layer, layer + 1)[0] if rows else self.tensors[path][layer]


def of_assembled(
  folder: Path,
  config: EchoXConfig,
  engine: EngineConfig,
  params: Mapping[str, Any],
  tokenizer: Path,
  language: Path,
) -> ModelSource:
  """What `assemble` found in the working folder `folder`; the k-means lies beside the language."""
  files = {tokenizer.name: tokenizer, model_folder.UNIT_LANGUAGE: language}
  centroids = language.with_name(model_folder.KMEANS)
  if storage.is_file(centroids):
    files[model_folder.KMEANS] = centroids
  return ModelSource(str(folder), config, engine, trees.flatten(params), files)


def with_voice(folder: Path, base: Path) -> ModelSource:
  """The model folder `base` with the voice that the stages in the working folder `folder` have
  trained; everything else is that of `base`, bit by bit.

  Raises:
    CheckpointError: as `open_source`; or the voice does not fit the sizes of `base`.
  """
  # training code is imported only for training folders
  from echox_jax.conversion import assemble

  model, voice = open_source(base), trees.flatten(assemble.voice(folder))
  tensors = lazy.LazyTensors(lazy.entries(model.tensors) | lazy.entries(voice))
  model_folder.check_shapes(model.config, tensors.shapes, f'the voice in {folder} with {base}')
  return dataclasses.replace(model, name=str(folder), tensors=tensors)


def open_source(folder: Path) -> ModelSource:
  """Opens a model folder (exported or imported) or a working folder of training.

  Raises:
    CheckpointError: the folder is neither, is damaged, or its stages are not finished.
  """
  folder = storage.path(folder)
  if not folder.is_dir():
    raise errors.CheckpointError(
      f'{folder} is not a folder: give a model folder or the working folder of the training stages.'
    )
  if model_folder.is_model(folder):
    config, tensors = model_folder.read_config(folder), tensor_files.open_tensors(folder)
    model_folder.check_shapes(config, tensors.shapes, str(folder))
    return ModelSource(
      str(folder),
      config,
      model_folder.read_engine_config(folder),
      tensors,
      {name: folder / name for name in _FILES if storage.is_file(folder / name)},
    )
  if any(storage.is_file(folder / stage / 'config.json') for stage in ('echo', 'vocoder')):
    # training code is imported only for training folders
    from echox_jax.conversion import assemble

    return of_assembled(folder, *assemble.assemble(folder))
  raise errors.CheckpointError(
    f'{folder} is neither a model folder ({model_folder.CONFIG} and {model_folder.WEIGHTS}) nor '
    'a working folder with the stages echo and '
    'vocoder: give one of them.'
  )
