"""Evaluates a model on a question set: asks, listens, scores, with echox_jax/evaluation."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import shlex
from typing import Any

from data_pipeline import question_sets
from echox_jax import errors, model_folder, storage
from echox_jax.evaluation import (
  asking,
  judges,
  listening,
  normalise,
  page,
  quality,
  questions,
  summary,
)
from echox_jax.evaluation import store as store_lib
from echox_jax.evaluation.questions import Question
from echox_jax.evaluation.store import Store
from launch import cli, model_options
from launch.progress import bar
from launch.stopwatch import Stopwatch

SECONDS = 'seconds.json'  # what the parts of an evaluation took, over all its runs
_PARTS = (model_folder.CONFIG, model_folder.ENGINE, model_folder.WEIGHTS)


class Engines:
  """The engines of an evaluation: made when they are first needed, one at a time.

  Args:
    args: options of launch.evaluate that say how the model is opened.
    store: of the evaluation.
  """

  def __init__(self, args: argparse.Namespace, store: Store):
    self._args, self._ways = args, store.ways
    self._model = self._engine = None

  def answering(self, conversations: int):
    """The engine that answers so many conversations at once."""
    from echox_jax.inference.engine import Engine

    if self._engine is None or self._engine.budgets.conversations != conversations:
      if self._model is None:
        cli.keep_compiled_programs()
        self._model = model_options.open_model(self._args)
      self._engine = None  # its weights make room for those of the next one: hold it nowhere else
      budgets = dataclasses.replace(self._model.engine, conversations=conversations)
      self._engine = Engine(
        dataclasses.replace(self._model, engine=budgets),
        hears=any(way[0] == 'S' for way in self._ways),
        speaks=any(way[2] == 'S' for way in self._ways),
      )
    return self._engine


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One that has begun.

  Attributes:
    args: options of launch.evaluate.
    asked: the questions.
    store: its folder.
    engines: of the model.
    listener: the judge; None where nothing is spoken.
    scorer: of the sound; None if it is not scored.
    watch: what its parts took.
  """

  args: argparse.Namespace
  asked: Sequence[Question]
  store: Store
  engines: Engines
  listener: judges.Listener | None
  scorer: quality.Scorer | None
  watch: Stopwatch


def run(args: argparse.Namespace) -> None:
  """Does what the options of launch.evaluate say.

  Raises:
    EchoXError: options, data or a judge that cannot be used; before anything is computed.
    OSError: the disk is full; finished work is kept.
  """
  check(args)
  other = store_lib.open_store(args.compare) if args.compare else None
  if args.rescore:
    store = store_lib.open_store(args.out)
    _check_answered(store)
    listen(args, store)
  else:
    evaluation = begin(args)
    store = evaluation.store
    answer(evaluation)
    missing = store.unfinished(store_lib.ANSWERS)
    if missing:
      print(
        f'{len(missing)} of {len(store.batches)} batches are left to other processes; when they '
        f'are done: python -m launch.evaluate --rescore --out {args.out} '
        f'--judge {shlex.quote(args.judge)}'
      )
      return
    listen(args, store, evaluation.listener, evaluation.scorer)
  scores, _ = score(args, store, other)
  print(table(scores))
  print(f'-> {store.folder / store_lib.REPORT}')


def check(args: argparse.Namespace) -> None:
  """Raises EchoXError if options make no sense, or a package is missing."""
  if not 0 <= args.process_id < args.num_processes:
    raise errors.ConfigError(
      f'--process_id {args.process_id} is out of range for {args.num_processes} processes: number '
      'them from 0.'
    )
  normalise.normalise('')  # reports a missing extra before the work, not after it
  errors.require('scipy', 'eval', 'Making intervals')


def begin(args: argparse.Namespace, **settings: Any) -> Evaluation:
  """Reads the questions, and opens the folder and the judge; or goes on where a stopped run was.

  Args:
    args: options of launch.evaluate.
    **settings: what else must be the same to go on; values of JSON.
  """
  ways = _ways(args.ways)
  asked = _read(args, ways)
  store = _create(args, ways, asked, settings)
  # processes would overwrite each other's
  kept = store.folder / SECONDS if args.num_processes == 1 else None
  watch, opened = Stopwatch(kept), _open_listeners(args, store)
  return Evaluation(args, asked, store, Engines(args, store), *opened, watch)


def _ways(option: str) -> tuple[str, ...]:
  chosen = option.split(',')
  if not option or not set(chosen) <= set(summary.WAYS):
    raise errors.ConfigError(f'--ways is {option!r}: give any of {",".join(summary.WAYS)}.')
  return tuple(way for way in summary.WAYS if way in chosen)


def _read(args: argparse.Namespace, ways: Sequence[str]) -> list[Question]:
  asked = question_sets.read(args.data, args.split)
  questions.check(
    asked,
    str(args.data),
    written=any(way[0] == 'T' for way in ways),
    spoken=any(way[0] == 'S' for way in ways),
  )
  return [asked[i] for i in questions.spread(len(asked), args.limit)]


