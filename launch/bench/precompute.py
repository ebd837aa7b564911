"""Compares the precompute job with the same work written with transformers and torch, in one run on
one machine.

The work: decode files of speech (flac, 16 kHz); log-mel; Whisper tiny.en; find the nearest of 500
centroids for each state of the third layer; write samples and units. Ours is `launch.corpus` and
`launch.precompute` themselves, which also look for unusable recordings, train a tokenizer, fit the
unit language and write unit words. The peers have the same weights, files and cores, and batches of
8 clips (`launch/bench/precompute_peer.py`). `peer` pads to 30 s, because transformers'
WhisperEncoder refuses anything else. `peer_unpadded` is stricter: its encoder is taken apart and
called on clips of similar length, with only the padding that their batch needs, and only up to the
third layer. Each runs in its own process: once unmeasured, to compile, and once measured.

Figures: `audio_hours_per_hour`, `peer_audio_hours_per_hour`, `peer_unpadded_audio_hours_per_hour`;
`ratio`, `ratio_unpadded`: ours divided by theirs; `cpu_ratio`, `cpu_ratio_unpadded`: the same by
CPU time; `same_units`: the share of units for which each peer agrees with ours (padding changes
some); `seconds`, `cpu_seconds`, `warm_up_seconds` of each; ours by part in `parts`.
"""

import argparse
from collections.abc import Callable
import functools
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
import soundfile

from configs import echox_nano
from data_pipeline import dataset, ingest, precompute
from data_pipeline.precompute import Encoders
from echox_jax import config, errors, rates
from echox_jax.training.experiment import ExperimentConfig
from launch.bench import precompute_peer, speech
from launch.bench.process import in_new_process

SETS = ('answers/train', 'answers/holdout')
Units = dict[str, np.ndarray]


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  speech.add_options(command, 'answers/train', minutes=10, clip_seconds=0)
  command.add_argument('--threads', type=int, default=2, help='cores each (default %(default)s)')
  command.add_argument(
    '--batch_seconds',
    type=float,
    default=12.0,
    help='per batch of ours, as in precompute.batch_seconds (default %(default)s)',
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  for package in ('torch', 'transformers'):
    errors.require(package, 'crosscheck', 'The peer of this measure')
  spoken = speech.passages(options)
  hours = sum(len(wave) for _, wave in spoken) / rates.SAMPLE_RATE / 3600
  with tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / 'files'
    source.mkdir()
    for i, (text, wave) in enumerate(spoken):
      soundfile.write(source / f'{i:06d}.flac', wave, rates.SAMPLE_RATE)
      (source / f'{i:06d}.txt').write_text(text, 'utf-8')
    run = functools.partial(in_new_process, cores=options.threads, source=source)
    ours, units = run(_ours, out=Path(folder) / 'ours', batch_seconds=options.batch_seconds)
    theirs = {
      name: run(_theirs, out=Path(folder) / name, padded=padded, threads=options.threads)
      for name, padded in (('peer', True), ('peer_unpadded', False))
    }

  def speed(costs):
    return round(hours * 3600 / costs['seconds'], 1)

  found = {'audio_hours_per_hour': speed(ours), 'ours': ours}
  for name, (costs, others) in theirs.items():
    found |= {
      f'{name}_audio_hours_per_hour': speed(costs),
      name: costs | {'same_units': _agreement(units, others)},
      f'ratio{name.removeprefix("peer")}': round(costs['seconds'] / ours['seconds'], 2),
      f'cpu_ratio{name.removeprefix("peer")}': round(costs['cpu_seconds'] / ours['cpu_seconds'], 2),
    }
  return found | {
    'clips': len(spoken),
    'audio_minutes': round(60 * hours, 1),
    'threads': options.threads,
  }


def _ours(source: Path, out: Path, batch_seconds: float) -> tuple[dict[str, Any], Units]:
  job = echox_nano.get_config('t2c')
  job.precompute.update(dict(unit_sets=SETS, state_sets=(), batch_seconds=batch_seconds))
  job.tokenizer.vocab_size = 384  # small, because there are few texts
  experiment = config.build(ExperimentConfig, job.to_dict())
  # compiled once for both runs
  encoder = functools.cache(precompute.pretrained_encoders(experiment).units)
  parts = {}

  def work(workdir: Path) -> None:
    started = time.monotonic()
    ingest.build('pairs', source, workdir / 'data')
    parts['decode and write'] = round(time.monotonic() - started, 2)
    parts.update(
      precompute.run(experiment, workdir, Encoders(encoder, encoder), progress=False)[
        'step_seconds'
      ]
    )

  costs = _timed(lambda: work(out / 'first'), lambda: work(out / 'second'))
  units = {
    example.id: example.turns[0].units
    for name in SETS
    for example in dataset.read_examples(out / 'second' / 'precomputed', *name.split('/'))
  }
  return costs | {'parts': parts}, units


def _theirs(source: Path, out: Path, padded: bool, threads: int) -> tuple[dict[str, Any], Units]:
  peer = precompute_peer.Peer(
    'tiny.en', str(echox_nano.PRETRAINED / 'kmeans.safetensors'), 3, threads, padded
  )
  files, found = sorted(source.glob('*.flac')), {}
  return _timed(
    lambda: peer.run(files[:16], out / 'first', 8),
    lambda: found.update(peer.run(files, out / 'second', 8)),
  ), found


def _timed(first: Callable[[], Any], second: Callable[[], Any]) -> dict[str, float]:
  """Costs of `second`, after an unmeasured `first`."""
  started = time.monotonic()
  first()
  middle, cpu = time.monotonic(), time.process_time()
  second()
  return {
    'seconds': round(time.monotonic() - middle, 2),
    'cpu_seconds': round(time.process_time() - cpu, 2),
    'warm_up_seconds': round(middle - started, 2),
  }


def _agreement(ours: Units, others: Units) -> float:
  same = total = 0
  for name, units in ours.items():
    length = min(len(units), len(others[name]))
    same, total = same + int((units[:length] == others[name][:length]).sum()), total + length
  return round(same / total, 4)
