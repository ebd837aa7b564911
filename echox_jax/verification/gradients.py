"""Compares our gradients, under the names of the released tensors, with golden norms and full
golden gradients.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from echox_jax.conversion import rules
from echox_jax.models import trees
from echox_jax.verification.rows import GRADIENT, Row, close, of_max, relative

_NO_GRADIENT = 1e-6  # largest norm that counts as zero


def by_tensor(
  gradients: Mapping[str, Any], tensor_rules: Sequence[rules.Rule]
) -> dict[str, np.ndarray]:
  """Gradients of our parameters as gradients of the released tensors."""
  return dict(rules.export(trees.flatten(gradients), tensor_rules))


def gradient_rows(
  name: str, ours: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], note: str = ''
) -> list[Row]:
  """A row for every golden norm and full gradient. Tensors without a golden norm must have no
  gradient.

  Args:
    name: prefix of the rows' names.
    ours: tensor name -> gradient.
    golden: has arrays `gradnorm/<tensor>` and `grad/<tensor>`.
    note: note of every row.
  """
  found, norms = (
    [],
    {tensor: np.linalg.norm(np.ravel(value).astype(np.float64)) for tensor, value in ours.items()},
  )
  for key in golden:
    kind, _, tensor = key.partition('/')
    if kind == 'gradnorm':
      found.append(
        relative(f'{name}/{key}', norms.pop(tensor, np.nan), golden[key], GRADIENT, note)
      )
    elif kind == 'grad':
      found.append(of_max(f'{name}/{key}', ours.get(tensor, np.nan), golden[key], GRADIENT, note))
  others = np.array(list(norms.values()))
  return [*found, close(f'{name}/no_gradient', others, np.zeros_like(others), _NO_GRADIENT)]