def _create(
  args: argparse.Namespace, ways: Sequence[str], asked: Sequence[Question], more: Mapping[str, Any]
) -> Store:
  model_folder.read_engine_config(args.checkpoint)  # reports what is no model before the work
  settings: dict[str, Any] = {
    'name': args.data.stem,
    'task': questions.task_of(asked),
    'ways': list(ways),
    'batch': args.batch,
    'timed': args.timed,
    'model': store_lib.identity(args.checkpoint, _PARTS),
    'options': {'dtype': args.dtype, 'int8': args.int8, 'engine': sorted(args.engine)},
    **more,
  }
  return store_lib.create(args.out, settings, asked)


def _open_listeners(args: argparse.Namespace, store: Store):
  """The judge and the score of quality, or None where nothing is spoken."""
  if not any(way[2] == 'S' for way in store.ways):
    return None, None
  listener = judges.open_judge(args.judge, storage.cache_folder() / 'judge')
  return listener, args.quality and quality.open_scorer(args.quality)


def answer(evaluation: Evaluation) -> None:
  """Answers, hears and rates the batches of this process that are not done yet."""
  args, store = evaluation.args, evaluation.store
  mine = range(args.process_id, len(store.batches), args.num_processes)
  todo = [batch for batch in mine if not store.has(store_lib.ANSWERS, batch)]
  alone = [batch for batch in todo if batch < store.alone]
  if alone:
    with evaluation.watch.part('warm_up'):
      asking.warm_up(evaluation.engines.answering(1), store, alone, evaluation.asked)
    _answer(evaluation, 1, bar(alone, 'answering one by one'))
  together = [batch for batch in todo if batch >= store.alone]
  if together:
    _answer(evaluation, args.batch, bar(together, 'answering in batches'))


def _answer(evaluation: Evaluation, conversations: int, batches: Iterable[int]) -> None:
  args, store, watch = evaluation.args, evaluation.store, evaluation.watch
  engine = evaluation.engines.answering(conversations)
  for batch in batches:
    how = store.batches[batch][0][0]
    with watch.part(f'{how}_questions'):
      asking.answer_batch(engine, store, batch, evaluation.asked)
    if evaluation.listener is not None:
      with watch.part('judge'):
        _listen_to(args, store, evaluation.listener, evaluation.scorer, [batch])


def _check_answered(store: Store) -> None:
  missing = store.unfinished(store_lib.ANSWERS)
  if missing:
    raise errors.DataError(
      f'{store.folder} is not finished: {len(missing)} of {len(store.batches)} batches are '
      'missing; run the same evaluation again, it goes on where it was.'
    )


def listen(args: argparse.Namespace, store: Store, listener=None, scorer=None) -> None:
  """Hears and rates what has not been heard and rated; opens a judge only if it has work."""
  if not any(way[2] == 'S' for way in store.ways):
    return
  unheard = store.unfinished(listening.heard_by(judges.name_of(args.judge)))
  if unheard:
    listener = listener or judges.open_judge(args.judge, storage.cache_folder() / 'judge')
    for batch in bar(unheard, 'listening'):
      listening.hear(store, listener, [batch])
  unrated = store.unfinished(listening.rated_by(args.quality)) if args.quality else []
  if unrated:
    scorer = scorer or quality.open_scorer(args.quality)
    for batch in bar(unrated, 'rating'):
      listening.rate(store, args.quality, scorer, [batch])


def _listen_to(args: argparse.Namespace, store: Store, listener, scorer, batches) -> None:
  listening.hear(store, listener, batches)
  if scorer is not None:
    listening.rate(store, args.quality, scorer, batches)


def score(
  args: argparse.Namespace, store: Store, other: Store | None = None
) -> tuple[dict[str, Any], list[summary.Row]]:
  """Writes the scores and the report of a finished evaluation; returns the scores and what they are
  made of.
  """
  scores, rows = _scored(args, store)
  summary.write(store, scores, rows)
  page.write(store, scores, rows, other and (other, *_scored(args, other)))
  return scores, rows


def _scored(args: argparse.Namespace, store: Store):
  name = judges.name_of(args.judge)
  rows = summary.read_rows(store, name, args.quality)
  judge = {'name': name} | listening.about_judge(store, name)
  return summary.summarise(store, rows, {'judge': judge}), rows


def table(scores: dict[str, Any]) -> str:
  """The figures of an evaluation as lines of text."""

  def shown(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
      return 'none'
    value, low, high = (estimate[name] for name in ('value', 'low', 'high'))
    return f'{value:.3f}' if low is None else f'{value:.3f} [{low:.3f}, {high:.3f}]'

  lines = [f'{scores["questions"]} questions of {scores["set"]}; 95 % intervals']
  for way, own in scores['ways'].items():
    lines += [f'  {way:10} {rule:24} {shown(estimate)}' for rule, estimate in own.items()]
  lines += [f'  {name:10} {scores["rule"]:24} {shown(own)}' for name, own in scores['gaps'].items()]
  for name, own in scores['agreement'].items():
    lines += [f'  {name:10} {kind:24} {shown(estimate)}' for kind, estimate in own.items()]
  for kind in ('speech', 'times', 'counts'):
    lines += [f'  {kind:10} {name:24} {value}' for name, value in scores[kind].items()]
  return '\n'.join(lines)
