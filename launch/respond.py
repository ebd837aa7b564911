"""Asks a model questions and writes its spoken answers.

  python -m launch.respond --checkpoint out/demo/model question.wav -o reply.wav
  python -m launch.respond --checkpoint out/demo/model one.wav two.mp3 -o reply.wav
  python -m launch.respond --checkpoint out/demo/model --text "What is two plus two?" -o reply.wav
  python -m launch.respond --checkpoint models/smollm2-135m --text "What is two plus two?"
  python -m launch.respond --checkpoint out/demo/model one.wav --text "And of Norway?" --chat --play

The second command writes reply.wav and reply_2.wav. The fourth one answers in text only. In the
last one the questions are turns of one conversation, and the answers are played at once.

Questions may have any sample rate, channel count and common format. The text is printed as it is
generated; a line for each slice says when it was heard. All questions are read before the first is
answered. Replies are 16 kHz wav files. Without `-o` and `--play` answers are text only: a language
model that was just imported cannot speak yet.
"""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import sys
from typing import Any

from echox_jax import errors, rates, storage
from echox_jax.storage import Path
from launch import cli, model_options


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.respond',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'questions',
    nargs='*',
    type=storage.check_readable,
    metavar='QUESTION',
    help='recordings of questions',
  )
  model_options.add(parser)
  parser.add_argument(
    '--text', action='append', default=[], help='a written question (may be repeated)'
  )
  parser.add_argument(
    '-o',
    '--output',
    type=storage.check_writable,
    help=('wav file to write; further answers get _2, _3 ... (default: none)'),
  )
  parser.add_argument(
    '--play', action='store_true', help='play answers while they are made (extra `play`)'
  )
  parser.add_argument(
    '--chat', action='store_true', help='the questions are turns of one conversation'
  )
  parser.add_argument(
    '--json', type=storage.check_writable, help='also write text, slices and times to this file'
  )
  parser.add_argument(
    '--temperature',
    type=float,
    default=0.0,
    help='0 (default): always the most likely token; released: 0.2',
  )
  parser.add_argument('--top-p', type=float, default=0.9, help='for sampling (default 0.9)')
  parser.add_argument('--top-k', type=int, default=0, help='for sampling; 0 (default): all tokens')
  parser.add_argument(
    '--repetition-penalty', type=float, default=1.0, help='above 1: said tokens get rarer'
  )
  parser.add_argument('--seed', type=int, default=0, help='for sampling')
  parser.add_argument('--max-tokens', type=int, help='tokens of an answer (default: the budget)')
  args = parser.parse_args(argv)
  if not args.questions and not args.text:
    raise errors.EchoXError('there is no question: give a recording or --text "...".')
  from echox_jax.inference.answering import Request

  names = ('temperature', 'top_p', 'top_k', 'repetition_penalty', 'seed', 'max_tokens')
  asked = Request(**{name: getattr(args, name) for name in names})
  asked.check()
  if args.output and args.output.suffix.lower() != '.wav':
    raise errors.EchoXError(
      f'{args.output} is not a wav file: give an output name that ends in .wav.'
    )
  for folder in {file.parent for file in (args.output, args.json) if file}:
    storage.make_folder(folder)  # fail before anything is computed

  from echox_jax import audio, model_folder
  from echox_jax.inference.engine import Engine
  from echox_jax.inference.history import Conversation

  cli.keep_compiled_programs()
  waves = [audio.load_audio(path) for path in args.questions]
  model = model_options.open_model(args)
  model_folder.require(model, model_folder.TEXT, 'answer')
  if args.questions:
    model_folder.require(model, model_folder.hearing(model.config), 'hear', 'ask with --text')
  speaks = args.output is not None or args.play
  if speaks:
    model_folder.require(
      model, model_folder.SPEAKING, 'speak', 'leave out -o and --play for text answers'
    )
  alone = dataclasses.replace(model.engine, conversations=1)
  engine = Engine(
    dataclasses.replace(model, engine=alone), hears=bool(args.questions), speaks=speaks
  )
  check = engine.questions.check_wave
  waves = [_named(path, check, wave) for path, wave in zip(args.questions, waves)]
  for text in args.text:
    engine.questions.prompt(text, audio=False)
  named = [
    (str(path), dataclasses.replace(asked, wave=w)) for path, w in zip(args.questions, waves)
  ]
  named += [(text, dataclasses.replace(asked, text=text)) for text in args.text]
  conversation, replies = Conversation() if args.chat else None, []
  with _player(args.play) as play:
    print('warming up ...', end='', file=sys.stderr, flush=True)
    seconds = engine.warm_up(None if args.chat else [request for _, request in named])
    print(f' {seconds:.1f} s', file=sys.stderr)
    for number, (name, request) in enumerate(named, 1):
      print(f'\n{name}')
      told = _tell(engine.stream(engine.ask(request, conversation)), play)
      file = _write(args.output, number, told.pop('waveform'))
      replies.append(told | {'question': name, 'audio': file})
  if args.json:
    storage.atomic_write_json(
      args.json, replies[0] | {'further': replies[1:]} if len(replies) > 1 else replies[0]
    )


