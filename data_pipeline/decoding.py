"""Decodes recordings of any format to int16 samples at 16 kHz, or says why it cannot, in a few
processes.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
import json
import multiprocessing
import os
import shutil
import struct
import subprocess
from typing import Any

import numpy as np
import soundfile

from data_pipeline import listing
from data_pipeline.parts import SHORTEST
from data_pipeline.quarantine import Unusable
from echox_jax import audio, rates, storage
from echox_jax.errors import AudioError

# Hz: the rates of real speech recordings; any other rate is almost always a wrong header
LOWEST_RATE, HIGHEST_RATE = 4_000, 96_000
_ANY = 0xFFFFFFFF  # size in the header of a wav that was written to a pipe
# wav and aiff: byte order of sizes, name of the chunk that holds the samples
_CHUNKED = {b'RIFF': ('<', b'data'), b'FORM': ('>', b'SSND')}
_OGG_PAGE, _OGG_END = 65_307, 4  # longest page in bytes; flag of the last page
# share of the stated length that must be present where that length may be an estimate: mp3 files
# without a frame count, and videos
_GUESSED = 0.9
_AHEAD = 4  # recordings per process that are decoded ahead


def decode(path: str, max_seconds: float) -> np.ndarray:
  """Reads one recording; refuses one longer than `max_seconds` before reading it.

  Returns:
    int16[samples], mono, 16 kHz.

  Raises:
    Unusable: the file is missing, empty, damaged, truncated, of a wrong rate, too long, too short
      or silent, or has samples that are not finite.
  """
  if not listing.is_file(path):
    raise Unusable('missing file', 'does not exist')
  try:
    with storage.local(path) as file:
      wave = _load(str(file), max_seconds)
  except OSError as error:
    raise Unusable('damaged', f'cannot be opened ({error.strerror})') from error
  return _checked(wave, max_seconds)


def of_samples(samples: np.ndarray, rate: int, max_seconds: float) -> np.ndarray:
  """Takes samples that are decoded already: any[samples] or any[samples,channels] at `rate` Hz.

  Returns, Raises: as `decode`.
  """
  _check_rate(rate)
  _check_seconds(len(samples) / rate, max_seconds)
  try:
    return _checked(audio.to_mono_16k(samples, rate), max_seconds)
  except AudioError as error:
    reason = 'not finite' if len(samples) else 'too short'
    raise Unusable(reason, 'holds no samples, or samples that are not finite numbers') from error


def _checked(wave: np.ndarray, max_seconds: float) -> np.ndarray:
  """float32[samples] at 16 kHz -> int16[samples], if it is usable."""
  _check_seconds(len(wave) / rates.SAMPLE_RATE, max_seconds)
  if len(wave) < SHORTEST:
    raise Unusable('too short', f'has {len(wave)} samples at 16 kHz, fewer than {SHORTEST}')
  if audio.is_silent(wave):
    raise Unusable('silent', f'is nowhere louder than {audio.SILENCE_DBFS:g} dBFS')
  return audio.to_int16(wave)


def encoded(path: str) -> np.ndarray:
  """uint8[bytes]: the file itself. Empty if only ffmpeg can read it: ffmpeg takes too long to start
  for every reading.
  """
  with storage.local(path) as file:
    try:
      soundfile.info(file)
    except soundfile.SoundFileError:
      return np.zeros(0, np.uint8)
    return np.fromfile(file, np.uint8)


def _load(path: str, max_seconds: float) -> np.ndarray:
  if not os.path.getsize(path):
    raise Unusable('empty file', 'is empty')
  try:
    header = soundfile.info(path)
  except soundfile.SoundFileError:
    return _read_other(path, max_seconds)
  return _read(path, header, max_seconds)


def _read(path: str, header: Any, max_seconds: float) -> np.ndarray:
  """float32[samples] of a file that soundfile reads."""
  _check_rate(header.samplerate)
  _check_seconds(header.frames / header.samplerate, max_seconds)
  if _lacks_bytes(path):
    raise Unusable('truncated', 'ends before its header says')
  try:
    samples, rate = soundfile.read(path, dtype='float32', always_2d=True)
  except soundfile.SoundFileError as error:
    raise Unusable('damaged', f'cannot be read to its end ({error})') from error
  if len(samples) < header.frames * (_GUESSED if header.format == 'MP3' else 1):
    raise Unusable(
      'truncated', f'holds {len(samples)} of the {header.frames} frames that its header says'
    )
  if not len(samples):
    raise Unusable('too short', 'holds no samples')
  if not np.isfinite(samples).all():
    raise Unusable('not finite', 'holds samples that are not finite numbers')
  return audio.to_mono_16k(samples, rate, name=path)


def _read_other(path: str, max_seconds: float) -> np.ndarray:
  """float32[samples] of a file that only ffmpeg may be able to read."""
  probe, seconds = shutil.which('ffprobe'), 0.0
  if probe:
    command = [
      probe,
      '-v',
      'error',
      '-select_streams',
      'a:0',
      '-show_entries',
      'stream=sample_rate:format=duration',
      '-of',
      'json',
      path,
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    found = json.loads(done.stdout or '{}')
    for stream in found.get('streams', []):
      _check_rate(int(stream.get('sample_rate', rates.SAMPLE_RATE)))
    seconds = float(found.get('format', {}).get('duration', 0))
    _check_seconds(seconds, max_seconds)
  try:
    wave = audio.load_audio(path)
  except AudioError as error:
    raise Unusable(
      'damaged', 'cannot be read as audio' if probe else 'cannot be read as audio without ffmpeg'
    ) from error
  if len(wave) / rates.SAMPLE_RATE < _GUESSED * seconds:
    raise Unusable(
      'truncated',
      f'holds {len(wave) / rates.SAMPLE_RATE:.1f} of the {seconds:.1f} s that its header says',
    )
  return wave


def _check_rate(rate: int) -> None:
  if not LOWEST_RATE <= rate <= HIGHEST_RATE:
    raise Unusable('wrong rate', f'is said to have {rate} Hz, not {LOWEST_RATE} to {HIGHEST_RATE}')


def _check_seconds(seconds: float, max_seconds: float) -> None:
  if seconds > max_seconds:
    raise Unusable('over-long', f'lasts {seconds:.1f} s, more than {max_seconds:g}')


def _lacks_bytes(path: str) -> bool:
  """Whether a wav, aiff, ogg or opus file ends too early: libsndfile reports no error for those."""
  with open(path, 'rb') as f:
    size = os.fstat(f.fileno()).st_size
    kind = f.read(12)[:4]
    if kind == b'OggS':
      f.seek(max(0, size - _OGG_PAGE))
      return not _ends_stream(f.read())
    order, samples = _CHUNKED.get(kind, ('<', b''))
    while samples and len(chunk := f.read(8)) == 8:
      name, length = struct.unpack(f'{order}4sI', chunk)
      if name == samples:
        return length != _ANY and f.tell() + length > size
      f.seek(length + length % 2, os.SEEK_CUR)
  return False


def _ends_stream(tail: bytes) -> bool:
  """Whether the last page in the last bytes of an Ogg file is complete and marked as the last."""
  page = tail[max(0, tail.rfind(b'OggS')) :]
  return (
    len(page) > 26
    and bool(page[5] & _OGG_END)
    and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
  )


class Workers:
  """Processes that run `work(task)`; a count of 0 or 1 runs it in this process. Use as a context
  manager.

  An `Unusable` that `work` raises is a result. So is a task that kills its process: a decoder may
  crash on a damaged file, and the job continues.
  """

  def __init__(self, work: Callable[[Any], Any], count: int):
    self._work, self._count, self._pool = work, count, None

  def __enter__(self) -> 'Workers':
    return self

  def __exit__(self, *_: Any) -> None:
    if self._pool:
      self._pool.shutdown(cancel_futures=True)

  def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
    """The results in the order of the tasks, computed only a few tasks ahead."""
    if self._count <= 1:
      yield from (_attempt(self._work, task) for task in tasks)
      return
    waiting, tasks = collections.deque(), iter(tasks)
    while True:
      while len(waiting) < _AHEAD * self._count and (task := next(tasks, waiting)) is not waiting:
        waiting.append((task, self._submit(task)))
      if not waiting:
        return
      task, future = waiting.popleft()
      try:
        yield future.result()
      except BrokenProcessPool:  # by this task or a neighbour: each is tried again, alone
        again = [task, *(task for task, _ in waiting)]
        waiting.clear()
        yield from map(self._alone, again)

  def _submit(self, task: Any) -> futures.Future:
    # fresh processes: they inherit no accelerators or threads from this one
    if self._pool is None:
      self._pool = futures.ProcessPoolExecutor(
        self._count, multiprocessing.get_context('spawn'), _begin, (self._work,)
      )
    try:
      return self._pool.submit(_attempt_here, task)
    except BrokenProcessPool as error:
      broken = futures.Future()
      broken.set_exception(error)
      return broken

  def _alone(self, task: Any) -> Any:
    try:
      return self._fresh()._submit(task).result()
    except BrokenProcessPool:
      return Unusable('damaged', 'makes the decoder crash')
    finally:
      self._fresh()

  def _fresh(self) -> 'Workers':
    if self._pool:
      self._pool.shutdown()
    self._pool = None
    return self


def _begin(work: Callable[[Any], Any]) -> None:
  """A worker process begins: what `work` opens stays open for all its tasks."""
  global _work
  _work = work


def _attempt_here(task: Any) -> Any:
  return _attempt(_work, task)


def _attempt(work: Callable[[Any], Any], task: Any) -> Any:
  try:
    return work(task)
  except Unusable as error:
    return error
