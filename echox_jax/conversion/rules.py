"""Renaming torch-style tensors into our parameter trees, with nothing missed and nothing left over.

A conversion is a list of rules; each names one parameter of ours and the tensor, or one tensor a layer, that it comes from.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from flax import traverse_util
import numpy as np

from echox_jax import errors

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
  """Our parameter `path` ('a/b/kernel') = `transform` of tensor `name`; `{}` in the name counts layers to stack."""
  path: str
  name: str
  layers: int | None = None
  transform: Transform = np.asarray

  def sources(self) -> list[str]:
    return [self.name] if self.layers is None else [self.name.format(i) for i in range(self.layers)]


def linear(path: str, name: str, layers: int | None = None, bias: bool = True) -> list[Rule]:
  """torch Linear [out,in] -> Dense kernel [in,out] and bias."""
  rules = [Rule(f'{path}/kernel', f'{name}.weight', layers, np.transpose)]
  return rules + ([Rule(f'{path}/bias', f'{name}.bias', layers)] if bias else [])


def norm(path: str, name: str, layers: int | None = None) -> list[Rule]:
  """torch LayerNorm or GroupNorm -> scale and bias."""
  return [Rule(f'{path}/scale', f'{name}.weight', layers), Rule(f'{path}/bias', f'{name}.bias', layers)]


def conv(path: str, name: str, bias: bool = True) -> list[Rule]:
  """torch Conv1d [out,in,k] -> kernel [k,in,out] and bias."""
  rules = [Rule(f'{path}/kernel', f'{name}.weight', transform=np.transpose)]
  return rules + ([Rule(f'{path}/bias', f'{name}.bias')] if bias else [])


def convert(tensors: Mapping[str, np.ndarray], rules: Sequence[Rule], what: str,
            shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict:
  """Applies `rules` to `tensors` and returns the parameter tree (float32 numpy).

  Args:
    tensors: name -> array.
    rules: what each parameter comes from.
    what: names the model part in errors.
    shapes: of the parameters by path, to be checked; None = not checked.

  Raises:
    CheckpointError: tensors that are missing, that no rule uses, or of a wrong shape, all listed.
  """
  wanted = {source for rule in rules for source in rule.sources()}
  found = {'missing': wanted - tensors.keys(), 'not used': tensors.keys() - wanted,
           'wrong shape': _misshaped(tensors, rules, shapes) if shapes else set()}
  problems = [f'{label}: {", ".join(sorted(names))}' for label, names in found.items() if names]
  if problems:
    raise errors.CheckpointError(
        f'These tensors are not those of {what} ({"; ".join(problems)}): give the checkpoint that fits the config.')
  flat = {}
  for rule in rules:
    values = [np.asarray(rule.transform(tensors[source]), np.float32) for source in rule.sources()]
    flat[rule.path] = values[0] if rule.layers is None else np.stack(values)
  return traverse_util.unflatten_dict(flat, sep='/')


def _misshaped(tensors: Mapping[str, np.ndarray], rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
  """Names of tensors that do not give their parameter its shape."""
  return {source for rule in rules for source in rule.sources() if source in tensors
          and rule.transform(tensors[source]).shape != tuple(shapes[rule.path])[rule.layers is not None:]}


def strip_prefix(tensors: Mapping[str, np.ndarray], prefixes: Sequence[str]) -> dict[str, np.ndarray]:
  """Keeps the tensors under the first of `prefixes` that occurs and drops the prefix; all of them where none occurs."""
  for prefix in prefixes:
    kept = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if kept:
      return kept
  return dict(tensors)
