"""Ablations: cells are done once by any number of processes, questions fall into the right split,
every variant is a job that can run, and a folder holds one ablation.
"""

import dataclasses
import json
import threading
import time

from flax import linen as nn
import jax
import numpy as np
import pytest

from data_pipeline import dataset, schema
from data_pipeline.corpus import voices
from echox_jax import errors
from echox_jax.config import WhisperConfig
from echox_jax.conversion import assemble, exporters, whisper_ct2
from echox_jax.evaluation import judges
from echox_jax.models import whisper
from echox_jax.models.unit_decoder import DenoisingAdapter
from echox_jax.training import echo_step, validation
from launch.ablate import __main__ as ablate
from launch.ablate import cells, presets, questions, results, work
from tests.helpers import tiny_model

NANO = presets.get_preset('nano')


def test_processes_share_tasks_and_nothing_is_done_twice(tmp_path):
  done, tell = [], lambda line: None

  def task(name, needs=()):
    def run():
      assert all(need in done for need in needs)
      time.sleep(0.02)
      done.append(name)

    return work.Task(name, run, needs)

  tasks = [
    task('a'),
    task('b', ('a',)),
    *(task(f'c{i}', ('a',)) for i in range(6)),
    task('d', ('b',)),
  ]
  threads = [threading.Thread(target=work.run_all, args=(tasks, tmp_path, tell)) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(done) == sorted(t.name for t in tasks)
  assert set(work.seconds(tmp_path)) == set(done)


def test_a_task_that_fails_is_done_again_and_finished_ones_are_kept(tmp_path):
  ran, full = [], [True]

  def fail():
    ran.append('second')
    if full[0]:
      raise OSError('no space')

  tasks = [work.Task('first', lambda: ran.append('first')), work.Task('second', fail, ('first',))]
  with pytest.raises(OSError, match='no space'):
    work.run_all(tasks, tmp_path)
  full[0] = False
  work.run_all(tasks, tmp_path)
  assert ran == ['first', 'second', 'second']


def job(stage, *options):
  return cells.Cells(NANO, NANO.config.parent, None)._job(stage, NANO.config.parent, options)


@pytest.mark.parametrize('variant', NANO.variants, ids=lambda variant: variant.name)
def test_every_variant_is_a_job_that_differs_from_echo(variant):
  built = job('echo', *variant.model, *variant.echo)
  validation.check(built)
  echo_step._check_sources(built.train.loss)
  assert built.data.recordings == ('answers/train',) and built.train.steps == 100
  assert (built == job('echo')) == (variant.name == 'echo' or not variant.trains)
  for stage in ('s2t', 't2c'):
    validation.check(job(stage, *variant.model, *(variant.t2c if stage == 't2c' else ())))


def test_no_stage_of_the_ablation_hears_the_held_out_answers():
  for stage in ('t2c', 'vocoder', 'echo'):
    data = job(stage).data
    assert 'answers/holdout' not in (*data.sets, *data.recordings)


def test_an_adapter_that_changes_no_state():
  cfg = tiny_model.tiny_config()
  with pytest.raises(errors.CheckpointError, match='at least 64'):
    assemble._identity(32, 32)
  cfg = dataclasses.replace(
    cfg, unit_decoder=dataclasses.replace(cfg.unit_decoder, denoising_intermediate_size=70)
  )
  states = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
  same = DenoisingAdapter(cfg).apply({'params': assemble._identity(32, 70)}, states)
  np.testing.assert_allclose(same, states, atol=1e-6)


@pytest.fixture
def data(tmp_path):
  """Two recorded answers; test questions about them, and about two that nobody has heard."""
  sound = lambda seed: (tiny_model.question(0.6, seed) * 32767).astype(np.int16)

  def question(name, answer, reference):
    return schema.Example(
      name,
      (
        schema.Turn('user', f'{name}?', speaker='v', source='mine', audio=sound(len(name))),
        schema.Turn('assistant', answer, category='c', references=(reference,)),
      ),
    )

  asked = [
    question('heard', 'Two and two is four.', 'four'),
    question('known', 'Four less two is two.', 'two'),
    question('new', 'It is Oslo.', 'Oslo'),
  ]
  recorded = [
    schema.Example(str(i), (schema.Turn('assistant', text, audio=sound(i)),))
    for i, text in enumerate(('Two and two is four.', 'It is a cow.'))
  ]
  dataset.write_dataset(tmp_path, 'questions', {'test': asked[:2]})
  dataset.write_dataset(tmp_path, 'unheard', {'test': asked[1:]})
  dataset.write_dataset(tmp_path, 'answers', {'train': recorded})
  return tmp_path


def test_questions_by_whether_the_answer_was_heard(data):
  found = questions.read(data, 10)
  assert {q.id: q.split for q in found} == dict(heard='heard', known='known', new='new')
  assert len(questions.read(data, 1)) == 2
  dataset.write_dataset(
    data, 'answers', {'train': [schema.Example('x', (schema.Turn('assistant', 'No.'),))]}
  )
  with pytest.raises(errors.DataError, match='no heard fact'):
    questions.read(data, 10)


class FakeJudge:
  """Hears "four" in everything."""

  def __init__(self, cache_dir):
    pass

  def transcribe(self, waves):
    return ['four'] * len(waves)


def test_what_the_judge_hears_is_what_counts(data, tmp_path, monkeypatch):
  pytest.importorskip('whisper_normalizer', reason="the judge is in the extra 'eval'")
  from launch.ablate import answering

  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  asked = questions.read(data, 10)
  said = ('It is four.', 'It is four.', 'It is Oslo.')
  spoken = [answering.Spoken(text, np.ones(400, np.float32), 1, 3) for text in said]
  listen = judges.open_judge(judges.WHISPER_BASE, tmp_path).hear
  found = list(answering.records(asked, spoken, listen))
  assert [r['s2s'] for r in found] == [True, False, False]
  assert [r['s2t'] for r in found] == [True, False, True]
  assert [(r['errors'], r['words']) for r in found] == [(2, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_models_answer_in_all_ways(data, tmp_path, monkeypatch):
  pytest.importorskip('whisper_normalizer', reason="the judge is in the extra 'eval'")
  from launch.ablate import answering

  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  monkeypatch.setattr(answering, '_AT_A_TIME', 2)  # as in other tests, which have compiled it
  model, asked = tiny_model.tiny_bundle(tmp_path), questions.read(data, 10)
  params = dict(model.params) | {'t2c': model.params['echo']}
  model = dataclasses.replace(model, params=params)
  listen = judges.open_judge(judges.WHISPER_BASE, tmp_path).hear
  ways = dict(
    batches=answering.in_batches(model, asked),
    alone=answering.one_by_one(model, asked, presets.Cutting('', '')),
    cascade=answering.cascade(model, asked),
  )
  told = {way: list(answering.records(asked, spoken, listen)) for way, spoken in ways.items()}
  for records in told.values():
    assert [r['s2s'] for r in records] == [True, False, False]
    assert [r['answer'] for r in records] == [r['answer'] for r in told['batches']]
  assert all(r['first_audio_s'] > 0 for r in told['alone'] if r['slices'])


def made(name):
  """Records of a cell, made by hand."""
  rng = np.random.default_rng(len(name))
  return [
    dict(
      id=str(i),
      split=('heard', 'known', 'new')[i % 3],
      s2t=True,
      s2s=bool(rng.random() < 0.5),
      errors=0,
      words=3,
      lag=7,
      slices=1,
      first_audio_s=0.05 if 'threshold' in name else None,
    )
    for i in range(12)
  ]


def finish(out, *names):
  """Leaves what finished cells leave."""
  for name in names:
    folder = out / 'cells' / name
    folder.mkdir(parents=True)
    (folder / cells.ANSWERS).write_text(''.join(json.dumps(row) + '\n' for row in made(name)))


def test_results_are_written_from_the_answers_alone(tmp_path):
  pytest.importorskip('matplotlib', reason="figures are in the extra 'demo'")
  text = results.write(NANO, tmp_path, made, {'corpus': 60.0})
  for question in presets.QUESTIONS.values():
    assert f'## {question}' in text
  for variant in NANO.variants:
    assert variant.what in text
  found = json.loads((tmp_path / 'results.json').read_text())
  assert list(found['blocks']) == list('abcdefg') and found['minutes'] == 1.0
  assert len(found['blocks']['a']) == 5 and found['blocks']['a'][0]['difference'] == {}
  assert all((tmp_path / name).stat().st_size > 10_000 for name in ('shares.png', 'latency.png'))


def test_tables_of_what_is_finished_so_far(tmp_path, monkeypatch):
  pytest.importorskip('matplotlib', reason="figures are in the extra 'demo'")
  monkeypatch.setattr(cells, 'check_given', lambda folder: None)
  monkeypatch.setattr(work, 'run_all', None)  # no work is done
  out = tmp_path / 'out'
  shown = ['--out', str(out), '--so-far']
  with pytest.raises(errors.ConfigError, match='holds no ablation'):
    ablate.main(shown)
  ablate.check_same(out, NANO, tmp_path)  # as `--from` notes it
  finish(out, 'untrained', 'lambda_0_seed0')
  with pytest.raises(errors.DataError, match='no finished cells to compare'):
    ablate.main(shown)
  finish(out, 'echo_seed0', 'echo_seed1', 'conventional_seed0', 'threshold_0.5_seed0')
  work_done = sorted(out.rglob('*'))
  ablate.main(shown)
  assert {path.name for path in out.rglob('*')} - {path.name for path in work_done} == {
    'results.md',
    'results.json',
    'shares.png',
  }
  blocks = json.loads((out / 'results.json').read_text())['blocks']
  found = {block: {row['name']: row['seeds'] for row in rows} for block, rows in blocks.items()}
  assert found == {  # streaming has no base yet, and (c) nothing but its base
    'a': {'echo': 2, 'conventional': 1, 'untrained': 1},
    'b': {'echo': 2, 'lambda_0': 1},
  }
  assert '| conventional training on recorded speech | 1 |' in (out / 'results.md').read_text()
  finish(out, 'offline_seed0')
  ablate.main([*shown, '--only', 'e,b'])
  blocks = json.loads((out / 'results.json').read_text())['blocks']
  assert list(blocks) == ['b', 'e'] and (out / 'latency.png').exists()


def test_a_part_of_the_work(tmp_path, capsys, monkeypatch):
  def listed(*options):
    ablate.main(['--out', str(tmp_path / 'x'), '--list', *options])
    return capsys.readouterr().out.split()

  every, some = listed(), listed('--only', 'e,d')
  assert some == [name for name in every if name in some] and not (tmp_path / 'x').exists()
  first = every.index('untrained') + 1
  assert some[:first] == every[:first]
  assert some[first:] == [
    *(f'echo_seed{i}' for i in range(3)),
    *(f'streaming_seed{i}' for i in range(3)),
    *('precompute_plain', 't2c_plain', 'plain_seed0', 'precompute_bpe', 't2c_bpe', 'bpe_seed0'),
    *('plain_seed1', 'bpe_seed1', 'plain_seed2', 'bpe_seed2'),
  ]
  with pytest.raises(errors.ConfigError, match="--only is 'a,z': give any of a,b,c,d,e,f,g"):
    listed('--only', 'a,z')
  with pytest.raises(errors.ConfigError, match='give any of a,e'):
    listed('--preset', 'tiny', '--only', 'b')
  # runs of other parts share the folder, and the tables show what all have finished
  pytest.importorskip('whisper_normalizer', reason="the judge is in the extra 'eval'")
  pytest.importorskip('matplotlib', reason="figures are in the extra 'demo'")
  ran = []

  def instead(tasks, notes, tell):
    ran.append([task.name for task in tasks])

  monkeypatch.setattr(work, 'run_all', instead)
  monkeypatch.setattr(ablate.cli, 'keep_compiled_programs', lambda: None)
  finish(tmp_path, 'untrained', 'echo_seed0', 'lambda_3_seed0')
  for block in 'cb':
    ablate.main(['--out', str(tmp_path), '--only', block])
  assert 'gold_seed2' in ran[0] and 'gold_seed2' not in ran[1] and 'lambda_3_seed1' in ran[1]
  assert list(json.loads((tmp_path / 'results.json').read_text())['blocks']) == ['a', 'b']


def test_a_stopped_run_has_cells_to_compare():
  names = [task.name for task in cells.Cells(NANO, NANO.config.parent, None).tasks()]
  for block in 'abcdfg':
    own = [v.name for v in NANO.variants if v.block == block and v.trains]
    places = [names.index(f'{name}_seed{seed}') for seed in NANO.seeds for name in own]
    assert places == sorted(places)
  firsts = ('echo', 'streaming', 'lambda_0', 'gold', 'hours_25', 'plain', 'released')
  places = [names.index(f'{name}_seed0') for name in firsts]
  assert places == sorted(places)


def test_what_is_left_is_worked_out_from_tasks_of_the_same_kind(tmp_path):
  def task(name, kind=''):
    return work.Task(name, lambda: None, (), kind)

  tasks = [task('corpus'), *(task(f'cell{i}', 'cell') for i in range(4)), task('streaming')]
  for name, minutes in dict(corpus=1, cell0=2, cell1=4, other=60).items():
    (tmp_path / f'{name}.json').write_text(json.dumps({'seconds': 60 * minutes}))
  told = work.progress(tasks, tmp_path)
  assert '7.0 minutes of work so far, about 6 to come' in told  # two cells of 3 minutes
  assert '1 tasks of kinds that have not been timed yet, as streaming' in told
  lines = []
  work.run_all(tasks, tmp_path, lines.append)
  assert lines[0] == '[4/6] cell2' and 'minutes of work so far' in lines[1] and len(lines) == 6
  assert lines[-1].endswith('about 0 to come')


def test_a_folder_holds_one_ablation(tmp_path):
  ablate.check_same(tmp_path, NANO, None)
  ablate.check_same(tmp_path, NANO, None)
  with pytest.raises(errors.ConfigError, match='holds another ablation'):
    ablate.check_same(tmp_path, presets.get_preset('tiny'), None)
  with pytest.raises(errors.ConfigError, match='no preset .huge.: use one of nano, tiny'):
    ablate.main(['--out', str(tmp_path), '--preset', 'huge'])
  with pytest.raises(errors.CheckpointError, match='no finished text, s2t, vocoder, data'):
    ablate.main(['--out', str(tmp_path), '--from', str(tmp_path)])


def test_the_cells_of_nano(tmp_path, capsys):
  ablate.main(['--out', str(tmp_path / 'x'), '--list'])
  names = capsys.readouterr().out.split()
  assert len(names) == len(set(names)) and not (tmp_path / 'x').exists()
  trained = [v.name for v in NANO.variants if v.trains]
  assert {f'{name}_seed{seed}' for name in trained for seed in (0, 1, 2)} <= set(names)
  assert {'cascade', 'untrained', 't2c_plain', 's2t_released', 'streaming_seed2'} <= set(names)


def noise(text, voice, speed=1.0, seed=0):
  """A voice that says noise."""
  rng = np.random.default_rng([len(text), int(voice.pitch * 100), seed])
  return (0.2 * rng.normal(size=int(3200 + 200 * len(text) / speed))).astype(np.float32)


def random_whisper(size, dtype='float32'):
  cfg = WhisperConfig()
  mel = jax.numpy.zeros((1, 8, cfg.num_mel_bins))
  init = jax.jit(whisper.WhisperEncoder(cfg).init)
  return cfg, nn.meta.unbox(init(jax.random.key(0), mel))['params']


@pytest.mark.slow
def test_a_whole_ablation_at_tiny_size(tmp_path, monkeypatch):
  """From the corpus to the tables; a killed cell goes on; nothing is done twice."""
  for package in ('whisper_normalizer', 'matplotlib'):
    pytest.importorskip(package, reason="the judge is in 'eval', figures are in 'demo'")
  monkeypatch.setattr(voices, 'synthesise', noise)
  monkeypatch.setattr(voices, 'available', lambda voice: True)
  monkeypatch.setattr(whisper_ct2, 'load_packaged_whisper', random_whisper)
  monkeypatch.setattr('echox_jax.evaluation.judge.Judge', FakeJudge)
  arguments = ['--out', str(tmp_path), '--preset', 'tiny']
  export = exporters.export

  def killed(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(exporters, 'export', killed)
  with pytest.raises(KeyboardInterrupt):
    ablate.main(arguments)
  monkeypatch.setattr(exporters, 'export', export)
  trained = tmp_path / 'cells' / 'echo_seed0' / 'echo' / 'finished.json'
  before = trained.read_text()
  ablate.main(arguments)
  assert trained.read_text() == before
  text = (tmp_path / 'results.md').read_text()
  assert text.count('| base |') == len(presets.get_preset('tiny').cuttings) // 3 + 1
  blocks = json.loads((tmp_path / 'results.json').read_text())['blocks']
  assert [row['name'] for row in blocks['a']] == [
    v.name for v in presets.get_preset('tiny').variants
  ]
  notes = work.seconds(tmp_path / 'tasks')
  ablate.main(arguments)
  assert work.seconds(tmp_path / 'tasks') == notes
