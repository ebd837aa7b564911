"""Every config builds at every stage, with as many parameters as the models that it names are
published to have.
"""

import importlib
import math

import jax
from jax.sharding import AbstractMesh
import pytest

from configs import full_size, talker
from data_pipeline import batches
from echox_jax import config as config_lib
from echox_jax.models import params as params_lib
from echox_jax.parallel import sharding
from echox_jax.training import flops, stages, state, validation
from echox_jax.training.experiment import ExperimentConfig

FULL_SIZE = ('echox_135m', 'echox_3b', 'echox_8b')
STAGES = ('s2t', 't2c', 'echo', 'vocoder')


def job(name, stage):
  return config_lib.build(
    ExperimentConfig, importlib.import_module(f'configs.{name}').get_config(stage).to_dict()
  )


def count(cfg, *groups):
  """Parameters of groups, without LoRA."""
  shapes = params_lib.param_shapes(cfg, groups)
  return sum(
    math.prod(shape) for path, shape in shapes.items() if not path.endswith(('lora_a', 'lora_b'))
  )


@pytest.mark.parametrize(
  'name, stage',
  [
    *((name, stage) for name in ('echox_tiny', 'echox_nano', *FULL_SIZE) for stage in STAGES),
    ('echox_135m', 'align'),
  ],
)
def test_every_stage_builds_and_trains_something(name, stage):
  built = job(name, stage)
  row = stages.get_stage(stage)
  shapes = params_lib.param_shapes(built.model, row.groups_for(built), built.train.discriminators)
  assert (
    built.stage == stage and stages.trainable_paths(row, shapes) and flops.step_flops(built) > 0
  )
  assert built.train.batch_size % built.train.accumulate_steps == 0


@pytest.mark.parametrize('name', FULL_SIZE)
def test_rows_fill_the_positions(name):
  built = job(name, 'echo')
  wanted = talker.POSITIONS['echo'] if name == 'echox_135m' else full_size.POSITIONS
  assert built.data.max_tokens + built.model.adapter.shrink_budget - 1 == wanted
  assert built.model.llm.max_positions >= 1024
  # states of a large encoder are not kept
  assert built.data.cached_states == (name == 'echox_135m')


@pytest.mark.parametrize('name', FULL_SIZE)
def test_rows_are_packed_and_attention_follows_the_platform(name):
  for stage in ('s2t', 't2c', 'echo'):
    built = job(name, stage)
    batches.check_packing(built)
    assert built.data.packing == (stage != 'echo') and bool(built.data.buckets) == (stage != 't2c')
    assert {
      built.model.llm.attention,
      built.model.whisper.attention,
      built.model.unit_decoder.trunk.attention,
    } == {'auto'}


def test_the_paper_mix():
  """Items of its table of data, all of them in the stages that they are for."""
  items = lambda stage: dict(
    zip(job('echox_8b', stage).data.sets, job('echox_8b', stage).data.weights)
  )
  assert sum((items('s2t') | items('t2c')).values()) == 1_500_184
  assert (
    items('s2t').items() > items('echo').items()
    and items('echo')['magpie_questions/train'] == 117_000
  )
  assert items('s2t') == dict(
    zip(job('echox_3b', 's2t').data.sets, job('echox_3b', 's2t').data.weights)
  )
  assert (
    job('echox_135m', 's2t').data.sets == ('questions/train',)
    and job('echox_135m', 's2t').data.weights == ()
  )
  assert job('echox_135m', 't2c').precompute.unit_sets == ('answers/train', 'answers/holdout')


@pytest.mark.parametrize('name', ('echox_nano', *FULL_SIZE))
def test_held_out_sets_are_those_that_a_corpus_always_has(name):
  """`data_pipeline.ingest` makes `test` of every set of questions and `holdout` of every set of
  answers.
  """
  splits = {
    's2t': 'questions/test',
    'echo': 'questions/test',
    't2c': 'answers/holdout',
    'vocoder': 'answers/holdout',
  }
  for stage, ending in splits.items():
    built = job(name, stage)
    validation.check(built)
    if (name, stage) == ('echox_nano', 't2c'):  # learns all answers by heart
      assert not built.data.eval_sets and ending in built.data.sets
      continue
    assert built.data.eval_sets and all(one.endswith(ending) for one in built.data.eval_sets)
    if stage in ('t2c', 'vocoder'):
      assert set(built.data.eval_sets) <= set(built.precompute.unit_sets) - set(
        built.precompute.language_sets
      )
    elif built.data.cached_states:
      assert set(built.data.eval_sets) <= set(built.precompute.state_sets)


def test_one_model_learns_the_words_first():
  """Its stages agree on the adapter, and every set that they hear is cached."""
  jobs = {stage: job('echox_135m', stage) for stage in ('align', 's2t', 'echo')}
  assert jobs['s2t'].train.init_from == ('align',) and 'align' not in jobs['echo'].train.init_from
  assert len({built.model.adapter for built in jobs.values()}) == 1
  for built in jobs.values():
    validation.check(built)
    batches.check_augment(built)
    batches.check_packing(built)
    assert {*built.data.sets, *built.data.eval_sets} <= set(built.precompute.state_sets)
    # a clip may keep a slot for each of its tokens
    assert built.data.max_ctc_labels == built.model.adapter.shrink_budget


@pytest.mark.parametrize('name', FULL_SIZE)
def test_unknown_stage(name):
  with pytest.raises(ValueError, match='there is no stage'):
    importlib.import_module(f'configs.{name}').get_config('text')


@pytest.mark.parametrize(
  'name, added, published',
  [
    ('echox_8b', 2 * 4096, 8_030_261_248),
    ('echox_3b', 3072, 3_212_749_824),
    ('echox_135m', 0, 134_515_008),
  ],
)
def test_llm_sizes(name, added, published):
  """`added`: the rows of the AUDIO id."""
  assert count(job(name, 's2t').model, 'llm') == published + added


def test_other_sizes():
  cfg = job('echox_8b', 's2t').model
  assert count(cfg, 'whisper') == pytest.approx(637e6, rel=0.003)
  assert count(cfg, 'hubert') == pytest.approx(94.4e6, rel=0.002)
  # bytes of float32 (facts 10)
  assert count(cfg, 'vocoder') == pytest.approx(53.94e6 / 4, rel=0.005)


def test_echox_8b_has_the_size_of_the_released_file():
  """19.22 GB of float16 (facts 12): LLM, adapter, unit decoder with a text table of its own,
  aligner; Whisper is not in it.
  """
  cfg = job('echox_8b', 'echo').model
  assert 2 * count(
    cfg, 'llm', 'adapter', 'unit_text_embedding', 'echo', 'denoising_adapter'
  ) == pytest.approx(19.22e9, rel=0.002)


def test_weights_of_a_chip_fall_in_proportion():
  """From 16 chips to 64 to 256, within 5 %: what is not split is small (norms, biases, the first
  convolution).
  """
  built = job('echox_8b', 's2t')
  groups = stages.get_stage('s2t').groups_for(built)

  def elements(chips):
    mesh = AbstractMesh((1, chips, 1, 1), sharding.AXES)
    leaves = jax.tree.leaves(state.abstract_params(built, groups, mesh))
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)

  assert 64 * elements(64) < 1.05 * 16 * elements(16) and 256 * elements(
    256
  ) < 1.05 * 16 * elements(16)
