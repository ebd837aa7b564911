"""Reader `manifest`: your own recordings, listed in a JSON-lines or a TSV file. Paths are relative
to that file.

JSON lines (any file name), one exchange per line:

  {"id": "0001", "question": "What is the capital of France?", "question_audio": "q/0001.wav",
  "speaker": "anna",
   "answer": "The capital of France is Paris.", "answer_audio": "a/0001.flac", "references":
   ["Paris"], "split": "train"}

TSV (file name ends in .tsv): the first line names the columns, which are the same fields. Several
references are separated by `|`:

  id	question	question_audio	answer	answer_audio	references
  0001	What is the capital of France?	q/0001.wav	The capital of France is
  Paris.	a/0001.flac	Paris|paris

`id` and `answer` are required, and `question` if there is `question_audio`. A line without
`question_audio` only teaches to speak; one without `answer_audio` only teaches to hear.
`references` are accepted answers (by default `answer`), `speaker` is who asks, `category` a label
for scores, `language` a language code (en).

`voice:joe` in place of a recording lets a packaged voice say the words of the line, here joe, when
the list is read in. `voice:joe?speed=1.1&room=0.2&noise=25` is faster, in a room that echoes for
0.2 s, with noise 25 dB below the speech. `data_pipeline/corpus/voice_lines.py` has all options and
`voices.py` beside it the names.

`split` is `train`, `dev` or `test`: test questions are for scores, and k-means and vocoder never
hear test answers (the set's `holdout`); `dev` is for choices along the way. If no line has a split,
one in twenty is held out for tests; if some lines do, the others are `train`.
"""

from collections.abc import Iterator
from typing import Any

from data_pipeline.corpus import voice_lines
from data_pipeline.quarantine import Entry, Unusable
from data_pipeline.readers import items
from data_pipeline.readers.items import Item
from data_pipeline.schema import Turn
from echox_jax.errors import DataError
from echox_jax.storage import Path

FIELDS = (
  'id',
  'question',
  'question_audio',
  'speaker',
  'answer',
  'answer_audio',
  'references',
  'category',
  'language',
  'split',
)


def read(source: Path) -> Iterator[Item | Entry]:
  """The items of a manifest, and entries for unusable lines.

  Raises:
    DataError: no file, no lines, or a TSV whose first line does not name the columns.
  """
  empty, lines = True, items.text_lines(source)
  columns = (
    _columns(source, next(lines, (None, ''))[1]) if source.suffix.lower() == '.tsv' else None
  )
  for where, line in lines:
    empty = False
    yield _item(source.parent, where, line, columns)
  if empty:
    raise DataError(f'{source} holds no lines: write one exchange per line.')


def _columns(source: Path, line: str | Entry) -> list[str]:
  columns = [name.strip() for name in line.split('\t')] if isinstance(line, str) else []
  wrong = [name for name in columns if name not in FIELDS]
  if wrong or len(set(columns)) < len(columns) or not {'id', 'answer'} <= set(columns):
    example = f' ({wrong[0]!r} is not a column)' if wrong else ''
    raise DataError(
      f'{source} does not name its columns in the first line{example}: write a line '
      'with id, answer and any of '
      f'{", ".join(name for name in FIELDS if name not in ("id", "answer"))}, separated '
      'by tabs.'
    )
  return columns


def _item(folder: Path, where: str, line: str | Entry, columns: list[str] | None) -> Item | Entry:
  if isinstance(line, Entry):
    return line
  row = {}
  try:
    row = items.parse_object(line) if columns is None else _cells(line, columns)
    return _exchange(row, folder, where)
  except Unusable as error:
    return Entry(
      row['id'] if isinstance(row.get('id'), str) else '', where, error.reason, error.detail
    )


def _cells(line: str, columns: list[str]) -> dict[str, Any]:
  cells = [cell.strip() for cell in line.split('\t')]
  if len(cells) > len(columns):
    raise Unusable('wrong fields', f'has {len(cells)} cells for {len(columns)} columns')
  row = {name: cell for name, cell in zip(columns, cells) if cell}
  if 'references' in row:
    row['references'] = row['references'].split('|')
  return row


def _exchange(row: dict[str, Any], folder: Path, where: str) -> Item:
  unknown = sorted(set(row) - set(FIELDS))
  if unknown:
    raise Unusable('wrong fields', f'has unknown fields {", ".join(unknown)}')
  name, answer = items.required(row, 'id'), items.required(row, 'answer')
  asked, spoken = items.string(row, 'question_audio'), items.string(row, 'answer_audio')
  if not asked and not spoken:
    raise Unusable('no audio', 'names no recording')
  question = items.required(row, 'question') if asked else items.string(row, 'question')
  references = row.get('references') or []
  if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
    raise Unusable('wrong fields', 'has references that are not a list of texts')
  references = tuple(items.string({'references': text}, 'references') for text in references) or (
    answer,
  )
  common = dict(
    language=items.string(row, 'language', 'en'),
    category=items.string(row, 'category'),
    source='manifest',
  )
  turns = (
    Turn('user', question, speaker=items.speaker(row, asked), **common),
    Turn('assistant', answer, speaker=voice_lines.speaker(spoken), references=references, **common),
  )
  recordings = items.recording(folder, asked, question), items.recording(folder, spoken, answer)
  return Item(name, turns, recordings, where, items.split_of(row))
