"""Scores the model of a demo: voices never heard in training ask, and an independent ASR listens to
its answers.

  python -m launch.evaluate --checkpoint out/demo/model --workdir out/demo
                            --out out/demo/evaluation.json

This is an evaluation of the questions in WORKDIR/data, kept in the folder OUT without `.json`; with
what real speech loses on the way through its units. OUT sums it up under short names:
  text_exact_match   written question -> written answer
  s2t_exact_match    spoken question -> written answer
  s2s_exact_match    spoken question -> what the judge hears
  s2t_s2s_gap        how much of the written answers is lost in speech
  reply_wer          what the judge hears against the model's text
  resynthesis_wer    real held-out answers -> units -> vocoder
  natural_wer        the real recordings: the judge's floor
"""

import argparse
from collections.abc import Sequence
import hashlib
import json
from typing import Any

from echox_jax import errors, storage
from echox_jax.evaluation import intervals, judges, questions, summary
from echox_jax.evaluation.resynthesis import Recording, Resynthesis
from echox_jax.inference.events import COUNTERS
from echox_jax.storage import Path
from launch import question_scores
from launch.progress import bar
from launch.question_scores import Evaluation

WAYS = 'T2T,S2T,S2S'
_SHARES = {  # name -> way, and rule or rate
  'text_exact_match': ('T2T', 'exist_match'),
  's2t_exact_match': ('S2T', 'exist_match'),
  's2s_exact_match': ('S2S', 'exist_match_normalised'),
  'reply_wer': ('S2S', 'wer'),
}
_RESYNTHESIS = {
  'resynthesis_wer': 'predicted',
  'resynthesis_wer_true_durations': 'true',
  'natural_wer': 'natural',
}
_GAP = 's2t_s2s_gap'
_TOLD = (*_SHARES, _GAP, 'resynthesis_wer', 'natural_wer', 'first_audio_s', 'real_time_factor')


def run(args: argparse.Namespace) -> None:
  """Scores the demo: `checkpoint`, `workdir`, `data` (default WORKDIR/data), `out` (a JSON file),
  `limit`, `judge` and more of the options of launch.evaluate.

  Raises:
    EchoXError: parts of the working folder are missing, or options that cannot be used.
  """
  question_scores.check(args)
  if args.out.suffix != '.json':
    raise errors.ConfigError(f'--out is {args.out}: with --workdir, name a file OUT.json.')
  if args.num_processes > 1 or args.judge == judges.HAMA:
    raise errors.ConfigError(
      'with --workdir, one process makes the scores, and the judge hears words: leave out '
      '--num_processes, and name another --judge.'
    )
  manifest = read_manifest(args.workdir)
  raw = args.data or args.workdir / 'data'
  recordings = read(args.workdir / 'precomputed', raw, args.limit)
  own = dict(vars(args), data=raw, out=args.out.with_suffix(''), ways=WAYS)
  evaluation = question_scores.begin(argparse.Namespace(**own), recordings=_identity(recordings))
  question_scores.answer(evaluation)
  remade = Resynthesis(evaluation.store, recordings, args.batch)
  resynthesise(evaluation, remade)
  question_scores.listen(evaluation.args, evaluation.store, evaluation.listener, evaluation.scorer)
  with evaluation.watch.part('scores'):
    scores, rows = question_scores.score(evaluation.args, evaluation.store)
    metrics = metrics_of(scores, rows, remade, judges.name_of(args.judge)) | manifest
  metrics['seconds'] = {name: round(value, 1) for name, value in evaluation.watch.seconds.items()}
  storage.atomic_write_json(args.out, metrics)
  for name in _TOLD:
    print(f'  {name:18} {metrics[name]}')
  print(f'-> {args.out}')


def read_manifest(workdir: Path) -> dict[str, Any]:
  """The measurements of precompute.

  Raises:
    DataError: precompute has not run.
  """
  path = workdir / 'precomputed' / 'precompute.json'
  try:
    report = json.loads(path.read_text('utf-8'))['report']
    return {name: report[name] for name in ('units_per_second', 'unit_words_per_second')}
  except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
    raise errors.DataError(
      f'{path} is missing or incomplete: run `python -m launch.precompute` '
      'with this working folder first.'
    ) from error


def read(data_dir: Path, raw_dir: Path, limit: int | None) -> list[Recording]:
  """The held-out answers, or `limit` of them, evenly spaced; their audio may be in `raw_dir`."""
  from data_pipeline import dataset, schema

  source, found = dataset.open_with_audio(data_dir, raw_dir, 'answers', 'holdout'), []
  for place in questions.spread(len(source), limit):
    turn = schema.decode(source[place]).turns[-1]
    found.append(Recording(turn.text, turn.audio, turn.units))
  return found


def _identity(recordings: list[Recording]) -> str:
  """Differs where other recordings are made again."""
  found = hashlib.sha256()
  for own in recordings:
    for part in (own.text.encode(), own.wave.tobytes(), own.units.tobytes()):
      found.update(part)
  return found.hexdigest()[:16]


def resynthesise(evaluation: Evaluation, remade: Resynthesis) -> None:
  """Makes and hears what is not done yet."""
  watch, listener = evaluation.watch, evaluation.listener
  for batch in bar(remade.unmade(), 'resynthesis'):
    with watch.part('resynthesis'):
      remade.make(evaluation.engines.answering(evaluation.args.batch), batch)
  for batch in bar(remade.unheard(listener.name), 'listening'):
    with watch.part('judge'):
      remade.hear(listener, batch)


def metrics_of(
  scores: dict[str, Any], rows: Sequence[summary.Row], remade: Resynthesis, judge_name: str
) -> dict[str, Any]:
  """What OUT holds, from a finished evaluation and what was made again."""
  speech, times, counts = (scores[kind] for kind in ('speech', 'times', 'counts'))
  estimates = {own: scores['ways'][way][rule] for own, (way, rule) in _SHARES.items()}
  estimates[_GAP] = _rounded(summary.gap(rows, 'S2T', 'S2S', 'exist_match_normalised'))
  heard = remade.scores(judge_name)
  estimates |= {own: _rounded(heard[kind]) for own, kind in _RESYNTHESIS.items()}
  return {
    'questions': scores['questions'],
    **{own: estimate and estimate['value'] for own, estimate in estimates.items()},
    'intervals': {
      own: [estimate['low'], estimate['high']]
      for own, estimate in estimates.items()
      if estimate and estimate['low'] is not None
    },
    'first_audio_s': times['first_audio_s'],
    'real_time_factor': times['real_time_factor'],
    'silent_replies': counts['silent'],
    'slices_per_answer': speech['slices_per_answer'],
    'sound_before_text_ended': times['sound_before_text_ended'],
    **{kind: _by_group(scores[kind]) for kind in ('by_voice', 'by_category')},
    'counts': {
      'voices': len({row.question.voice for row in rows}),
      'holdout_answers': sum(map(len, remade.batches)),
    },
    'overflow': {counter: counts['overflow'].get(counter, 0) for counter in COUNTERS}
    | {'resynthesis_frames': remade.lost_frames()},
    'judge': {part: version for part, version in scores['judge'].items() if part != 'name'},
  }


def _by_group(groups: dict[str, Any]) -> dict[str, Any]:
  return {
    label: {'questions': own['questions']}
    | {name: own[way][rule] and own[way][rule]['value'] for name, (way, rule) in _SHARES.items()}
    for label, own in groups.items()
  }


def _rounded(estimate: intervals.Estimate | None) -> dict[str, Any] | None:
  return estimate and estimate.rounded()
