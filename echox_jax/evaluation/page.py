"""The report of an evaluation: one HTML file that plays the sounds which lie beside it, shows what
is right and wrong, and sets two runs side by side. It asks no other host for anything.
"""

from collections.abc import Mapping, Sequence
import importlib.resources
import json
import os
from typing import Any

from echox_jax import storage
from echox_jax.evaluation import store as store_lib
from echox_jax.evaluation import summary
from echox_jax.evaluation.store import SPOKEN, WRITTEN, Store
from echox_jax.evaluation.summary import Row

_STATIC = importlib.resources.files('echox_jax.evaluation') / 'static'


def write(
  store: Store,
  scores: Mapping[str, Any],
  rows: Sequence[Row],
  other: tuple[Store, Mapping[str, Any], Sequence[Row]] | None = None,
) -> None:
  """Writes `report.html` into the folder of an evaluation.

  Args:
    store, scores, rows: the evaluation.
    other: another one of the same questions, to be shown beside it.
  """
  runs = [_run(store, scores, rows, store)]
  compared = None
  if other is not None:
    runs.append(_run(*other, store))
    compared = compare(store, rows, other[2])
  data = json.dumps({'runs': runs, 'compared': compared}, ensure_ascii=False)
  page = (_STATIC / 'report.html').read_text('utf-8')
  for mark, text in (
    ('/*STYLE*/', (_STATIC / 'report.css').read_text('utf-8')),
    ('/*SCRIPT*/', (_STATIC / 'report.js').read_text('utf-8')),
    ('{"DATA": 0}', data.replace('<', '\\u003c')),
  ):
    page = page.replace(mark, text)
  storage.atomic_write_text(store.folder / store_lib.REPORT, page)


def compare(store: Store, rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
  """How much more often an evaluation is right than another one, over the questions of both; in
  each way with its 95 % interval.
  """
  theirs = {row.question.id: row for row in others}
  pairs = [(row, theirs[row.question.id]) for row in rows if row.question.id in theirs]
  rule, found = summary.rules.RULES[store.task][0], {}
  for way in store.ways:
    both = [(a, b) for a, b in pairs if way in b.said]
    if both:
      mine = [a for a, _ in both]
      estimate = summary.difference(
        mine, [a.said[way] for a in mine], [b.said[way] for _, b in both], rule
      )
      found[way] = None if estimate is None else estimate.rounded()
  return {'questions': len(pairs), 'rule': rule, 'ways': found}


def _run(
  store: Store, scores: Mapping[str, Any], rows: Sequence[Row], home: Store
) -> dict[str, Any]:
  """What the page shows of a run; sounds by their paths as seen from the folder of `home`."""

  def link(path) -> str:
    return os.path.relpath(path, home.folder).replace(os.sep, '/')

  shown, first = [], {}
  for number, row in enumerate(rows):
    asked_as = {SPOKEN: number, WRITTEN: first.setdefault(row.question.text, number)}
    said = {}
    for way, own in row.said.items():
      how = SPOKEN if way[0] == 'S' else WRITTEN
      sounds = way[2] == 'S' and row.answers[how]['audio_s']
      said[way] = {
        'text': own.text,
        'right': own.right,
        'wrong_words': [own.edits, own.words] if way[2] == 'S' else None,
        'sound': link(store.sound(how, asked_as[how])) if sounds else None,
      }
    heard = any(way[0] == 'S' for way in store.ways)
    question = row.question.row()
    refused = [a['refused'] for a in row.answers.values() if a['refused']]
    shown.append(
      {name: question[name] for name in ('id', 'text', 'references', 'category', 'voice')}
      | {
        'sound': link(store.question_sound(number)) if heard else None,
        'refused': refused[0] if refused else None,
        'said': said,
      }
    )
  return {'folder': store.folder.name, 'ways': store.ways, 'scores': scores, 'questions': shown}
