"""Scores the model of a demo: voices never heard in training ask, and an independent ASR listens to
its answers.

  python -m launch.evaluate --checkpoint out/demo/model --workdir out/demo
                            --out out/demo/evaluation.json

Also writes OUT_questions.jsonl (what was asked, said and heard, one question per line) and
OUT_examples/ (recordings) beside OUT.json.
  text_exact_match   written question -> written answer
  s2t_exact_match    spoken question -> written answer
  s2s_exact_match    spoken question -> what the judge hears
  reply_wer          what the judge hears against the model's text
  resynthesis_wer    real held-out answers -> units -> vocoder
  natural_wer        the real recordings: the judge's floor
"""

import argparse
import collections
from collections.abc import Sequence
import dataclasses
import json
import time
from typing import Any

import numpy as np

from echox_jax import errors, rates, storage
from echox_jax.evaluation import questions as questions_lib
from echox_jax.inference.answering import Request
from echox_jax.inference.events import SpokenSlice
from echox_jax.storage import Path
from launch import cli, model_options
from launch.progress import bar

_EXAMPLES = 6  # number of recordings to keep
_JUDGED_AT_A_TIME = 16
_AT_A_TIME = 16  # conversations
_TOLD = 64  # questions between two steps of the progress bar
_TIMED = 24  # questions that are answered one by one, for the times


@dataclasses.dataclass(frozen=True)
class Resynthesis:
  """One held-out answer and its resynthesised versions."""

  id: str
  text: str
  real: np.ndarray
  predicted: np.ndarray  # from units, with predicted durations
  true: np.ndarray  # from units, with the durations of the recording
  lost_frames: int


def run(args: argparse.Namespace) -> None:
  """Scores the demo: `checkpoint`, `workdir`, `data` (default WORKDIR/data), `out` (a JSON file)
  and `limit` of the options of launch.evaluate.
  """
  storage.make_folder(args.out.parent)

  from echox_jax import audio
  from echox_jax.evaluation import judge as judge_lib
  from echox_jax.evaluation import normalise, scores
  from echox_jax.inference.engine import Engine

  cli.keep_compiled_programs()
  began = time.perf_counter()
  normalise.normalise('')  # reports a missing extra before the work, not after it
  judge = judge_lib.Judge(_judge_folder(args.workdir))
  manifest = read_manifest(args.workdir)
  raw = args.data or args.workdir / 'data'
  questions = read(raw, raw, 'questions', 'test', args.limit)
  holdout = read(args.workdir / 'precomputed', raw, 'answers', 'holdout', args.limit)
  model = model_options.open_model(args)
  budgets = dataclasses.replace(model.engine, conversations=_AT_A_TIME)
  engine = Engine(dataclasses.replace(model, engine=budgets))
  alone = Engine(dataclasses.replace(model, engine=dataclasses.replace(budgets, conversations=1)))

  spoken = [Request(audio.from_int16(example.turns[0].audio)) for example in questions]
  written = written_requests(questions)
  seconds = {'warm_up': engine.warm_up([*written, *spoken])}
  seconds['warm_up'] += alone.warm_up(spoken)
  clock = Clock(seconds)
  texts_answered = written_answers(engine, questions, written)
  clock.stop('written_questions')
  replies = spoken_replies(engine, alone, questions, spoken)
  clock.stop('spoken_questions')
  remade = [resynthesise(engine, example) for example in bar(holdout, 'resynthesis')]
  clock.stop('resynthesis')
  heard = transcribe(
    judge,
    {
      'replies': [r['waveform'] for r in replies],
      'natural': [r.real for r in remade],
      'predicted': [r.predicted for r in remade],
      'true': [r.true for r in remade],
    },
  )
  clock.stop('judge')

  asked = [
    scores.Asked(
      **{k: v for k, v in r.items() if k not in ('waveform', 'overflow')},
      written_answer=text,
      transcript=t,
    )
    for r, text, t in zip(replies, texts_answered, heard['replies'])
  ]
  texts = [r.text for r in remade]
  overflow = sum((collections.Counter(r['overflow']) for r in replies), collections.Counter())
  metrics = {
    **scores.summarise(asked),
    'resynthesis_wer': scores.wer(zip(texts, heard['predicted'])),
    'resynthesis_wer_true_durations': scores.wer(zip(texts, heard['true'])),
    'natural_wer': scores.wer(zip(texts, heard['natural'])),
    'units_per_second': manifest['units_per_second'],
    'unit_words_per_second': manifest['unit_words_per_second'],
    'counts': {'voices': len({a.voice for a in asked}), 'holdout_answers': len(holdout)},
    'overflow': {name: overflow[name] for name in replies[0]['overflow']}
    | {'resynthesis_frames': sum(r.lost_frames for r in remade)},
    'judge': judge_lib.versions(),
    'seconds': {name: round(value, 1) for name, value in seconds.items()}
    | {'total': round(time.perf_counter() - began, 1)},
  }
  lines = [
    json.dumps(dataclasses.asdict(a) | {'right': a.marks()}, ensure_ascii=False) for a in asked
  ]
  storage.atomic_write_text(
    args.out.with_name(f'{args.out.stem}_questions.jsonl'), '\n'.join(lines) + '\n'
  )
  save_examples(args.out.with_name(f'{args.out.stem}_examples'), questions, replies, remade)
  storage.atomic_write_json(args.out, metrics)
  for name in (
    'text_exact_match',
    's2t_exact_match',
    's2s_exact_match',
    'reply_wer',
    'resynthesis_wer',
    'natural_wer',
    'first_audio_s',
    'real_time_factor',
  ):
    print(f'  {name:18} {metrics[name]}')
  print(f'-> {args.out}')


