"""How good spoken answers sound: `--quality` of launch.evaluate.

distillmos          a mean opinion score from 1 to 5 (packages distillmos, xls-r-sqa and torch)
command:PROGRAM     a program that is given paths of wav files and prints a number for each
"""

from collections.abc import Callable, Sequence

import numpy as np

from echox_jax.errors import EchoXError
from echox_jax.evaluation import commands

DISTILLMOS, COMMAND = 'distillmos', 'command:'
Scorer = Callable[[Sequence[np.ndarray]], list[float | None]]


def open_scorer(spec: str) -> Scorer:
  """Opens a score by name: waves, float32[samples] at 16 kHz -> a number for each, None for an
  empty one.

  Raises:
    EchoXError: there is no such score, or its packages are not installed.
  """
  if spec == DISTILLMOS:
    return _distillmos()
  if spec.startswith(COMMAND):
    return lambda waves: _numbers(spec.removeprefix(COMMAND), waves)
  raise EchoXError(f'--quality {spec} is no score: write {DISTILLMOS} or {COMMAND}PROGRAM.')


def _numbers(program: str, waves: Sequence[np.ndarray]) -> list[float | None]:
  told = commands.lines(program, waves)
  try:
    return [float(line) if len(wave) else None for wave, line in zip(waves, told)]
  except ValueError as error:
    raise EchoXError(
      f'the program {program!r} printed something else than numbers ({error}): it must print one '
      'number for each wav file.'
    ) from error


def _distillmos() -> Scorer:
  try:
    import distillmos
    import torch
  except ImportError as error:
    raise EchoXError(
      f'--quality {DISTILLMOS} needs the package {error.name!r}: install torch and torchaudio, '
      'then `pip install --no-deps distillmos==0.9.1 xls-r-sqa==0.1.0`.'
    ) from error
  model = distillmos.ConvTransformerSQAModel()
  model.eval()

  def score(waves: Sequence[np.ndarray]) -> list[float | None]:
    with torch.no_grad():
      return [
        float(model(torch.from_numpy(np.asarray(wave, np.float32))[None])) if len(wave) else None
        for wave in waves
      ]

  return score
