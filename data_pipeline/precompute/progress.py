"""The progress bar of a step."""

from collections.abc import Iterable, Iterator
import time

from tqdm import tqdm

from data_pipeline import parts
from echox_jax.parallel.heartbeats import Heartbeat


class Bar:
  """Shows examples done, time left, and hours of audio per hour. The speed is for all `processes`
  together, assuming that they are equally fast. The heartbeat gets the examples too.
  """

  def __init__(self, shown: tqdm, processes: int, beat: Heartbeat):
    self._shown, self._processes, self._beat = shown, processes, beat
    self._seconds, self._started = 0.0, time.monotonic()

  def watch(self, records: Iterable[int]) -> Iterator[int]:
    """Yields the records; each counts once it has been processed."""
    for record in records:
      yield record
      self._shown.update()
      self._beat.done()

  def heard(self, clips: parts.Clips) -> dict[str, float]:
    """Shows the speed on `clips` and returns what was read of them."""
    measured = clips.measured()
    self._seconds += measured['seconds']
    speed = self._processes * self._seconds / (time.monotonic() - self._started)
    self._shown.set_postfix_str(f'{speed:.0f} hours of audio per hour', refresh=False)
    return measured
