"""Speaks the demo corpus and writes its two data sets.

`questions` holds facts asked by several voices (train) and by voices never heard in training
(test), with the answers as text. `answers` holds the answers in the answer voice. Both its splits
also have the single sentences of longer answers, because streaming speaks one sentence at a time;
`train` has extra sentences. k-means and vocoder never see its split `holdout`. `unheard`, which the
demo does not need, has all facts of `holdout`, asked by the test voices.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import re
import sys
import time
from typing import Any
import zlib

import numpy as np
from tqdm import tqdm

from data_pipeline import dataset, schema
from data_pipeline.corpus import facts as facts_lib
from data_pipeline.corpus import sentences, voices
from data_pipeline.corpus.speaking import Clip, speak
from echox_jax import rates, storage
from echox_jax.errors import DataError
from echox_jax.storage import Path

_SENTENCE_END = re.compile(r'(?<=[.?!]) ')

_SpeakAll = Callable[[Sequence[Clip]], Iterable[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Line:
  """A clip and its role in a data set: an answer, or a question about `fact` (extra sentences have
  no fact).
  """

  clip: Clip
  fact: facts_lib.Fact | None = None
  is_question: bool = False


def build_corpus(
  data_dir: str | Path,
  *,
  seed: int = 0,
  workers: int = 2,
  max_facts: int | None = None,
  extra_sentences: int = sentences.COUNT,
  test_facts: int = 120,
  holdout_facts: int = 48,
  names: Sequence[str] = ('answers', 'questions'),
  progress: bool = True,
) -> dict[str, Any]:
  """Builds the data sets `names` under `data_dir`. Data sets already built with the same settings
  are kept.

  Args:
    data_dir: folder of data sets.
    seed: seed of every random choice (phrasings, speeds, silences, splits).
    workers: processes that speak; 1 speaks in this process.
    max_facts: use only this many facts, evenly spaced; None uses all.
    extra_sentences: extra sentences of the answer voice, of some 3 seconds each.
    test_facts: facts that each test voice asks in the test split.
    holdout_facts: answers held out from vocoder training, with their single sentences.
    names: the data sets to build, of `answers`, `questions` and `unheard`: all facts of the
      held-out answers, asked by the test voices (split `test`).
    progress: whether to show a bar with the time left.

  Returns:
    {'datasets': {name: {split: {'clips', 'hours'}}}, 'train_voices', 'test_voices',
    'lacking_voices', 'seconds'}

  Raises:
    EchoXError: a voice fails; finished data sets are kept.
    MissingExtraError: the answer voice is not installed.
  """
  started = time.monotonic()
  cast = voices.choose_cast()
  if cast.lacking:
    print(voices.describe_lack(cast), file=sys.stderr)
  chosen = _spread(facts_lib.all_facts(), max_facts)
  if not 0 < holdout_facts < len(chosen):
    raise DataError(
      f'{holdout_facts} answers cannot be held out of {len(chosen)}: give fewer, at least 1.'
    )
  ids = _held_out(chosen, holdout_facts, seed)
  held_out = [fact for fact in chosen if fact.id in ids]
  plans = {
    'answers': _plan_answers(
      chosen, holdout_facts, sentences.extra_sentences(extra_sentences), seed
    ),
    'questions': {
      'train': plan_training(chosen, cast.train, seed),
      'test': plan_test(chosen, cast.test, test_facts, seed),
    },
    'unheard': {'test': plan_test(held_out, cast.test, len(held_out), seed)},
  }
  summary = {
    name: _build(storage.path(data_dir), name, plans[name], workers, progress) for name in names
  }
  return {
    'datasets': summary,
    'train_voices': [voice.name for voice in cast.train],
    'test_voices': [voice.name for voice in cast.test],
    'lacking_voices': list(cast.lacking),
    'seconds': round(time.monotonic() - started, 1),
  }


def plan_training(
  facts: Sequence[facts_lib.Fact], cast: Sequence[voices.Voice], seed: int
) -> list[Line]:
  """Each fact asked by each voice in `voice.phrasings` ways; the voices cycle through the phrasings
  of a fact.
  """
  lines = []
  for number, fact in enumerate(facts):
    turn = number  # so that every voice gets every phrasing
    for voice in cast:
      for _ in range(min(voice.phrasings, len(fact.questions))):
        lines.append(_question(fact, voice, turn % len(fact.questions), seed))
        turn += 1
  return lines


def plan_test(
  facts: Sequence[facts_lib.Fact], cast: Sequence[voices.Voice], count: int, seed: int
) -> list[Line]:
  """`count` facts from all categories, the same for each voice, each in one random phrasing."""
  rng = np.random.default_rng([seed, 1])
  lines = []
  for fact in balanced_sample(facts, count, rng):
    for voice in cast:
      lines.append(_question(fact, voice, int(rng.integers(len(fact.questions))), seed))
  return lines


def balanced_sample(
  facts: Sequence[facts_lib.Fact], count: int, rng: np.random.Generator
) -> list[facts_lib.Fact]:
  """`count` facts; a category's share is proportional to the square root of its size, so that small
  categories can be scored too.
  """
  by_category: dict[str, list[facts_lib.Fact]] = {}
  for fact in facts:
    by_category.setdefault(fact.category, []).append(fact)
  ranked = []
  for members in by_category.values():
    order = rng.permutation(len(members))
    ranked += [((rank + 0.5) / len(members) ** 0.5, members[i]) for rank, i in enumerate(order)]
  ranked.sort(key=lambda pair: (pair[0], pair[1].id))
  return [fact for _, fact in ranked[:count]]


def _question(fact: facts_lib.Fact, voice: voices.Voice, phrasing: int, seed: int) -> Line:
  name = f'{fact.id}/{voice.name}/{phrasing}'
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  clip = Clip(
    id=name,
    text=fact.questions[phrasing],
    voice=voice,
    speed=round(float(rng.uniform(0.85, 1.2)), 3),
    seed=seed,
    lead=round(float(rng.uniform(0.02, 0.25)), 3),
    tail=round(float(rng.uniform(0.05, 0.3)), 3),
    level=round(float(10 ** rng.uniform(-1.6, -1.0)), 4),
  )
  return Line(clip, fact, is_question=True)


def _plan_answers(
  facts: Sequence[facts_lib.Fact], holdout: int, extra: Sequence[str], seed: int
) -> dict[str, list[Line]]:
  held = _held_out(facts, holdout, seed)

  def line(name, text, fact=None):
    return Line(Clip(name, text, voices.ANSWER_VOICE, seed=seed, lead=0.07, tail=0.07), fact)

  learned = [fact for fact in facts if fact.id not in held]
  left_out = [fact for fact in facts if fact.id in held]
  singles = _singles(learned)
  own = [text for text in _singles(left_out) if text not in singles]
  return {
    'train': [line(fact.id, fact.answer, fact) for fact in learned]
    + [line(f'sentence_{i:03d}', text) for i, text in enumerate(extra)]
    + [line(f'part_{i:03d}', text) for i, text in enumerate(singles)],
    'holdout': [line(fact.id, fact.answer, fact) for fact in left_out]
    + [line(f'held_part_{i:03d}', text) for i, text in enumerate(own)],
  }


def _singles(facts: Iterable[facts_lib.Fact]) -> list[str]:
  """The sentences of the answers that have several, each once."""
  parts = [_SENTENCE_END.split(fact.answer) for fact in facts]
  return list(dict.fromkeys(part for answer in parts if len(answer) > 1 for part in answer))


def _held_out(facts: Sequence[facts_lib.Fact], count: int, seed: int) -> set[str]:
  """Ids of the facts whose answers are held out."""
  return {fact.id for fact in balanced_sample(facts, count, np.random.default_rng([seed, 2]))}


def _spread(items: Sequence[Any], count: int | None) -> list[Any]:
  """`count` of the items, evenly spaced."""
  if count is None or count >= len(items):
    return list(items)
  return [items[i * len(items) // count] for i in range(count)]


def _build(
  data_dir: Path, name: str, plan: dict[str, list[Line]], workers: int, progress: bool
) -> dict[str, Any]:
  """Builds one data set, unless it exists with the same fingerprint; returns clips and hours of
  each split.
  """
  note = data_dir / f'{name}.json'
  fingerprint = hashlib.sha256(repr(plan).encode()).hexdigest()
  if dataset.dataset_exists(data_dir, name) and storage.is_file(note):
    known = json.loads(note.read_text())
    if known['fingerprint'] == fingerprint:
      return known['splits']
  note.unlink(missing_ok=True)
  splits = {split: {'clips': len(lines), 'hours': 0.0} for split, lines in plan.items()}
  total = sum(map(len, plan.values()))
  with tqdm(
    total=total, desc=f'speaking {name}', unit='clip', disable=not progress, mininterval=1.0
  ) as bar:

    def examples(
      lines: Sequence[Line], counts: dict[str, float], speak_all: _SpeakAll
    ) -> Iterator[schema.Example]:
      for line, samples in zip(lines, speak_all([line.clip for line in lines])):
        counts['hours'] += len(samples) / rates.SAMPLE_RATE / 3600
        bar.update()
        yield _example(line, samples)

    with _speakers(workers) as speak_all:
      dataset.write_dataset(
        data_dir,
        name,
        {split: examples(lines, splits[split], speak_all) for split, lines in plan.items()},
      )
  splits = {
    split: {**counts, 'hours': round(counts['hours'], 4)} for split, counts in splits.items()
  }
  storage.atomic_write_json(note, {'fingerprint': fingerprint, 'splits': splits})
  return splits


@contextlib.contextmanager
def _speakers(workers: int) -> Iterator[_SpeakAll]:
  """Processes that speak clips: yields a function from clips to int16 samples, in order."""
  if workers <= 1:
    yield functools.partial(map, speak)
    return
  # fresh processes: they inherit no accelerators or threads from this one
  pool = futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context('spawn'))
  try:
    yield functools.partial(pool.map, speak, chunksize=4)
  finally:
    pool.shutdown(cancel_futures=True)


def _example(line: Line, samples: np.ndarray) -> schema.Example:
  clip, fact = line.clip, line.fact
  category = fact.category if fact else 'sentence'
  spoken = schema.Turn(
    role='user' if line.is_question else 'assistant',
    text=clip.text,
    speaker=clip.voice.name,
    source='demo',
    category=category,
    references=fact.references if fact and not line.is_question else (),
    audio=samples,
  )
  if not line.is_question:
    return schema.Example(clip.id, (spoken,))
  reply = schema.Turn(
    role='assistant', text=fact.answer, source='demo', category=category, references=fact.references
  )
  return schema.Example(clip.id, (spoken, reply))
