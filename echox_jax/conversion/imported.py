"""What every importer hands over: which of a checkpoint's tensors become which of our parameters,
before any is read.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path

import numpy as np

from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion.rules import Rule
from echox_jax.units.unit_language import UnitLanguage


@dataclasses.dataclass(frozen=True)
class Imported:
  """An opened foreign checkpoint.

  Attributes:
    what: names it in messages.
    config: sizes of the parts that it has; the other parts keep their defaults.
    groups: the parameter groups that it has.
    rules: where each of their parameters comes from.
    tensors: name -> array, read when asked for; `shapes` are known at once.
    files: what else belongs into the model folder: name there -> file to copy, or what it holds.
    unit_language: of its unit decoder; None where it has none or does not say.
    notes: sentences for the user.
    engine: budgets of its answers, where it has some.
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
