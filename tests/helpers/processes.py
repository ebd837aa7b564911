"""Python in a process of its own: what counts devices or memory, or must not import something."""

import json
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


def start_job(module: str, options: dict, compiled) -> subprocess.Popen:
  """Starts `python -m MODULE OPTIONS` on the CPU. The folder `compiled` keeps compiled programs
  between processes: one of its own, as a process that is killed may leave half a file.
  """
  return subprocess.Popen(
    [sys.executable, '-m', module, json.dumps(options)],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(compiled),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'TF_CPP_MIN_LOG_LEVEL': '3',  # a pipe that is read at the end must not fill up
    },
  )
