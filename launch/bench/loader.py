"""The cost of loading speech for training: files are decoded, mixed to mono and resampled to 16 kHz
in batches, without a model.

The speech of a data set is written to files of several formats and read in by `launch.corpus
--keep_encoded`. The Grain pipeline of stage s2t loads it as in training, so it decodes a file
whenever its example comes up. The last row is for 16-bit samples, which `launch.corpus` stores by
default.

Figures: `realtime_per_core`: seconds of speech per second of CPU time of all threads, over all
formats together; `slowest`: that of the slowest format; `by_format`: that of each format, with
`realtime` by wall clock and `megabytes_per_hour` on disk.
"""

import argparse
import dataclasses
import json
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
import soundfile
import soxr

from data_pipeline import batches, dataset, ingest
from data_pipeline.corpus import sentences
from echox_jax import config, prompts, rates
from echox_jax.tokenizer import train_tokenizer
from echox_jax.training.experiment import ExperimentConfig
from launch.bench import speech

FORMATS = (
  ('wav', 48_000, 2),
  ('flac', 44_100, 2),
  ('flac', 22_050, 1),
  ('mp3', 44_100, 2),
  ('mp3', 22_050, 1),
  ('ogg', 48_000, 2),
  ('ogg', 22_050, 1),
)
_BATCH, _EPOCHS = 4, 2


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  speech.add_options(command, 'questions/train', minutes=8, clip_seconds=8)


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  spoken, found = speech.passages(options), {}
  with tempfile.TemporaryDirectory() as folder:
    # any reader would do
    train_tokenizer(
      sentences.extra_sentences(100), Path(folder) / 'precomputed' / 'tokenizer.model', 512
    )
    for kind, rate, channels in FORMATS:
      name = f'{kind} {rate / 1000:g} kHz {("mono", "stereo")[channels - 1]}'
      data = Path(folder) / name.replace(' ', '_')
      manifest = _write_files(data / 'files', spoken, kind, rate, channels)
      found[name] = _load(_ingest(manifest, data / 'data', keep_encoded=True), Path(folder))
    found['16-bit samples'] = _load(
      _ingest(manifest, data / 'samples', keep_encoded=False), Path(folder)
    )
  decoded = [row for name, row in found.items() if name != '16-bit samples']
  cost = [row['seconds'] / row['realtime_per_core'] for row in decoded]
  return {
    'realtime_per_core': round(sum(row['seconds'] for row in decoded) / sum(cost), 1),
    'slowest': min(row['realtime_per_core'] for row in decoded),
    'by_format': found,
  }


def _write_files(
  folder: Path, spoken: list[tuple[str, np.ndarray]], kind: str, rate: int, channels: int
) -> Path:
  """Writes the passages as files, and their manifest."""
  folder.mkdir(parents=True)
  with open(folder / 'list.jsonl', 'w', encoding='utf-8') as f:
    for i, (text, wave) in enumerate(spoken):
      wave = soxr.resample(wave, rates.SAMPLE_RATE, rate)
      soundfile.write(
        folder / f'{i}.{kind}', np.stack([wave, np.roll(wave, 9)][:channels], axis=1), rate
      )
      row = {
        'id': str(i),
        'question': text,
        'question_audio': f'{i}.{kind}',
        'answer': 'Yes.',
        'split': 'train' if i else 'test',
      }
      f.write(json.dumps(row) + '\n')
  return folder / 'list.jsonl'


def _ingest(manifest: Path, data_dir: Path, keep_encoded: bool) -> Path:
  ingest.build('manifest', manifest, data_dir, keep_encoded=keep_encoded)
  return data_dir


def _load(data_dir: Path, workdir: Path) -> dict[str, float]:
  """Loads every row of a data set repeatedly. The few batches read ahead at the end cost time too,
  but are not counted.
  """
  job = config.build(
    ExperimentConfig,
    dict(
      stage='s2t',
      data_dir=str(data_dir),
      train=dict(batch_size=_BATCH),
      model=dict(special_ids=dataclasses.asdict(prompts.NANO_IDS)),
      data=dict(
        sets=('questions/train',),
        cached_states=False,
        max_tokens=1024,
        max_ctc_labels=1024,
        max_states=1500,
      ),
    ),
  )
  count = _EPOCHS * batches.describe(job, workdir)['rows'] // _BATCH
  iterator = batches.make_iterator(job, workdir)
  cpu, wall, samples = time.process_time(), time.monotonic(), 0
  for _ in range(count):
    samples += int(next(iterator)['audio_lengths'].sum())
  cpu, wall, seconds = (
    time.process_time() - cpu,
    time.monotonic() - wall,
    samples / rates.SAMPLE_RATE,
  )
  stored = sum(file.stat().st_size for file in (data_dir / 'questions').iterdir())
  splits = dataset.manifest(data_dir, 'questions')['splits']
  return {
    'realtime_per_core': round(seconds / cpu, 1),
    'realtime': round(seconds / wall, 1),
    'seconds': round(seconds, 1),
    'megabytes_per_hour': round(stored / 1e6 / sum(split['hours'] for split in splits.values()), 1),
  }
