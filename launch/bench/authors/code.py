"""Imports the released code from a checkout, and fits it to small sizes and to a CPU.

What is written into its source, and changed while it is imported:

* the token ids of Llama 3.1, which the unit decoder would look up in a smaller table;
* float16 of the features, which a CPU does not compute with.
"""

import ast
from collections.abc import Mapping
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
from pathlib import Path
import sys
from types import CodeType, ModuleType
from typing import Any

STREAM, MODEL, UNITS = 'inference.echox_stream', 'models.echox_s2s', 'models.t2ullama_cr_online'


def load(folder: Path, ids: Mapping[int, int]) -> tuple[ModuleType, ModuleType, ModuleType]:
  """Imports the modules STREAM, MODEL and UNITS.

  Args:
    folder: the checkout.
    ids: token id in the source -> the one to use instead.

  Raises:
    ImportError: a package that it needs is not installed; `name` tells which.
  """
  sys.path.insert(0, str(folder))
  sys.meta_path.insert(0, _Finder(folder, ids))
  return tuple(importlib.import_module(name) for name in (STREAM, MODEL, UNITS))


class _Finder(importlib.abc.MetaPathFinder):
  """Finds the modules that are changed; all others are imported as usual."""

  def __init__(self, folder: Path, ids: Mapping[int, int]):
    self._folder, self._ids = folder, ids

  def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
    if name not in (STREAM, MODEL, UNITS):
      return None
    file = str(self._folder.joinpath(*name.split('.')).with_suffix('.py'))
    return importlib.util.spec_from_file_location(name, file, loader=_Loader(name, file, self._ids))


class _Loader(importlib.machinery.SourceFileLoader):
  """Compiles a changed syntax tree, and keeps no file of it."""

  def __init__(self, name: str, path: str, ids: Mapping[int, int]):
    super().__init__(name, path)
    self._ids = ids

  def get_code(self, fullname: str) -> CodeType:
    path = self.get_filename(fullname)
    tree = _Fit(self._ids).visit(ast.parse(self.get_data(path), path))
    return compile(tree, path, 'exec', dont_inherit=True)


class _Fit(ast.NodeTransformer):
  def __init__(self, ids: Mapping[int, int]):
    self._ids = ids

  def visit_Constant(self, node: ast.Constant) -> ast.Constant:
    if type(node.value) is not int or node.value not in self._ids:
      return node
    return ast.copy_location(ast.Constant(self._ids[node.value]), node)

  def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
    self.generic_visit(node)
    if node.attr == 'float16':
      node.attr = 'float32'
    return node
