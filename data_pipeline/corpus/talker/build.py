"""The corpus of the talker: everyday questions with the answers of a text model, and sentences to
be written down; and a few questions that nobody can understand.

It is two lists in `DATA/talker`, `exchanges.jsonl` and `alignment.jsonl`, in which packaged voices
stand in place of recordings. `ingest` reads them in as it reads any list: it speaks them shard by
shard and goes on where it was. So the sets are `questions` (train, dev, test), `answers` (train,
dev, holdout) and `alignment_questions` (train, dev, test), whose answers repeat what is said.

What means the same is in one split, and two voices are in no split of training.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import itertools
import json
import sys
from typing import Any

from data_pipeline import ingest
from data_pipeline.corpus import voices
from data_pipeline.corpus.talker import (
  answers,
  casting,
  everyday,
  inaudible,
  read_aloud,
  sources,
  texts,
)
from data_pipeline.corpus.talker.read_aloud import Spoken
from data_pipeline.schema import ASR
from data_pipeline.shards import SharedWork
from echox_jax import errors, storage
from echox_jax.storage import Path

NAME = 'talker'
ALIGNMENT = 'alignment_'
# of what the answer voice says beside the answers, in the whole corpus
ALONE_HOURS = {'sentences': 8.0, 'parts': 8.0, 'words': 8.0, 'numbers': 2.0}
_SPLITS = ('train', 'dev', 'test')
# of the texts, which go where the corpus goes; that of the text model is its own
_LICENCES = {everyday.NAME: 'Apache-2.0'} | {s.name: s.licence for s in sources.SOURCES}


@dataclasses.dataclass(frozen=True)
class Options:
  """What decides about the corpus.

  Attributes:
    llm: model folder of the text model.
    share: of everything, above 0 and at most 1: a smaller corpus is a part of a larger one.
    sentences: share of the sentences to be written down, at least `share`; None = that. They cost
      no answers. Questions that are not answered are among them.
    tests: share of the test questions, at least `share`; None = that.
    spoken: how many answers are spoken.
    alone: what the answer voice says beside the answers (`read_aloud`), by kind; a kind that is not
      there has `share` of its `ALONE_HOURS`.
    seed: of the splits, voices and speeds.
  """

  llm: Path
  share: float = 1.0
  sentences: float | None = None
  tests: float | None = None
  spoken: Spoken = Spoken(hours=20.0)
  alone: Mapping[str, Spoken] = dataclasses.field(default_factory=dict)
  seed: int = 0

  @property
  def share_of_sentences(self) -> float:
    return self.share if self.sentences is None else self.sentences

  def beside(self, kind: str) -> Spoken:
    """How much of a kind the answer voice says beside the answers."""
    return self.alone.get(kind) or Spoken(ALONE_HOURS[kind] * self.share)

  @property
  def share_of_tests(self) -> float:
    return self.share if self.tests is None else self.tests


def build(
  data_dir: Path,
  options: Options,
  *,
  limits: ingest.Limits,
  sharing: ingest.Sharing,
  progress: bool = False,
) -> dict[str, Any]:
  """Makes the corpus in `data_dir`, in this process and `sharing.workers` others.

  Returns:
    counts of questions by source and split, of answers and sentences, `sets` as `ingest.build`, and
    licences by source; also in `DATA/talker/about.json`.

  Raises:
    DataError: a package of texts is not installed.
    MissingExtraError: the answer voice is not installed.
    CheckpointError: there is no model in `options.llm`.
  """
  cast = check(options.llm)
  if cast.lacking:
    print(voices.describe_lack(cast), file=sys.stderr)
  folder = storage.make_folder(data_dir / NAME)
  exchanges, alignment = write_lists(folder, data_dir, options, cast, progress)
  read_in = {}
  for path, prefix in ((folder / 'exchanges.jsonl', ''), (folder / 'alignment.jsonl', ALIGNMENT)):
    found = ingest.build(
      'manifest', path, data_dir, prefix=prefix, limits=limits, sharing=sharing, progress=progress
    )
    read_in |= found['sets']
  summary = {'exchanges': exchanges, 'alignment': alignment, 'sets': read_in, 'licences': _LICENCES}
  storage.atomic_write_json(folder / 'about.json', summary)
  return summary


def check(llm: Path) -> voices.Cast:
  """The installed voices; raises as `build` if something that the corpus is made of is missing."""
  answers.check_model(llm)
  cast = voices.choose_cast()
  for source in sources.SOURCES:
    source.folder()
  errors.require('yaml', 'talker', 'Reading packaged questions')
  return cast


def write_lists(
  folder: Path, data_dir: Path, options: Options, cast: voices.Cast, progress: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Writes the two lists into `folder`; returns their counts."""
  questions, unanswered = chosen_questions(options)
  written = [*sources.sentences(), *sources.definitions()]
  work = SharedWork(data_dir, name=NAME)
  said = answers.answer(work, [q.text for q in questions], options.llm, progress=progress)
  rows = exchange_rows(questions, map(answers.cut, said), options, cast)
  sentences = chosen_sentences(written, unanswered, rows, options)
  lines = [_sentence_row(text, split, options, cast) for text, split in sentences]
  answered = [row['answer'] for row in rows if 'answer_audio' in row]
  whole = [row['answer'] for row in rows if row['split'] == 'train']
  make = {
    'sentences': functools.partial(read_aloud.sentences, sentences, answered),
    'parts': functools.partial(read_aloud.parts, whole),
    'words': functools.partial(read_aloud.words, sentences),
    'numbers': read_aloud.numbers,
  }
  alone = {kind: made(options.beside(kind), options.seed) for kind, made in make.items()}
  _write(folder / 'exchanges.jsonl', [*rows, *itertools.chain.from_iterable(alone.values())])
  _write(folder / 'alignment.jsonl', lines)
  by_source = collections.Counter(question.source for question in questions)
  return (
    {
      'questions': len(questions),
      'by_source': dict(by_source),
      'inaudible': sum(row['category'] == inaudible.NAME for row in rows),
      'meanings': len({question.meaning for question in questions}),
      'answered': _by_split(rows),
      'spoken_answers': len(answered),
      'spoken_hours': round(sum(map(read_aloud.seconds, answered)) / 3600, 2),
    }
    | {
      f'spoken_{kind}_hours': round(sum(read_aloud.seconds(r['answer']) for r in said) / 3600, 2)
      for kind, said in alone.items()
    },
    {
      'sentences': _by_split(lines),
      'words': len({word for text, _ in sentences for word in texts.words_of(text)}),
    },
  )


