"""Runs launch.convert by itself and tells what memory it took."""

import json
import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parent.parent
_CHILD = """
import json, sys
import jax, numpy as np
from echox_jax import tensor_files
from echox_jax.conversion import echox_hf, exporters, importers, released_export
from echox_jax.training import assemble
from launch import convert

status = lambda: open('/proc/self/status').read().split()
peak = lambda: int(status()[status().index('VmHWM:') + 1]) * 1024
live, write = [0], tensor_files.TensorWriter.write

def watched(writer, name, array, *rest):
  assert isinstance(array, np.ndarray), type(array)
  live.append(sum(array.nbytes for array in jax.live_arrays()))
  write(writer, name, array, *rest)

tensor_files.TensorWriter.write = watched
before = peak()
convert.main(sys.argv[1:])
print(json.dumps([before, peak(), max(live)]))
"""


def convert(*args) -> tuple[int, int, int]:
  """Runs launch.convert.

  Returns:
    Bytes of the peak of memory after its imports, of the peak at the end, and of jax arrays when a
    tensor was written, at most.
  """
  done = subprocess.run(
      [sys.executable, '-c', _CHILD, *map(str, args)], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)})
  assert not done.returncode, done.stderr[-2000:]
  return tuple(json.loads(done.stdout.splitlines()[-1]))
