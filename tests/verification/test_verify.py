"""Parity with the released code on the golden set kept here, and what `launch.verify` says of sets
that are off.
"""

import json
import shutil

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.verification import rows as row_lib
from echox_jax.verification.golden import Golden
from echox_jax.verification.gradients import gradient_rows
from echox_jax.verification.sections import SECTIONS, check
from launch import verify
from tests.helpers.paths import GOLDEN


def a_set(folder, change, *names):
  """A copy of `names` of the golden set in `folder`; `change`: file -> {array: new array, or None
  to leave it out}.
  """
  shutil.copy(GOLDEN / 'config.json', folder)
  for name in names:
    arrays = dict(np.load(GOLDEN / f'golden_{name}.npz')) | change.get(name, {})
    np.savez(
      folder / f'golden_{name}.npz',
      **{key: value for key, value in arrays.items() if value is not None},
    )
  return folder


def array(name, key):
  return np.load(GOLDEN / f'golden_{name}.npz')[key].copy()


@pytest.fixture(scope='module')
def golden():
  return Golden(GOLDEN)


@pytest.mark.parametrize('name', SECTIONS)
def test_every_row_passes(golden, name):
  rows = check(golden, name)
  failed = [row for row in rows if not row.passed]
  assert rows and not failed, '\n' + row_lib.table(failed)
  assert all(row.max_abs_error < 1e-5 for row in rows if row.name.endswith('exact_gradient')), (
    'exact but for float32'
  )
  covered = {row.name.partition('/')[2] for row in rows}
  own = SECTIONS[name].files[-1] if name != 'stream' else 'stream'
  left = {
    key
    for key in np.load(GOLDEN / f'golden_{own}.npz').files
    if not key.startswith(('w/', 'spk/w/'))
  } - covered
  assert left <= NOT_COMPARED[name], 'every array is compared, but for inputs'


# Inputs of each section, and margins that tell how far an argmax is from another.
NOT_COMPARED = {
  'log_mel': {'wave'},
  'hubert': {'wave', 'kmeans_centroids', 'kmeans_layer'},
  'vocoder': {'code', 'spk/code'},
  'stage1': {'input_ids', 'mel', 'step2_input_id'},
  'stage1_loss': {'mel1', 'mel2', 'mel3'}
  | {
    f'{kind}/{key}'
    for kind in ('single', 'multi')
    for key in ('input_ids', 'labels', 'asr_targets', 'mel_index')
  },
  'stage2': {'t2u_input_ids', 't2u_labels'},
  'stage3': {
    'input_ids',
    'labels',
    'sub_lengths',
    'unit_targets',
    'assistant_after_audio_shifts',
    'mel_index',
    # not a number: evaluation has no such term
    'kd_eval_like/cosine_loss',
    'kd_eval_like/cosine_weight',
  }
  | {
    f'finetune/{key}'
    for key in ('input_ids', 'labels', 'asr_targets', 't2u_input_ids', 't2u_labels')
  },
  'stream': {'prompt_ids', 'wave', 'n_segments', 'unit_cap', 'unit_words', 'top2_margin_min'}
  | {f'seg{i}/{key}' for i in range(5) for key in ('len', 't2u_top2_margin_min')},
}


@pytest.mark.slow
def test_other_sizes(tmp_path):
  """Twice the rows, longer rows, and one more layer that adds nothing: the same numbers must come
  out.
  """
  weights = dict(np.load(GOLDEN / 'golden_weights.npz'))
  silent = (
    'o_proj.weight',
    'down_proj.weight',
    'out_proj.weight',
    'out_proj.bias',
    'fc2.weight',
    'fc2.bias',
  )
  for layers in ('echox/model.layers.', 'whisper/encoder.layers.'):
    for name in [name for name in weights if name.startswith(f'{layers}1.')]:
      weights[name.replace(f'{layers}1.', f'{layers}2.')] = weights[name] * (
        not name.endswith(silent)
      )
  stage2 = dict(np.load(GOLDEN / 'golden_stage2.npz'))
  for name, pad in {
    't2u_input_ids': 993,
    't2u_labels': -100,
    't2u_attention_mask': False,
    't2u_hidden': 0,
    't2u_logits': 0,
    'adapter_out': stage2['adapter_out'][0, -1],
  }.items():
    twice = np.concatenate([stage2[name]] * 2)
    stage2[name] = np.concatenate(
      [twice, np.broadcast_to(pad, (len(twice), 5, *twice.shape[2:])).astype(twice.dtype)], axis=1
    )
  config = json.loads((GOLDEN / 'config.json').read_text())
  config['echox']['num_hidden_layers'] = config['whisper_encoder']['encoder_layers'] = 3
  folder = a_set(tmp_path, {'weights': weights, 'stage2': stage2}, 'weights', 'stage1', 'stage2')
  (folder / 'config.json').write_text(json.dumps(config))
  for name in ('stage1', 'stage2'):
    assert not [row for row in check(Golden(folder), name) if not row.passed]


