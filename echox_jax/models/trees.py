"""Converts parameter trees to flat dicts and back."""

from typing import Any

from flax import traverse_util

Tree = dict[str, Any]


def flatten(tree: Tree) -> dict[str, Any]:
  """Nested dicts -> {`a/b/c`: leaf}."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(flat: dict[str, Any]) -> Tree:
  """Inverts `flatten`."""
  return traverse_util.unflatten_dict(flat, sep='/')


def merge(one: Tree, other: Tree) -> Tree:
  """Returns one tree with the leaves of both."""
  return unflatten(flatten(one) | flatten(other))
