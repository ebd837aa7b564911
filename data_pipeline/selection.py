"""Decides which rows a stage trains on, and which are left out and why. It uses only the tables of
`index.py`, not the records.

A row is a line of numbers: where its turn is, and how long it will be. Its arrays are made when the
row is read, in whichever process reads it.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from data_pipeline import dataset, index, parts, recordings, rows, schema
from data_pipeline.turns import ASSISTANT, USER
from echox_jax import audio as audio_io
from echox_jax import errors, prompts, rates, storage
from echox_jax.prompts import IGNORE
from echox_jax.storage import Path
from echox_jax.tokenizer import Tokenizer, precomputed_tokenizer
from echox_jax.training import layout
from echox_jax.training.experiment import DataConfig, ExperimentConfig

Arrays = dict[str, np.ndarray]

HEARING_STAGES = ('align', 's2t', 'echo')

# Turn `turn` of record `example` of data set number `source`: the question, or the assistant's
# speech; tokens: length of the row's ids; said: number of CTC labels; states: length of its speech
# in speech encoder states, 0 = no speech is heard; answer: hash of the answer's text.
ROW = np.dtype(
  [
    ('source', '<i2'),
    ('example', '<i4'),
    ('turn', '<i2'),
    ('tokens', '<i4'),
    ('said', '<i4'),
    ('states', '<i4'),
    ('answer', '<u8'),
  ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Selection(Sequence):
  """The rows of a stage with random access: `selection[i]` is a dict of unpadded arrays.

  Attributes:
    rows: the rows that were kept, ROW[N].
    sources: the opened data sets.
    make: turns -> arrays.
    left_out: how many rows were left out, by reason.
    spoken: recorded answers, if rows have their unit words.
  """

  rows: np.ndarray
  sources: tuple[Sequence[Mapping[str, Any]], ...]
  make: 'RowMaker'
  left_out: Mapping[str, int]
  spoken: recordings.Recordings | None = None

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int) -> Arrays:
    row = self.rows[i]
    turns = schema.decode(self.sources[row['source']][int(row['example'])]).turns
    arrays = self.make(turns[row['turn'] :], heard=bool(row['states']))
    return arrays | {'unit_words': self.spoken.words(row['answer'])} if self.spoken else arrays

  def name(self, i: int) -> dict[str, Any]:
    """What tells row `i` apart: its `set`, `record` in the set, `turn` and the example's `id`."""
    row = self.rows[i]
    record = self.sources[row['source']][int(row['example'])]
    return {
      'set': self.make.experiment.data.sets[row['source']],
      'record': int(row['example']),
      'turn': int(row['turn']),
      'id': schema.decode(record).id,
    }


