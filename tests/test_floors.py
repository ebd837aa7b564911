"""A package imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

# From the ground up; packages of one floor do not know one another.
FLOORS = (
  ('errors', 'rates'),
  ('storage',),
  ('audio', 'kept', 'prompts', 'tensor_files'),
  ('config', 'tokenizer'),
  ('parallel',),
  ('compiled', 'models'),
  ('units',),
  ('decoding',),
  ('model_folder',),
  ('inference', 'training'),
  ('conversion', 'serving'),
  ('evaluation', 'verification'),
  ('monitoring',),
  ('',),  # echox_jax itself, which opens a model
  ('data_pipeline', 'configs'),
  ('launch',),
)
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}


def room(module: str) -> str:
  """The package, or the module of the root, that a module belongs to."""
  first, *rest = module.split('.')
  return first if first != 'echox_jax' else rest[0] if rest else ''


def imports(path: Path):
  """Modules of ours that a file imports, wherever in the file."""
  for node in ast.walk(ast.parse(path.read_text('utf-8'))):
    if isinstance(node, ast.ImportFrom) and node.module:
      if node.module == 'echox_jax':
        yield from (f'echox_jax.{alias.name}' for alias in node.names)
      else:
        yield node.module
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


def files():
  folders = ('echox_jax', 'data_pipeline', 'configs', 'launch')
  return [path for folder in folders for path in sorted((ROOT / folder).rglob('*.py'))]


@pytest.mark.parametrize('path', files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
  module = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
  own = room(module)
  known = [room(name) for name in imports(path)]
  above = {name for name in known if name in HEIGHT and name != own and HEIGHT[name] >= HEIGHT[own]}
  assert not above, f'{module} imports from {", ".join(sorted(above))}'


def test_the_root_is_small():
  assert len(list((ROOT / 'echox_jax').glob('*.py'))) <= 10


def test_files_are_small():
  tests = list((ROOT / 'tests').rglob('*.py'))
  long = [
    str(path.relative_to(ROOT))
    for path in [*files(), *tests]
    if len(path.read_text('utf-8').splitlines()) > 500
  ]
  assert not long
