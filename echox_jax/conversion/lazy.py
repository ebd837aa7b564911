"""Tensors that are read or computed when asked for: what checkpoints larger than memory are taken
apart and joined with.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor, not in memory."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]


class LazyTensors(Mapping[str, np.ndarray]):
  """Tensors by name; each access reads its tensor anew.

  Attributes:
    shapes: name -> shape.
    dtypes: name -> numpy dtype.
  """

  def __init__(self, entries: Mapping[str, Tensor]):
    self._entries = dict(entries)
    self.shapes = {name: tensor.shape for name, tensor in self._entries.items()}
    self.dtypes = {name: tensor.dtype for name, tensor in self._entries.items()}

  def __getitem__(self, name: str) -> np.ndarray:
    return self._entries[name].read()

  def __iter__(self) -> Iterator[str]:
    return iter(self._entries)

  def __len__(self) -> int:
    return len(self._entries)


def entries(tensors: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
  """The tensors of any mapping as entries, to be renamed, dropped or replaced before they are read.

  A mapping that does not know its dtypes gives float32.
  """
  shapes, dtypes = getattr(tensors, 'shapes', None), getattr(tensors, 'dtypes', None)
  if shapes is None:
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    dtypes = {name: value.dtype for name, value in tensors.items()}
  return {
    name: Tensor(
      tuple(shape),
      np.dtype(dtypes[name] if dtypes else np.float32),
      functools.partial(tensors.__getitem__, name),
    )
    for name, shape in shapes.items()
  }
