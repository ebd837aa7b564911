"""Ratios of our times to those of the authors' released PyTorch code, in one interleaved run.

  python -m launch.bench released --source DIR --python PYTHON --json FILE

DIR is a checkout of the authors' repository (commit 16d1d23), and PYTHON the interpreter of an
environment with torch, transformers==4.49.0, peft<0.16, librosa, fairseq (or fairseq-fixed, which
Python 3.11 needs) and what these want: a process of its own imports the code from DIR, and does a
row each time that it is asked to. This process does the same row in turn, so that both meet the
same machine. Weights are random; both sides are forced to the same work, that of `launch.bench
respond`.

Rows: `product_s`, ten products of matrices by XLA and by torch, what the libraries below both sides
give on this machine; `train_step_s`, loss and gradients of stage I for four clips; `encoder_s`,
Whisper's encoder on four windows of 30 s; `text_only_s` and `text_only_sampled_s`, question and
tokens without speech; `t2c_s`, the unit words of a slice; `vocoder_s`, durations and sound of 20 s;
`first_sound_s`, `last_text_s` and `total_s` of a spoken answer. Each has the medians, the ranges,
and the ratio of ours to `released` and, where it differs, to `fair`. The fair rival is the released
code without its one needless copy: its unit decoder joins two embedding tables at every token. The
table is printed in Markdown, too.

The released code runs as it stands, with its own streaming class, model, unit decoder and vocoder
classes, but for what `launch/bench/authors/` says: ids and float16 that are written into its
source, the sizes, and the parts that it takes from a hub. Its parameters need no gradients where it
answers.
"""

import argparse
from collections.abc import Mapping
import dataclasses
import functools
from pathlib import Path
import sys
import tempfile
from typing import Any

from echox_jax import audio, errors
from echox_jax.config import LlamaConfig
from echox_jax.conversion import unit_vocoder
from echox_jax.prompts import SpecialIds
from echox_jax.training.experiment import ExperimentConfig
from launch.bench import (
  interleaved,
  released_ours,
  respond,
  respond_model,
  respond_training,
  timing,
)
from launch.bench.child import Child

