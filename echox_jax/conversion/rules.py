"""Renames torch-style tensors into our parameter trees and back, and checks that none is missing or
left over.

A conversion is a list of rules. Each rule names one parameter of ours and its source: one tensor,
or one tensor per layer. The same list read backwards is the export.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from echox_jax.conversion import lazy
from echox_jax.models import params as params_lib
from echox_jax.models import trees

REVERSED_2D, REVERSED_3D = (1, 0), (2, 1, 0)


@dataclasses.dataclass(frozen=True)
class Rule:
  """Our parameter `path` ('a/b/kernel') and its source tensor.

  Attributes:
    path: path of our parameter.
    name: name of the tensor; `{}` in it is the layer number.
    layers: number of tensors stacked along a new first axis; None = one tensor, not stacked.
    axes: the tensor's axes in our order; None = unchanged.
    part: (index, count): our share of the tensor's first axis in equal parts; None = all of it.
  """

  path: str
  name: str
  layers: int | None = None
  axes: tuple[int, ...] | None = None
  part: tuple[int, int] | None = None

  def sources(self) -> list[str]:
    """Names of the tensors, one per layer."""
    return [self.name] if self.layers is None else [self.name.format(i) for i in range(self.layers)]

  def read(self, tensor: np.ndarray) -> np.ndarray:
    """The tensor of one layer in our layout."""
    if self.part:
      tensor = np.array_split(tensor, self.part[1])[self.part[0]]
    return tensor if self.axes is None else tensor.transpose(self.axes)

  def write(self, value: np.ndarray) -> np.ndarray:
    """The inverse of `read` (for its part of the tensor)."""
    return value if self.axes is None else value.transpose(np.argsort(self.axes))

  def tensor_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the tensor of one layer, from the shape of our parameter."""
    shape = tuple(shape)[self.layers is not None :]
    if self.axes is not None:
      shape = tuple(shape[i] for i in np.argsort(self.axes))
    return (shape[0] * self.part[1], *shape[1:]) if self.part else shape


def linear(path: str, name: str, layers: int | None = None, bias: bool = True) -> list[Rule]:
  """torch Linear [out,in] -> Dense kernel [in,out] and bias."""
  rules = [Rule(f'{path}/kernel', f'{name}.weight', layers, REVERSED_2D)]
  return rules + ([Rule(f'{path}/bias', f'{name}.bias', layers)] if bias else [])


def norm(path: str, name: str, layers: int | None = None) -> list[Rule]:
  """torch LayerNorm or GroupNorm -> scale and bias."""
  return [
    Rule(f'{path}/scale', f'{name}.weight', layers),
    Rule(f'{path}/bias', f'{name}.bias', layers),
  ]


def conv(path: str, name: str, bias: bool = True) -> list[Rule]:
  """torch Conv1d [out,in,k] -> kernel [k,in,out] and bias."""
  rules = [Rule(f'{path}/kernel', f'{name}.weight', axes=REVERSED_3D)]
  return rules + ([Rule(f'{path}/bias', f'{name}.bias')] if bias else [])


def tensor_shapes(
  rules: Sequence[Rule], shapes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
  """Name and shape of every tensor, from the shapes of our parameters by path."""
  return {
    source: rule.tensor_shape(shapes[rule.path]) for rule in rules for source in rule.sources()
  }


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
  """Shapes of all tensors; a lazy mapping knows them without reading (`shapes`)."""
  return {name: tensor.shape for name, tensor in lazy.entries(tensors).items()}


def read(
  tensors: Mapping[str, np.ndarray], rules: Sequence[Rule]
) -> Iterator[tuple[str, int | None, np.ndarray]]:
  """Reads all parameters tensor by tensor: (path, layer or None, our array) as stored, with one in
  memory at a time.
  """
  for rule in rules:
    for layer, source in enumerate(rule.sources()):
      yield (
        rule.path,
        None if rule.layers is None else layer,
        rule.read(np.asarray(tensors[source])),
      )


def convert(
  tensors: Mapping[str, np.ndarray],
  rules: Sequence[Rule],
  what: str,
  shapes: Mapping[str, Sequence[int]],
) -> dict:
  """Applies `rules` to `tensors` and returns the parameter tree (float32 numpy).

  Args:
    tensors: name -> array.
    rules: the source of each parameter.
    what: names the model part in errors.
    shapes: shapes of the parameters by path.

  Raises:
    CheckpointError: lists tensors that are missing, unused by all rules, or of the wrong shape.
  """
  params_lib.check_shapes(shapes_of(tensors), tensor_shapes(rules, shapes), what)
  flat = {}
  for path, layer, value in read(tensors, rules):
    if layer is None:
      flat[path] = np.ascontiguousarray(value, np.float32)
    else:
      flat.setdefault(path, np.empty(tuple(shapes[path]), np.float32))[layer] = value
  return trees.unflatten(flat)


def export(
  params: Mapping[str, np.ndarray], rules: Sequence[Rule]
) -> Iterator[tuple[str, np.ndarray]]:
  """The inverse of `read`: (tensor name, array) one by one, from our parameters by path."""
  users: dict[str, list[tuple[Rule, int | None]]] = {}
  for rule in rules:
    for layer, source in enumerate(rule.sources()):
      users.setdefault(source, []).append((rule, None if rule.layers is None else layer))
  for source, found in users.items():
    found.sort(key=lambda user: user[0].part or (0, 1))
    parts = [
      rule.write(np.asarray(params[rule.path] if layer is None else params[rule.path][layer]))
      for rule, layer in found
    ]
    yield source, parts[0] if len(parts) == 1 else np.concatenate(parts)


class Renamed(lazy.LazyTensors):
  """Some tensors of another mapping under other names; each is read on access."""

  def __init__(self, tensors: Mapping[str, np.ndarray], names: Mapping[str, str]):
    """`names`: name here -> name there."""
    there = lazy.entries(tensors)
    super().__init__({name: there[old] for name, old in names.items()})


def strip_prefix(tensors: Mapping[str, np.ndarray], prefixes: Sequence[str]) -> Renamed:
  """The tensors under the first of `prefixes` that occurs, without the prefix; all tensors if none
  occurs.
  """
  for prefix in prefixes:
    kept = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    if kept:
      return Renamed(tensors, kept)
  return Renamed(tensors, {name: name for name in tensors})
