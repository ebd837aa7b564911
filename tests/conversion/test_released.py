"""Import of released EchoX weights: what does not fit is refused with all its names."""

import json

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.conversion import released, released_config, released_units
from tests.helpers.paths import GOLDEN


@pytest.fixture(scope='module')
def cfg():
  return released_config.config_from_json(json.loads((GOLDEN / 'config.json').read_text()))


@pytest.fixture(scope='module')
def weights():
  file = np.load(GOLDEN / 'golden_weights.npz')
  return {
    name.removeprefix('echox/'): file[name] for name in file.files if name.startswith('echox/')
  }


def test_speech_to_text_part_lists_every_problem(cfg, weights):
  changed = {
    **weights,
    'model.extra.weight': np.zeros(1),
    'model.norm.weight': np.zeros(3),
    'model.lbm.encoder_attn.in_proj_weight': np.zeros((7, 64)),
  }
  del changed['lm_head.weight'], changed['model.layers.1.mlp.up_proj.weight']
  with pytest.raises(
    errors.CheckpointError,
    match=(
      r'missing: lm_head.weight, model.layers.1.mlp.up_proj.weight; not used: model.extra.weight; '
      r'wrong shape: model.lbm.encoder_attn.in_proj_weight \[7, 64\] for \[192, 64\], '
      r'model.norm.weight \[3\] for \[64\]'
    ),
  ):
    released.import_s2t(changed, cfg)


def test_unit_part_lists_every_problem(cfg, weights):
  changed = {
    **weights,
    'unit_translator.extra': np.zeros(1),
    'unit_translator.adapter.bias': np.zeros(3),
  }
  del changed['unit_translator.lm_head.weight']
  with pytest.raises(
    errors.CheckpointError,
    match=(
      r'missing: unit_translator.lm_head.weight; not used: unit_translator.extra; '
      r'wrong shape: unit_translator.adapter.bias'
    ),
  ):
    released_units.import_units(changed, cfg)


def test_stage2_checkpoints_have_no_adapter(cfg, weights):
  kept = {name: value for name, value in weights.items() if 'aligner' not in name}
  assert released_units.import_units(kept, cfg, 't2c').keys() == {'unit_text_embedding', 't2c'}


def test_config_without_a_section_is_refused():
  with pytest.raises(errors.ConfigError, match="no 'ids'"):
    released_config.config_from_json({})
