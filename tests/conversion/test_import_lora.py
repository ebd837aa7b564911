"""LoRA adapters of PEFT, merged into the dense model."""

import pytest

from echox_jax import errors, model_folder
from echox_jax.conversion import released, released_config, released_units
from tests.helpers.imports import WEIGHTS, lora, run, same
from tests.helpers.released_folder import CONFIG


@pytest.mark.parametrize(
  'settings, scale',
  [({}, 4.0), ({'use_rslora': True}, 8.0), ({'alpha_pattern': {'q_proj': 8, 'k_proj': 8}}, 2.0)],
)
def test_peft_adapter_equals_dense_merge(source, tmp_path, settings, scale):
  names, tensors = lora(tmp_path / 'lora', settings=settings)
  run('echox', tmp_path / 'lora', tmp_path / 'model', '--base', source)
  dense = dict(WEIGHTS) | {'model.mm_projector1.weight': WEIGHTS['model.mm_projector1.weight'] + 1}
  for name in names:
    a, b = (tensors[f'base_model.model.{name}.lora_{letter}.weight'] for letter in 'AB')
    dense[f'{name}.weight'] = WEIGHTS[f'{name}.weight'] + scale * (b @ a)
  cfg = released_config.config_from_json(CONFIG)
  same(
    model_folder.load_params(tmp_path / 'model'),
    released.import_s2t(dense, cfg) | released_units.import_units(dense, cfg),
  )


@pytest.mark.parametrize(
  'change, says',
  [
    (
      dict(width=65),
      r"adapter_model.safetensors: .*q_proj.lora_A.weight' is a LoRA of 64 x 4 by 4 "
      r'x 65, but .*has shape \[64, 64\]',
    ),
    (
      dict(settings={'use_dora': True}),
      'adapter_config.json describes an adapter other than plain LoRA',
    ),
    (dict(settings={'peft_type': 'IA3'}), 'other than plain LoRA'),
  ],
)
def test_other_adapters(source, tmp_path, change, says):
  lora(tmp_path / 'lora', **change)
  with pytest.raises(errors.CheckpointError, match=says):
    run('echox', tmp_path / 'lora', tmp_path / 'model', '--base', source)
  assert not (tmp_path / 'model').exists()
