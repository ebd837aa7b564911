"""torch's weight norm: w = g v / ||v||. The norm is over all axes but one; g holds one length per
index of that axis.
"""

from collections.abc import Mapping

import numpy as np

from echox_jax.conversion import lazy

# Suffixes of (g, v) after the name of the weight: those of torch.nn.utils.weight_norm, then those
# of its parametrization.
STYLES = (('_g', '_v'), ('.original0', '.original1'))


def fold(g: np.ndarray, v: np.ndarray, axis: int = 0) -> np.ndarray:
  """float32 w of g [1,..,n,..,1] and v; zero where v is zero.

  The norm is rounded to float32 as in torch and the rest is computed in float64, so that
  `fold(*unfold(w))` equals w bit for bit.
  """
  g, v, norm = (
    np.asarray(g, np.float64),
    np.asarray(v, np.float64),
    _norm(v, axis).astype(np.float64),
  )
  return (g * v / np.where(norm == 0, 1, norm)).astype(np.float32)


def unfold(w: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """float32 (g, v) of a weight: its norm and the weight itself, as torch initialises them."""
  return _norm(w, axis), np.asarray(w, np.float32)


def shape_of_g(shape: tuple[int, ...], axis: int = 0) -> tuple[int, ...]:
  """Shape of g, from the shape of the weight."""
  axis %= len(shape)
  return tuple(n if i == axis else 1 for i, n in enumerate(shape))


def parts(name: str, there: Mapping[str, object]) -> tuple[str, str] | None:
  """The names of g and v of weight `name`, in the style in which at least one of them exists; None
  if the weight is not split.
  """
  base, _, leaf = name.rpartition('.')
  for g, v in STYLES:
    start = f'{base}.parametrizations.{leaf}' if g.startswith('.') else name
    if f'{start}{g}' in there or f'{start}{v}' in there:
      return f'{start}{g}', f'{start}{v}'
  return None


def folded(entries: Mapping[str, lazy.Tensor], name: str, axis: int = 0) -> dict[str, lazy.Tensor]:
  """`entries` with g and v of weight `name` folded into one; unchanged if either is missing."""
  pair = parts(name, entries)
  if pair is None or not all(part in entries for part in pair):
    return dict(entries)
  g, v = (entries[part] for part in pair)
  weight = lazy.Tensor(v.shape, np.dtype(np.float32), lambda: fold(g.read(), v.read(), axis))
  return {key: value for key, value in entries.items() if key not in pair} | {name: weight}


def _norm(w: np.ndarray, axis: int) -> np.ndarray:
  axes = tuple(i for i in range(np.ndim(w)) if i != axis % np.ndim(w))
  return np.sqrt(np.sum(np.square(np.asarray(w, np.float64)), axis=axes, keepdims=True)).astype(
    np.float32
  )
