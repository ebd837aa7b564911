"""The recipe for any chat LLM: what configs/talker.py makes of imported folders, what launch.talker
runs, and what it tells before anything runs.
"""

import dataclasses
import json

import numpy as np
import pytest

from configs import echox_8b
from configs import talker as recipe
from data_pipeline import batches
from data_pipeline.corpus import voices
from data_pipeline.corpus.talker import build
from echox_jax import config as config_lib
from echox_jax import errors, model_folder, prompts
from echox_jax.config import EchoXConfig, LlamaConfig
from echox_jax.conversion import importers
from echox_jax.models import params as params_lib
from echox_jax.training import stages, validation
from echox_jax.training.experiment import ExperimentConfig
from launch import corpus, evaluate, machines, pipeline, talker, train, voice
from tests.helpers import chat_folders, families, released_folder, talker_sources

SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_NTASKS': '2',
  'SLURM_STEP_NODELIST': 'n[1-2]',
  'SLURM_STEP_TASKS_PER_NODE': '1(x2)',
  'SLURM_PROCID': '0',
}


def write_theirs(folder, family):
  """A folder of transformers of one family, with a vocabulary of its own template."""
  if family != 'llama':
    return families.write(folder, family, max_position_embeddings=2048)
  values = families.SIZES | {
    'model_type': 'llama',
    'rms_norm_eps': 1e-5,
    'rope_theta': 500000.0,
    'tie_word_embeddings': False,
    'max_position_embeddings': 2048,
  }
  released_folder.write(folder, families.tensors(values), values, 20_000)
  return chat_folders.write(folder, chat_folders.LLAMA_3, bos='<|begin_of_text|>')


@pytest.fixture(scope='module', params=('llama', 'qwen2', 'qwen3'))
def imported(request, tmp_path_factory):
  """A tiny LLM of a family as `launch.convert import` writes it."""
  folder = tmp_path_factory.mktemp(request.param)
  model = importers.open_model('llm', write_theirs(folder / 'theirs', request.param))
  importers.write_model(model, folder / request.param, progress=False)
  return folder / request.param


@pytest.fixture
def qwen(tmp_path):
  model = importers.open_model('llm', write_theirs(tmp_path / 'theirs', 'qwen2'))
  importers.write_model(model, tmp_path / 'ours', progress=False)
  return tmp_path / 'ours'


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """What launch.talker sets, it sets for the test alone."""
  monkeypatch.setenv(recipe.LLM, '')
  monkeypatch.setenv(recipe.SHARE, '1')


def job(stage):
  return config_lib.build(ExperimentConfig, recipe.get_config(stage).to_dict())


def test_the_config_is_that_of_the_imported_llm(imported, monkeypatch):
  monkeypatch.setenv(recipe.LLM, str(imported))
  theirs = model_folder.read_config(imported)
  for stage in recipe.STAGES:
    built = job(stage)
    validation.check(built)
    batches.check_packing(built)
    batches.check_augment(built)
    row = stages.get_stage(stage)
    own = params_lib.param_shapes(built.model, row.groups_for(built), built.train.discriminators)
    assert stages.trainable_paths(row, own)
    model = built.model
    same = {name: getattr(theirs.llm, name) for name in ('dtype', 'attention', 'remat', 'lora')}
    assert dataclasses.replace(model.llm, **same) == theirs.llm
    assert (model.profile, model.special_ids, model.system_message) == (
      theirs.profile,
      theirs.special_ids,
      theirs.system_message,
    )
    assert built.tokenizer.model == str(imported / 'tokenizer.json')
    assert model.adapter.tied_ctc == theirs.llm.tie_embeddings
    trunk = model.unit_decoder.trunk
    assert trunk.hidden_size == recipe.UNIT_TRUNK['hidden_size']
    assert trunk.rope_theta == theirs.llm.rope_theta and not (trunk.qkv_bias or trunk.qk_norm)
  assert job('align').train.init_from == job('t2c').train.init_from == (str(imported),)


def test_families_keep_what_sets_them_apart(imported, monkeypatch):
  monkeypatch.setenv(recipe.LLM, str(imported))
  model = job('s2t').model
  assert (model.profile, model.llm.qkv_bias, model.llm.qk_norm, model.adapter.tied_ctc) == {
    'llama': ('llama3', False, False, False),
    'qwen2': ('chatml', True, False, True),
    'qwen3': ('qwen3', False, True, False),
  }[imported.name]
  ids = model.unit_decoder.closing_ids
  assert ids[0] == model.special_ids.period and len(set(ids)) == len(recipe.CLOSING_MARKS)
  assert model.special_ids.nl in job('s2t').engine.ending_ids


def test_a_full_vocabulary_gets_an_id_for_speech_and_a_wide_llm_a_narrow_decoder():
  model = EchoXConfig(
    special_ids=dataclasses.replace(prompts.NANO_IDS, audio=320),
    llm=LlamaConfig(vocab_size=320, hidden_size=1024, num_heads=6),
  )
  made = recipe.recipe('s2t', model, 'models/llm', recipe.Marks((11,), (9,))).model
  assert made.llm.vocab_size == 321
  assert made.unit_decoder.trunk.hidden_size == echox_8b.UNIT_TRUNK['hidden_size'] == 768
  assert made.adapter.num_heads == 2  # heads divide the width


