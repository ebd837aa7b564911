"""Writes what an ablation shows: results.md, results.json, shares.png and latency.png."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from echox_jax import storage
from echox_jax.evaluation import ablation, figures
from launch.ablate.cells import UNTRAINED, cell_name
from launch.ablate.presets import AS_BASE, BASE, QUESTIONS, Preset, Variant

Read = Callable[[str], list[dict[str, Any]]]  # name of a cell -> its records
_SPLITS = ('heard', 'unheard')


def write(preset: Preset, out: Path, read: Read, seconds: Mapping[str, float]) -> str:
  """Writes all files; returns the Markdown.

  Args:
    preset: the table.
    out: folder.
    read: gives the records of a cell.
    seconds: what each task took.
  """
  blocks = tables(preset, read)
  rows = [one for some in blocks.values() for one in some]
  parts = [_method(preset, read), ablation.caution(rows)]
  for block, some in blocks.items():
    parts.append(f'## {QUESTIONS[block]}\n')
    parts.append(ablation.markdown(some, timed=block == 'e'))
    parts.append(ablation.in_words(QUESTIONS[block], some))
  text = '# Ablations\n\n' + '\n\n'.join(part.strip() for part in parts) + '\n'
  storage.atomic_write_text(out / 'results.md', text)
  storage.atomic_write_json(
    out / 'results.json',
    {
      'blocks': {
        block: [dataclasses.asdict(one) for one in some] for block, some in blocks.items()
      },
      'questions': QUESTIONS,
      'seeds': preset.seeds,
      'minutes': round(sum(seconds.values()) / 60, 1),
      'seconds': dict(seconds),
    },
  )
  panels = {
    QUESTIONS[block]: [(one.what, _shown(one)) for one in some]
    for block, some in blocks.items()
    if block != 'e'
  }
  storage.atomic_write_bytes(out / 'shares.png', figures.shares(panels))
  points = [(one.what, one.lag, _shown(one)) for one in blocks['e']]
  picture = figures.latency(points, 'text tokens before the first slice is cut')
  storage.atomic_write_bytes(out / 'latency.png', picture)
  return text


def tables(preset: Preset, read: Read) -> dict[str, list[ablation.Row]]:
  """The rows of each question; the first is the base of its differences."""

  def answers(variant: Variant) -> ablation.Answers:
    if not variant.trains:
      return [read(variant.name)]
    return [read(cell_name(variant.name, seed)) for seed in preset.seeds]

  base = next(variant for variant in preset.variants if variant.name == BASE)
  told, blocks = answers(base), {}
  for block in dict.fromkeys(variant.block for variant in preset.variants):
    others = [v for v in preset.variants if v.block == block and v.name != BASE]
    first = ablation.row(BASE, AS_BASE.get(block, base.what), told)
    blocks[block] = [first, *(ablation.row(v.name, v.what, answers(v), told) for v in others)]
  cut = {c: [read(cell_name(c.name, seed)) for seed in preset.seeds] for c in preset.cuttings}
  offline, *others = preset.cuttings
  blocks['e'] = [
    ablation.row(offline.name, offline.what, cut[offline]),
    *(ablation.row(c.name, c.what, cut[c], cut[offline]) for c in others),
  ]
  return dict(sorted(blocks.items()))


def _shown(one: ablation.Row) -> dict[str, Sequence[float]]:
  return {split: one.s2s[split] for split in _SPLITS if split in one.s2s}


def _method(preset: Preset, read: Read) -> str:
  """How the figures came about, in a paragraph."""
  asked = read(UNTRAINED)
  counts = {
    split: sum(record['split'] in kinds for record in asked)
    for split, kinds in ablation.SPLITS.items()
  }
  steps = next((f for f in preset.stages['echo'] if f.startswith('train.steps=')), 'as configured')
  return (
    f'Every trained cell has the same budget in stage `echo` ({steps}), in {len(preset.seeds)} '
    'seeds, from the same earlier stages; a conventional cell differs from an echo cell in the '
    'targets that its line names, and speaks whole answers, as it was trained. Voices never heard '
    f'in training ask {counts["heard"]} questions about facts whose spoken answers are in the '
    f'training audio of every method (heard), and {counts["unheard"]} about facts whose spoken '
    f'answers no stage has heard (unheard); in {counts["new words"]} of these the asked word '
    'itself was never spoken. S2T: the text is right. S2S: what the judge hears is right. WER: the '
    'judge against the text. Brackets: 95 % bootstrap intervals over questions and seeds; '
    'differences are paired by question, and bold where the interval excludes 0.'
  )
