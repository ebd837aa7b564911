"""How long `launch.respond` takes until it is ready to answer a spoken question aloud, for
`launch.bench respond`: in a fresh process each time, and the first time with nothing compiled.
"""

import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import numpy as np

from echox_jax import audio, errors

_READY = 'warming up'  # how the line on standard error begins that ends when all is ready


def measure(checkpoint: Path, question: np.ndarray, runs: int) -> dict[str, float]:
  """`first_start_s`, and `second_start_s`: the median of `runs` starts after it.

  Args:
    checkpoint: a model folder that hears and speaks.
    question: at 16 kHz; the programs that it takes are made ready.

  Raises:
    EchoXError: `launch.respond` could not answer.
  """
  with tempfile.TemporaryDirectory() as folder:
    asked = Path(folder, 'question.wav')
    audio.write_wav(asked, question)
    seconds = [_start(checkpoint, asked, Path(folder)) for _ in range(runs + 1)]
  return {'first_start_s': seconds[0], 'second_start_s': float(np.median(seconds[1:]))}


def _start(checkpoint: Path, asked: Path, folder: Path) -> float:
  """Seconds from the start of a process whose cache folder is in `folder`."""
  command = [sys.executable, '-m', 'launch.respond', '--checkpoint', str(checkpoint), str(asked)]
  command += ['--output', str(folder / 'reply.wav'), '--max-tokens', '1']
  cache = {'XDG_CACHE_HOME': str(folder)}
  kept = {key: value for key, value in os.environ.items() if key != 'JAX_COMPILATION_CACHE_DIR'}
  said, ready, start = [], None, time.perf_counter()
  with subprocess.Popen(
    command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=kept | cache
  ) as process:
    for line in process.stderr:
      said.append(line)
      if ready is None and line.startswith(_READY):
        ready = time.perf_counter() - start
  if process.returncode or ready is None:
    last = said[-1].strip() if said else 'it said nothing'
    raise errors.EchoXError(
      f'launch.respond ended with exit code {process.returncode} ({last}): give --checkpoint a '
      'model folder that hears and speaks.'
    )
  return ready
