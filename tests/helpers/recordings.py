"""Small recordings and lists for the tests of readers."""

import json

import numpy as np
import soundfile

from data_pipeline import dataset, quarantine, record_files, turns
from echox_jax import audio, storage


def voice(samples: int = 1600, seed: int = 0) -> np.ndarray:
  """float32[samples]: noise loud enough to be heard."""
  return (np.random.default_rng(seed).normal(size=samples) / 10).astype(np.float32)


def write(path, samples: int = 1600, rate: int = 16000, **how):
  """Writes a recording of any format."""
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, voice(samples, len(str(path.name))), rate, **how)
  return path


def row(name, **changes):
  """A line of a manifest whose recordings `manifest` writes."""
  return {
    'id': name,
    'question': 'what is one?',
    'question_audio': '0.wav',
    'answer': 'One is one.',
    'answer_audio': '1.wav',
    **changes,
  }


def manifest(folder, rows, name='manifest.jsonl'):
  """Two recordings and a manifest of rows, or of lines where they are text or bytes."""
  folder.mkdir(parents=True, exist_ok=True)
  for i in range(2):
    audio.write_wav(folder / f'{i}.wav', voice(1600 * (i + 1)))
  lines = [
    r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode()
    for r in rows
  ]
  (folder / name).write_bytes(b'\n'.join(lines))
  return folder / name


def examples(data_dir, name, split):
  """The examples of a split by id."""
  return {example.id: example for example in dataset.read_examples(data_dir, name, split)}


def content(data_dir):
  """The bytes of all files of the data sets in a folder, by name, and of what was left out."""
  paths = [data_dir / quarantine.FILE]
  for folder in storage.children(data_dir):
    if not storage.is_file(folder / record_files.INFO):
      continue
    paths += [folder / name for name in record_files.METADATA]
    for split in dataset.manifest(data_dir, folder.name)['splits'].values():
      for name in split['files']:
        paths += [folder / name, folder / (name + turns.SUFFIX)]
  return {str(path.relative_to(data_dir)): path.read_bytes() for path in paths if path.is_file()}
