"""Parity of the speech-to-text half with arrays of the released code (tests/golden), in float32 at the highest precision."""

import dataclasses
import functools
import json
from pathlib import Path

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.conversion import released, released_config, whisper_hf
from echox_jax.models import adapter, echox, layers
from echox_jax.models.llama import Llama, init_cache
from echox_jax.models.whisper import WhisperEncoder
from echox_jax.training import s2t_step
from echox_jax.training.experiment import ExperimentConfig
from tests.ctc_reference import ctc_gradient

GOLDEN = Path(__file__).parent / 'golden'
BUDGET = 64  # more than any golden clip keeps; the released code has no limit


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def cfg():
  made = released_config.config_from_json(json.loads((GOLDEN / 'config.json').read_text()))
  return dataclasses.replace(made, adapter=dataclasses.replace(made.adapter, dropout=0.0, shrink_budget=BUDGET))


@pytest.fixture(scope='module')
def weights():
  file = np.load(GOLDEN / 'golden_weights.npz')
  return {name: file[name] for name in file.files}


@pytest.fixture(scope='module')
def echox_weights(weights):
  return {name.removeprefix('echox/'): value for name, value in weights.items() if name.startswith('echox/')}


@pytest.fixture(scope='module')
def params(cfg, echox_weights):
  return released.import_s2t(echox_weights, cfg)


@pytest.fixture(scope='module')
def forward():
  return dict(np.load(GOLDEN / 'golden_stage1.npz'))


@pytest.fixture(scope='module')
def training():
  return dict(np.load(GOLDEN / 'golden_stage1_loss.npz'))


@pytest.fixture(scope='module')
def states(cfg, weights, forward, training):
  """Encoder states of the four golden clips: float[4,1500,Dw]."""
  tensors = {name.removeprefix('whisper/'): value for name, value in weights.items() if name.startswith('whisper/')}
  mels = np.stack([forward['mel'], *(training[f'mel{i}'] for i in (1, 2, 3))]).swapaxes(1, 2)
  with jax.default_matmul_precision('highest'):
    encode = jax.jit(WhisperEncoder(cfg.whisper).apply)
    return np.asarray(encode({'params': whisper_hf.encoder_params(tensors, cfg.whisper)}, mels))


@pytest.fixture(scope='module')
def spoken(cfg, params, forward):
  """(speech, captured outputs of every layer of the adapter) for the golden clip."""
  with jax.default_matmul_precision('highest'):
    speech, captured = adapter.SoundwaveAdapter(cfg).apply(
        {'params': params['adapter']}, forward['whisper_last_hidden'], np.array([1500]), capture_intermediates=True)
  return speech, {name: value['__call__'][0] for name, value in captured['intermediates'].items() if name != '__call__'}


@pytest.fixture(scope='module')
def row(cfg, params, forward, spoken):
  ids = jnp.asarray(forward['input_ids'])
  embeddings = Llama(cfg.llm).apply({'params': params['llm']}, ids, method='embed')
  return echox.splice(cfg, ids, embeddings, spoken[0])


def batch_of(training, states, kind):
  """The golden training batch `single` (a clip a row) or `multi` (two)."""
  clips = states[training[f'{kind}/mel_index']]
  targets = training[f'{kind}/asr_targets']
  if kind == 'single':
    clips, targets = clips[:, 0], targets[:, 0]
  return {'input_ids': training[f'{kind}/input_ids'], 'labels': training[f'{kind}/labels'], 'ctc_labels': targets,
          'states': clips, 'state_lengths': np.full(clips.shape[:-2], 1500)}


@pytest.mark.parametrize('layer, key', [('projection', 'proj'), ('alignment', 'asr'), ('out_norm', 'out_norm')])
def test_adapter_layers(spoken, forward, layer, key):
  np.testing.assert_allclose(spoken[1][layer].reshape(1, 750, -1), forward[key], atol=2e-5)


