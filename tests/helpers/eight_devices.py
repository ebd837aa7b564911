"""Jobs on eight virtual devices."""

import json
import os
import subprocess
import sys

from tests.helpers.paths import ROOT


def on_eight_devices(*arguments, module='sharded_jobs'):
  """What the module prints, in a process of its own: the number of devices is fixed when JAX
  starts.
  """
  done = subprocess.run(
    [sys.executable, '-m', f'tests.helpers.{module}', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=1800,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return [json.loads(line) for line in done.stdout.splitlines()]
