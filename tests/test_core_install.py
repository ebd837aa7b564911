"""What answering needs is in the core: a model answers with the packages of `install_requires`
alone, whatever else is installed.
"""

import configparser
from importlib import metadata
import subprocess
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import tiny_model
from tests.helpers.paths import ROOT

_SCRIPT = """
import importlib.abc, importlib.metadata, sys
from packaging.utils import canonicalize_name as canonical

allowed, owners = set(sys.argv[3:]), importlib.metadata.packages_distributions()

class Refuse(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    named = {canonical(owner) for owner in owners.get(name.partition('.')[0], ())}
    if path is None and named and not named & allowed:
      raise ModuleNotFoundError(f'{name} is not of the core', name=name)

sys.meta_path.insert(0, Refuse())
import jax
jax.config.update('jax_compilation_cache_dir', sys.argv[2])
import echox_jax
print(echox_jax.load(sys.argv[1]).chat(speaks=False).ask('What is this?').timings)
"""


def core() -> set[str]:
  """Names of the distributions that `pip install echox-jax` brings."""
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  lines = setup['options']['install_requires'].splitlines()
  todo = [Requirement(line) for line in lines if line.strip() and not line.startswith('#')]
  found = {'echox-jax'}
  while todo:
    wanted = todo.pop()
    name = canonicalize_name(wanted.name)
    if name in found and not wanted.extras:
      continue
    found.add(name)
    for line in metadata.requires(wanted.name) or ():
      requirement = Requirement(line)
      marker = requirement.marker
      if marker is None or any(marker.evaluate({'extra': extra}) for extra in ('', *wanted.extras)):
        todo.append(requirement)
  return found


def test_a_model_answers_with_the_core_alone(tmp_path):
  tiny_model.train_tokenizer([tiny_model.WORDS] * 3, tmp_path / 'tokenizer.model', 320)
  copies = {'tokenizer.model': tmp_path / 'tokenizer.model'}
  tiny_model.write_model(tmp_path / 'model', tiny_model.tiny_config(), copies)
  script = tmp_path / 'answer.py'
  script.write_text(_SCRIPT)
  ran = subprocess.run(
    [sys.executable, script, tmp_path / 'model', tmp_path / 'cache', *sorted(core())],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'},
  )
  assert ran.returncode == 0, ran.stderr[-2000:]
  assert 'first_text_s' in ran.stdout
