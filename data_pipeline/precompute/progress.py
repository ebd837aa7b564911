"""The progress bar of a step."""

from collections.abc import Iterable, Iterator
import time

from tqdm import tqdm

from data_pipeline import parts


class Bar:
  """Examples that are done, the time that is left, and hours of audio an hour, as all `processes`
  together do them if they are alike.
  """

  def __init__(self, shown: tqdm, processes: int):
    self._shown, self._processes, self._seconds, self._started = (
      shown,
      processes,
      0.0,
      time.monotonic(),
    )

  def watch(self, records: Iterable[int]) -> Iterator[int]:
    """The same records; each counts when it has been dealt with."""
    for record in records:
      yield record
      self._shown.update()

  def heard(self, clips: parts.Clips) -> dict[str, float]:
    """What was read of `clips`, which is shown and given back."""
    measured = clips.measured()
    self._seconds += measured['seconds']
    speed = self._processes * self._seconds / (time.monotonic() - self._started)
    self._shown.set_postfix_str(f'{speed:.0f} hours of audio an hour', refresh=False)
    return measured
