"""Shows whether an answer keeps to meaning or to sound on its way to speech: words near in meaning
and words near in sound, compared in text embeddings, S2T states, adapted states and units, before
and after echo training.

  python -m launch.gap --workdir out/demo --out out/gap
  python -m launch.gap --before out/ablate/cells/untrained/model
                       --checkpoint out/ablate/cells/echo_seed0/model
                       --data out/ablate/base/data --out out/gap

The words are those of the answers. Near in meaning: both answer questions of one category. Near in
sound: their phonemes, as the demo's answer voice says them, are alike. No two share a token. Before
echo training, the text-to-codec model takes the S2T states as they are.

Writes gap.json (all words, similarities and intervals), gap.md and gap.png.
"""

import argparse
import dataclasses

from echox_jax import errors, model_folder, storage
from echox_jax.storage import Path
from launch import cli


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.gap',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--workdir', type=storage.check_readable, help='working folder of the training stages'
  )
  parser.add_argument(
    '--checkpoint', type=storage.check_readable, help='model folder after echo training'
  )
  parser.add_argument(
    '--before', type=storage.check_readable, help='model folder before echo training'
  )
  parser.add_argument(
    '--data', type=storage.check_readable, help='folder of the raw data sets (default WORKDIR/data)'
  )
  parser.add_argument('--out', required=True, type=storage.check_writable, help='folder to write')
  parser.add_argument('--seed', type=int, default=0, help='of the drawn words (default 0)')
  args = parser.parse_args(argv)
  if not args.workdir and not (args.checkpoint and args.before and args.data):
    raise errors.ConfigError(
      'there is nothing to compare: give --workdir, or --checkpoint with --before and --data.'
    )

  from echox_jax.evaluation import figures, gap, near_words

  figures.check_installed()
  cli.keep_compiled_programs()
  phonemes_of, models = near_words.packaged_phonemes(), open_models(args)
  facts = read_facts(args.data or args.workdir / 'data')
  tokenizer = models['after'].tokenizer
  spelt = ((f.category, gap.spelt(tokenizer, f.answer), f.references) for f in facts)
  chosen = near_words.neighbours(near_words.vocabulary(spelt, phonemes_of), args.seed)
  words = {word for one in chosen for word in dataclasses.astuple(one)}
  asked = [
    gap.Asked(fact.wave, fact.answer) for fact in facts if words & {*gap.words_of(fact.answer)}
  ]
  told, summaries = [], {}
  for when, model in models.items():
    found = gap.similarities(gap.locate(model, asked, words), chosen)
    summaries[when] = gap.summarise(found)
    told.append(gap.in_words(f'{when} echo training', summaries[when]))
  panels = {
    space: [
      (f'{when} echo training', {kind: kinds[space][kind] for kind in gap.KINDS})
      for when, kinds in summaries.items()
    ]
    for space in gap.SPACES
  }
  storage.atomic_write_bytes(args.out / 'gap.png', figures.shares(panels))
  storage.atomic_write_json(
    args.out / 'gap.json',
    {
      'words': [dataclasses.asdict(one) for one in chosen],
      'similarity': {
        when: {
          space: {name: list(interval) for name, interval in kinds.items()}
          for space, kinds in summary.items()
        }
        for when, summary in summaries.items()
      },
      'seed': args.seed,
    },
  )
  text = f'{len(chosen)} words with a neighbour of each kind. ' + ' '.join(told) + '\n'
  storage.atomic_write_text(args.out / 'gap.md', text)
  print(text)
  print(f'-> {args.out / "gap.md"}')


@dataclasses.dataclass(frozen=True, eq=False)
class Fact:
  """A question in one voice, float32[samples] at 16 kHz, and its answer."""

  wave: object
  category: str
  answer: str
  references: tuple[str, ...]


def read_facts(data: Path) -> list[Fact]:
  """All facts, each in one voice, one that training has not heard if there is one; errors as
  `dataset.open_dataset`.
  """
  from data_pipeline import dataset
  from echox_jax import audio

  found = {}
  for name, split in (('questions', 'test'), ('questions', 'train')):
    for example in dataset.read_examples(data, name, split):
      question, answer = example.turns[:2]
      if answer.text not in found:
        wave = audio.from_int16(question.audio)
        found[answer.text] = Fact(wave, question.category, answer.text, answer.references)
  return list(found.values())


def open_models(args: argparse.Namespace) -> dict[str, model_folder.Bundle]:
  """The models `before` and `after` echo training; errors as `model_folder.load` and
  `assemble.assemble`.
  """
  from echox_jax.conversion import assemble
  from echox_jax.tokenizer import load_tokenizer
  from echox_jax.units.unit_language import UnitLanguage

  def of_stages(make) -> model_folder.Bundle:
    config, engine, params, tokenizer, language = make(args.workdir)
    return model_folder.Bundle(
      config, params, engine, load_tokenizer(tokenizer.parent), UnitLanguage.load(language)
    )

  return {
    'before': model_folder.load(args.before)
    if args.before
    else of_stages(assemble.assemble_untrained),
    'after': model_folder.load(args.checkpoint)
    if args.checkpoint
    else of_stages(assemble.assemble),
  }


if __name__ == '__main__':
  cli.run(main)
