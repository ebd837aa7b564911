"""The columns of public question sets.

                                   question    answers                  sound
TwinkStart/llama-questions         Questions   Answer                   audio
TwinkStart/speech-web-questions    question    answers                  audio
TwinkStart/speech-triavia-qa       question    answer (a list)          audio
fixie-ai/llama-questions,          question    answer or answers        audio, question_audio
  spoken-web-questions, trivia_qa-audio
OpenAudioBench llama_questions     Questions   Answer                   audio_filename
OpenAudioBench web_questions       question    answers (;)              audio_filename
OpenAudioBench trivia_qa           question    answer_normalized_value, audio_filename
                                               answer_normalized_aliases (,)
VoiceBench sd-qa, mmsu, openbookqa prompt      reference                audio
VoiceBench ifeval                  prompt      instruction_id_list,     audio
                                               kwargs
"""

from collections.abc import Mapping
import json
from typing import Any

from data_pipeline.question_sets.tables import SOUND_FILE, Table
from echox_jax.errors import DataError
from echox_jax.evaluation.questions import Question

_TEXT = ('Questions', 'question', 'prompt')
_ANSWERS = ('Answer', 'answer', 'answers', 'reference')
_TRIVIA = ('answer_normalized_value', 'answer_normalized_aliases')
_INSTRUCTIONS = ('instruction_id_list', 'kwargs')
_IDS, _VOICES = ('id', 'key'), ('speaker', 'voice')
_CATEGORIES = ('category', 'subject', 'domain')
# Columns of sets whose answers an LLM judges: AlpacaEval, CommonEval, WildVoice, AdvBench and
# MT-Bench, and of OpenAudioBench AlpacaEval and the reasoning questions.
_JUDGED = ('prompt', 'instruction', 'turns', 'conversation', 'output', SOUND_FILE)
# The tasks of BIG-Bench Hard in VoiceBench, which have rules of their own.
_BBH = ('sports_understanding', 'hyperbaton', 'navigate', 'web_of_lies')


def questions(table: Table) -> list[Question]:
  """The questions of a table.

  Raises:
    DataError: it has another layout, or its answers are judged by an LLM.
  """
  columns = set(table.columns)
  text = _first(_TEXT, columns)
  instructed = columns.issuperset(_INSTRUCTIONS)
  scored = instructed or _first(_ANSWERS, columns) or columns.issuperset(_TRIVIA)
  if not scored and columns.intersection(_JUDGED):
    raise DataError(
      f'{table.name} has no accepted answers (columns {", ".join(table.columns)}): the answers to '
      'such sets are judged by an LLM, which this command does not do; take a set with answers.'
    )
  if not text or not scored or 'audio' not in ' '.join(columns):
    raise DataError(
      f'{table.name} has the columns {", ".join(table.columns)}, which is no layout of a question '
      'set that this command reads: see data_pipeline/question_sets/layouts.py, or list the '
      'questions in a .tsv or .jsonl.'
    )
  identity = _first(_IDS, columns)
  if any(task in str(row.get('id')) for row in table.rows for task in _BBH):
    raise DataError(
      f'{table.name} is BIG-Bench Hard, whose answers are read by rules of its own that this '
      'command does not have: take sd-qa, mmsu, openbookqa or ifeval.'
    )
  return [
    Question(
      str(row[identity]) if identity else f'{number:05}',
      str(row[text] or ''),
      () if instructed else _answers(row),
      row['sound'],
      _label(row, _CATEGORIES),
      _label(row, _VOICES),
      _instructions(row, table.name) if instructed else (),
    )
    for number, row in enumerate(table.rows)
  ]


def _first(names: tuple[str, ...], columns: set[str]) -> str | None:
  return next((name for name in names if name in columns), None)


def _label(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
  name = _first(names, set(row))
  return str(row[name] or '') if name else ''


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Accepted answers, each once: a text, a list, or the answer of TriviaQA with its aliases.

  OpenAudioBench, whose sounds are files, lists several answers in one text.
  """
  if _TRIVIA[0] in row:
    value, aliases = (str(row[name] or '') for name in _TRIVIA)
    return _unique([value, *aliases.split(',')])
  name = _first(_ANSWERS, set(row))
  value = row[name]
  if SOUND_FILE in row and name == 'answers':
    return _unique(str(value or '').split(';'))
  if isinstance(value, dict):
    aliases = [
      alias for kind in ('aliases', 'normalized_aliases') for alias in value.get(kind) or ()
    ]
    return _unique([value.get('value'), *aliases])
  return _unique(value if isinstance(value, list) else [value])


def _unique(values: list[Any]) -> tuple[str, ...]:
  texts = [str(value).strip() for value in values if value is not None]
  return tuple(dict.fromkeys(text for text in texts if text))


def _instructions(row: Mapping[str, Any], name: str) -> tuple[tuple[str, dict[str, Any]], ...]:
  """Names and arguments of the instructions; arguments that are null are left out."""
  names, arguments = row['instruction_id_list'], row['kwargs']
  if isinstance(arguments, str):
    arguments = json.loads(arguments)
  if len(names or ()) != len(arguments or ()) or not names:
    raise DataError(f'{name} has a row whose instructions and kwargs do not match: copy it again.')
  return tuple(
    (one, {key: value for key, value in (own or {}).items() if value is not None})
    for one, own in zip(names, arguments)
  )