def test_a_share_of_the_corpus_takes_that_share_of_the_steps(qwen, monkeypatch):
  monkeypatch.setenv(recipe.LLM, str(qwen))
  whole = job('align').train
  monkeypatch.setenv(recipe.SHARE, '0.25')
  part = job('align').train
  assert part.steps == whole.steps // 4 > 0
  assert part.optimizer.warmup_steps == whole.optimizer.warmup_steps // 4
  for wrong in ('0.001', '2', 'many', 'nan'):
    monkeypatch.setenv(recipe.SHARE, wrong)
    with pytest.raises(errors.ConfigError, match='set it to a share'):
      job('align')


def test_folders_of_something_else_are_told(qwen, tmp_path, monkeypatch):
  def told(folder, match):
    monkeypatch.setenv(recipe.LLM, str(folder))
    with pytest.raises(errors.ConfigError, match=match):
      train.parse(['train', '--config=configs/talker.py:s2t', '--workdir=w'])

  told('', 'environment variable ECHOX_LLM')
  told(tmp_path / 'theirs', 'import --kind llm --source .*theirs --out DIR')
  told(tmp_path / 'nothing', 'holds no imported chat model: import one')
  (qwen / 'tokenizer.json').rename(tmp_path / 'tokenizer.json')
  told(qwen, 'has no tokenizer')
  (tmp_path / 'tokenizer.json').rename(qwen / 'tokenizer.json')
  weights = qwen / model_folder.WEIGHTS
  weights.rename(tmp_path / 'weights')
  told(qwen, 'without --format orbax')
  model_folder.write_params(
    qwen, {'whisper/x': ((2,), 'float32')}, [('whisper/x', None, np.ones(2))]
  )
  told(qwen, 'holds whisper and no language model')


def parsed(*argv):
  return talker.parse(('--llm', 'models/qwen', '--out', 'out/qwen', *argv))


def test_parts_run_in_order_and_understand_their_options(qwen, monkeypatch):
  args, options = parsed('--hours', '6', '--workers', '3', '--config.train.batch_size=8')
  args.llm = str(qwen)
  talker.set_environment(args)
  todo = talker.steps(args, options)
  assert [step.name for step in todo] == [
    'corpus',
    'precompute',
    'align',
    's2t',
    't2c',
    'echo',
    'vocoder',
    'export',
    'heard',
    'evaluate',
  ]
  made = corpus.parse(todo[0].command[1:])
  assert (made.recipe, str(made.llm)) == ('talker', str(qwen))
  assert (made.share, made.workers) == (0.25, 3)
  assert made.spoken_answers == build.Spoken(hours=5.0) and str(made.data) == 'out/qwen/data'
  assert made.test_questions == 0.4
  alone = made.spoken_sentences, made.spoken_parts, made.spoken_words, made.spoken_numbers
  assert [spoken.hours for spoken in alone] == [8.0, 8.0, 8.0, 2.0]  # all of them
  for step in todo[1:7]:
    experiment, values = train.parse(list(step.command))
    assert values.workdir == 'out/qwen' and experiment.train.batch_size == 8
    part = 0.25 if experiment.stage in recipe.HEARS else 31 / 46  # 5 h of 20, and all that is alone
    assert experiment.train.steps == round(recipe.STEPS[experiment.stage] * part)
    assert experiment.model.llm.qkv_bias
  heard, scored = (evaluate.parse(step.command[1:]) for step in todo[-2:])
  assert heard.transcripts and str(heard.out) == 'out/qwen/heard'
  assert (str(scored.checkpoint), str(scored.data)) == ('out/qwen/model', 'out/qwen/data')
  assert scored.limit == 500 and str(scored.out) == 'out/qwen/evaluation'


def test_a_voice_of_ones_own_comes_last(qwen, tmp_path):
  args, options = parsed('--voice', str(tmp_path / 'mine'), '--config.train.steps=7')
  args.llm = str(qwen)
  talker.set_environment(args)
  todo = talker.steps(args, options)
  assert [step.name for step in todo][-4:] == ['export', 'voice', 'heard', 'evaluate']
  given, fields = voice.parse(todo[-3].command[1:])
  assert (str(given.checkpoint), str(given.out)) == ('out/qwen/model', 'out/qwen/voice')
  assert given.recordings == tmp_path / 'mine' and str(given.data) == 'out/qwen/data'
  assert given.no_scores and fields == ['--config.train.steps=7']
  for step in todo[-2:]:  # the model with that voice is scored
    assert str(evaluate.parse(step.command[1:]).checkpoint) == 'out/qwen/voice/model'
  without = talker.steps(*parsed('--config.train.steps=7'))
  assert [step.command for step in without[1:8]] == [step.command for step in todo[1:8]]


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """Everything that the parts need is there."""
  for package in ('whisper_normalizer', 'scipy', 'yaml'):
    pytest.importorskip(package, reason='the extras talker and eval are not installed')
  talker_sources.write(tmp_path / 'packages', monkeypatch)
  monkeypatch.setattr(voices, 'available', lambda voice: True)
  monkeypatch.setattr('echox_jax.conversion.whisper_ct2.packaged_files', lambda size: [])


