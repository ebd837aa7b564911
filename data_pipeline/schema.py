"""One schema for every data set: conversations of turns, each with text and whatever has been
computed from it so far.

A record is a flat dict of columns. All columns are always present; a missing part is empty. Arrays
of single turns are stored as one concatenated array plus a length per turn. A data set that keeps
sound files encoded has two more columns and decodes when a record is read. A derived data set
leaves its audio where it is: `audio_lengths` says how long it is, `audio` is empty
(`dataset.WithAudio`).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import inspect
import json
import re
from typing import Any

import numpy as np

from echox_jax import audio as audio_io
from echox_jax.errors import AudioError, DataError

ROLES = ('user', 'assistant')
ASR = 'asr'  # category of transcribed speech: the user says what the assistant writes down


def _none(dtype: type) -> Any:
  return dataclasses.field(default_factory=lambda: np.zeros(0, dtype), repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
  """One utterance of one side.

  Attributes:
    role: `user` or `assistant`.
    text: the words.
    speaker: name of the voice; empty without audio.
    language: language code.
    source: where the turn comes from.
    category: a label for scores by kind.
    references: answers that count as right (assistant turns).
    audio: int16[samples], 16 kHz mono.
    recording: uint8[bytes], a sound file that can be stored in place of `audio`, which is then
      decoded from it when the record is read.
    units: int32[frames], speech units at 50 Hz, repeats kept.
    unit_words: int32[words], ids in the unit vocabulary, from 0.
    states: float16[frames,D], cached output of the frozen speech encoder.
  """

  role: str
  text: str = ''
  speaker: str = ''
  language: str = 'en'
  source: str = ''
  category: str = ''
  references: tuple[str, ...] = ()
  audio: np.ndarray = _none(np.int16)
  recording: np.ndarray = _none(np.uint8)
  units: np.ndarray = _none(np.int32)
  unit_words: np.ndarray = _none(np.int32)
  states: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 1), np.float16), repr=False
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """A conversation; its `id` is unique in its split."""

  id: str
  turns: tuple[Turn, ...]


TEXT_FIELDS = ('role', 'text', 'speaker', 'language', 'source', 'category', 'references')
# column of values, column of lengths, field of Turn, dtype
_ARRAYS = (
  ('audio', 'audio_lengths', 'audio', np.int16),
  ('units', 'unit_lengths', 'units', np.int32),
  ('unit_words', 'unit_word_lengths', 'unit_words', np.int32),
  ('states', 'state_lengths', 'states', np.float16),
)
# only in data sets that store encoded audio
_RECORDINGS = ('recordings', 'recording_lengths', 'recording', np.uint8)
ARRAYS = tuple(row[2] for row in _ARRAYS)  # fields of Turn that hold arrays after reading
LENGTHS = tuple(row[1] for row in _ARRAYS)  # columns of the lengths of each turn's arrays
COLUMNS = ('id', 'turns', *(name for row in _ARRAYS for name in row[:2]))
RECORDING_COLUMNS = _RECORDINGS[:2]
AUDIO_COLUMNS = (*_ARRAYS[0][:2], *RECORDING_COLUMNS)


def state_width(example: Example) -> int:
  """Width D of the states of `example`; 0 if no turn has states."""
  return max((turn.states.shape[1] for turn in example.turns if len(turn.states)), default=0)


def encode(
  example: Example, *, width: int | None = None, keep_encoded: bool = False
) -> dict[str, Any]:
  """Example -> record.

  Args:
    example: the conversation.
    width: D of the `states` column; by default that of the example, or 1 if it has no states.
    keep_encoded: whether the record has the columns `RECORDING_COLUMNS`, which hold a turn's
      recording instead of its audio.

  Returns:
    dict of the columns `COLUMNS`: `id` and `turns` str, `audio` int16[S], `units` and `unit_words`
    int32[N], `states` float16[F,D], and int32[turns] lengths of each; `audio_lengths` counts
    decoded samples in either case.

  Raises:
    DataError: an unknown role, or arrays of the wrong rank or width.
  """
  if not example.turns:
    raise DataError(f'example {example.id!r} has no turns: give it at least one.')
  width = width or state_width(example) or 1
  texts = []
  for turn in example.turns:
    if turn.role not in ROLES:
      raise DataError(
        f'example {example.id!r} has a turn of role {turn.role!r}: use one of {", ".join(ROLES)}.'
      )
    texts.append({field: getattr(turn, field) for field in TEXT_FIELDS})
  record = {'id': example.id, 'turns': json.dumps(texts, ensure_ascii=False)}
  for column, lengths, field, dtype in (*_ARRAYS, *([_RECORDINGS] if keep_encoded else [])):
    parts = [
      _checked(example.id, field, getattr(turn, field), dtype, width) for turn in example.turns
    ]
    sizes = np.asarray([len(part) for part in parts], np.int32)
    if keep_encoded and field == 'audio':
      parts = [
        part[:0] if len(turn.recording) else part for part, turn in zip(parts, example.turns)
      ]
    record[column], record[lengths] = np.concatenate(parts), sizes
  return record


def decode(record: Mapping[str, Any]) -> Example:
  """Record (as `encode` makes it, or as it is read back with text as bytes) -> Example.

  Raises:
    DataError: a column is missing, or lengths do not fit their arrays.
  """
  missing = [column for column in COLUMNS if column not in record]
  if missing:
    raise DataError(
      f'a record lacks the columns {", ".join(missing)}: write it with '
      'data_pipeline.dataset.write_dataset.'
    )
  name = _text(record['id'])
  texts = json.loads(_text(record['turns']))
  encoded = (
    np.asarray(record[RECORDING_COLUMNS[1]])
    if RECORDING_COLUMNS[1] in record
    else np.zeros(len(texts), np.int32)
  )
  parts = {}
  for column, lengths, field, _ in (*_ARRAYS, *([_RECORDINGS] if encoded.any() else [])):
    values, sizes = np.asarray(record[column]), np.asarray(record[lengths])
    if len(sizes) == len(encoded) and field == 'audio':
      sizes = np.where(encoded > 0, 0, sizes) if len(values) else np.zeros_like(sizes)
    if len(sizes) != len(texts) or sizes.sum() != len(values):
      raise DataError(
        f'record {name!r} is damaged: {lengths} does not fit {column}; write the data set again.'
      )
    parts[field] = np.split(values, np.cumsum(sizes)[:-1])
  recordings = parts.pop('recording', [])
  for i in np.flatnonzero(encoded):
    parts['audio'][i] = _decoded(name, recordings[i], record['audio_lengths'][i])
  turns = []
  for i, text in enumerate(texts):
    arrays = {field: values[i] for field, values in parts.items()}
    turns.append(Turn(**{**text, 'references': tuple(text['references'])}, **arrays))
  return Example(name, tuple(turns))


def text_turns(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
  """Only the text fields of a record's turns: a list of dicts with the text fields of `Turn`."""
  return json.loads(_text(record['turns']))