def test_ctc_and_shrink(cfg, params, spoken, forward):
  speech, _ = spoken
  logits = echox.ctc_logits(params, cfg, speech.frames)
  np.testing.assert_allclose(logits[:, :64], forward['ctc_logits_first64'], atol=1e-4)
  np.testing.assert_allclose(jax.nn.logsumexp(logits, axis=-1), forward['ctc_logsumexp'], atol=1e-4)
  labels = jnp.argmax(logits, axis=-1)
  np.testing.assert_array_equal(labels, forward['ctc_argmax'])
  keep = adapter.kept_frames(labels, jnp.ones((1, 750), bool))
  np.testing.assert_array_equal(keep[0], forward['keep_mask'])
  kept = len(forward['shrink'])
  assert (int(speech.kept[0]), int(speech.overflow[0])) == (kept, 0)
  index, valid, _ = adapter.select(keep, BUDGET)
  assert int(valid.sum()) == kept
  np.testing.assert_allclose(speech.frames[0][index[0, :kept]], forward['shrink'], atol=2e-5)
  np.testing.assert_allclose(speech.embeddings[0, :kept], forward['lookback'], atol=5e-5)
  assert not np.any(speech.embeddings[0, kept:])


def test_prompt(cfg, params, row, forward):
  length = forward['llm_inputs_embeds'].shape[1]
  assert int(row.valid.sum()) == length
  np.testing.assert_allclose(row.inputs[:, :length], forward['llm_inputs_embeds'], atol=5e-5)
  np.testing.assert_array_equal(row.prompt_keys[:, :length], forward['llm_key_mask'])


def test_prompt_and_cached_step(cfg, params, row, forward):
  """The profile `released` hides EOTs of the prompt from everything that comes after."""
  length, slots = forward['llm_inputs_embeds'].shape[1], row.inputs.shape[1] + 1
  llm, variables = Llama(cfg.llm), {'params': params['llm']}
  keys = jnp.pad(row.prompt_keys, ((0, 0), (0, 1)))
  mask = layers.causal_mask(jnp.ones((1, slots), bool))[:, :, :-1] & keys[:, None, None]
  run = jax.jit(functools.partial(llm.apply, method='hidden'))
  hidden, cache = run(variables, row.inputs, row.positions, mask, init_cache(cfg.llm, 1, slots), jnp.asarray(0))
  np.testing.assert_allclose(hidden[:, :length], forward['llm_last_hidden'], atol=1e-4)
  logits = echox.lm_logits(params, cfg, hidden)
  np.testing.assert_allclose(logits[:, :length], forward['logits'], atol=1e-4)

  at = jnp.asarray(length)
  embedded = llm.apply(variables, jnp.asarray(forward['step2_input_id']), method='embed')
  hidden, _ = run(variables, embedded, at[None, None], keys.at[0, length].set(True)[:, None, None], cache, at)
  np.testing.assert_allclose(hidden, forward['step2_hidden'], atol=1e-4)
  np.testing.assert_allclose(echox.lm_logits(params, cfg, hidden), forward['step2_logits'], atol=1e-4)


@functools.partial(jax.jit, static_argnums=1)
def with_ctc_gradient(params, experiment, batch, by_logits):
  """(gradients of the loss with that of the CTC loss by its logits given, (forward pass, CTC logits))."""
  def surrogate(params):
    output = echox.s2t_forward(params, experiment.model, batch)
    logits = echox.ctc_logits(params, experiment.model, output.speech.frames).reshape(by_logits.shape)
    ce = s2t_step.next_token_loss(params, experiment.model, output).mean
    return ce + experiment.train.loss.ctc_weight * jnp.sum(logits * by_logits), (output, logits)
  return jax.grad(surrogate, has_aux=True)(params)