class Clock:
  """Records in `seconds` how long each part took."""

  def __init__(self, seconds: dict[str, float]):
    self._seconds, self._last = seconds, time.perf_counter()

  def stop(self, name: str) -> None:
    now = time.perf_counter()
    self._seconds[name], self._last = now - self._last, now


def _judge_folder(workdir: Path) -> Path:
  """The local folder where the judge's weights are joined: in the working folder where possible."""
  return storage.cache_folder() / 'judge' if storage.is_remote(workdir) else workdir / 'judge'


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


def read(data_dir: Path, raw_dir: Path, name: str, split: str, limit: int | None) -> list[Any]:
  """The examples of a split, or `limit` of them, evenly spaced; their audio may be in `raw_dir`."""
  from data_pipeline import dataset, schema

  source = dataset.open_with_audio(data_dir, raw_dir, name, split)
  return [schema.decode(source[i]) for i in questions_lib.spread(len(source), limit)]


def written_answers(engine, questions: Sequence[Any], requests: Sequence[Request]) -> list[str]:
  """The model's answers to the written questions; equal questions are asked once."""
  told = engine.answers(requests)
  answers = {request.text: events[-1].text for request, events in zip(requests, told)}
  return [answers[example.turns[0].text] for example in questions]


def written_requests(questions: Sequence[Any]) -> list[Request]:
  """The questions in writing, each once."""
  texts = dict.fromkeys(example.turns[0].text for example in questions)
  return [Request(text=text, speaks=False) for text in texts]


def spoken_replies(
  engine, alone, questions: Sequence[Any], requests: Sequence[Request]
) -> list[dict[str, Any]]:
  """Answers the spoken questions: some of them one by one by the engine `alone`, whose times count,
  and the others in batches.
  """
  timed = set(questions_lib.spread(len(questions), _TIMED))
  events = {i: alone.answers([requests[i]])[0] for i in bar(sorted(timed), 'answering one by one')}
  others = [i for i in range(len(questions)) if i not in timed]
  for start in bar(range(0, len(others), _TOLD), 'answering in batches'):
    batch = others[start : start + _TOLD]
    events |= zip(batch, engine.answers([requests[i] for i in batch]))
  return [reply(example, events[i], i in timed) for i, example in enumerate(questions)]


def reply(example, events: Sequence[Any], alone: bool) -> dict[str, Any]:
  """The fields of `scores.Asked` that an answer gives, its waveform and its overflow."""
  question, answer = example.turns
  done = events[-1]
  return dict(
    id=example.id,
    voice=question.speaker,
    category=question.category,
    question=question.text,
    references=answer.references,
    answer=done.text,
    slices=sum(isinstance(e, SpokenSlice) for e in events),
    audio_s=len(done.waveform) / rates.SAMPLE_RATE,
    first_audio_s=done.first_audio_at,
    finished_s=done.finished_at,
    text_s=max(done.token_times, default=0.0),
    alone=alone,
    waveform=done.waveform,
    overflow=done.overflow,
  )


def resynthesise(engine, example) -> Resynthesis:
  """Real speech -> units -> reduced units -> vocoder."""
  from echox_jax import audio
  from echox_jax.units import kmeans

  turn = example.turns[-1]
  units, durations = kmeans.reduce_units(turn.units)
  predicted, lost = engine.vocode(units)
  return Resynthesis(
    example.id,
    turn.text,
    audio.from_int16(turn.audio),
    predicted,
    engine.vocode(units, durations)[0],
    lost,
  )


def transcribe(judge, clips: dict[str, list[np.ndarray]]) -> dict[str, list[str]]:
  """What the judge hears in each list of clips; identical clips are judged once."""
  unique = {wave.tobytes(): wave for waves in clips.values() for wave in waves}
  order = sorted(unique, key=lambda name: (len(name), name))  # batches of clips of similar length
  heard = {}
  for start in bar(range(0, len(order), _JUDGED_AT_A_TIME), 'listening'):
    names = order[start : start + _JUDGED_AT_A_TIME]
    heard.update(zip(names, judge.transcribe([unique[name] for name in names])))
  return {kind: [heard[wave.tobytes()] for wave in waves] for kind, waves in clips.items()}


def save_examples(
  folder: Path,
  questions: Sequence[Any],
  replies: Sequence[dict[str, Any]],
  remade: Sequence[Resynthesis],
) -> None:
  """Writes a few questions with their spoken answers, and one held-out answer with its
  resynthesis.
  """
  from echox_jax import audio

  with storage.atomic_dir(folder) as beside:
    for number in np.unique(np.linspace(0, len(replies) - 1, _EXAMPLES).round().astype(int)):
      name = f'{number:03}_{replies[number]["voice"]}'
      audio.write_wav(beside / f'{name}_question.wav', questions[number].turns[0].audio)
      audio.write_wav(beside / f'{name}_reply.wav', replies[number]['waveform'])
    if remade:
      audio.write_wav(beside / 'real_answer.wav', remade[0].real)
      audio.write_wav(beside / 'resynthesised_answer.wav', remade[0].predicted)
      storage.atomic_write_text(beside / 'real_answer.txt', remade[0].text + '\n')