def _write(output: Path | None, number: int, waveform: Any) -> str | None:
  """Writes answer `number` beside the first; returns its file."""
  from echox_jax import audio

  if output is None:
    return None
  target = output if number == 1 else output.with_stem(f'{output.stem}_{number}')
  audio.write_wav(target, waveform)
  print(f'-> {target}')
  return str(target)


@contextlib.contextmanager
def _player(wanted: bool) -> Iterator[Callable[[Any], None]]:
  """Yields what is called with each piece of sound."""
  if not wanted:
    yield lambda piece: None
    return
  from launch import playback

  with playback.Player() as player:
    yield player.play


def _tell(events, play: Callable[[Any], None]) -> dict[str, Any]:
  """Prints an answer as it is generated, and plays it; returns its waveform and the data for
  `--json`.
  """
  from echox_jax.inference.events import Sound, SpokenSlice, TextPiece, notes

  slices, lines = [], []
  for event in events:
    if isinstance(event, TextPiece):
      print(event.text, end='', flush=True)
    elif isinstance(event, Sound):
      play(event.waveform)
    elif isinstance(event, SpokenSlice):
      seconds = len(event.waveform) / rates.SAMPLE_RATE
      slices.append(
        {
          'text': event.text,
          'tokens': event.tokens,
          'unit_words': len(event.unit_words),
          'units': len(event.units),
          'audio_s': round(seconds, 3),
          'cut_at_s': round(event.cut_at, 4),
          'ready_at_s': round(event.ready_at, 4),
        }
      )
      lines.append(
        f'  slice {event.index + 1}: {seconds:.2f} s of speech, cut at '
        f'{event.cut_at:.2f} s, '
        f'heard at {event.ready_at:.2f} s: {event.text}'
      )
  print('\n'.join(['', *lines]))
  seconds = len(event.waveform) / rates.SAMPLE_RATE
  rate = round(event.finished_at / seconds, 4) if seconds else None
  for note in notes(event.overflow):
    print(f'  note: {note}')
  return {
    'text': event.text,
    'slices': slices,
    'audio_s': round(seconds, 3),
    'first_audio_s': event.first_audio_at,
    'finished_s': event.finished_at,
    'real_time_factor': rate,
    'scores': event.scores,
    'token_times_s': event.token_times,
    'overflow': event.overflow,
    'waveform': event.waveform,
  }


def _named(path: Path, check, wave):
  """Runs a check on a recording; its error names the recording."""
  try:
    return check(wave)
  except errors.AudioError as error:
    raise errors.AudioError(f'{path}: {error}') from error


if __name__ == '__main__':
  cli.run(main)
