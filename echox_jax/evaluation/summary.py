"""The scores of an evaluation, made from what its folder holds: no model and no judge is needed.

  T2T  written question -> written answer          T2S  written question -> spoken answer
  S2T  spoken question  -> written answer          S2S  spoken question  -> spoken answer

A spoken answer is scored as the judge hears it.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

import numpy as np

from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.evaluation import agreement, choice, intervals, judge, listening, questions, rules
from echox_jax.evaluation import store as store_lib
from echox_jax.evaluation.normalise import normalise
from echox_jax.evaluation.questions import Question
from echox_jax.evaluation.store import SPOKEN, WRITTEN, Store

WAYS = ('T2T', 'T2S', 'S2T', 'S2S')
GAPS = (('T2T', 'S2S'), ('T2T', 'S2T'), ('T2T', 'T2S'), ('S2T', 'S2S'))
_HEARD = 'T2T', 'S2T'  # what hearing changes in a written answer
_LENGTHS = (4, 9, 19, 39)  # words of an answer: up to 4, 5 to 9, ...


@dataclasses.dataclass(frozen=True)
class Said:
  """One answer of one way.

  Attributes:
    text: the written answer, or what the judge heard.
    marks: points by rule.
    right: whether it counts as right; None = no rule decides it.
    edits, words: of what was heard against the model's own text; 0 for written answers.
    phonemes: whether the judge hears phonemes, which are then edited and counted.
    quality: how good it sounds, if that was scored.
  """

  text: str
  marks: rules.Marks
  right: bool | None
  edits: int = 0
  words: int = 0
  phonemes: bool = False
  quality: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """A question with its answers.

  Attributes:
    question: the question.
    said: way -> answer.
    answers: how it was asked -> row of the store.
  """

  question: Question
  said: Mapping[str, Said]
  answers: Mapping[str, Mapping[str, Any]]


def read_rows(store: Store, judge_name: str, quality: str | None = None) -> list[Row]:
  """All questions with their answers and marks.

  Args:
    store: a finished evaluation.
    judge_name: whose transcripts count.
    quality: name of a score of quality, if there is one.

  Raises:
    DataError: parts of the evaluation are missing.
  """
  answers = _by_question(store, store_lib.ANSWERS)
  speaks = any(way[2] == 'S' for way in store.ways)
  heard = _by_question(store, listening.heard_by(judge_name)) if speaks else {}
  rated = _by_question(store, listening.rated_by(quality)) if speaks and quality else {}
  first = {}  # a text is asked in writing once
  rows = []
  for number, question in enumerate(store.questions):
    asked_as = {SPOKEN: number, WRITTEN: first.setdefault(question.text, number)}
    own = {how: answers[how, i] for how, i in asked_as.items() if (how, i) in answers}
    said = {}
    for way in store.ways:
      how = SPOKEN if way[0] == 'S' else WRITTEN
      place = how, asked_as[how]
      if way[2] == 'T':
        said[way] = _written(store, question, own[how])
      else:
        said[way] = _heard(store, question, own[how], heard[place], rated.get(place))
    rows.append(Row(question, said, own))
  return rows


def summarise(store: Store, rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
  """The figures of an evaluation, with 95 % intervals; `about`: entries to be added."""
  unscored = collections.Counter(name for row in rows for name in rules.unscored(row.question))
  return {
    'set': store.settings['name'],
    'task': store.task,
    'rule': rules.RULES[store.task][0],
    'questions': len(rows),
    'ways': {way: _scores(rows, way) for way in store.ways},
    'gaps': {
      f'{one} - {other}': _rounded(gap(rows, one, other, rules.RULES[store.task][0]))
      for one, other in GAPS
      if {one, other} <= set(store.ways)
    },
    'agreement': {
      f'{one} - {other}': _agreement(rows, one, other)
      for one, other in GAPS
      if {one, other} <= set(store.ways)
    },
    'speech': _speech(rows),
    'times': _times([a['times'] for a in _answers(rows) if 'times' in a]),
    'by_category': _groups(rows, store, lambda row: row.question.category),
    'by_voice': _groups(rows, store, lambda row: row.question.voice),
    'by_length': _groups(rows, store, _length),
    'counts': {
      'refused': sum(a['refused'] is not None for row in rows for a in row.answers.values()),
      'silent': _silent(store, rows),
      'overflow': _overflow(rows),
      'unscored_instructions': dict(unscored),
      'unread_choices': _unread(store, rows),
    },
    **about,
  }


def gap(rows: Sequence[Row], one: str, other: str, rule: str) -> intervals.Estimate | None:
  """How much more often the way `one` is right than `other`, over the same questions."""
  return difference(rows, [row.said[one] for row in rows], [row.said[other] for row in rows], rule)


def difference(
  rows: Sequence[Row], ones: Sequence[Said], others: Sequence[Said], rule: str
) -> intervals.Estimate | None:
  """How many more points answers have than other answers to the same questions, in a rule."""
  points = [a.marks[rule][0] - b.marks[rule][0] for a, b in zip(ones, others)]
  return intervals.ratio(points, [a.marks[rule][1] for a in ones], _clusters(rows))


def _agreement(rows: Sequence[Row], one: str, other: str) -> dict[str, Any]:
  """How alike the answers of two ways are, whether right or wrong: `rouge_l`, and the share `alike`
  of questions whose ROUGE-L is at least `agreement.ALIKE`.
  """
  found = [agreement.rouge_l(row.said[one].text, row.said[other].text) for row in rows]
  alike, clusters = [float(value >= agreement.ALIKE) for value in found], _clusters(rows)
  return {
    'rouge_l': _rounded(intervals.mean(found, clusters)),
    'alike': _rounded(intervals.mean(alike, clusters)),
  }


def _by_question(store: Store, kind: str) -> dict[tuple[str, int], dict[str, Any]]:
  missing = store.unfinished(kind)
  if missing:
    raise DataError(
      f'{store.folder} lacks {len(missing)} of {len(store.batches)} batches of {kind!r}: run the '
      'same evaluation again, it goes on where it was.'
    )
  return {
    (row['asked'], row['number']): row
    for batch in range(len(store.batches))
    for row in store.read(kind, batch)
  }


def _written(store: Store, question: Question, answer: Mapping[str, Any]) -> Said:
  marks = rules.marks(store.task, question, answer['text'])
  return Said(answer['text'], marks, rules.is_right(store.task, marks))


def _heard(
  store: Store,
  question: Question,
  answer: Mapping[str, Any],
  heard: Mapping[str, Any],
  rated: Mapping[str, Any] | None,
) -> Said:
  phonemes = 'said' in heard
  if phonemes:
    marks = rules.phoneme_marks(heard['heard'], heard['references'])
    edits, words = judge.word_errors(heard['said'], heard['heard'])
    right = bool(marks['exist_match'][0])
  else:
    marks = rules.marks(store.task, question, heard['heard'])
    edits, words = judge.word_errors(normalise(answer['text']), normalise(heard['heard']))
    right = rules.is_right(store.task, marks)
  return Said(heard['heard'], marks, right, edits, words, phonemes, rated and rated['score'])


def _scores(rows: Sequence[Row], way: str) -> dict[str, Any]:
  """All rules of a way; for spoken answers their word (or phoneme) error rate and quality too."""
  said, clusters = [row.said[way] for row in rows], _clusters(rows)
  found = {
    rule: _rounded(
      intervals.ratio([s.marks[rule][0] for s in said], [s.marks[rule][1] for s in said], clusters)
    )
    for rule in said[0].marks
  }
  if way[2] == 'S':
    found['per' if said[0].phonemes else 'wer'] = _rounded(
      intervals.ratio([s.edits for s in said], [s.words for s in said], clusters)
    )
    rated = [(s.quality, name) for s, name in zip(said, clusters) if s.quality is not None]
    if rated:
      found['quality'] = _rounded(intervals.mean(*zip(*rated)))
  return found


def _groups(
  rows: Sequence[Row], store: Store, label: Callable[[Row], str]
) -> dict[str, dict[str, Any]]:
  """Scores by a label; none where all rows have the same."""
  groups = collections.defaultdict(list)
  for row in rows:
    groups[label(row)].append(row)
  if len(groups) < 2:
    return {}
  found = {}
  for name in sorted(groups, key=_place):
    found[name or 'none'] = {'questions': len(groups[name])}
    for way in store.ways:
      found[name or 'none'][way] = _scores(groups[name], way)
    if set(_HEARD) <= set(store.ways):
      found[name or 'none']['agreement'] = _agreement(groups[name], *_HEARD)
  return found


def _place(name: str) -> tuple[int, str]:
  """Names that begin with a number come first, by it."""
  begins = re.match(r'\d+', name)
  return (0, f'{int(begins[0]):09}') if begins else (1, name)


def _length(row: Row) -> str:
  """How many words the written answer has, in steps."""
  answer = row.answers.get(SPOKEN) or row.answers[WRITTEN]
  count, least = len(answer['text'].split()), 0
  for most in _LENGTHS:
    if count <= most:
      return f'{least}-{most} words'
    least = most + 1
  return f'{least}+ words'


def _speech(rows: Sequence[Row]) -> dict[str, float | None]:
  """How densely spoken answers are filled, over all that sound."""
  spoken = [a for a in _answers(rows) if a['audio_s']]
  seconds = sum(a['audio_s'] for a in spoken)
  slices = float(np.mean([a['slices'] for a in spoken])) if spoken else None
  totals = {
    'units': sum(a['units'] for a in spoken),
    'unit_words': sum(a['unit_words'] for a in spoken),
    'words': sum(len(a['text'].split()) for a in spoken),
  }
  return {
    'seconds': round(seconds, 1),
    'slices_per_answer': None if slices is None else round(slices, 2),
  } | {
    f'{name}_per_second': round(total / seconds, 3) if seconds else None
    for name, total in totals.items()
  }


def _times(times: Sequence[Mapping[str, float | None]]) -> dict[str, float | int | None]:
  """Medians over the questions that were asked alone and answered in speech, and how many of them
  began to sound before the last word of the text was there.
  """
  spoken = [own for own in times if own['first_audio_s'] is not None]
  if not spoken:
    none = ('first_audio_s', 'real_time_factor', 'sound_before_text_ended')
    return {'timed_questions': 0} | dict.fromkeys(none)
  first = np.median([own['first_audio_s'] for own in spoken])
  factor = np.median([own['finished_s'] / own['audio_s'] for own in spoken])
  before = np.mean([own['first_audio_s'] < own['text_s'] for own in spoken])
  return {
    'timed_questions': len(spoken),
    'first_audio_s': round(float(first), 4),
    'real_time_factor': round(float(factor), 4),
    'sound_before_text_ended': round(float(before), 4),
  }


def _silent(store: Store, rows: Sequence[Row]) -> int:
  """Answers that were to be spoken, but have no sound."""
  how = {SPOKEN if way[0] == 'S' else WRITTEN for way in store.ways if way[2] == 'S'}
  return sum(a['asked'] in how and not a['audio_s'] for a in _answers(rows))


def _unread(store: Store, rows: Sequence[Row]) -> dict[str, int]:
  """Answers to a multiple choice that give no letter, by way."""
  if store.task != questions.CHOICE:
    return {}
  return {way: sum(choice.letter(row.said[way].text) is None for row in rows) for way in store.ways}


def _overflow(rows: Sequence[Row]) -> dict[str, int]:
  found = collections.Counter()
  for answer in _answers(rows):
    found.update(answer['overflow'])
  return dict(found)


def _answers(rows: Iterable[Row]) -> list[Mapping[str, Any]]:
  """Every answer of the store once."""
  found = {(a['asked'], a['number']): a for row in rows for a in row.answers.values()}
  return list(found.values())


def _clusters(rows: Sequence[Row]) -> list[str]:
  """Questions of the same words belong together, whoever asks; without words each stands alone."""
  return [row.question.text or row.question.id for row in rows]


def _rounded(estimate: intervals.Estimate | None) -> dict[str, Any] | None:
  return None if estimate is None else estimate.rounded()


def write(store: Store, scores: Mapping[str, Any], rows: Sequence[Row]) -> None:
  """Writes `scores.json`, and `scores.jsonl` with a line for each question."""
  lines = [
    json.dumps(
      row.question.row()
      | {
        'said': {way: own.text for way, own in row.said.items()},
        'right': {way: own.right for way, own in row.said.items()},
      },
      ensure_ascii=False,
    )
    for row in rows
  ]
  storage.atomic_write_text(store.folder / store_lib.ROWS, '\n'.join(lines) + '\n')
  storage.atomic_write_json(store.folder / store_lib.SCORES, scores)