@pytest.mark.parametrize('kind', ['single', 'multi'])
def test_training(cfg, params, training, states, kind):
  """Rows, logits and losses match; our gradient is the exact one, and with torch's rounding of the CTC part the golden one."""
  golden = {key.removeprefix(f'{kind}/'): value for key, value in training.items() if key.startswith(f'{kind}/')}
  batch, experiment = batch_of(training, states, kind), ExperimentConfig(model=cfg)
  targets = batch['ctc_labels'].reshape(-1, batch['ctc_labels'].shape[-1])
  nothing = np.zeros((len(targets), 750, cfg.llm.vocab_size), np.float32)
  _, (output, logits) = with_ctc_gradient(params, experiment, batch, nothing)
  assert_golden_rows(cfg, params, output, logits, golden)

  ours = jax.jit(lambda p: jax.value_and_grad(s2t_step.s2t_loss, has_aux=True)(p, batch, jax.random.key(0), experiment))
  (loss, metrics), gradients = ours(params)
  np.testing.assert_allclose(loss, golden['loss'], rtol=1e-5)
  np.testing.assert_allclose(metrics['text_ce'], golden['lm_ce'], rtol=1e-5)
  np.testing.assert_allclose(metrics['ctc'], golden['ctc_loss'], rtol=1e-5)
  assert metrics['overflow_shrink'] == 0

  def reference(dtype):
    rows = [ctc_gradient(row, ids[ids >= 0], cfg.special_ids.audio, dtype) / sum(ids >= 0) for row, ids in zip(logits, targets)]
    return with_ctc_gradient(params, experiment, batch, np.stack(rows).astype(np.float32) / len(rows))[0]

  def same_as_exact(path, actual, exact):
    np.testing.assert_allclose(actual, exact, atol=1e-5 * np.abs(exact).max() + 1e-8, err_msg=str(path))

  jax.tree_util.tree_map_with_path(same_as_exact, gradients, reference(np.float64))
  assert_golden_gradients(cfg, reference(np.float32), golden)


def assert_golden_rows(cfg, params, output, ctc, golden):
  """The expanded rows, what the CTC head says and the logits that predict labels."""
  np.testing.assert_array_equal(output.speech.kept.reshape(-1), golden['kept'])
  np.testing.assert_array_equal(jnp.argmax(ctc, axis=-1), golden['ctc_argmax'])
  length = golden['expanded_labels'].shape[1]
  np.testing.assert_array_equal(output.labels[:, :length], golden['expanded_labels'])
  np.testing.assert_allclose(output.inputs[output.valid], golden['llm_inputs_embeds'][output.valid[:, :length]], atol=5e-5)
  rows, at = golden['logit_rows'].T
  np.testing.assert_allclose(echox.lm_logits(params, cfg, output.hidden[rows, at]), golden['logits_at_rows'], atol=1e-4)


def assert_golden_gradients(cfg, gradients, golden):
  """Norms of all gradients, and some in full."""
  flat = traverse_util.flatten_dict(gradients, sep='/')
  squares = {}
  for rule in released.s2t_rules(cfg):
    for layer, name in enumerate(rule.sources()):
      ours = flat[rule.path] if rule.layers is None else flat[rule.path][layer]
      squares[name] = squares.get(name, 0.0) + float(np.sum(np.square(ours)))
      full = golden.get(f'grad/{name}')
      if full is not None:
        np.testing.assert_allclose(ours, rule.read(full), atol=1e-3 * np.abs(full).max(), err_msg=name)
  norms = {key.removeprefix('gradnorm/'): value for key, value in golden.items() if key.startswith('gradnorm/')}
  assert norms.keys() == squares.keys()
  for name, square in squares.items():
    np.testing.assert_allclose(np.sqrt(square), norms[name], rtol=1e-3, atol=1e-7, err_msg=name)


def test_import_lists_every_problem(cfg, echox_weights):
  changed = {**echox_weights, 'model.extra.weight': np.zeros(1), 'model.norm.weight': np.zeros(3),
             'model.lbm.encoder_attn.in_proj_weight': np.zeros((7, 64))}
  del changed['lm_head.weight'], changed['model.layers.1.mlp.up_proj.weight']
  with pytest.raises(errors.CheckpointError, match=(
      r'missing: lm_head.weight, model.layers.1.mlp.up_proj.weight; not used: model.extra.weight; '
      r'wrong shape: model.lbm.encoder_attn.in_proj_weight \[7, 64\] for \[192, 64\], model.norm.weight \[3\] for \[64\]')):
    released.import_s2t(changed, cfg)


def test_config_without_a_section_is_refused():
  with pytest.raises(errors.ConfigError, match="no 'ids'"):
    released_config.config_from_json({})
