"""Plans which examples go into which batch when rows are packed or clips are sorted by length.

A plan depends only on sizes, seed and number. Every epoch takes all examples in its own order. Each
example goes into a row of its bucket, and batch_size full rows of one bucket form a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import threading

import numpy as np

_OPEN_ROWS = 64  # most open rows of a bucket; also at most a quarter of an epoch's rows
_REMEMBERED = 1024  # batches: prefetching looks a little ahead, and nothing looks back

# (pass, index) of each example: how often it has come before, and its number
Row = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows of one bucket."""

  bucket: int
  rows: tuple[Row, ...]


class BatchPlan:
  """An endless sequence of batches by number.

  Args:
    buckets: int[N], the bucket of each example.
    sizes: int[N,S], how much of a row each example takes, in several measures.
    room: capacity of a row, int[S] by bucket; every example fits by itself. Rows are filled so that
      the first and the last measure run out together.
    batch_size: rows.
    seed: of the order.
    order: the examples (pass, index) by place in the stream; an epoch takes N of them. None = each
      example once an epoch.
  """

  def __init__(
    self,
    buckets: np.ndarray,
    sizes: np.ndarray,
    room: Mapping[int, Sequence[int]],
    batch_size: int,
    seed: int,
    order: Sequence[tuple[int, int]] | None = None,
  ):
    self.buckets, self.sizes, self.room = buckets, sizes, dict(room)
    self._batch_size, self._seed, self._order = batch_size, seed, order
    self._begin()

  def __getitem__(self, number: int) -> Batch:
    with self._lock:
      if number < self._next - len(self._known):
        self._begin()
      while self._next <= number:
        self._known[self._next] = next(self._batches)
        self._known.pop(self._next - _REMEMBERED, None)
        self._next += 1
      return self._known[number]

  def __getstate__(self):
    # without the batches: they are computed again where reading resumes
    return (self.buckets, self.sizes, self.room, self._batch_size, self._seed, self._order)

  def __setstate__(self, state):
    self.__init__(*state)

  def _begin(self) -> None:
    self._lock = threading.RLock()
    self._next, self._known, self._batches = 0, {}, self._generate()

  def _generate(self) -> Iterator[Batch]:
    waiting = {bucket: [] for bucket in self.room}
    for bucket, row in self._rows():
      waiting[bucket].append(row)
      if len(waiting[bucket]) == self._batch_size:
        yield Batch(bucket, tuple(waiting[bucket]))
        waiting[bucket] = []

  def _rows(self) -> Iterator[tuple[int, Row]]:
    """Rows in the order in which they fill up."""
    bins = {
      bucket: _Bins(np.asarray(room), self.sizes[self.buckets == bucket])
      for bucket, room in self.room.items()
    }
    for epoch in itertools.count():  # rows open at its end stay open for the next epoch only
      for turn, index in self._examples(epoch):
        bucket = int(self.buckets[index])
        for row in bins[bucket].add((turn, index), self.sizes[index], epoch):
          yield bucket, row
      for bucket, open_rows in bins.items():
        yield from ((bucket, row) for row in open_rows.close_before(epoch))

  def _examples(self, epoch: int) -> Iterator[tuple[int, int]]:
    """The examples (pass, index) of an epoch, in order."""
    count = len(self.sizes)
    if self._order is not None:
      return (self._order[place] for place in range(epoch * count, (epoch + 1) * count))
    return (
      (epoch, int(index)) for index in np.random.default_rng((self._seed, epoch)).permutation(count)
    )


class _Bins:
  """Open rows of a bucket. An example goes into the row whose measures then have the most balanced
  room left. If it fits into none, the row with the least room left is closed.
  """

  def __init__(self, room: np.ndarray, sizes: np.ndarray):
    count = int(np.clip((sizes.sum(axis=0) / room).max() / 4, 1, _OPEN_ROWS))
    self._pace = room[-1] / room[0] if len(room) > 1 else 0.0
    self._room, self._left = room, np.repeat(room[None], count, axis=0)
    self.items: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    self._opened = [0] * count  # the epoch

  def add(self, item: tuple[int, int], size: np.ndarray, epoch: int) -> list[Row]:
    """The rows that this example fills up."""
    done = []
    fits = (self._left >= size).all(axis=1)
    if not fits.any():
      done.append(self._close(int((self._left / self._room).sum(axis=1).argmin())))
      fits = (self._left >= size).all(axis=1)
    left = self._left - size
    row = int(np.where(fits, np.abs(left[:, -1] - self._pace * left[:, 0]), np.inf).argmin())
    self._opened[row] = self._opened[row] if self.items[row] else epoch
    self.items[row].append(item)
    self._left[row] -= size
    if (self._left[row] == 0).any():
      done.append(self._close(row))
    return done

  def close_before(self, epoch: int) -> list[Row]:
    """The rows that have been open since an earlier epoch."""
    return [
      self._close(row)
      for row, items in enumerate(self.items)
      if items and self._opened[row] < epoch
    ]

  def _close(self, row: int) -> Row:
    closed, self.items[row] = tuple(self.items[row]), []
    self._left[row] = self._room
    return closed
