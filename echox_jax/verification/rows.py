"""One row per golden array: our error, and whether it is within the tolerance.

Tolerances: activations, logits and waveforms 1e-4 absolute (they are of order 1; if the root mean
square of the golden values is above 1, the error is divided by it), losses 1e-5 relative, gradient
norms 1e-3 relative, full gradients 1e-3 of their largest value. Ids, masks, units, segments and
durations must be identical.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

ACTIVATION = 1e-4
LOSS = 1e-5
GRADIENT = 1e-3
BFLOAT16_LOSS = 1e-2


@dataclasses.dataclass(frozen=True)
class Row:
  """One comparison.

  Attributes:
    name: `section/array`.
    shape: shape of the golden array.
    max_abs_error: largest difference; infinite if the shapes differ.
    relative_error: largest difference over the largest golden value; for kind `relative`, largest
      relative difference.
    tolerance: tolerance of the error that the kind uses.
    kind: `identical`; `absolute` (uses max_abs_error over max(1, root mean square)); `relative` or
      `of max` (use relative_error).
    passed: whether the error is within the tolerance.
    note: other remarks.
  """

  name: str
  shape: tuple[int, ...]
  max_abs_error: float
  relative_error: float
  tolerance: float
  kind: str
  passed: bool
  note: str = ''

  def to_json(self) -> dict[str, Any]:
    """JSON-ready; errors that are not finite become null."""

    def finite(x):
      return x if np.isfinite(x) else None

    return {
      'name': self.name,
      'shape': list(self.shape),
      'max_abs_error': finite(self.max_abs_error),
      'relative_error': finite(self.relative_error),
      'tolerance': self.tolerance,
      'kind': self.kind,
      'pass': self.passed,
      'note': self.note,
    }


def identical(name: str, ours: Any, golden: Any) -> Row:
  """For ids, masks, units, durations: no difference at all."""
  return _row(name, ours, golden, 0.0, 'identical')


def close(name: str, ours: Any, golden: Any, tolerance: float = ACTIVATION) -> Row:
  """For activations, logits, waveforms: largest absolute difference over max(1, golden root mean
  square).
  """
  return _row(name, ours, golden, tolerance, 'absolute')


def relative(name: str, ours: Any, golden: Any, tolerance: float = LOSS, note: str = '') -> Row:
  """For losses and norms: largest relative difference."""
  return _row(name, ours, golden, tolerance, 'relative', note)


def of_max(name: str, ours: Any, golden: Any, tolerance: float = GRADIENT, note: str = '') -> Row:
  """For full gradients: largest difference over the largest golden value."""
  return _row(name, ours, golden, tolerance, 'of max', note)


def table(rows: Sequence[Row]) -> str:
  """The rows as text."""
  width = max(len('name'), *(len(row.name) for row in rows))
  shapes = [str(list(row.shape)) for row in rows]
  shape_width = max(len('shape'), *map(len, shapes))
  lines = [
    f'{"name":<{width}}  {"shape":<{shape_width}}  max abs err  rel err    tolerance  kind  '
    '     pass'
  ]
  for row, shape in zip(rows, shapes):
    lines.append(
      f'{row.name:<{width}}  {shape:<{shape_width}}  {row.max_abs_error:<11.2e}  '
      f'{row.relative_error:<9.2e}  '
      f'{row.tolerance:<9.0e}  {row.kind:<9}  '
      f'{"ok" if row.passed else "FAILED"}{row.note and f"  ({row.note})"}'
    )
  return '\n'.join(lines)


def _row(name: str, ours: Any, golden: Any, tolerance: float, kind: str, note: str = '') -> Row:
  ours, golden = np.asarray(ours), np.asarray(golden)
  if ours.shape != golden.shape:
    return Row(
      name,
      golden.shape,
      np.inf,
      np.inf,
      tolerance,
      kind,
      False,
      f'ours has shape {list(ours.shape)}',
    )
  if not golden.size:
    return Row(name, golden.shape, 0.0, 0.0, tolerance, kind, True, note)
  difference = np.abs(ours.astype(np.float64) - golden.astype(np.float64))
  size = np.abs(golden.astype(np.float64))
  worst = float(difference.max())
  if kind == 'relative':
    ratio = float(np.max(difference / np.maximum(size, np.finfo(np.float32).tiny)))
  else:
    ratio = worst / float(size.max()) if size.max() else worst
  scale = max(1.0, float(np.sqrt(np.mean(size**2))))
  judged = {'identical': worst, 'absolute': worst / scale, 'relative': ratio, 'of max': ratio}
  # a NaN does not pass
  return Row(
    name, golden.shape, worst, ratio, tolerance, kind, bool(judged[kind] <= tolerance), note
  )
