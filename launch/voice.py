"""Gives a model that speaks another voice: yours, from an hour of recordings with their texts.

  python -m launch.voice --checkpoint out/demo/model --recordings mine --data out/demo/data
                         --out out/mine [--config.FIELD=VALUE ...]

RECORDINGS is a folder of recordings, each with a text file of the same name beside it
(`python -m launch.corpus --reader pairs --help`), or a list of recordings and answers as JSON lines
or TSV (`--reader manifest --help`). An hour of one speaker is advised. DATA is a folder with
questions that the model answers, as `python -m launch.corpus` makes them: those it was trained on,
or others. The new model is in OUT/model; `launch.respond` and `launch.serve` open it.

What changes, and why no more:

- Units and their words stay those of the checkpoint. So the text-to-codec model and the echo
  decoder keep their vocabulary and learn on from what they know, instead of from nothing; the new
  speaker's recordings become units by the checkpoint's k-means.
- The text-to-codec model learns on, from texts to the unit words of the new speaker.
- The echo decoder learns on, from the LLM's states to what the new text-to-codec model says. That
  needs states of answers, and so the questions in DATA: 2,000 are enough, evenly spread.
- The vocoder, with its duration predictor, learns on from the new speaker's sound. New
  discriminators judge it, because a model folder holds none.
- All else is the checkpoint's, bit by bit: LLM, LoRA, adapter, denoising adapter and speech encoder
  take no part in how a voice sounds. The model hears and writes exactly what it did before.

Every part is a separate command that can be run by hand, see configs/voice.py. If it is stopped,
the same command continues where it was. It runs on one host.
"""

import argparse
from collections.abc import Sequence
import json
import sys

from configs import voice as config
from data_pipeline import dataset, ingest, sampling
from echox_jax import errors, model_folder, rates, storage, tensor_files
from echox_jax.storage import Path
from launch import cli, model_options, pipeline
from launch.steps import Step, run_all

CONFIG = 'configs/voice.py'
STAGES = ('t2c', 'echo', 'vocoder')
# what the new model needs of the checkpoint
GROUPS = (
  *('whisper', 'adapter', 'llm', 'unit_text_embedding'),
  *('t2c', 'echo', 'denoising_adapter', 'vocoder'),
)
LISTS = ('.tsv', '.jsonl')
ADVISED_MINUTES, FEW_MINUTES = 60, 20
TEST_QUESTIONS = 100
QUESTIONS, ANSWERS = 'questions', f'{config.PREFIX}answers'
JOB = 'voice.json'  # in OUT: what it is made from


def main(argv: Sequence[str] | None = None) -> int:
  args, options = parse(argv)
  todo = steps(args, options)
  check(args, todo)
  read_in(args)
  code = run_all(todo)
  if code == 0:
    print(
      f'the model with the new voice is in {args.out}/model: python -m launch.respond --checkpoint '
      f'{args.out}/model question.wav -o reply.wav'
    )
  return code


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
  """The command line, and those of its options that go to all parts."""
  parser = argparse.ArgumentParser(
    prog='python -m launch.voice',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--checkpoint', required=True, type=model_options.folder, help='exported model that speaks'
  )
  parser.add_argument(
    '--recordings',
    required=True,
    type=storage.check_readable,
    help='folder of recordings with their texts, or a list of them (.tsv, .jsonl)',
  )
  parser.add_argument(
    '--data',
    required=True,
    type=storage.check_readable,
    help='folder of data sets with questions that the model answers',
  )
  parser.add_argument(
    '--out', required=True, type=storage.check_writable, help='working folder; OUT/model is made'
  )
  parser.add_argument(
    '--questions',
    type=int,
    default=2000,
    help='questions that echo training sees (default %(default)s)',
  )
  parser.add_argument(
    '--no_scores',
    action='store_true',
    help='do not let the new model answer test questions in the end, for its scores in '
    'OUT/evaluation',
  )
  parser.add_argument(
    '--least_minutes',
    type=float,
    default=5.0,
    help='less speech than this is refused (default %(default)s)',
  )
  args, options = parser.parse_known_args(argv)
  if args.questions < 1:
    raise errors.ConfigError(f'--questions is {args.questions}: echo training needs some.')
  return args, options


