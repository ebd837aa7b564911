"""Sample rates of streams: what comes in pieces is resampled as if it had come whole, so that there
is no click where two pieces meet.
"""

import numpy as np
import soxr


class Stream:
  """A stream of one channel on its way from one sample rate to another.

  Its filter holds back the newest samples, a few milliseconds, until it knows those behind them.

  Args:
    source, target: sample rates in Hz.
  """

  def __init__(self, source: int, target: int):
    self._source, self._target = source, target
    self._filter = self._new_filter()

  def take(self, wave: np.ndarray, last: bool = False) -> np.ndarray:
    """float32[samples] at the source rate -> float32[samples] at the target rate, as far as known.

    Args:
      wave: the next piece.
      last: whether it ends the stream: all of it comes out, and a new stream begins.
    """
    if self._filter is None:
      return np.asarray(wave, np.float32)
    made = self._filter.resample_chunk(np.ascontiguousarray(wave, np.float32), last=last)
    if last:
      self._filter = self._new_filter()
    return made

  def _new_filter(self) -> soxr.ResampleStream | None:
    if self._source == self._target:
      return None
    return soxr.ResampleStream(self._source, self._target, 1, dtype='float32')
