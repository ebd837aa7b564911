"""Scores what a model hears: `launch.evaluate --transcripts`.

  python -m launch.evaluate --transcripts --checkpoint out/mine/align --data DATA --out out/heard

CHECKPOINT is a model folder, or the folder of a finished stage that hears (align, s2t, echo), so
that one knows after `align` which words the adapter hears. Nothing is answered and no judge is
needed. OUT/transcripts.json has the word error rate, by voice and by category, with 95 % intervals;
OUT/transcripts.jsonl has a line for each question.

With --noise it is also asked what it hears where nobody asks anything: in silence, noise, hum,
clicks, tones and up to 40 of the questions played backwards. `no_question` in OUT/transcripts.json
says in how many of each kind it heard nothing, OUT/noise.jsonl what it heard.
"""

import argparse
from collections.abc import Sequence
import json
from typing import Any

from data_pipeline import question_sets
from echox_jax import errors, model_folder, storage
from echox_jax.evaluation import normalise, questions, robustness, transcripts
from launch import cli, model_options
from launch.progress import bar

_BACKWARDS = 40  # questions that are played backwards at most


def run(args: argparse.Namespace) -> None:
  """Does what the options of launch.evaluate say.

  Raises:
    EchoXError: options, data or a model that cannot be used; before anything is computed.
  """
  normalise.normalise('')  # reports a missing extra before the work, not after it
  errors.require('scipy', 'eval', 'Making intervals')
  asked = question_sets.read(args.data, args.split)
  questions.check_transcribed(asked, str(args.data))
  asked = [asked[i] for i in questions.spread(len(asked), args.limit)]

  from echox_jax.inference.engine import Engine

  cli.keep_compiled_programs()
  engine = Engine(_open(args), speaks=False)
  heard = transcripts.hear(engine, bar(asked, 'hearing'))
  scores = transcripts.summarise(heard)
  storage.make_folder(args.out)
  _write(args.out / 'transcripts.jsonl', heard)
  if args.noise:
    some = [asked[i] for i in questions.spread(len(asked), _BACKWARDS)]
    clips = [*robustness.sounds(), *robustness.backwards(some)]
    refusals = robustness.hear(engine, bar(clips, 'listening to noise'))
    scores['no_question'] = robustness.summarise(refusals)
    _write(args.out / 'noise.jsonl', refusals)
  storage.atomic_write_json(args.out / 'transcripts.json', scores)
  print(table(scores))
  print(f'-> {args.out}/transcripts.json')


def _write(path: storage.Path, heard: Sequence[transcripts.Heard | robustness.Refusal]) -> None:
  lines = [json.dumps(own.row(), ensure_ascii=False) for own in heard]
  storage.atomic_write_text(path, '\n'.join(lines) + '\n')


def _open(args: argparse.Namespace) -> Any:
  if model_folder.is_model(args.checkpoint):
    return model_options.open_model(args)
  # training code is imported only for training folders
  from echox_jax.conversion import assemble

  return assemble.assemble_hearing(args.checkpoint)


def table(scores: dict[str, Any]) -> str:
  """The word error rates as lines of text."""

  def line(name: str, own: dict[str, Any]) -> str:
    wer = own['transcript_wer']
    if wer is None:
      return f'  {name:24} none'
    low, high = (wer['value'] if wer[side] is None else wer[side] for side in ('low', 'high'))
    return f'  {name:24} {wer["value"]:.3f} [{low:.3f}, {high:.3f}]  {own["questions"]} questions'

  return '\n'.join(
    [
      f'word error rate of what was heard; 95 % intervals; {scores["refused"]} refused',
      line('all', scores),
      *(line(name, own) for name, own in scores['by_voice'].items()),
      *(
        f'  {kind:24} nothing heard in {own["refused"]} of {own["sounds"]}'
        for kind, own in scores.get('no_question', {}).items()
      ),
    ]
  )
