"""Lets judges hear the sounds of an evaluation, batch by batch; what is heard already is kept."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from echox_jax import storage
from echox_jax.evaluation import judges, quality
from echox_jax.evaluation import store as store_lib
from echox_jax.evaluation.store import Store


def hear(store: Store, listener: judges.Listener, batches: Iterable[int]) -> None:
  """Writes what a judge hears in the sounds of some finished batches.

  A judge that spells in its own way also writes how it would spell the answer and the references.
  """
  kind = heard_by(listener.name)
  if not _about(store, listener.name).exists():
    storage.atomic_write_json(_about(store, listener.name), listener.about)
  for batch in batches:
    rows = store.read(store_lib.ANSWERS, batch)
    texts = listener.hear(_waves(store, batch))
    found = []
    for (how, number), row, text in zip(store.batches[batch], rows, texts, strict=True):
      own = {'asked': how, 'number': number, 'heard': text}
      if listener.spell is not None:
        references = store.questions[number].references
        own |= {
          'said': listener.spell(row['text']),
          'references': [listener.spell(reference) for reference in references],
        }
      found.append(own)
    store.write(kind, batch, found)


def about_judge(store: Store, judge: str) -> dict[str, str]:
  """The parts of a judge and their versions."""
  path = _about(store, judge)
  return store_lib.read_json(path) if path.exists() else {}


def rate(store: Store, name: str, scorer: quality.Scorer, batches: Iterable[int]) -> None:
  """Writes how good the sounds of some finished batches are."""
  for batch in batches:
    found = scorer(_waves(store, batch))
    rows = [
      {'asked': how, 'number': number, 'score': score}
      for (how, number), score in zip(store.batches[batch], found, strict=True)
    ]
    store.write(rated_by(name), batch, rows)


def heard_by(judge: str) -> str:
  """The part of the store with what a judge heard."""
  return str(Path(store_lib.HEARD) / judge)


def rated_by(score: str) -> str:
  """The part of the store with a score of quality."""
  return str(Path(store_lib.QUALITY) / store_lib.file_name(score))


def _about(store: Store, judge: str) -> Path:
  return store.folder / heard_by(judge) / 'about.json'


def _waves(store: Store, batch: int) -> list[np.ndarray]:
  """The sounds of a batch, empty where nothing was said."""
  silence = np.zeros(0, np.float32)
  return [
    store.load(how, number) if row['audio_s'] else silence
    for (how, number), row in zip(store.batches[batch], store.read(store_lib.ANSWERS, batch))
  ]
