"""A small reading-in, and one process of it as a program:
`python -m tests.helpers.corpus_jobs JSON`.

Keys: `source`, `data`, `processes`, `process`, `meeting` (an empty local folder of this run),
`begun` (see `kills`).
"""

import json
from pathlib import Path
import sys
import time

from data_pipeline import ingest
from data_pipeline.shards import Process
from echox_jax import storage
from tests.helpers import kills, recordings
from tests.helpers.recordings import row

LIMITS = ingest.Limits(max_quarantined=0.2)


def write_source(folder, items=12):
  """A manifest of `items` exchanges in two splits, of which one question cannot be read."""
  rows = [
    row(f'{i}', question_audio=f'q{i}.wav', split='test' if i % 4 == 3 else 'train')
    for i in range(items)
  ]
  path = recordings.manifest(folder, rows)
  for i in range(items):
    recordings.write(folder / f'q{i}.wav', 1600 + 160 * i)
  (folder / 'q5.wav').write_text('no audio')
  return path


def meeting(folder, index, count):
  """A barrier of files in a folder of one run."""

  def meet(name):
    (folder / f'{name}-{index}').touch()
    while len(list(folder.glob(f'{name}-*'))) < count:
      time.sleep(0.01)

  return meet


def build(source, data, process=None, prefix='', **sharing):
  sharing = ingest.Sharing(**{'shard_examples': 2, **sharing})
  return ingest.build(
    'manifest', source, data, prefix=prefix, limits=LIMITS, sharing=sharing, process=process
  )


def main() -> None:
  options = json.loads(sys.argv[1])
  index, count = options['process'], options['processes']
  meet = meeting(Path(options['meeting']), index, count)
  kills.announce(options)
  build(options['source'], storage.path(options['data']), Process(index, count, meet))


if __name__ == '__main__':
  main()
