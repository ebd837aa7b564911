"""Speech for measurements: the clips of a data set, joined to passages of the requested length."""

import argparse

import numpy as np

from data_pipeline import dataset
from data_pipeline.selection import split_name
from echox_jax import audio, errors, rates, storage


def add_options(
  command: argparse.ArgumentParser, name: str, minutes: float, clip_seconds: float
) -> None:
  """Adds options for the source and the amount of speech."""
  command.add_argument(
    '--data',
    type=storage.check_readable,
    default='out/demo/data',
    help='folder of data sets (default %(default)s, of `make demo`)',
  )
  command.add_argument('--set', default=name, help='data set and split (default %(default)s)')
  command.add_argument(
    '--minutes', type=float, default=minutes, help='speech to measure with (default %(default)s)'
  )
  command.add_argument(
    '--clip_seconds',
    type=float,
    default=clip_seconds,
    help='join clips until they are this long; 0 = do not join (default %(default)s)',
  )


def passages(options: argparse.Namespace) -> list[tuple[str, np.ndarray]]:
  """(text, float32[samples] at 16 kHz) of every passage.

  Raises:
    DataError: the data set is missing or too small.
  """
  found, texts, waves, total = [], [], [], 0
  for example in dataset.read_examples(options.data, *split_name(options.set)):
    for turn in example.turns:
      if len(turn.audio):
        texts.append(turn.text)
        waves.append(audio.from_int16(turn.audio))
    length = sum(map(len, waves))
    if length > options.clip_seconds * rates.SAMPLE_RATE:
      found.append((' '.join(texts), np.concatenate(waves)))
      texts, waves, total = [], [], total + length
    if total >= 60 * options.minutes * rates.SAMPLE_RATE:
      return found
  raise errors.DataError(
    f'{options.data} holds less than {options.minutes:g} minutes of '
    f'{options.set}: lower --minutes or name another --set.'
  )
