"""A filesystem that is far away: every request of this process takes some time longer."""

import builtins
import collections
from collections.abc import Callable, Iterator
import contextlib
import functools
import io
import os
import time
from typing import Any
from unittest import mock

# what asks the filesystem, as Python's own modules call it
_REQUESTS = (
  (builtins, 'open'),
  (io, 'open'),
  *((os, name) for name in ('scandir', 'listdir', 'stat', 'lstat')),
  *((os, name) for name in ('mkdir', 'rmdir', 'unlink', 'replace', 'rename')),
)


@contextlib.contextmanager
def far_away(seconds: float) -> Iterator[collections.Counter]:
  """Makes every request take `seconds` longer inside the block; yields how many there were, by
  kind. Reading what is open takes no longer, nor does the listing of a folder once it has begun.
  """
  counts = collections.Counter()
  with contextlib.ExitStack() as stack:
    for owner, name in _REQUESTS:
      slow = _slow(getattr(owner, name), name, seconds, counts)
      stack.enter_context(mock.patch.object(owner, name, slow))
    yield counts


def _slow(
  request: Callable[..., Any], name: str, seconds: float, counts: collections.Counter
) -> Callable[..., Any]:
  @functools.wraps(request)
  def wait(*args: Any, **kwargs: Any) -> Any:
    counts[name] += 1
    time.sleep(seconds)
    return request(*args, **kwargs)

  return wait
