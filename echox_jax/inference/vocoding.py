"""Speaks units that do not come from an answer, in one piece."""

from collections.abc import Sequence

import jax
import numpy as np

from echox_jax.inference.programs import Programs
from echox_jax.inference.questions import bucket, padded
from echox_jax.models.arrays import Float, Int


def vocode(
  programs: Programs,
  params: dict,
  sizes: Sequence[int],
  units: Int[np.ndarray, ' R'],
  durations: Int[np.ndarray, ' R'] | None = None,
) -> tuple[Float[np.ndarray, ' S'], int]:
  """Speaks reduced units; gives (float32 wave at 16 kHz, frames that did not fit the largest size).

  Args:
    programs, params: of the model.
    sizes: frames of a clip, ascending; it is padded to the smallest that it fits in.
    units: without consecutive repeats.
    durations: frames of each unit; None = predicted.
  """
  budget = sizes[-1]
  lost = max(0, len(units) - budget)  # every unit takes a frame or more
  units = np.asarray(units[:budget], np.int32)
  if not len(units):
    return np.zeros(0, np.float32), lost
  if durations is None:
    row, shown = padded(units, budget, 0), np.arange(budget)[None] < len(units)
    durations = np.asarray(programs.durations(params, row, shown))[0]
  durations = np.asarray(durations[: len(units)], np.int64)
  lost += max(0, int(durations.sum()) - budget)
  frames = np.repeat(units, np.minimum(durations, budget))[:budget]
  size = bucket(sizes, len(frames))
  shown = np.arange(size)[None] < len(frames)
  wave = np.asarray(programs.wave(params, padded(frames, size, 0), shown))[0]
  return wave[: len(frames) * (len(wave) // size)], lost


def prepare(programs: Programs, params: dict, sizes: Sequence[int]) -> None:
  """Compiles what `vocode` needs; `sizes`: as there."""

  def row(dtype: str, frames: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, frames), dtype)

  programs.durations.prepare(params, row('int32', sizes[-1]), row('bool', sizes[-1]))
  for size in sizes:
    programs.wave.prepare(params, row('int32', size), row('bool', size))