def chosen_questions(options: Options) -> tuple[list[texts.Question], list[texts.Question]]:
  """Those to be answered, and those whose words are only written down. Test questions beyond
  `share` come last, so that answers to the others are kept where only `tests` changes.

  Raises:
    DataError: as `all_questions`.
  """
  answered, tested, unanswered = [], [], []
  for question in all_questions():
    place = _place(question)
    is_test = texts.split_of(question.meaning, options.seed) == 'test'
    if place < options.share:
      answered.append(question)
    elif is_test and place < options.share_of_tests:
      tested.append(question)
    elif place < options.share_of_sentences:
      unanswered.append(question)
  return [*answered, *tested], unanswered


def all_questions() -> list[texts.Question]:
  """The distinct questions of all sources.

  Raises:
    DataError: a package of texts is not installed.
  """
  # those of the packages first, for they are read first: a package may be missing
  packaged = list(sources.questions())
  return list(texts.distinct([*everyday.questions(), *packaged]))


def _place(question: texts.Question) -> float:
  """From 0 to 1; shares of the questions end there."""
  return texts.fraction(question.meaning, 'share')


def exchange_rows(
  questions: Sequence[texts.Question], said: Iterable[str], options: Options, cast: voices.Cast
) -> list[dict[str, Any]]:
  """The rows of the list of exchanges; questions whose answer is empty have none."""
  rows = []
  for question, answer in zip(questions, said, strict=True):
    if answer:
      split = texts.split_of(question.meaning, options.seed)
      name = texts.name_of(question.source, question.text)
      rows.append(
        {
          'id': name,
          'question': question.text,
          'question_audio': casting.question(name, split, cast, options.seed),
          'answer': answer,
          'references': list(question.references) or [answer],
          'category': question.category,
          'split': split,
        }
      )
  rows += inaudible.rows(len(rows), cast, options.seed)
  for row in spoken_rows(rows, options.spoken):
    row['answer_audio'] = casting.answer(options.seed)
  return rows


