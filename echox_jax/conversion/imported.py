"""The common result of all importers: which tensors of a checkpoint become which of our parameters.
Nothing has been read yet.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion.rules import Rule
from echox_jax.storage import Path
from echox_jax.units.unit_language import UnitLanguage


@dataclasses.dataclass(frozen=True)
class Imported:
  """An opened foreign checkpoint.

  Attributes:
    what: names it in messages.
    config: sizes of its parts; the other parts keep their defaults.
    groups: its parameter groups.
    rules: the source of each parameter.
    tensors: name -> array, read on access; `shapes` are known at once.
    files: other files for the model folder: name there -> file to copy, or its content.
    unit_language: that of its unit decoder; None if it has none or does not say.
    notes: sentences for the user.
    engine: budgets of its answers, if it has any.
  """

  what: str
  config: EchoXConfig
  groups: tuple[str, ...]
  rules: Sequence[Rule]
  tensors: Mapping[str, np.ndarray]
  files: Mapping[str, Path | bytes] = dataclasses.field(default_factory=dict)
  unit_language: UnitLanguage | None = None
  notes: Sequence[str] = ()
  engine: EngineConfig = EngineConfig()
