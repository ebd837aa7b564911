"""Tensors that are read or computed on access. They allow converting checkpoints larger than
memory.
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
  """Tensors by name; each access reads the tensor again.

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
  """The tensors of any mapping as entries that can be renamed, dropped or replaced before reading.

  If the mapping does not know its dtypes, they are float32.
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