def test_a_changed_array_fails_its_row_alone(tmp_path, capsys):
  mel = array('mel', 'logmel80')
  mel[3, 7] += 2e-4
  out = tmp_path / 'out' / 'rows.json'
  assert (
    verify.main(
      ['--golden', str(a_set(tmp_path, {'mel': {'logmel80': mel}}, 'mel')), '--json', str(out)]
    )
    == 1
  )
  report = json.loads(out.read_text())
  assert [row['name'] for row in report['rows'] if not row['pass']] == ['log_mel/logmel80']
  assert (report['pass'], report['passed'], report['failed']) == (False, 3, 1)
  assert report['absent'].keys() == SECTIONS.keys() - {'log_mel'}
  assert report['rows'][0].keys() >= {
    'name',
    'shape',
    'max_abs_error',
    'relative_error',
    'tolerance',
    'kind',
    'pass',
  }
  printed = capsys.readouterr().out
  assert (
    'hubert: absent' in printed and 'failed: log_mel/logmel80' in printed and 'FAILED' in printed
  )


def test_a_changed_weight_fails_the_rows_behind_it(tmp_path):
  key = 'w/encoder.layers.1.feed_forward.output_dense.weight'
  rows = check(
    Golden(
      a_set(
        tmp_path, {'hubert': {key: 1.01 * array('hubert', key), 'units': np.arange(3)}}, 'hubert'
      )
    ),
    'hubert',
  )
  failed = {row.name.partition('/')[2]: row for row in rows if not row.passed}
  assert failed.keys() >= {'hidden_states_2', 'hidden_states_3', 'units'}
  assert not failed.keys() & {'conv_features', 'hidden_states_0', 'hidden_states_1'}
  assert 'shape' in failed['units'].note and failed['units'].to_json()['max_abs_error'] is None


def test_a_whole_set_exits_with_0(tmp_path):
  assert verify.main(['--golden', str(a_set(tmp_path, {}, 'mel'))]) == 0


@pytest.mark.parametrize(
  'prepare, message',
  [
    (lambda folder: None, 'no readable config.json'),
    (lambda folder: (folder / 'config.json').write_text('{'), 'no readable config.json'),
    (lambda folder: a_set(folder, {}), 'holds no golden arrays'),
    (
      lambda folder: a_set(folder, {'mel': {'wave': None}}, 'mel'),
      "golden_mel.npz has no array 'wave'",
    ),
    (
      lambda folder: (a_set(folder, {}) / 'golden_mel.npz').write_bytes(b'PK\3\4 cut short'),
      'golden_mel.npz is damaged',
    ),
    (lambda folder: (a_set(folder, {}, 'hubert') / 'config.json').write_text('{}'), "no 'hubert'"),
  ],
)
def test_sets_that_cannot_be_read(tmp_path, prepare, message):
  prepare(tmp_path)
  with pytest.raises(errors.EchoXError, match=message):
    verify.main(['--golden', str(tmp_path)])


def test_rows():
  zeros = np.zeros(2)
  assert (
    row_lib.close('x', [0.0, 9e-5], zeros).passed
    and not row_lib.close('x', [0.0, 1.1e-4], zeros).passed
  )
  assert not row_lib.close('x', [0.0, np.nan], zeros).passed
  hundreds = np.full(2, 100.0)
  assert (
    row_lib.close('x', [100, 100.009], hundreds).passed
    and not row_lib.close('x', [100, 100.02], hundreds).passed
  )
  assert (
    row_lib.relative('x', 1.0 + 9e-6, 1.0).passed
    and not row_lib.relative('x', 1.0 + 1.1e-5, 1.0).passed
  )
  assert row_lib.relative('x', 0.0, 0.0).passed
  assert (
    row_lib.identical('x', [True, False], np.array([1, 0])).passed
    and not row_lib.identical('x', [1, 2], [1, 3]).passed
  )
  assert (
    row_lib.of_max('x', [10.0, 0.009], [10.0, 0.0]).passed
    and not row_lib.of_max('x', [10.0, 0.011], [10.0, 0.0]).passed
  )


def test_every_gradient_is_judged():
  golden = {
    'loss': np.float32(1),
    'gradnorm/a': np.float32(5),
    'grad/a': np.array([3.0, 4.0]),
    'gradnorm/absent': np.float32(1),
  }
  rows = gradient_rows('s', {'a': np.array([3.0, 4.0]), 'b': np.array([0.0, 1e-3])}, golden)
  assert {row.name: row.passed for row in rows} == {
    's/gradnorm/a': True,
    's/grad/a': True,
    's/gradnorm/absent': False,
    's/no_gradient': False,
  }
