"""Opens a golden set: a folder of `golden_*.npz`, and the `config.json` that gives sizes and ids.

Weights are stored under the keys of real checkpoints and go through the same import functions.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion import released, released_config, released_units, whisper_hf
from echox_jax.models import echox
from echox_jax.models.whisper import WhisperEncoder


class Arrays(Mapping[str, np.ndarray]):
  """The arrays of one file, read on access.

  Raises:
    DataError: an array is missing or cannot be read.
  """

  def __init__(self, path: Path):
    self._path = path
    try:
      self._file = np.load(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise self._damaged() from error

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._file:
      raise errors.DataError(f'{self._path} has no array {name!r}: give the complete golden set.')
    try:
      return self._file[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
      raise self._damaged() from error

  def __iter__(self) -> Iterator[str]:
    return iter(self._file)

  def __len__(self) -> int:
    return len(self._file)

  def __contains__(self, name: object) -> bool:
    return name in self._file

  def under(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}

  def _damaged(self) -> errors.DataError:
    return errors.DataError(
      f'{self._path} is damaged or not an npz file: copy the golden set again.'
    )


class Golden:
  """A golden set: its config, its files by name, and the model with their weights."""

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens `folder`.

    Raises:
      DataError: no folder, or no readable config.json in it.
    """
    self.folder = Path(folder)
    try:
      self._config: dict[str, Any] = json.loads((self.folder / 'config.json').read_text('utf-8'))
    except (OSError, ValueError) as error:
      raise errors.DataError(
        f'{self.folder} is not a golden set (no readable config.json): give the folder of one.'
      ) from error
    self._files: dict[str, Arrays] = {}

  def config(self, section: str) -> dict[str, Any]:
    """A section of config.json, unchanged.

    Raises:
      ConfigError: there is no such section.
    """
    if section not in self._config:
      raise errors.ConfigError(
        f'{self.folder}/config.json has no {section!r}: give the complete file.'
      )
    return self._config[section]

  def missing(self, names: tuple[str, ...]) -> list[str]:
    """The files among `names` ('weights' = golden_weights.npz) that do not exist."""
    return [self._path(name).name for name in names if not self._path(name).exists()]

  def __getitem__(self, name: str) -> Arrays:
    """The arrays of golden_NAME.npz."""
    if name not in self._files:
      self._files[name] = Arrays(self._path(name))
    return self._files[name]

  @functools.cached_property
  def cfg(self) -> EchoXConfig:
    """The model without dropout, in float32, with a slot for every frame (see `fitted`)."""
    made = released_config.config_from_json(self._config)
    return dataclasses.replace(
      made,
      adapter=dataclasses.replace(made.adapter, dropout=0.0),
      unit_decoder=dataclasses.replace(made.unit_decoder, denoising_dropout=0.0),
    )

  @functools.cached_property
  def engine(self) -> EngineConfig:
    """The limits of its answers."""
    return released_config.engine_from_json(self._config)

  @functools.cached_property
  def echox_weights(self) -> dict[str, np.ndarray]:
    """Weights under the keys of an EchoX checkpoint."""
    return self['weights'].under('echox/')

  @functools.cached_property
  def params(self) -> dict[str, Any]:
    """All groups of the model except the vocoder."""
    cfg = self.cfg
    groups = released.import_s2t(self.echox_weights, cfg) | released_units.import_units(
      self.echox_weights, cfg
    )
    whisper = whisper_hf.encoder_params(self['weights'].under('whisper/'), cfg.whisper)
    return jax.tree.map(jnp.asarray, groups | {'whisper': whisper})

  def trained(self) -> dict[str, Any]:
    """The groups that the released code trains or passes gradients through (never the encoder)."""
    return {name: group for name, group in self.params.items() if name != 'whisper'}

  def speech(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """Encoder states of clips, as in a batch: `states` float[...,E,Dw], `state_lengths` int[...].

    Args:
      index: int[...], numbers of log-mels: 0 is in golden_stage1, the others are in
        golden_stage1_loss.
    """
    flat = [self._states[int(i)] for i in np.ravel(index)]
    states = np.stack(flat).reshape(*np.shape(index), *flat[0].shape)
    return {'states': states, 'state_lengths': np.full(np.shape(index), states.shape[-2])}

  def fitted(self, speech: Mapping[str, np.ndarray]) -> EchoXConfig:
    """`cfg` with the shrink budget that these clips need; the released code has no budget."""
    frames = self.cfg.whisper.max_positions // 2

    def kept(params: dict, states: Any, lengths: Any) -> Any:
      return echox.embed_speech(params, with_budget(self.cfg, frames), states, lengths).kept

    return with_budget(
      self.cfg, int(jax.jit(kept)(self.params, speech['states'], speech['state_lengths']).max())
    )

  @functools.cached_property
  def _states(self) -> dict[int, np.ndarray]:
    """Encoder states float[E,Dw] of every clip of the set, encoded together."""
    mels = {0: self['stage1']['mel']} if not self.missing(('stage1',)) else {}
    if not self.missing(('stage1_loss',)):
      mels |= {
        int(name.removeprefix('mel')): self['stage1_loss'][name]
        for name in self['stage1_loss']
        if name.startswith('mel')
      }
    stacked = np.stack(list(mels.values())).swapaxes(1, 2)
    encode = jax.jit(WhisperEncoder(self.cfg.whisper).apply)
    return dict(zip(mels, np.asarray(encode({'params': self.params['whisper']}, stacked))))

  def _path(self, name: str) -> Path:
    return self.folder / f'golden_{name}.npz'


def with_budget(cfg: EchoXConfig, budget: int) -> EchoXConfig:
  """`cfg` with room for `budget` speech positions per clip."""
  return dataclasses.replace(cfg, adapter=dataclasses.replace(cfg.adapter, shrink_budget=budget))


def in_bfloat16(cfg: EchoXConfig, adapter: bool = True) -> EchoXConfig:
  """`cfg` computing in bfloat16, with room for every frame, because rounding may change which
  frames the adapter keeps.

  `adapter`: whether the speech adapter computes in bfloat16 too. Which frames it keeps is discrete:
  one frame more or less changes the states of all later tokens. With random weights that changes a
  loss over some dozen tokens by up to 2 %, which says nothing about precision.
  """

  def lower(part):
    return dataclasses.replace(part, dtype='bfloat16')

  units = dataclasses.replace(cfg.unit_decoder, trunk=lower(cfg.unit_decoder.trunk))
  return with_budget(
    dataclasses.replace(
      cfg,
      adapter=lower(cfg.adapter) if adapter else cfg.adapter,
      llm=lower(cfg.llm),
      unit_decoder=units,
    ),
    cfg.whisper.max_positions // 2,
  )