def steps(args: argparse.Namespace, options: Sequence[str] = ()) -> list[Step]:
  """All parts in order, from data sets to the new model and its scores."""
  job, out = f'{CONFIG}:{args.checkpoint}', args.out
  todo = [
    pipeline.precompute(f'{job}:{STAGES[0]}', out, options),
    *(pipeline.train(job, out, stage, options) for stage in STAGES),
    pipeline.export(out, ('--base', str(args.checkpoint))),
  ]
  if not args.no_scores:
    command = ('launch.evaluate', '--checkpoint', f'{out}/model', '--data', f'{out}/data')
    title = 'unseen voices ask, a judge listens'
    todo.append(Step('evaluate', title, (*command, '--out', f'{out}/evaluation')))
  return todo


def check(args: argparse.Namespace, todo: Sequence[Step]) -> None:
  """Looks at all that can be known before anything is computed.

  Raises:
    EchoXError: the checkpoint cannot get another voice, options or data cannot be used, or OUT
      holds another job.
  """
  _check_model(args.checkpoint)
  for step in todo:
    pipeline.check(step, 'launch.voice')
    pipeline.check_finished(step, 'launch.voice')
  _check_units(args.checkpoint, todo[0])
  find_list(args.recordings)
  splits = dataset.manifest(args.data, QUESTIONS)['splits']
  absent = [name for name in ('train', 'test') if name not in splits]
  if absent:
    raise errors.DataError(
      f'{args.data}/{QUESTIONS} has no split {absent[0]!r}: make questions with '
      '`python -m launch.corpus`.'
    )
  if not args.no_scores:
    errors.require('faster_whisper', 'eval', 'Scoring the new voice (or leave it out: --no_scores)')
  _check_same_job(args)


def _check_model(folder: Path) -> None:
  """Raises CheckpointError if the model lacks a part or speaks at another rate."""
  from echox_jax.conversion import source as source_lib

  model = model_folder.read_config(folder)  # refuses the working folder of a training
  source = source_lib.open_source(folder)
  source.require(GROUPS, 'another voice')
  if model_folder.UNIT_LANGUAGE not in source.files:
    raise errors.CheckpointError(
      f'{folder} lacks {model_folder.UNIT_LANGUAGE}, the words of its units: export it again.'
    )
  if model.vocoder.sample_rate != rates.SAMPLE_RATE:
    raise errors.CheckpointError(
      f'the vocoder of {folder} makes {model.vocoder.sample_rate} samples a second, but recordings '
      f'are read at {rates.SAMPLE_RATE}: use a model whose vocoder has that rate.'
    )


def _check_units(folder: Path, precompute: Step) -> None:
  """Raises EchoXError if the new speech would become other units than the model was trained on."""
  from launch import train

  job = train.parse(list(precompute.command), 'launch.voice')[0]
  if not job.precompute.kmeans:
    raise errors.CheckpointError(
      f'{folder} lacks {model_folder.KMEANS}, by which its speech became units: name that file of '
      'its training (WORKDIR/precomputed) with --config.precompute.kmeans=FILE.'
    )
  encoded = job.model.units.encoder == 'whisper' or job.precompute.state_sets
  if encoded and not _has_packaged_encoder(folder):
    raise errors.CheckpointError(
      f'{folder} has a Whisper that no package holds, and units and states are made by the '
      'package: use a model with the packaged tiny.en or base.'
    )
  if job.model.units.encoder == 'hubert' and not job.precompute.hubert:
    raise errors.ConfigError(
      f'the units of {folder} come from a HuBERT: name its folder with '
      '--config.precompute.hubert=DIR.'
    )