@dataclasses.dataclass(frozen=True)
class RowMaker:
  """Makes the arrays of a row. Processes get a copy without the tokenizer and load it themselves.

  Attributes:
    experiment: the job.
    folder: of the tokenizer.
  """

  experiment: ExperimentConfig
  folder: Path

  def __call__(self, turns: Sequence[schema.Turn], *, heard: bool) -> Arrays:
    """The arrays of a row that starts with the first of `turns`; `heard`: whether the question is
    speech.
    """
    first, stage = turns[0], self.experiment.stage
    if stage == 'vocoder':
      return {'units': first.units, 'audio': audio_io.from_int16(first.audio)}
    if stage == 't2c':
      return self.speech(self.tokenizer.encode(first.text), first.unit_words)
    out = {}
    if stage != 'align':  # no LLM reads its rows
      transcript = first.category == schema.ASR
      out = self.question(first.text, turns[1].text, heard=heard, transcript=transcript)
    if stage == 'text':
      return out
    out['ctc_labels'] = np.asarray(self.tokenizer.encode(first.text) if heard else [], np.int32)
    if not heard:
      return out
    return out | (
      {'states': first.states}
      if self.experiment.data.cached_states
      else {'audio': audio_io.from_int16(first.audio)}
    )

  def question(self, question: str, answer: str, *, heard: bool, transcript: bool) -> Arrays:
    """`input_ids` and `labels` of a question and its answer, or of speech and its transcript."""
    written = prompts.TRANSCRIBE if transcript else '' if heard else question
    ids = prompts.encode_question(self._profile, self.tokenizer.encode, written, heard)
    return rows.question_row(
      self.experiment.model.special_ids,
      self._profile,
      self._system,
      ids,
      self.tokenizer.encode(answer),
      audio=heard,
    )

  def speech(self, text: Sequence[int], unit_words: Sequence[int]) -> Arrays:
    """`input_ids` and `labels` of a text and its unit words."""
    model = self.experiment.model
    return rows.text_to_codec_row(
      model.special_ids, self._profile, text, unit_words, model.llm.vocab_size
    )

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Errors as `precomputed_tokenizer`."""
    return precomputed_tokenizer(self.folder)

  @functools.cached_property
  def _profile(self) -> prompts.Profile:
    return prompts.get_profile(self.experiment.model.profile)

  @functools.cached_property
  def _system(self) -> list[int]:
    message = self.experiment.model.system_message
    return prompts.encode_system(self._profile, self.tokenizer.encode, message)

  def __reduce__(self):
    return RowMaker, (self.experiment, self.folder)


def precomputed_dir(workdir: str | Path) -> Path:
  """The folder that precompute writes."""
  return storage.path(workdir) / 'precomputed'


def raw_dir(experiment: ExperimentConfig, workdir: str | Path) -> Path:
  """Folder of the recorded (or synthesised) data sets: the config's `data_dir`, or `data` in the
  working folder.
  """
  return storage.path(experiment.data_dir or storage.path(workdir) / layout.DATA)


def record_cache(data: DataConfig) -> storage.Cache | None:
  """The local copies of data sets in a bucket, as the config has it; None = no copies."""
  if not data.cache_gigabytes:
    return None
  folder = data.cache_folder or storage.cache_folder() / 'records'
  return storage.Cache(folder, round(data.cache_gigabytes * 1e9))


def split_name(name: str) -> tuple[str, str]:
  """`questions/train` -> ('questions', 'train').

  Raises:
    ConfigError: the name has another form.
  """
  parts = tuple(name.split('/'))
  if len(parts) != 2 or not all(parts):
    raise errors.ConfigError(
      f'the data set {name!r} is not of the form NAME/SPLIT: write, for instance, questions/train.'
    )
  return parts


def select(experiment: ExperimentConfig, workdir: str | Path) -> Selection:
  """Selects the rows of the stage.

  Stages that need what precompute makes (states, units, unit words) read the precomputed sets. The
  others read the raw sets.

  Raises:
    ConfigError: an unknown stage, no data sets, or targets that no set gives.
    DataError: a data set or the tokenizer is missing, or no row is left.
  """
  stage, data, derived = experiment.stage, experiment.data, precomputed_dir(workdir)
  if stage not in _SELECTORS:
    raise errors.ConfigError(f'stage {stage!r} is unknown: use one of {", ".join(_SELECTORS)}.')
  if not data.sets:
    raise errors.ConfigError(
      f'stage {stage!r} has no data: name at least one data set in data.sets.'
    )
  raw = stage == 'text' or (stage in HEARING_STAGES and not data.cached_states)
  folder, names = (
    raw_dir(experiment, workdir) if raw else derived,
    [split_name(name) for name in data.sets],
  )
  sources = tuple(_open(experiment, workdir, folder, name) for name in names)
  make = RowMaker(experiment, derived)
  tokenizer = None if stage == 'vocoder' else derived
  tables = [index.open_table(derived, folder, *name, tokenizer, data.workers) for name in names]
  left_out = collections.Counter()
  kept = _SELECTORS[stage](make, tables, left_out)
  spoken = None
  if data.recordings and stage in ('s2t', 'echo'):
    where = [split_name(name) for name in data.recordings]
    spoken = recordings.open_recordings(derived, where, data.workers, record_cache(data))
    good = _leave_out(left_out, 'without a recorded answer', spoken.lengths(kept['answer']) == 0)
    if says_recordings(experiment):
      limit = data.max_unit_words
      over = spoken.lengths(kept['answer']) > limit
      good = _leave_out(left_out, f'over max_unit_words = {limit}', over, good)
    kept = kept[good]
  if not len(kept):
    reasons = in_words(left_out) or 'the sets have none'
    raise errors.DataError(
      f'no row of {", ".join(data.sets)} is left for stage {stage!r} '
      f'({reasons}): raise the sizes in data or check the sets.'
    )
  if not says_recordings(experiment):
    spoken = None  # they chose the rows, and no row needs their words
  return Selection(kept, sources, make, dict(left_out), spoken)


def says_recordings(experiment: ExperimentConfig) -> bool:
  """Whether the rows of the stage have the unit words of recorded answers.

  Raises:
    ConfigError: they have, but no set of recordings is named.
  """
  wanted = experiment.stage == 'echo' and experiment.train.loss.echo_targets == 'recorded'
  if wanted and not experiment.data.recordings:
    raise errors.ConfigError(
      "train.loss.echo_targets is 'recorded', but data.recordings is empty: name the sets that "
      'hold the recorded answers, such as answers/train.'
    )
  return wanted


def _open(
  experiment: ExperimentConfig, workdir: str | Path, folder: Path, name: tuple[str, str]
) -> Sequence[Mapping[str, Any]]:
  """Opens a set of the stage. The vocoder alone hears the audio of precomputed sets."""
  cache = record_cache(experiment.data)
  if experiment.stage == 'vocoder':
    return dataset.open_with_audio(folder, raw_dir(experiment, workdir), *name, cache)
  return dataset.open_dataset(folder, *name, cache)


def in_words(left_out: Mapping[str, int]) -> str:
  """`96 over max_tokens = 48`: how many rows were left out, and why."""
  return ', '.join(f'{count} {reason}' for reason, count in left_out.items())


def max_samples(experiment: ExperimentConfig, states: int) -> int:
  """Samples of a clip that gives `states` states, including the silence that the encoder adds."""
  return states * rates.UNIT_HOP - round(experiment.model.audio_padding_seconds * rates.SAMPLE_RATE)


def rows_of(count: int, **columns: Any) -> np.ndarray:
  """ROW[count] with the given columns; the other columns are 0."""
  out = np.zeros(count, ROW)
  for name, values in columns.items():
    out[name] = values
  return out


# The selectors: tables of all sets -> ROW[N], in the order of sets, records and turns.


def _text_rows(
  make: 'RowMaker', tables: Sequence[np.ndarray], left_out: collections.Counter
) -> np.ndarray:
  """Text questions: each pair of texts once, however many voices speak it. Transcripts are not
  questions.
  """
  places = [_questions(table) for table in tables]
  questions, answers = (
    np.concatenate([table[at + step] for table, at in zip(tables, places)]) for step in (0, 1)
  )
  source = np.repeat(np.arange(len(tables)), [len(at) for at in places])
  both = questions['text'] * np.uint64(0x9E3779B97F4A7C15) + answers['text']  # combines two hashes
  first = np.sort(np.unique(both, return_index=True)[1])
  first = first[~questions['transcript'][first]]
  source, questions, answers = source[first], questions[first], answers[first]
  fixed = len(make.question('', '', heard=False, transcript=False)['input_ids'])
  found = _rows(source, questions, fixed + questions['tokens'] + answers['tokens'])
  found['answer'] = answers['text']
  good = _leave_out(left_out, 'without text', (questions['text'] == 0) | (answers['text'] == 0))
  return found[_fitting(found, good, make.experiment.data, left_out)]


def _spoken_rows(
  make: 'RowMaker', tables: Sequence[np.ndarray], left_out: collections.Counter
) -> np.ndarray:
  """Spoken questions and transcribed speech of all sets, of which `spoken_share` is taken."""
  share = make.experiment.data.spoken_share
  if not 0 < share <= 1:
    raise errors.ConfigError(f'data.spoken_share is {share}: it must be above 0 and at most 1.')
  spoken = np.concatenate(
    [_speech_rows(make, number, table, left_out) for number, table in enumerate(tables)]
  )
  return spoken[parts.is_chosen(np.arange(len(spoken)), share)]


def _question_rows(
  make: 'RowMaker', tables: Sequence[np.ndarray], left_out: collections.Counter
) -> np.ndarray:
  """Spoken questions, of which the share `written_fraction` is written instead: the LLM must not
  unlearn reading while it learns to hear.
  """
  fraction = make.experiment.data.written_fraction
  if not 0 <= fraction < 1:
    raise errors.ConfigError(
      f'data.written_fraction is {fraction}: it must be at least 0 and below 1.'
    )
  spoken = _spoken_rows(make, tables, left_out)
  written = _text_rows(make, tables, left_out) if fraction else spoken[:0]
  count = round(len(spoken) * fraction / (1 - fraction)) if len(written) else 0
  # evenly spaced over all written questions
  return np.concatenate([spoken, written[np.arange(count) * len(written) // max(count, 1)]])


def _speech_rows(
  make: 'RowMaker', number: int, table: np.ndarray, left_out: collections.Counter
) -> np.ndarray:
  """Spoken questions and transcribed speech, with the spoken words for CTC."""
  data = make.experiment.data
  length, what, limit = (
    ('states', 'states', data.max_states)
    if data.cached_states
    else ('audio', 'samples', max_samples(make.experiment, data.max_states))
  )
  at = _questions(table)
  questions, answers = table[at], table[at + 1]
  lengths, transcript = questions[length], questions['transcript']
  # nobody answers in stage `align`
  tokens, silent = np.zeros(len(at), int), np.zeros(len(at), bool)
  if make.experiment.stage != 'align':
    silent = answers['text'] == 0
    fixed = [
      len(make.question('', '', heard=True, transcript=kind)['input_ids']) for kind in (False, True)
    ]
    tokens = np.where(transcript, fixed[1], fixed[0]) + answers['tokens']
  found = _rows(number, questions, tokens)
  found['said'], found['answer'] = questions['tokens'], answers['text']
  found['states'] = (
    lengths if data.cached_states else data.max_states - (limit - lengths) // rates.UNIT_HOP
  )
  good = _leave_out(
    left_out, 'without text or speech', (questions['text'] == 0) | silent | (lengths == 0)
  )
  good = _leave_out(left_out, f'over {limit} {what}', lengths > limit, good)
  return found[_fitting(found, good, data, left_out)]


def _codec_rows(
  make: 'RowMaker', tables: Sequence[np.ndarray], left_out: collections.Counter
) -> np.ndarray:
  """Every spoken assistant turn: its text and its unit words."""
  fixed, kept = len(make.speech((), ())['input_ids']), []
  for number, table in enumerate(tables):
    said = table[table['role'] == ASSISTANT]
    found = _rows(number, said, fixed + said['tokens'] + said['unit_words'])
    good = _leave_out(
      left_out, 'without text or unit words', (said['text'] == 0) | (said['unit_words'] == 0)
    )
    kept.append(found[_fitting(found, good, make.experiment.data, left_out)])
  return np.concatenate(kept)


def _clip_rows(
  make: 'RowMaker', tables: Sequence[np.ndarray], left_out: collections.Counter
) -> np.ndarray:
  """Clips for the vocoder, each repeated as many times as a segment fits into it. So a long clip is
  heard as often per second as a short one.
  """
  kept = []
  for number, table in enumerate(tables):
    good = _leave_out(
      left_out, 'without units or audio', (table['units'] == 0) | (table['audio'] == 0)
    )
    times = np.maximum(
      1, np.rint(table['units'][good] / make.experiment.data.segment_frames)
    ).astype(int)
    kept.append(np.repeat(_rows(number, table[good], 0), times))
  return np.concatenate(kept)


_SELECTORS: Mapping[str, Callable[..., np.ndarray]] = {
  'text': _text_rows,
  'align': _spoken_rows,
  's2t': _question_rows,
  't2c': _codec_rows,
  'echo': _question_rows,
  'vocoder': _clip_rows,
}


def _questions(table: np.ndarray) -> np.ndarray:
  """int[Q]: table rows of user turns that an assistant turn of the same record follows."""
  role, example = table['role'], table['example']
  return np.flatnonzero(
    (role[:-1] == USER) & (role[1:] == ASSISTANT) & (example[:-1] == example[1:])
  )


def _rows(source: int | np.ndarray, turns: np.ndarray, tokens: int | np.ndarray) -> np.ndarray:
  return rows_of(
    len(turns), source=source, example=turns['example'], turn=turns['turn'], tokens=tokens
  )


def _leave_out(
  left_out: collections.Counter, reason: str, bad: np.ndarray, good: np.ndarray | None = None
) -> np.ndarray:
  """Counts the `bad` rows among the `good` (None = all); returns the rows still good, bool[N]."""
  bad = bad if good is None else bad & good
  if bad.any():
    left_out[reason] += int(bad.sum())
  return ~bad if good is None else good & ~bad


def _fitting(
  found: np.ndarray, good: np.ndarray, data: DataConfig, left_out: collections.Counter
) -> np.ndarray:
  """bool[N]: the good rows whose arrays fit; a row that does not fit counts under one reason."""
  for column, array in (('tokens', 'input_ids'), ('said', 'ctc_labels')):
    size, field = token_sizes(data)[array]
    good = _leave_out(left_out, f'over {field} = {size}', found[column] > size, good)
  return good


def token_sizes(data: DataConfig) -> dict[str, tuple[int, str]]:
  """Static size of each token array, and the field of DataConfig that sets it."""
  return {
    'input_ids': (data.max_tokens, 'max_tokens'),
    'labels': (data.max_tokens, 'max_tokens'),
    'ctc_labels': (data.max_ctc_labels, 'max_ctc_labels'),
    'unit_words': (data.max_unit_words, 'max_unit_words'),
  }


def token_fills(experiment: ExperimentConfig) -> dict[str, int]:
  """Padding value of each token array."""
  pad = experiment.model.special_ids.pad
  return {'input_ids': pad, 'labels': IGNORE, 'ctc_labels': IGNORE, 'unit_words': -1}
