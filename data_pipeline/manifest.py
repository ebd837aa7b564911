"""Your own recordings: a JSON-lines manifest -> the data sets that the training stages read.

One line, one exchange; paths are relative to the manifest:

  {"id": "0001", "question": "What is the capital of France?", "question_audio": "q/0001.wav", "speaker": "anna",
   "answer": "The capital of France is Paris.", "answer_audio": "a/0001.flac", "references": ["Paris"], "split": "train"}

`question_audio` and `answer_audio` may be left out: a line without the first teaches only to speak, one without the second
only to hear. `split` is `train` (the default) or `test`; test questions are for scores, test answers (the `holdout`) are
never heard by k-means or vocoder.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
from typing import Any

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import audio
from echox_jax.errors import DataError

FIELDS = {'id', 'question', 'question_audio', 'speaker', 'answer', 'answer_audio', 'references', 'category', 'language', 'split'}
SPLITS = ('train', 'test')


def read_manifest(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads and checks a manifest.

  Raises:
    DataError: naming the file and line of what is wrong.
  """
  path = Path(path)
  if not path.is_file():
    raise DataError(f'there is no manifest {path}: check the path.')
  try:
    lines = path.read_text('utf-8').splitlines()
  except UnicodeDecodeError as error:
    raise DataError(f'{path} is not UTF-8 text ({error}): save it as UTF-8.') from error
  rows, seen = [], {}
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f'{path}:{number}'
    try:
      row = json.loads(line)
    except ValueError as error:
      raise DataError(f'{where} is not valid JSON ({error}): write one object a line.') from error
    if not isinstance(row, dict):
      raise DataError(f'{where} is not a JSON object: write one object a line.')
    row = {'split': 'train', 'references': [], 'speaker': '', 'category': '', 'language': 'en', **row}
    _check(row, where, path.parent)
    if row['id'] in seen:
      raise DataError(f'{where} repeats the id {row["id"]!r} of line {seen[row["id"]]}: give every line its own id.')
    seen[row['id']] = number
    rows.append(row)
  if not rows:
    raise DataError(f'{path} holds no lines: write one exchange a line.')
  return rows


def build_from_manifest(path: str | os.PathLike[str], data_dir: str | os.PathLike[str]) -> dict[str, int]:
  """Writes the sets `questions` (train, test) and `answers` (train, holdout) from a manifest; returns their sizes.

  Raises:
    DataError: as `read_manifest`, or a split that would be empty.
    AudioError: a recording that cannot be read.
  """
  rows, folder = read_manifest(path), Path(path).parent
  sets = {
      'questions': {split: [r for r in rows if r.get('question_audio') and r['split'] == split] for split in SPLITS},
      'answers': {name: [r for r in rows if r.get('answer_audio') and r['split'] == split]
                  for name, split in (('train', 'train'), ('holdout', 'test'))},
  }
  for name, splits in sets.items():
    for split, chosen in splits.items():
      if not chosen:
        raise DataError(f'{path} has nothing for {name}/{split}: add lines with {name[:-1]}_audio and "split": '
                        f'"{"train" if split == "train" else "test"}".')
  make = {'questions': _question, 'answers': _answer}
  for name, splits in sets.items():
    dataset.write_dataset(data_dir, name, {s: _examples(make[name], chosen, folder) for s, chosen in splits.items()})
  return {f'{name}/{split}': len(chosen) for name, splits in sets.items() for split, chosen in splits.items()}


def _examples(make, rows: list[dict[str, Any]], folder: Path) -> Iterator[Example]:
  return (make(row, folder) for row in rows)


def _question(row: dict[str, Any], folder: Path) -> Example:
  common = dict(language=row['language'], category=row['category'], source='manifest')
  samples = audio.to_int16(audio.load_audio(folder / row['question_audio']))
  return Example(row['id'], (
      Turn('user', row['question'], speaker=row['speaker'], audio=samples, **common),
      Turn('assistant', row['answer'], references=tuple(row['references']) or (row['answer'],), **common)))


def _answer(row: dict[str, Any], folder: Path) -> Example:
  samples = audio.to_int16(audio.load_audio(folder / row['answer_audio']))
  return Example(row['id'], (Turn('assistant', row['answer'], audio=samples, language=row['language'], category=row['category'],
                                  references=tuple(row['references']) or (row['answer'],), source='manifest'),))


def _check(row: dict[str, Any], where: str, folder: Path) -> None:
  unknown = sorted(set(row) - FIELDS)
  if unknown:
    raise DataError(f'{where} has unknown fields {", ".join(unknown)}: use {", ".join(sorted(FIELDS))}.')
  if row['split'] not in SPLITS:
    raise DataError(f'{where} has split {row["split"]!r}: use train or test.')
  for field in ('id', 'answer', *(['question'] if row.get('question_audio') else [])):
    if not isinstance(row.get(field), str) or not row[field].strip():
      raise DataError(f'{where} has no text in {field!r}: give it some.')
  if not isinstance(row['references'], list) or not all(isinstance(r, str) for r in row['references']):
    raise DataError(f'{where} has references that are no list of texts: write ["Paris"].')
  for field in ('question_audio', 'answer_audio'):
    if row.get(field) and not (folder / row[field]).is_file():
      raise DataError(f'{where} names the recording {folder / row[field]}, which does not exist: check the path.')
