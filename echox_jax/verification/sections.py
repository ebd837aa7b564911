"""The parts of a golden set and their checks."""

from collections.abc import Callable
import dataclasses

import jax

from echox_jax.verification import (
  hubert,
  log_mel,
  stage1,
  stage1_loss,
  stage2,
  stage3,
  stream,
  vocoder,
)
from echox_jax.verification.golden import Golden
from echox_jax.verification.rows import Row


@dataclasses.dataclass(frozen=True)
class Section:
  """`rows` compares our arrays with those of `files` (golden_NAME.npz)."""

  files: tuple[str, ...]
  rows: Callable[[Golden], list[Row]]


SECTIONS = {
  module.__name__.rpartition('.')[2]: Section(module.FILES, module.rows)
  for module in (log_mel, hubert, stage1, stage1_loss, stage2, stage3, stream, vocoder)
}


def check(golden: Golden, name: str) -> list[Row]:
  """The rows of a section, computed on the CPU in float32 at the highest precision.

  Raises:
    DataError: an array that the section needs is missing or damaged.
    CheckpointError: the weights do not fit the config.
    ConfigError: the config lacks a field.
  """
  with (
    jax.default_device(jax.local_devices(backend='cpu')[0]),
    jax.default_matmul_precision('highest'),
  ):
    return SECTIONS[name].rows(golden)
