"""What an evaluation leaves in its folder, so that a killed one goes on, and scores can be made
again without the model.

  settings.json         what is asked of which model; a folder holds one evaluation
  questions.jsonl       the questions, in order
  questions/00003.wav   the sound of the question number 3
  answers/00000.json    a finished batch of answers: it is written whole, when all its sounds are
  sounds/spoken-00003.wav, sounds/written-00003.wav
                        the answers to the spoken and to the written question number 3
  heard/JUDGE/00000.json, quality/NAME/00000.json
                        what a judge heard in a batch, how good it sounds
  resynthesis/, heard/JUDGE/resynthesis/
                        of the demo: recordings, and the same made again from their units
  seconds.json          what the parts took, if one process did all
  scores.json, scores.jsonl, report.html
                        made from the files above

Files are written whole and never changed. So any number of processes can share a folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import hashlib
import json
import re
from typing import Any

import numpy as np

from echox_jax import audio, storage
from echox_jax.errors import DataError
from echox_jax.evaluation import questions
from echox_jax.evaluation.questions import Question
from echox_jax.storage import Path

SETTINGS, QUESTIONS = 'settings.json', 'questions.jsonl'
SCORES, ROWS, REPORT = 'scores.json', 'scores.jsonl', 'report.html'
ANSWERS, HEARD, QUALITY, REMADE = 'answers', 'heard', 'quality', 'resynthesis'
SPOKEN, WRITTEN = 'spoken', 'written'  # how a question was asked
_BLOCK, _SAMPLES = 2**16, 64  # bytes of large files that are hashed: blocks, and how many


class Store:
  """The folder of an evaluation.

  Attributes:
    folder: where it is.
    settings: of `settings.json`.
    questions: all of them, without sound.
    batches: the work: in each batch (how it is asked, number of the question); all of a batch are
      asked alike.
    alone: how many of the first batches are asked one question after the other, for times.
  """

  def __init__(self, folder: Path, settings: Mapping[str, Any], asked: Sequence[Question]):
    self.folder, self.settings, self.questions = folder, settings, asked
    work, size = settings['work'], settings['batch']
    timed = SPOKEN if work[SPOKEN] else WRITTEN
    places = questions.spread(len(work[timed]), settings['timed'])
    alone = [(timed, work[timed][place]) for place in places]
    self.batches = list(_cut(alone, size))
    self.alone = len(self.batches)
    for how in (WRITTEN, SPOKEN):
      others = [(how, number) for number in work[how] if (how, number) not in alone]
      self.batches += _cut(others, size)

  @property
  def task(self) -> str:
    """How it is scored, see `questions`."""
    return self.settings['task']

  @property
  def ways(self) -> tuple[str, ...]:
    """Those of T2T, T2S, S2T and S2S that are scored."""
    return tuple(self.settings['ways'])

  def has(self, kind: str, batch: int) -> bool:
    """Whether the part `kind` of a batch is finished."""
    return self._part(kind, batch).exists()

  def write(self, kind: str, batch: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the part `kind` of a finished batch: `ANSWERS`, or a folder of `HEARD`, `QUALITY`."""
    storage.atomic_write_json(self._part(kind, batch), list(rows))

  def read(self, kind: str, batch: int) -> list[dict[str, Any]]:
    """Reads what `write` wrote.

    Raises:
      DataError: the file is missing or damaged.
    """
    return read_json(self._part(kind, batch))

  def unfinished(self, kind: str) -> list[int]:
    """Numbers of the batches whose part `kind` is not there yet."""
    return [batch for batch in range(len(self.batches)) if not self.has(kind, batch)]

  def sound(self, asked: str, number: int) -> Path:
    """Where the spoken answer to a question is."""
    return self.folder / 'sounds' / f'{asked}-{number:05}.wav'

  def question_sound(self, number: int) -> Path:
    """Where the sound of a question is."""
    return self.folder / 'questions' / f'{number:05}.wav'

  def load(self, asked: str, number: int) -> np.ndarray:
    """The sound of an answer, float32[samples] at 16 kHz."""
    return audio.load_audio(self.sound(asked, number))

  def _part(self, kind: str, batch: int) -> Path:
    return self.folder / kind / f'{batch:05}.json'