@pytest.fixture
def run(qwen, tmp_path, monkeypatch):
  """launch.talker, which must run no part."""
  monkeypatch.setattr(talker, 'run_all', lambda todo: pytest.fail('something ran'))

  def call(*options, llm=qwen):
    args = ('--llm', str(llm), '--out', str(tmp_path / 'out'), '--judge', 'command:true')
    return talker.main([*args, *options])

  return call


def test_with_everything_there_all_parts_run(installed, run, qwen, monkeypatch, capsys):
  ran = []
  monkeypatch.setattr(talker, 'run_all', lambda todo: ran.extend(todo) or 0)
  assert run('--config.train.steps=2') == 0
  assert len(ran) == 10 and 'launch.serve --checkpoint' in capsys.readouterr().out


def test_mistakes_in_late_parts_are_told_before_the_first(installed, run, tmp_path, monkeypatch):
  def told(*options, match, **given):
    with pytest.raises(errors.EchoXError, match=match):
      run(*options, **given)

  told('--config.train.stepps=3', match='stepps')
  told('--colour=red', match='colour')
  told('--hours=90', match='give 0.24 to 24')
  told('--questions=0', match='--questions is 0')
  told('--judge', str(tmp_path / 'nobody'), match='the judge .*nobody')
  told('--voice', str(tmp_path / 'nobody'), match='nobody is neither a folder of recordings')
  told(llm=tmp_path / 'theirs', match='import --kind llm')
  with monkeypatch.context() as patched:
    patched.setattr(voices, 'available', lambda voice: False)
    told(match='hibari-tts')
  with monkeypatch.context() as patched:
    patched.setenv('WNSEARCHDIR', str(tmp_path / 'none'))
    told(match='wordnet-base')
  with monkeypatch.context() as patched:
    for name, value in SLURM.items():
      patched.setenv(name, value)
    told(match='runs on one host')


def test_a_finished_stage_of_another_config_is_told(installed, run, qwen, tmp_path):
  talker.set_environment(talker.parse(('--llm', str(qwen), '--out', 'out'))[0])
  folder = tmp_path / 'out' / 'align'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(config_lib.to_dict(job('align'))))
  (folder / 'finished.json').write_text('{"steps": 10000}')
  with pytest.raises(errors.CheckpointError, match='align was trained with .*change it back'):
    run('--hours=6')


def test_the_plan_goes_by_what_the_run_has_measured(qwen, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(machines, 'product_flops', lambda: 1e11)
  monkeypatch.setattr(machines.os, 'cpu_count', lambda: 4)
  out = tmp_path / 'out'
  given = ('--llm', str(qwen), '--out', str(out), '--hours=12', '--plan')

  def lines():
    assert talker.main(given) == 0
    return {line.split('  ')[0]: line for line in capsys.readouterr().out.splitlines()}

  before = lines()
  assert {'answers', 'corpus', 'align', 's2t', 'evaluate'} <= before.keys()
  assert '14,910 questions' in before['answers'] and 'mfu 0.25 assumed' in before['align']
  notes = out / 'data' / 'parts' / 'corpus-' / 'notes'
  notes.mkdir(parents=True)
  note = {'seconds': 10.0, 'measured': {'samples': 16000 * 200}}
  (notes / 'shard.json').write_text(json.dumps(note))
  (out / 'align').mkdir()
  record = {'kind': 'train', 'step': 10, 'model_flops_per_second': 4e10, 'goodput': 1.0}
  (out / 'align' / 'metrics.jsonl').write_text(json.dumps(record) + '\n')
  after = lines()
  assert 'read_in 5 measured' in after['corpus']  # 200 s of speech in 10 s on 4 cores
  assert 'mfu 0.4 measured' in after['align'] and 'mfu 0.25 assumed' in after['s2t']
  # another machine has measured nothing
  assert talker.main((*given, '--chip=v5e', '--chips=1')) == 0
  assert 'measured' not in capsys.readouterr().out


def test_a_stage_by_hand_is_the_stage_of_the_run(qwen, monkeypatch):
  """The environment of the docstring gives what launch.talker trains."""
  args = talker.parse(('--llm', str(qwen), '--out', 'out', '--hours=6'))[0]
  talker.set_environment(args)
  (step,) = [pipeline.train(talker.CONFIG, 'out', 's2t')]
  of_run = train.parse(list(step.command))[0]
  monkeypatch.setenv(recipe.LLM, str(qwen))
  monkeypatch.setenv(recipe.SHARE, '0.25')
  assert job('s2t') == of_run