def decode_texts(record: Mapping[str, Any]) -> Example:
  """A record, or only its `id` and `turns` -> Example without any arrays."""
  return Example(
    _text(record['id']),
    tuple(Turn(**{**text, 'references': tuple(text['references'])}) for text in text_turns(record)),
  )


def json_schema() -> dict[str, Any]:
  """The JSON schema (draft 2020-12) of a record, derived from the classes above.

  `x-dtype` and `x-shape` give the numpy dtype and shape of arrays. `turns` is JSON text; its own
  schema is its `contentSchema`.
  """
  about = dict(re.findall(r'(?m)^  (\w+): (.+)$', inspect.getdoc(Turn)))
  texts = {field: {'type': 'string', 'description': about[field]} for field in TEXT_FIELDS}
  texts['role']['enum'] = list(ROLES)
  texts['references'] = {
    'type': 'array',
    'items': {'type': 'string'},
    'description': about['references'],
  }
  columns = {
    'id': {'type': 'string', 'description': 'unique in its split'},
    'turns': {
      'type': 'string',
      'contentMediaType': 'application/json',
      'description': 'the text side of the turns, in order',
      'contentSchema': {'type': 'array', 'minItems': 1, 'items': _object(texts)},
    },
  }
  for column, lengths, field, dtype in (*_ARRAYS, _RECORDINGS):
    shape = re.search(r'\[(.+?)\]', about[field])[1].split(',')
    values = (
      {'type': 'number'}
      if np.issubdtype(dtype, np.floating)
      else {
        'type': 'integer',
        'minimum': int(np.iinfo(dtype).min),
        'maximum': int(np.iinfo(dtype).max),
      }
    )
    for _ in shape:
      values = {'type': 'array', 'items': values}
    columns[column] = {
      **values,
      'x-dtype': np.dtype(dtype).name,
      'x-shape': shape,
      'description': f'of all turns, one after another: {about[field]}',
    }
    columns[lengths] = {
      'type': 'array',
      'items': {'type': 'integer', 'minimum': 0},
      'x-dtype': 'int32',
      'x-shape': ['turns'],
      'description': f'how much of {column} belongs to each turn; 0 = none',
    }
  return {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'title': 'Example',
    **_object(columns, required=COLUMNS),
  }


def _object(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
  return {
    'type': 'object',
    'properties': properties,
    'required': list(required or properties),
    'additionalProperties': False,
  }


def _decoded(name: str, recording: np.ndarray, samples: int) -> np.ndarray:
  try:
    audio = audio_io.to_int16(audio_io.decode(recording.tobytes()))
  except AudioError as error:
    raise DataError(f'record {name!r} is damaged ({error}): write the data set again.') from error
  if len(audio) != samples:
    raise DataError(
      f'record {name!r} gives {len(audio)} samples where {samples} were written: '
      'write the data set again.'
    )
  return audio


def _checked(name: str, field: str, values: np.ndarray, dtype: type, width: int) -> np.ndarray:
  values = np.asarray(values, dtype)
  if field == 'states':
    values = values if len(values) else np.zeros((0, width), dtype)
    if values.ndim == 2 and values.shape[1] == width:
      return values
    raise DataError(
      f'example {name!r} has states of shape {values.shape}, not [frames,{width}]: '
      'use one speech encoder for all.'
    )
  if values.ndim != 1:
    raise DataError(f'example {name!r} has {field} of shape {values.shape}: give one dimension.')
  return values


def _text(value: str | bytes) -> str:
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)
