"""Which rows a stage learns from, and which are left out and why: one pass over the data sets before training.

What the pass keeps in memory is token ids; states, units and audio are read again, at random, when their row comes up.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from data_pipeline import dataset, rows, schema
from echox_jax import audio as audio_io
from echox_jax import errors, prompts
from echox_jax.prompts import IGNORE
from echox_jax.tokenizer import precomputed_tokenizer
from echox_jax.training.experiment import DataConfig, ExperimentConfig
import numpy as np

Arrays = dict[str, np.ndarray]
HOP = 320  # samples a unit or an encoder state: 50 Hz at 16 kHz


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One row: its token arrays, and the turn (record `index` of set number `source`) whose speech belongs to it, if any.

  `states`: length of the speech as the speech encoder gives it, in the stages that hear.
  """
  tokens: Arrays
  source: int = -1
  index: int = -1
  turn: int = -1
  states: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Selection(Sequence):
  """The rows of a stage, for random access: `selection[i]` is a dict of arrays, not padded yet.

  Attributes:
    rows: what was kept.
    sources: the opened data sets.
    speech: fields of `schema.Turn` that the stage reads; audio as float32.
    left_out: how many rows were left out, by reason.
  """
  rows: tuple[Row, ...]
  sources: tuple[Sequence[Mapping[str, Any]], ...]
  speech: tuple[str, ...]
  left_out: Mapping[str, int]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int) -> Arrays:
    row = self.rows[i]
    if row.source < 0:
      return dict(row.tokens)
    turn = schema.decode(self.sources[row.source][row.index]).turns[row.turn]
    arrays = {name: getattr(turn, name) for name in self.speech}
    return {**row.tokens, **{name: audio_io.from_int16(x) if name == 'audio' else x for name, x in arrays.items()}}


def precomputed_dir(workdir: str | Path) -> Path:
  """Where precompute writes."""
  return Path(workdir) / 'precomputed'


def raw_dir(experiment: ExperimentConfig, workdir: str | Path) -> Path:
  """Where the recorded (or synthesised) data sets are: the config's `data_dir`, or `data` in the working folder."""
  return Path(experiment.data_dir or Path(workdir) / 'data')


def split_name(name: str) -> tuple[str, str]:
  """`questions/train` -> ('questions', 'train').

  Raises:
    ConfigError: another form.
  """
  parts = tuple(name.split('/'))
  if len(parts) != 2 or not all(parts):
    raise errors.ConfigError(f'the data set {name!r} is not of the form NAME/SPLIT: write, for instance, questions/train.')
  return parts


def question_pairs(turns: Sequence[Any]) -> Iterator[tuple[int, Any, Any]]:
  """(index of the question, question, answer) of every user turn that an assistant turn follows; turns as mappings of text."""
  for i, (question, answer) in enumerate(zip(turns, turns[1:])):
    if (question['role'], answer['role']) == ('user', 'assistant'):
      yield i, question, answer


def select(experiment: ExperimentConfig, workdir: str | Path) -> Selection:
  """Reads the data sets of the stage once and decides on every row.

  Stages that read what precompute made (states, units, unit words) read the precomputed sets, the others the raw ones.

  Raises:
    ConfigError: an unknown stage or no data sets.
    DataError: a data set or the tokenizer is missing, or no row is left.
  """
  stage, data = experiment.stage, experiment.data
  if stage not in _SELECTORS:
    raise errors.ConfigError(f'stage {stage!r} is unknown: use one of {", ".join(_SELECTORS)}.')
  if not data.sets:
    raise errors.ConfigError(f'stage {stage!r} has no data: name at least one data set in data.sets.')
  raw = stage == 'text' or (stage in ('s2t', 'echo') and not data.cached_states)
  folder = raw_dir(experiment, workdir) if raw else precomputed_dir(workdir)
  sources = tuple(dataset.open_dataset(folder, *split_name(name)) for name in data.sets)
  tokenizer = None if stage == 'vocoder' else precomputed_tokenizer(precomputed_dir(workdir))
  left_out = collections.Counter()
  kept = tuple(_SELECTORS[stage](experiment, sources, tokenizer, left_out))
  if not kept:
    reasons = in_words(left_out) or 'the sets are empty'
    raise errors.DataError(f'no row of {", ".join(data.sets)} is left for stage {stage!r} ({reasons}): raise the sizes in data or check the sets.')
  speech = ('units', 'audio') if stage == 'vocoder' else ('states',) if data.cached_states else ('audio',)
  return Selection(kept, sources, speech, dict(left_out))


def in_words(left_out: Mapping[str, int]) -> str:
  """`96 over max_tokens = 48`: how many rows were left out, and why."""
  return ', '.join(f'{count} {reason}' for reason, count in left_out.items())


def max_samples(experiment: ExperimentConfig, states: int) -> int:
  """Samples of a clip that gives so many states, with the silence that the encoder adds."""
  return states * HOP - round(experiment.model.audio_padding_seconds * schema.SAMPLE_RATE)


