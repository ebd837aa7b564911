"""The work of an ablation: the tasks that lead from a corpus to the answers of every cell.

OUT/base/            data, precomputed and the earlier stages, shared by all cells
OUT/base_VARIANT/    the same, where a variant needs some of its own
OUT/cells/NAME/      stage `echo` of a cell, its model, and answers.jsonl
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import itertools
import json
from pathlib import Path
import shutil

import jax

from data_pipeline import batches, dataset, precompute
from data_pipeline.corpus import build
import echox_jax
from echox_jax import errors, storage
from echox_jax.conversion import assemble, exporters, whisper_ct2
from echox_jax.conversion import source as source_lib
from echox_jax.evaluation import judges
from echox_jax.training import checkpoint, layout, loop
from launch import train
from launch.ablate import answering, presets, questions, work
from launch.ablate.presets import Preset, Variant
from launch.ablate.work import Task

ANSWERS = 'answers.jsonl'
UNTRAINED = 'untrained'  # the cell whose model others start from
_EARLIER = ('text', 's2t', 't2c', 'vocoder')
_NEEDS = {
  'precompute': ('corpus',),
  'text': ('precompute',),
  's2t': ('text',),
  't2c': ('text',),
  'vocoder': ('precompute',),
}
_FOLDERS = {'precompute': 'precomputed'}  # of parts that have another name
_GIVEN = (
  'precomputed',
  'text',
  's2t',
  'vocoder',
)  # what `--from` gives; t2c must not know `holdout`


class Cells:
  """All tasks of a preset in the folder `out`.

  Args:
    preset: the table.
    out: folder to write.
    given: working folder of a finished `make demo`, or None.

  Raises:
    CheckpointError: `given` is not finished.
  """

  def __init__(self, preset: Preset, out: Path, given: Path | None):
    self.preset, self.out, self.base = preset, out.absolute(), out.absolute() / 'base'
    self._given = given and given.absolute()
    if self._given:
      check_given(self._given)

  def tasks(self, blocks: Sequence[str] | None = None) -> list[Task]:
    """In the order in which one process does them: block by block, and in a block seed by seed, so
    that variants can be compared wherever the work is stopped.

    Args:
      blocks: only what these need, with the base cells of their differences; None = all blocks.
    """
    tasks = [Task('corpus', self._corpus)]
    for part, needs in _NEEDS.items():
      tasks.append(Task(part, functools.partial(self._part, part, self.base, ()), needs))
    tasks.append(Task(UNTRAINED, self._untrained, _EARLIER))
    by_block = {block: self._block(block) for block in presets.blocks(self.preset)}
    tasks += itertools.chain(*by_block.values())
    wanted = {cell_name(presets.BASE, seed) for seed in self.preset.seeds}
    wanted |= {task.name for block in blocks or by_block for task in by_block[block]}
    return [
      dataclasses.replace(task, run=_alone(task.run)) for task in work.with_needs(tasks, wanted)
    ]

  def _block(self, block: str) -> list[Task]:
    if block == presets.STREAMING:
      return [
        Task(
          cell_name('streaming', seed),
          functools.partial(self._streaming, seed),
          (cell_name(presets.BASE, seed),),
          'streaming',
        )
        for seed in self.preset.seeds
      ]
    variants = [v for v in self.preset.variants if v.block == block and v.name != UNTRAINED]
    tasks = []
    for seed in self.preset.seeds:
      for variant in variants:
        if seed == self.preset.seeds[0]:
          tasks += self._once(variant)
        if variant.trains:
          needs = _own_name(variant.own[-1], variant) if variant.own else UNTRAINED
          run = functools.partial(self._cell, variant, seed)
          tasks.append(Task(cell_name(variant.name, seed), run, (needs,), 'cell'))
    return tasks

  def _once(self, variant: Variant) -> list[Task]:
    """What a variant needs once for all seeds."""
    if not variant.trains:
      return [Task(variant.name, self._cascade, (UNTRAINED,))]
    tasks, needs = [], UNTRAINED
    for part in variant.own:
      name = _own_name(part, variant)
      run = functools.partial(self._own, part, variant)
      tasks.append(Task(name, run, (needs,), f'own {part}'))
      needs = name
    return tasks

  def answers(self, name: str) -> list[dict] | None:
    """The records of a cell; None if it is not finished."""
    path = self.out / 'cells' / name / ANSWERS
    if not path.exists():
      return None
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()]

  # What all cells share.

  def _corpus(self) -> None:
    data = self.base / 'data'
    data.mkdir(parents=True, exist_ok=True)
    if not self._given:
      build.build_corpus(data, names=('answers', 'questions', 'unheard'), **self.preset.corpus)
      return
    for path in (self._given / 'data').iterdir():
      if path.name.removesuffix('.json') in ('questions', 'answers'):
        link(path, data / path.name)
    if is_demo(data):  # more can be asked about it
      build.build_corpus(data, names=('unheard',), **self.preset.corpus)
    for part in _GIVEN:
      link(self._given / part, self.base / part)

  def _part(self, part: str, folder: Path, options: Sequence[str]) -> None:
    """Trains one earlier stage, or precomputes, unless that is given."""
    given = self._given and folder == self.base and _FOLDERS.get(part, part) in _GIVEN
    if given and part == 'precompute':
      return
    if given:
      loop.check_config(folder / part / layout.CONFIG, self._job(part, folder, options))
    elif part == 'precompute':
      precompute.run(self._job('s2t', folder, options), folder)
    else:
      self._train(part, folder, options)

  def _untrained(self) -> None:
    folder = self.out / 'cells' / UNTRAINED
    source = source_lib.of_assembled(self.base, *assemble.assemble_untrained(self.base))
    with storage.atomic_dir(folder / 'model') as beside:
      exporters.to_safetensors(beside, source)
    self._ask(UNTRAINED, answering.in_batches)

  def _cascade(self) -> None:
    (self.out / 'cells' / 'cascade').mkdir(parents=True, exist_ok=True)
    link(self.out / 'cells' / UNTRAINED / 'model', self.out / 'cells' / 'cascade' / 'model')
    self._ask('cascade', answering.cascade)

  # The cells.

  def _own(self, part: str, variant: Variant) -> None:
    """Makes a part of a variant's own; it shares the others."""
    folder = self.out / f'base_{variant.name}'
    folder.mkdir(parents=True, exist_ok=True)
    own = [_FOLDERS.get(name, name) for name in variant.own]
    for shared in ('data', 'precomputed', *_EARLIER):
      if shared not in own:
        link(self.base / shared, folder / shared)
    if part == 'precompute' and not (folder / 'precomputed').exists():
      # states need not be computed again
      with storage.atomic_dir(folder / 'precomputed') as beside:
        shutil.copytree(self.base / 'precomputed', beside, dirs_exist_ok=True)
    options = (*variant.model, *(variant.t2c if part == 't2c' else ()))
    self._part(part, folder, options)

  def _cell(self, variant: Variant, seed: int) -> None:
    name = cell_name(variant.name, seed)
    folder = self.out / 'cells' / name
    folder.mkdir(parents=True, exist_ok=True)
    start = self.out / f'base_{variant.name}' if variant.own else self.base
    for part in ('data', 'precomputed', *_EARLIER):
      link(start / part, folder / part)
    self._train('echo', folder, (*variant.model, *variant.echo, f'seed={seed}'))
    exporters.export(folder, 'safetensors', folder / 'model')
    self._ask(name, answering.in_batches)

  def _streaming(self, seed: int) -> None:
    model = echox_jax.load(self.out / 'cells' / cell_name('echo', seed) / 'model')
    asked = questions.read(self.base / 'data', self.preset.questions // 2)
    listen = judges.open_judge(judges.WHISPER_BASE, self.out / 'judge').hear
    for cutting in self.preset.cuttings:
      spoken = answering.one_by_one(model, asked, cutting)
      self._write(cell_name(cutting.name, seed), answering.records(asked, spoken, listen))

  def _ask(self, name: str, answer: Callable[..., list[answering.Spoken]]) -> None:
    model = echox_jax.load(self.out / 'cells' / name / 'model')
    asked = questions.read(self.base / 'data', self.preset.questions)
    listen = judges.open_judge(judges.WHISPER_BASE, self.out / 'judge').hear
    self._write(name, answering.records(asked, answer(model, asked), listen))

  def _write(self, name: str, records) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    storage.atomic_write_text(self.out / 'cells' / name / ANSWERS, '\n'.join(lines) + '\n')

  # Training.

  def _job(self, stage: str, folder: Path, options: Sequence[str]):
    fields = (*self.preset.stages.get(stage, ()), *options)
    argv = [f'--config={self.preset.config}:{stage}', f'--workdir={folder}']
    argv += [f'--config.{field}' for field in fields]
    return train.parse(['launch.ablate', *argv], 'launch.ablate')[0]

  def _train(self, stage: str, folder: Path, options: Sequence[str]) -> None:
    job = self._job(stage, folder, options)
    summary = loop.train(
      job, folder, batches.make_iterator, packaged_encoder=whisper_ct2.packaged_encoder
    )
    if not summary['finished']:  # a signal came; the checkpoint is kept
      raise KeyboardInterrupt


def cell_name(variant: str, seed: int) -> str:
  """Name of a cell, and of its task."""
  return f'{variant}_seed{seed}'


def _own_name(part: str, variant: Variant) -> str:
  """Name of the task that makes a part of a variant's own."""
  return f'{part}_{variant.name}'


def check_given(folder: Path) -> None:
  """Raises CheckpointError unless `folder` has all that `--from` takes."""
  stages = [part for part in _GIVEN if part != 'precomputed']
  lacking = [name for name in stages if checkpoint.read_finished(folder / name) is None]
  lacking += [name for name in ('data', 'precomputed') if not (folder / name).is_dir()]
  if lacking:
    raise errors.CheckpointError(
      f'{folder} has no finished {", ".join(lacking)}: give --from the folder of a finished '
      '`make demo`, or leave it out.'
    )


def is_demo(data: Path) -> bool:
  """Whether the questions in `data` are those of the demo, about which more can be asked."""
  first = next(dataset.read_examples(data, 'questions', 'test'))
  return first.turns[0].source == 'demo'


def link(source: Path, target: Path) -> None:
  """Makes `target` a link to `source`, unless it is there."""
  if not target.exists():
    target.unlink(missing_ok=True)  # it may point to a folder that was moved
    target.symlink_to(source.resolve(), target_is_directory=source.is_dir())


def _alone(run: Callable[[], None]) -> Callable[[], None]:
  """Runs a task and forgets what it compiled: each has shapes of its own."""

  def task() -> None:
    run()
    jax.clear_caches()

  return task