_FILES = ('inference/echox_stream.py', 'models/echox_s2s.py', 'models/t2ullama_cr_online.py')
# Special ids that the unit decoder's source names.
_WRITTEN = ('bos', 'start_header', 'end_header', 'eot', 'nl', 'speaker', 'typo_bos')
# What the source calls the unit model `small`: layers, width, heads, width of the feed-forward.
_SMALL = (4, 512, 8, 2048)
_FAIR = ('t2c', 'answer')  # rows that the fair rival does in another way
TITLES = {
  'product_s': 'ten products of matrices of 2048 x 2048',
  'train_step_s': 'stage I step, four clips of 10 s',
  'encoder_s': 'Whisper encoder, 4 x 30 s',
  'text_only_s': 'question and 64 tokens as text, greedy',
  'text_only_sampled_s': 'the same, sampled',
  't2c_s': 'T2C, 26 states to 130 unit words',
  'vocoder_s': 'vocoder, 20 s of sound',
  'first_sound_s': 'spoken answer: first sound',
  'last_text_s': 'spoken answer: last text token',
  'total_s': 'spoken answer: all of it',
}


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--source', type=Path, required=True, metavar='DIR', help="checkout of the authors' repository"
  )
  command.add_argument(
    '--python', type=Path, required=True, help='interpreter that has what their code needs'
  )
  respond.add_work_options(command)


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above.

  Raises:
    EchoXError: the folder is not the released code, the interpreter lacks a package, or one side
      did other work.
    ConfigError: the released code has no unit decoder of this size.
  """
  check_source(options.source)
  config = respond.read_job(options.config)
  _check_sizes(config.model.unit_decoder.trunk)
  with (
    tempfile.TemporaryDirectory() as folder,
    Child(options.python, 'launch.bench.authors') as child,
  ):
    wave = Path(folder, 'question.wav')
    audio.write_wav(wave, respond.question())
    _say('the released code')
    versions = start(child, options.python, job(config, options.source, wave))
    _say('our programs')
    ours = released_ours.make(config)
    times = interleaved.measure(rows(ours, child), options.runs, _say)
  _check_work(times.pop('audio_s'))
  found = {name: interleaved.summary(times[name], 'ours') for name in TITLES}
  machine = timing.machine() | timing.machine_limits()
  print(table(found), file=sys.stderr)
  return (
    {'rows': found} | machine | versions | {'runs': options.runs, 'config': str(options.config)}
  )


def check_source(folder: Path) -> None:
  """Raises EchoXError if a folder does not hold the released code."""
  if not folder.is_dir():
    raise errors.EchoXError(
      f"{folder} does not exist: give --source a checkout of the authors' repository."
    )
  missing = [name for name in _FILES if not (folder / name).is_file()]
  if missing:
    raise errors.EchoXError(
      f'{folder} is not the released code, for it has no {missing[0]}: give --source a checkout of '
      "the authors' repository."
    )


def _check_sizes(trunk: LlamaConfig) -> None:
  found = (trunk.num_layers, trunk.hidden_size, trunk.num_heads, trunk.intermediate_size)
  if found != _SMALL:
    raise errors.ConfigError(
      f'unit_decoder.trunk has layers, width, heads and feed-forward {found}, but the released '
      f'code has them in its source: give it {_SMALL}.'
    )


def job(config: ExperimentConfig, source: Path, wave: Path) -> dict[str, Any]:
  """Everything that `launch.bench.authors` is told: sizes, ids, and the rows of training."""
  cfg, budgets = config.model, config.engine
  batch = respond_training.question_batch(config)
  written = SpecialIds()
  return {
    'source': str(source.resolve()),
    'threads': timing.cores(),
    'model': dataclasses.asdict(cfg),
    'vocoder': unit_vocoder.config_to_json(cfg.vocoder),
    'theirs': {name: getattr(written, name) for name in _WRITTEN},
    'wave': str(wave),
    'kept': cfg.adapter.shrink_budget,
    'tokens': budgets.max_new_tokens,
    'slice_tokens': cfg.streaming.max_slice_tokens,
    'words': budgets.words_per_token,
    'units': respond_model.UNITS,
    'frames': respond_model.FRAMES,
    'sound_frames': released_ours.SOUND_FRAMES,
    'matrix': timing.SIZE,
    'products': released_ours.PRODUCTS,
    'clips': config.train.batch_size,
    'lora': dataclasses.asdict(respond_training.LORA),
    'batch': {name: batch[name].tolist() for name in ('input_ids', 'labels', 'ctc_labels')},
  }


def start(child: Child, python: Path, told: Mapping[str, Any]) -> dict[str, str]:
  """Tells the process what to build; returns the versions of what it has.

  Raises:
    EchoXError: it lacks a package.
  """
  answer = child.ask(told)
  if 'lacks' in answer:
    raise errors.EchoXError(
      f'{python} has no package {answer["lacks"]!r}, which the released code needs: install torch, '
      'transformers==4.49.0, peft, librosa and fairseq there.'
    )
  return answer['ready']


def rows(
  ours: Mapping[str, interleaved.Program], child: Child
) -> dict[str, dict[str, interleaved.Program]]:
  """Who does each row."""

  def theirs(row: str) -> dict[str, float]:
    answer = child.ask({'row': row})
    if 'failed' in answer:
      raise errors.EchoXError(f'row {row} of the released code failed: {answer["failed"]}')
    return answer['figures']

  found = {}
  for row, own in ours.items():
    found[row] = {'ours': own, 'released': functools.partial(theirs, row)}
    if row in _FAIR:
      found[row]['fair'] = functools.partial(theirs, f'fair_{row}')
  return found


def _check_work(seconds: Mapping[str, Any]) -> None:
  """Seconds of sound in all answers: the comparison means nothing if one side makes less."""
  made = {round(each, 2) for times in seconds.values() for each in times}
  if len(made) > 1:
    raise errors.EchoXError(
      f'answers lasted {sorted(made)} s: both sides must be forced to the same sound by --config.'
    )


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
  """The rows in Markdown."""
  lines = [
    '| row | ours s | released s | ratio | fair rival s | ratio |',
    '|---|---|---|---|---|---|',
  ]
  for name, title in TITLES.items():
    seconds, ratio = found[name]['seconds'], found[name]['ratio']
    cells = [f'{seconds["ours"]:.2f}']
    for who in ('released', 'fair'):
      cells += [f'{seconds[who]:.2f}', f'{ratio[who]:.3f}'] if who in ratio else ['', '']
    lines.append(f'| {title} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _say(what: str) -> None:
  print(f'bench released: {what} ...', file=sys.stderr, flush=True)