def _text_rows(experiment, sources, tokenizer, left_out) -> Iterator[Row]:
  """Text questions: every pair of texts once, however many voices speak it."""
  ids, system = experiment.model.special_ids, tokenizer.encode(experiment.model.system_message)
  seen = set()
  for source in sources:
    for i in range(len(source)):
      for _, question, answer in question_pairs(schema.text_turns(source[i])):
        pair = question['text'], answer['text']
        if pair in seen:
          continue
        seen.add(pair)
        if not all(pair):
          left_out['without text'] += 1
          continue
        tokens = rows.question_row(ids, system, *map(tokenizer.encode, pair), audio=False)
        if _fits(tokens, experiment.data, left_out):
          yield Row(tokens)


def _question_rows(experiment, sources, tokenizer, left_out) -> Iterator[Row]:
  """Spoken questions, and among them the share `written_fraction` of written ones: learning to hear must not unteach reading."""
  spoken = list(_speech_rows(experiment, sources, tokenizer, left_out))
  yield from spoken
  fraction = experiment.data.written_fraction
  if not 0 <= fraction < 1:
    raise errors.ConfigError(f'data.written_fraction is {fraction}: it must be at least 0 and below 1.')
  if fraction:
    written = list(_text_rows(experiment, sources, tokenizer, left_out))
    count = round(len(spoken) * fraction / (1 - fraction)) if written else 0
    for i in range(count):
      row = written[i * len(written) // count]  # spread over all of them, whatever the share
      yield Row({**row.tokens, 'ctc_labels': np.zeros(0, np.int32)})


def _speech_rows(experiment, sources, tokenizer, left_out) -> Iterator[Row]:
  """Spoken questions, with the transcription of the question for CTC."""
  data, ids = experiment.data, experiment.model.special_ids
  system = tokenizer.encode(experiment.model.system_message)
  lengths, what, limit = (
      ('state_lengths', 'states', data.max_states) if data.cached_states else ('audio_lengths', 'samples', max_samples(experiment, data.max_states)))
  for number, source in enumerate(sources):
    for i in range(len(source)):
      record = source[i]
      for turn, question, answer in question_pairs(schema.text_turns(record)):
        length = int(record[lengths][turn])
        if not (question['text'] and answer['text'] and length):
          left_out['without text or speech'] += 1
        elif length > limit:
          left_out[f'over {limit} {what}'] += 1
        else:
          heard = tokenizer.encode(question['text'])
          tokens = rows.question_row(ids, system, heard, tokenizer.encode(answer['text']), audio=True)
          tokens['ctc_labels'] = np.asarray(heard, np.int32)
          if _fits(tokens, data, left_out):
            states = length if data.cached_states else data.max_states - (limit - length) // HOP
            yield Row(tokens, number, i, turn, states)


def _codec_rows(experiment, sources, tokenizer, left_out) -> Iterator[Row]:
  """Every spoken assistant turn: its text and its unit words."""
  model, profile = experiment.model, prompts.get_profile(experiment.model.profile)
  for source in sources:
    for i in range(len(source)):
      for turn in schema.decode(source[i]).turns:
        if turn.role != 'assistant':
          continue
        if not turn.text or not len(turn.unit_words):
          left_out['without text or unit words'] += 1
          continue
        tokens = rows.text_to_codec_row(
            model.special_ids, profile, tokenizer.encode(turn.text), turn.unit_words, model.llm.vocab_size)
        if _fits(tokens, experiment.data, left_out):
          yield Row(tokens)


def _clip_rows(experiment, sources, tokenizer, left_out) -> Iterator[Row]:
  """Clips for the vocoder, each as many times as a segment fits into it: a long clip is not heard less than a short one."""
  del tokenizer
  for number, source in enumerate(sources):
    for i in range(len(source)):
      record = source[i]
      for turn, (frames, samples) in enumerate(zip(record['unit_lengths'], record['audio_lengths'])):
        if not frames or not samples:
          left_out['without units or audio'] += 1
          continue
        for _ in range(max(1, round(int(frames) / experiment.data.segment_frames))):
          yield Row({}, number, i, turn)


_SELECTORS = {'text': _text_rows, 's2t': _question_rows, 't2c': _codec_rows, 'echo': _question_rows, 'vocoder': _clip_rows}


def token_sizes(data: DataConfig) -> dict[str, tuple[int, str]]:
  """Static size of each token array, and the field of DataConfig that sets it."""
  return {'input_ids': (data.max_tokens, 'max_tokens'), 'labels': (data.max_tokens, 'max_tokens'),
          'ctc_labels': (data.max_ctc_labels, 'max_ctc_labels')}


def token_fills(experiment: ExperimentConfig) -> dict[str, int]:
  """What each token array is filled up with."""
  return {'input_ids': experiment.model.special_ids.pad, 'labels': IGNORE, 'ctc_labels': IGNORE}


def _fits(tokens: Arrays, data: DataConfig, left_out: collections.Counter) -> bool:
  """Whether every array fits its size; if not, counts the first that does not."""
  for name, values in tokens.items():
    size, field = token_sizes(data)[name]
    if len(values) > size:
      left_out[f'over {field} = {size}'] += 1
      return False
  return True