def spoken_rows(rows: Sequence[dict[str, Any]], spoken: Spoken) -> list[dict[str, Any]]:
  """The rows whose answers are spoken: each text once, in training if it is there; the first of
  each split in any case, also where the model says nothing there that it does not say in training.
  """
  distinct: dict[str, dict[str, Any]] = {}
  for row in sorted(rows, key=lambda row: _SPLITS.index(row['split'])):
    distinct.setdefault(row['answer'], row)

  def rank(row: dict[str, Any]) -> tuple[bool, float]:
    return row['answer'] not in inaudible.ANSWERS, texts.fraction(row['answer'], 'spoken')

  ranked = sorted(distinct.values(), key=rank)
  chosen, seconds, lacking = [], 0.0, set(_SPLITS)
  for row in ranked:
    longer = seconds + read_aloud.seconds(row['answer'])
    fits = longer <= 3600 * spoken.hours and len(chosen) < spoken.texts
    if fits or row['split'] in lacking:
      chosen.append(row)
      seconds = longer
      lacking.discard(row['split'])
  firsts = {row['split']: row for row in reversed(rows)}
  return [*chosen, *(firsts[split] for split in _SPLITS if split in lacking and split in firsts)]


def chosen_sentences(
  written: Sequence[str],
  unanswered: Sequence[texts.Question],
  rows: Sequence[dict[str, Any]],
  options: Options,
) -> list[tuple[str, str]]:
  """(sentence, split) of what is written down: `written` sentences; to train on, as many of the
  model's own and the `unanswered` questions whose meaning is in training. None is a question that
  is answered.
  """
  taken = {texts.normalised(row['question']) for row in rows}
  found: list[tuple[str, str]] = []

  def add(text: str, split: str) -> None:
    taken.add(texts.normalised(text))
    found.append((text, split))

  for text in written:
    key = texts.normalised(text)
    if key not in taken and texts.fraction(key, 'share') < options.share_of_sentences:
      add(text, texts.split_of(key, options.seed))
  room = len(found)
  for row in rows:
    own = row['split'] == 'train' and row['category'] != inaudible.NAME
    for sentence in answers.sentences(row['answer']) if own else ():
      text = texts.clean(sentence, texts.SENTENCE_WORDS)
      if text and room and texts.normalised(text) not in taken:
        add(text, 'train')
        room -= 1
  for question in unanswered:
    text = texts.clean(question.text, texts.SENTENCE_WORDS)
    is_new = text and texts.normalised(text) not in taken
    if is_new and texts.split_of(question.meaning, options.seed) == 'train':
      add(text, 'train')
  return found


def _sentence_row(text: str, split: str, options: Options, cast: voices.Cast) -> dict[str, Any]:
  name = texts.name_of('sentence', text)
  return {
    'id': name,
    'question': text,
    'question_audio': casting.question(name, split, cast, options.seed),
    'answer': text,
    'category': ASR,
    'split': split,
  }


def _by_split(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
  counts = collections.Counter(row['split'] for row in rows)
  return {split: counts[split] for split in _SPLITS}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
  storage.atomic_write_text(path, ''.join(json.dumps(row) + '\n' for row in rows))
