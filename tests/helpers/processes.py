"""Python in a process of its own: what counts devices or memory, or must not import something."""

import os
import subprocess
import sys

from tests.helpers.paths import ROOT


def run_python(*arguments, timeout=300) -> str:
  """What `python ARGUMENTS` prints, on the CPU; an exit code other than 0 fails the test."""
  done = subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=timeout,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout
