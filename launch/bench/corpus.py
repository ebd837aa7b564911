"""The cost of reading recordings in: how soon a large source is listed and planned where storage is
far away, and how much faster two processes read than one.

Storage far away is simulated: each request to the filesystem (listing a folder, opening a file,
asking for its size or kind) takes --latency seconds longer. Recordings are listed in the layouts of
`launch.corpus --reader`; their files are empty, since planning does not open them. The recordings
that are read in are noise, flac at 22.05 kHz; a process decodes by itself, on one core.

Figures: `planned` by layout: `seconds` until the plan is stored, `cpu_seconds` of them, `requests`
by kind, and `one_after_the_other`, the seconds that these requests would take in a row; `read_in`:
`seconds` of one process and of two, `hours_per_hour` of speech of both, their `ratio`, and
`cpu_seconds` of a process in either case, which other work on the machine does not change.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
import json
import multiprocessing
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
import soundfile

from data_pipeline import ingest, planning, readers
from data_pipeline.quarantine import Quarantine
from data_pipeline.shards import Process
from launch.bench import latency

_IN_A_FOLDER = 40  # recordings; LibriSpeech has 48 in a chapter
_RATE, _SHARD = 22_050, 32


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--recordings', type=int, default=100_000, help='to list and plan (default %(default)s)'
  )
  command.add_argument(
    '--latency', type=float, default=0.03, help='seconds a request (default %(default)s)'
  )
  command.add_argument(
    '--minutes', type=float, default=60.0, help='speech to read in (default %(default)s)'
  )
  command.add_argument(
    '--clip_seconds', type=float, default=9.0, help='of a recording (default %(default)s)'
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  planned = {}
  for name, write in LAYOUTS.items():
    with tempfile.TemporaryDirectory() as folder:
      source = write(Path(folder) / 'source', options.recordings)
      planned[name] = _plan(name, source, Path(folder) / 'plan', options)
  clips = max(2, round(60 * options.minutes / options.clip_seconds))
  with tempfile.TemporaryDirectory() as folder:
    source = _recordings(Path(folder), clips, round(_RATE * options.clip_seconds))
    found = [_read_in(source, Path(folder) / f'data{count}', count) for count in (1, 2)]
    seconds, cpu_seconds = zip(*found)
  hours = clips * options.clip_seconds / 3600
  return {
    'recordings': options.recordings,
    'latency': options.latency,
    'planned': planned,
    'read_in': {
      'clips': clips,
      'seconds': [round(value, 2) for value in seconds],
      'hours_per_hour': [round(hours * 3600 / value) for value in seconds],
      'ratio': round(seconds[0] / seconds[1], 2),
      'cpu_seconds': [round(value, 2) for value in cpu_seconds],
    },
  }


def _plan(name: str, source: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
  refused, started, cpu = Quarantine(name, 0.0), time.monotonic(), time.process_time()
  with latency.far_away(options.latency) as requests:
    plans = planning.make(readers.get(name), source, refused)
    planning.store(folder, plans, source, [], ingest.Sharing().shard_examples)
    stored = planning.load(folder, source)
  seconds = time.monotonic() - started
  assert stored.examples == options.recordings, stored.examples
  return {
    'seconds': round(seconds, 1),
    'cpu_seconds': round(time.process_time() - cpu, 1),
    'requests': dict(requests),
    'one_after_the_other': round(requests.total() * options.latency),
  }


def _folders(count: int) -> Iterator[tuple[int, range]]:
  """(number, recordings) of each folder."""
  for number, start in enumerate(range(0, count, _IN_A_FOLDER)):
    yield number, range(start, min(start + _IN_A_FOLDER, count))


def _librispeech(source: Path, count: int) -> Path:
  for chapter, numbers in _folders(count):
    folder = source / 'train-clean-100' / f'{chapter // 4}' / f'{chapter}'
    names = [f'{chapter // 4}-{chapter}-{i:04d}' for i in numbers]
    _touch(folder, [f'{name}.flac' for name in names])
    lines = [f'{name} WHAT IS SAID IN {name}\n' for name in names]
    (folder / f'{chapter // 4}-{chapter}.trans.txt').write_text(''.join(lines))
  return source


def _mls(source: Path, count: int) -> Path:
  lines = []
  for book, numbers in _folders(count):
    names = [f'{book // 4}_{book}_{i:06d}' for i in numbers]
    _touch(source / 'train' / 'audio' / f'{book // 4}' / f'{book}', [f'{n}.opus' for n in names])
    lines += [f'{name}\twhat is said in {name}\n' for name in names]
  (source / 'train' / 'transcripts.txt').write_text(''.join(lines))
  return source


def _pairs(source: Path, count: int) -> Path:
  for number, numbers in _folders(count):
    folder = source / f'{number}'
    _touch(folder, [f'{i}.wav' for i in numbers])
    for i in numbers:
      (folder / f'{i}.txt').write_text(f'what is said in {i}')
  return source


def _manifest(source: Path, count: int) -> Path:
  rows = []
  for number, numbers in _folders(count):
    _touch(source / f'{number}', [f'{i}.wav' for i in numbers])
    rows += [
      {'id': f'{i}', 'answer': f'it is {i}', 'answer_audio': f'{number}/{i}.wav'} for i in numbers
    ]
  (source / 'mine.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return source / 'mine.jsonl'


# reader -> (folder, number of recordings) -> source
LAYOUTS = {'librispeech': _librispeech, 'mls': _mls, 'pairs': _pairs, 'manifest': _manifest}


def _touch(folder: Path, names: list[str]) -> None:
  folder.mkdir(parents=True)
  for name in names:
    (folder / name).touch()


def _recordings(folder: Path, count: int, samples: int) -> Path:
  """Files of noise with a list of them."""
  rng, rows = np.random.default_rng(0), []
  for i in range(count):
    wave = 0.1 * rng.standard_normal(samples, np.float32)
    soundfile.write(folder / f'{i}.flac', wave, _RATE)
    rows.append({'id': f'{i}', 'answer': f'It is {i}.', 'answer_audio': f'{i}.flac'})
  rows[0]['split'] = 'test'
  (folder / 'mine.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder / 'mine.jsonl'


def _read_in(source: Path, data: Path, count: int) -> tuple[float, float]:
  """Seconds in which `count` processes read the source in, once they have begun, and CPU seconds of
  the busiest.
  """
  context = multiprocessing.get_context('spawn')
  barrier = context.Barrier(count)
  with ProcessPoolExecutor(count, context, _set_barrier, (barrier,)) as pool:
    jobs = [pool.submit(_share, source, data, i, count) for i in range(count)]
    seconds, cpu_seconds = zip(*(job.result() for job in jobs))
    return max(seconds), max(cpu_seconds)


def _set_barrier(barrier: Any) -> None:
  global _barrier
  _barrier = barrier


def _share(source: Path, data: Path, index: int, count: int) -> tuple[float, float]:
  warm = data.with_name(f'warm{count}-{index}')
  ingest.build('manifest', _recordings(_made(warm), 2, _RATE), warm / 'data')  # imports
  sharing = ingest.Sharing(shard_examples=_SHARD)
  _barrier.wait()
  started, cpu = time.monotonic(), time.process_time()
  process = Process(index, count, lambda name: _barrier.wait())
  ingest.build('manifest', source, data, sharing=sharing, process=process)
  return time.monotonic() - started, time.process_time() - cpu


def _made(folder: Path) -> Path:
  folder.mkdir()
  return folder
