"""Jobs on eight virtual devices."""

import json

from tests.helpers.processes import run_python


def on_eight_devices(*arguments, module='sharded_jobs'):
  """What the module prints, in a process of its own: the number of devices is fixed when JAX
  starts.
  """
  printed = run_python('-m', f'tests.helpers.{module}', *arguments, timeout=1800)
  return [json.loads(line) for line in printed.splitlines()]
