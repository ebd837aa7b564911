"""Any program as a judge or as a score of quality: it is given paths of wav files as its last
arguments, and prints one line for each.
"""

from collections.abc import Sequence
from pathlib import Path
import shlex
import subprocess
import tempfile

import numpy as np

from echox_jax import audio
from echox_jax.errors import EchoXError


def lines(program: str, waves: Sequence[np.ndarray]) -> list[str]:
  """What a program prints for each wave, float32[samples] at 16 kHz; '' for an empty one.

  Raises:
    EchoXError: the program is missing, fails, or prints another number of lines.
  """
  sounding = [wave for wave in waves if len(wave)]
  if not sounding:
    return [''] * len(waves)
  with tempfile.TemporaryDirectory() as folder:
    paths = [
      str(audio.write_wav(Path(folder) / f'{number:03}.wav', wave))
      for number, wave in enumerate(sounding)
    ]
    try:
      done = subprocess.run(
        [*shlex.split(program), *paths], capture_output=True, text=True, check=False
      )
    except OSError as error:
      raise EchoXError(
        f'the program {program!r} cannot be started ({error.strerror}): check its path.'
      ) from error
  told = done.stdout.splitlines()
  if done.returncode:
    reason = (done.stderr.strip().splitlines() or ['it says nothing'])[-1]
    raise EchoXError(
      f'the program {program!r} failed ({reason}): run it by hand with a wav file to see why.'
    )
  if len(told) != len(paths):
    raise EchoXError(
      f'the program {program!r} printed {len(told)} lines for {len(paths)} wav files: it must '
      'print one line for each.'
    )
  told = iter(told)
  return [next(told).strip() if len(wave) else '' for wave in waves]
