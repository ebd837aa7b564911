"""Describes finished files: their checksums, and the versions and the config that made them."""

from collections.abc import Iterable
import importlib.metadata
import platform
from typing import Any

from data_pipeline.shards import SharedWork
from echox_jax import config as config_lib
from echox_jax import storage
from echox_jax.storage import Path
from echox_jax.training.experiment import ExperimentConfig

PACKAGES = (
  'echox-jax',
  'jax',
  'jaxlib',
  'flax',
  'numpy',
  'sentencepiece',
  'tensorflow-datasets',
  'array-record',
)
_FIELDS = ('speech_encoder', 'tokenizer', 'precompute', 'model')  # the fields precompute reads


def describe(
  work: SharedWork, paths: Iterable[Path], experiment: ExperimentConfig
) -> dict[str, Any]:
  """`files`: path -> sha256 and bytes; `config`: the settings that made them."""
  paths = list(paths)
  found = {}
  for path, note in zip(paths, work.notes(paths)):
    name = path.relative_to(work.folder).as_posix()
    found[name] = {key: note[key] for key in ('sha256', 'bytes')}
    found |= {name + suffix: content for suffix, content in note['beside'].items()}
  config = config_lib.to_dict(experiment)
  return {'files': found, 'config': {name: config[name] for name in _FIELDS}}


def write(path: Path, content: dict[str, Any]) -> None:
  """Writes the description with the current versions."""
  storage.atomic_write_json(path, content | {'versions': versions()})


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that influence the files."""
  found = {'python': platform.python_version()}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
