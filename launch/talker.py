"""Makes a chat LLM hear and speak, in one command: corpus, all stages, export, evaluation.

  python -m launch.convert import --kind llm --source Qwen2.5-0.5B-Instruct --out models/qwen
  python -m launch.talker --llm models/qwen --out out/qwen --plan
  python -m launch.talker --llm models/qwen --out out/qwen [--hours 5] [--voice RECORDINGS]
                          [--config.FIELD=VALUE ...]

The LLM may be a Llama, a Qwen2 or a Qwen3. It answers everyday questions in writing, packaged
voices speak them and its answers, and it learns to give the same answers by ear and by mouth. Its
knowledge is not trained: it stays what it was.

The first command imports the LLM from a folder of others; with `--kind llm-gguf` it reads a GGUF
file. The second one says what the run will cost on this machine; once the run has begun, it says so
by what the run has measured. It takes the options of launch.plan, such as --chip=v5e --chips=8 and
prices. The third one does everything, and goes on where it was when it was stopped: finished parts
are skipped. Whatever is missing is told before anything is computed.

Each part is a command of its own, which can be run by hand and on several hosts:
configs/talker.py shows them. All get the same --config.FIELD=VALUE, so that a GPU, a TPU or a CPU
is used as the config says. The parts need the extras `train`, `talker`, `demo` and `eval`, and
Debian's `wordnet-base`.

With `--voice`, the model then learns to speak as somebody whose recordings are at hand, an hour or
so, as launch.voice does it; everything before is the same with and without. `--plan` leaves this
part out.

OUT gets the data sets in `data`, a folder for each stage, the model in `model` (with `--voice` the
one that speaks so in `voice/model`), the words that it hears in `heard`, and the scores of its
answers in `evaluation`.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os

from configs import talker
from configs.paper import Source
from echox_jax import errors, storage
from echox_jax.parallel import distributed
from echox_jax.training import layout
from launch import cli, pipeline
from launch.steps import Step, run_all

CONFIG = 'configs/talker.py'
VOICE = 'voice'  # the part and its folder
# share of the peak, where no run has measured it: s2t of echox_135m at first, on a Xeon
_MFU = 0.25
ASKED = talker.QUESTIONS.hours


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
  """The options of the run, and the fields of the config.

  Raises:
    ConfigError: a number is out of range.
  """
  parser = argparse.ArgumentParser(
    prog='python -m launch.talker',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--llm', required=True, metavar='DIR', help='folder of an imported LLM')
  parser.add_argument(
    '--out', required=True, type=storage.check_writable, metavar='DIR', help='folder to write'
  )
  parser.add_argument(
    '--hours',
    type=float,
    default=ASKED,
    help='hours of spoken questions, about; sentences, spoken answers and steps of training shrink '
    'in proportion (default: all, %(default)s)',
  )
  parser.add_argument(
    '--voice',
    metavar='RECORDINGS',
    type=storage.check_readable,
    help='recordings of the voice that it shall have, and their texts, as in launch.voice '
    '(default: the packaged voice hibari)',
  )
  parser.add_argument(
    '--questions',
    type=int,
    default=500,
    help='held-out questions that the evaluation asks (default %(default)s, or all there are)',
  )
  parser.add_argument(
    '--judge',
    default='whisper-base',
    help='who listens to the answers, as in launch.evaluate (default %(default)s)',
  )
  parser.add_argument(
    '--workers',
    type=int,
    default=os.cpu_count(),
    help='processes that speak the corpus (default: one a core)',
  )
  parser.add_argument('--plan', action='store_true', help='say what it will cost, and run nothing')
  args, options = parser.parse_known_args(argv)
  if not talker.SMALLEST * ASKED <= args.hours <= ASKED:
    raise errors.ConfigError(
      f'--hours is {args.hours:g}: give {talker.SMALLEST * ASKED:g} to {ASKED:g}.'
    )
  for name in ('questions', 'workers'):
    if getattr(args, name) < 1:
      raise errors.ConfigError(f'--{name} is {getattr(args, name)}: give 1 or more.')
  return args, options


def steps(args: argparse.Namespace, options: Sequence[str]) -> list[Step]:
  """All parts in order."""
  out, share = str(args.out), args.hours / ASKED
  tested = min(1.0, max(share, args.questions / talker.TESTS))
  alone = (
    text
    for kind, hours in talker.alone_hours(share).items()
    for text in (f'--spoken_{kind}', f'{hours:.4g}h')
  )
  corpus = (
    *('launch.corpus', '--recipe', 'talker', '--data', f'{out}/data', '--llm', args.llm),
    *('--share', f'{share:.4g}', '--test_questions', f'{tested:.4g}'),
    *('--spoken_answers', f'{talker.ANSWER_HOURS * share:.4g}h'),
    *alone,
    *('--workers', str(args.workers)),
  )
  scored = ('--checkpoint', str(model_folder_of(args)), '--data', f'{out}/data')
  asked = ('launch.evaluate', *scored, '--limit', str(args.questions))
  return [
    Step('corpus', 'the LLM answers questions, voices speak them', corpus),
    *pipeline.steps(CONFIG, out, talker.STAGES, options),
    *(own_voice(args, options) if args.voice else ()),
    Step(
      'heard',
      'unseen voices ask, it writes what it hears',
      (*asked, '--transcripts', '--out', f'{out}/heard'),
    ),
    Step(
      'evaluate',
      'unseen voices ask, a judge listens',
      (*asked, '--judge', args.judge, '--out', f'{out}/evaluation'),
    ),
  ]


def own_voice(args: argparse.Namespace, options: Sequence[str]) -> list[Step]:
  """The part that gives the exported model the voice of the recordings."""
  out = str(args.out)
  made_from = ('--checkpoint', f'{out}/model', '--recordings', str(args.voice))
  command = ('launch.voice', *made_from, '--data', f'{out}/data', '--out', f'{out}/{VOICE}')
  return [Step(VOICE, 'it learns to speak as the recordings', (*command, '--no_scores', *options))]


def model_folder_of(args: argparse.Namespace) -> storage.Path:
  """Where the model is in the end."""
  return args.out / VOICE / 'model' if args.voice else args.out / 'model'


def set_environment(args: argparse.Namespace) -> None:
  """Tells configs/talker.py, here and in all parts, which LLM and which share are meant."""
  os.environ[talker.LLM] = args.llm
  os.environ[talker.SHARE] = f'{args.hours / ASKED:.4g}'


def check(todo: Sequence[Step]) -> None:
  """Reads the options of all parts as they will, and looks for whatever they need.

  Raises:
    EchoXError: something is wrong or missing.
  """
  from data_pipeline.corpus.talker import build
  from echox_jax.conversion import whisper_ct2
  from echox_jax.evaluation import judges
  from launch import corpus, evaluate, question_scores, train, voice

  for step in todo:
    pipeline.check(step)
    pipeline.check_finished(step, 'launch.talker')
  for step in todo:
    if step.name == 'corpus':
      build.check(corpus.parse(step.command[1:]).llm)
    if step.name == 'align':
      whisper_ct2.packaged_files(train.parse(list(step.command))[0].speech_encoder)
    if step.name == VOICE:
      voice.find_list(voice.parse(step.command[1:])[0].recordings)
    if step.name == 'evaluate':
      args = evaluate.parse(step.command[1:])
      question_scores.check(args)
      judges.open_judge(args.judge, storage.cache_folder() / 'judge')


def plan_of(args: argparse.Namespace, options: Sequence[str]) -> str:
  """What the run costs on this machine, as text: by what the run has measured, if it has begun.

  Options of `launch.plan` among `options` win, such as another chip.

  Raises:
    EchoXError: as `launch.plan`.
  """
  from launch import plan

  expected = expected_sources(args.hours / ASKED)
  usual = (
    f'--config={CONFIG}',
    f'--stages={",".join(talker.STAGES)}',
    f'--mfu={_MFU}',
    f'--answers={expected[0].items}',
    f'--questions={args.questions}',
    '--chip=here',
    '--cpu_hosts=1',
  )
  given, fields = plan.parse((*usual, *options))
  if given.chip == plan.HERE and given.workdir is None and storage.exists(args.out):
    given.workdir = str(args.out)
  if given.data is None and storage.is_file(args.out / layout.DATA / 'talker' / 'about.json'):
    given.data = str(args.out / layout.DATA)  # the corpus is there
  return plan.show(plan.make(given, fields, None if given.data or given.sources else expected))


def expected_sources(share: float) -> list[Source]:
  """What a share of the corpus will hold, about; the questions first."""
  asked = [
    dataclasses.replace(source, items=round(share * source.items), hours=share * source.hours)
    for source in (talker.QUESTIONS, talker.SENTENCES)
  ]
  return [*asked, talker.spoken(share)]


def main(argv: Sequence[str] | None = None) -> int:
  args, options = parse(argv)
  if distributed.make_plan('auto', None, None, None, os.environ):
    raise errors.EchoXError(
      'launch.talker runs on one host and this job has several: make the corpus on one, then run '
      f'`python -m launch.job pipeline --config={CONFIG}` on all, as {CONFIG} shows.'
    )
  set_environment(args)
  if args.plan:
    print(plan_of(args, options))
    return 0
  todo = steps(args, options)
  check(todo)
  code = run_all(todo)
  if code == 0:
    model = model_folder_of(args)
    print(
      f'the model is in {model}: python -m launch.serve --checkpoint {model}\n'
      f'its scores are in {args.out}/evaluation/report.html and {args.out}/heard/transcripts.json'
    )
  return code


if __name__ == '__main__':
  cli.run(main)