def _has_packaged_encoder(folder: Path) -> bool:
  """Whether the model's speech encoder is the packaged one of its size, up to rounding."""
  import numpy as np

  from echox_jax.conversion import whisper_ct2
  from echox_jax.models import trees

  size = config.packaged_encoder(model_folder.read_config(folder))
  if not size:
    return False
  own = tensor_files.open_tensors(folder)
  return all(
    np.allclose(np.asarray(own[path], np.float32), value, rtol=0.01, atol=1e-3)
    for path, value in trees.flatten({'whisper': whisper_ct2.packaged_encoder(size)}).items()
  )


def _check_same_job(args: argparse.Namespace) -> None:
  """Raises ConfigError if OUT was begun with another model, other recordings or other questions."""
  file, wanted = args.out / JOB, _job(args)
  before = json.loads(file.read_text('utf-8')) if storage.is_file(file) else wanted
  for name, value in wanted.items():
    if before.get(name) != value:
      raise errors.ConfigError(
        f'{args.out} was begun with --{name} {before.get(name)}, now it is {value}: give another '
        '--out.'
      )


def _job(args: argparse.Namespace) -> dict[str, str | int]:
  """What decides about all that is made."""
  folders = {name: getattr(args, name) for name in ('checkpoint', 'recordings', 'data')}
  found = {name: str(storage.absolute(folder)) for name, folder in folders.items()}
  return found | {'questions': args.questions}


def find_list(recordings: Path) -> tuple[str, Path]:
  """(reader, its source) of what the user named.

  Raises:
    DataError: it is nothing that a reader reads.
  """
  if storage.is_file(recordings) and recordings.suffix.lower() in LISTS:
    return 'manifest', recordings
  if not recordings.is_dir():
    raise errors.DataError(
      f'{recordings} is neither a folder of recordings nor a list of them ({", ".join(LISTS)}): '
      'name one of them.'
    )
  lists = sorted(file for file in recordings.iterdir() if file.suffix.lower() in LISTS)
  if len(lists) > 1:
    raise errors.DataError(
      f'{recordings} holds {len(lists)} lists ({lists[0].name}, {lists[1].name}): name the '
      'right one with --recordings.'
    )
  return ('manifest', lists[0]) if lists else ('pairs', recordings)


def read_in(args: argparse.Namespace) -> None:
  """Makes the data sets in OUT/data: the recordings, and a sample of the questions.

  Raises:
    EchoXError: recordings or questions that cannot be used, or too little speech.
  """
  storage.make_folder(args.out)
  storage.atomic_write_json(args.out / JOB, _job(args))
  reader, source = find_list(args.recordings)
  data = args.out / 'data'
  print(f'reading {source}', flush=True)
  sharing = ingest.Sharing(workers=2)
  ingest.build(reader, source, data, prefix=config.PREFIX, sharing=sharing, progress=True)
  minutes = minutes_of_speech(data)
  if minutes < args.least_minutes:
    raise errors.DataError(
      f'{args.recordings} holds {minutes:.1f} minutes of speech to learn from, fewer than '
      f'{args.least_minutes:g}: record more ({ADVISED_MINUTES} minutes are advised), or lower '
      '--least_minutes.'
    )
  if minutes < FEW_MINUTES:
    print(
      f'warning: {minutes:.1f} minutes of speech are few: {ADVISED_MINUTES} are advised.',
      file=sys.stderr,
    )
  most = {'train': args.questions, 'test': TEST_QUESTIONS}
  taken = sampling.copy_sample(args.data, QUESTIONS, data, most)
  print(f'{minutes:.1f} minutes of speech, {taken["train"]} questions', flush=True)


def minutes_of_speech(data: Path) -> float:
  """Minutes that the new speaker's recordings give to train on.

  Raises:
    DataError: the recordings are questions alone.
  """
  if not dataset.dataset_exists(data, ANSWERS):
    raise errors.DataError(
      'the list of recordings has no answer_audio: list what the new voice says there.'
    )
  return 60 * dataset.manifest(data, ANSWERS)['splits']['train']['hours']


if __name__ == '__main__':
  cli.run(main)