def create(folder: Path, settings: Mapping[str, Any], asked: Sequence[Question]) -> Store:
  """Begins an evaluation in a folder, or goes on with it.

  Args:
    folder: empty, missing, or of the same evaluation.
    settings: `name`, `task`, `ways`, `batch`, `timed` (how many questions are asked alone) and
      more; values of JSON. All processes that share the folder give the same.
    asked: the questions.

  Raises:
    DataError: the folder holds something else.
  """
  rows = [question.row() for question in asked]
  lines = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
  settings = {
    **settings,
    'questions': hashlib.sha256(lines.encode()).hexdigest()[:16],
    'work': _work(asked, settings['ways']),
  }
  path = folder / SETTINGS
  known = read_json(path) if path.exists() else None
  if known == settings:
    return Store(folder, settings, asked)
  if known is not None and (folder / ANSWERS).is_dir():
    changed = ', '.join(key for key in settings if known.get(key) != settings[key])
    raise DataError(
      f'{folder} holds another evaluation ({changed} differ): choose another --out, or remove that '
      'folder.'
    )
  if known is None and folder.exists() and not _is_ours(folder):
    raise DataError(f'{folder} exists and holds no evaluation: choose another --out.')
  storage.atomic_write_text(folder / QUESTIONS, lines)
  storage.atomic_write_json(path, settings)
  return Store(folder, settings, asked)


def _cut(work: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
  for start in range(0, len(work), size):
    yield work[start : start + size]


def _is_ours(folder: Path) -> bool:
  """Whether a folder holds nothing but what `create` writes first, and temporary files."""
  return folder.is_dir() and all(
    path.name == QUESTIONS or path.name.startswith('.') for path in folder.iterdir()
  )


def open_store(folder: Path) -> Store:
  """Opens the folder of an evaluation to read it.

  Raises:
    DataError: it is none, or damaged.
  """
  path = folder / SETTINGS
  if not path.exists():
    raise DataError(
      f'{folder} holds no evaluation ({SETTINGS} is missing): make one with '
      '`python -m launch.evaluate --checkpoint DIR --data DATA --out DIR`.'
    )
  settings, lines = read_json(path), (folder / QUESTIONS).read_text('utf-8').splitlines()
  return Store(folder, settings, [questions.of_row(json.loads(line)) for line in lines])


def read_json(path: Path) -> Any:
  """The content of a JSON file of the store.

  Raises:
    DataError: the file is missing or damaged.
  """
  try:
    return json.loads(path.read_text('utf-8'))
  except (FileNotFoundError, ValueError) as error:
    raise DataError(f'{path} is missing or damaged: run the same evaluation again.') from error


def remade_sound(folder: Path, number: int, kind: str) -> Path:
  """Where a recording that was made again is, see `resynthesis`."""
  return folder / REMADE / f'{number:05}-{kind}.wav'


def file_name(name: str) -> str:
  """A name for a folder, made from any text; other texts give other names."""
  plain = re.sub(r'[^A-Za-z0-9._]+', '-', name).strip('-.')
  if plain == name:
    return name
  return f'{plain[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'


def identity(folder: Path, names: Iterable[str]) -> str:
  """A short hash of the files of a model: of large ones, of a sample of their bytes."""
  found = hashlib.sha256()
  for name in sorted(names):
    path = folder / name
    if path.exists():
      with path.open('rb') as f:
        size = f.seek(0, 2)
        found.update(f'{name} {size}'.encode())
        for place in np.unique(np.linspace(0, max(0, size - _BLOCK), _SAMPLES).astype(np.int64)):
          f.seek(int(place))
          found.update(f.read(_BLOCK))
  return found.hexdigest()[:16]


def _work(asked: Sequence[Question], ways: Sequence[str]) -> dict[str, list[int]]:
  """Numbers of the questions to be asked; equal ones are asked in writing once."""
  first = {}
  for number, question in enumerate(asked):
    first.setdefault(question.text, number)
  return {
    WRITTEN: list(first.values()) if any(way[0] == 'T' for way in ways) else [],
    SPOKEN: list(range(len(asked))) if any(way[0] == 'S' for way in ways) else [],
  }
