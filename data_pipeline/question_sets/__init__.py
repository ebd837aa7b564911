"""Question sets for launch.evaluate, as their users hold them: a list of ours, a data set of ours,
or a folder with the files of a public set.

  list.tsv, list.jsonl   see readers/manifest.py; lines of the split `test`, or all if none has one
  DATA/questions         a data set of launch.corpus, its split `test`
  FOLDER of *.parquet    Llama Questions, Web Questions, TriviaQA as TwinkStart and fixie-ai publish
                         them; SD-QA, MMSU, OpenBookQA and IFEval of VoiceBench
  FOLDER with a *.csv    OpenAudioBench: eval_datas/NAME with NAME.csv and audios/

Public sets are read as they are; see layouts.py for their columns.
"""

from collections.abc import Callable
import functools

import numpy as np

from data_pipeline import dataset
from data_pipeline.quarantine import Entry
from data_pipeline.question_sets import layouts, tables
from data_pipeline.readers import manifest
from data_pipeline.schema import Example
from echox_jax import audio, storage
from echox_jax.errors import DataError
from echox_jax.evaluation.questions import Question
from echox_jax.storage import Path

_LISTS = ('.tsv', '.jsonl', '.json')
_OURS = 'questions'


def read(source: Path, split: str | None = None) -> list[Question]:
  """Reads a set; sounds are read when they are asked for.

  Args:
    source: file or folder, see above.
    split: of a set with several; None = `test`, or the only one.

  Raises:
    DataError: nothing is there, another layout, or lines that cannot be used.
    MissingExtraError: a package for the format is not installed.
  """
  if source.is_file() and source.suffix.lower() in _LISTS:
    return _of_list(source, split)
  if not source.is_dir():
    raise DataError(
      f'there is no question set {source}: give a list (.tsv, .jsonl) or a folder of Parquet or '
      'CSV files.'
    )
  if dataset.dataset_exists(source, _OURS):
    examples = dataset.read_examples(source, _OURS, split or 'test')
    return [_of_example(example) for example in examples]
  return layouts.questions(tables.read(source, split))


def _of_list(source: Path, split: str | None) -> list[Question]:
  items = []
  for item in manifest.read(source):
    if isinstance(item, Entry):
      raise DataError(f'{item.file} {item.detail}: correct that line.')
    items.append(item)
  wanted = split or 'test'
  if split or any(item.split for item in items):
    items = [item for item in items if item.split == wanted]
  if not items:
    raise DataError(f'{source} has no lines of the split {wanted!r}: name another with --split.')
  found = []
  for item in items:
    asked, answer = item.turns
    path = storage.path(item.recordings[0]) if item.recordings[0] else None
    if path is not None and not path.is_file():
      raise DataError(f'{item.where} names the recording {path}, which does not exist.')
    found.append(
      Question(
        item.id,
        asked.text,
        answer.references,
        path and functools.partial(audio.load_audio, path),
        asked.category,
        asked.speaker,
      )
    )
  return found


def _of_example(example: Example) -> Question:
  asked, answer = example.turns
  sound: Callable[[], np.ndarray] | None = (
    functools.partial(audio.from_int16, asked.audio) if len(asked.audio) else None
  )
  return Question(example.id, asked.text, answer.references, sound, asked.category, asked.speaker)
