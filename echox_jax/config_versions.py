"""Reads config files of earlier versions: fields that have moved since then."""

from collections.abc import Mapping
import copy
from typing import Any

# Old model config field -> its places in an experiment config now. These fields were never
# properties of the model. Both file versions still load.
_MOVED = {
  'discriminators': ('train.discriminators',),
  'max_prompt_tokens': ('engine.max_prompt_tokens',),
  'streaming.max_new_tokens': ('engine.max_new_tokens', 'train.loss.max_new_tokens'),
  'streaming.max_unit_words': ('engine.max_unit_words',),
  'streaming.max_frames': ('engine.max_frames',),
  'streaming.max_slices': ('train.loss.max_slices',),
  'units.ngram_order': ('precompute.fit.ngram_order',),
  'units.em_iterations': ('precompute.fit.em_iterations',),
  'units.kmeans_iterations': ('precompute.fit.kmeans_iterations',),
  'units.seed': ('precompute.fit.seed',),
}


def split_model(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a model's JSON into the fields of `EchoXConfig` and fields that earlier versions kept
  there.

  Args:
    values: a model's JSON, from this version or an earlier one.

  Returns:
    The model's JSON, and the other fields in the layout of an experiment: `{'engine': ...}` and so
    on. The latter is empty if the file is of this version.
  """
  model, moved = copy.deepcopy(dict(values)), {}
  for old, places in _MOVED.items():
    section, _, name = old.rpartition('.')
    holder = model.get(section, {}) if section else model
    if isinstance(holder, dict) and name in holder:
      value = holder.pop(name)
      for place in places:
        _set(moved, place.split('.'), value)
  return model, moved


def upgrade_experiment(values: Mapping[str, Any]) -> dict[str, Any]:
  """Converts the JSON of a training job, from this version or an earlier one, to this version."""
  model, moved = split_model(values.get('model', {}))
  return _merge(moved, {**values, 'model': model})


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
  for name in path[:-1]:
    values = values.setdefault(name, {})
  values[path[-1]] = value


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
  """Merges two nested mappings; values in `over` win."""
  merged = dict(under)
  for name, value in over.items():
    nested = isinstance(value, Mapping) and isinstance(under.get(name), Mapping)
    merged[name] = _merge(under[name], value) if nested else value
  return merged
