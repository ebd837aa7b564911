"""Parity of the unit part with arrays of the released code (tests/golden), in float32 at the highest precision."""

import dataclasses
import json
from pathlib import Path

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.conversion import released, released_config, released_units, whisper_hf
from echox_jax.inference import generate, trigger
from echox_jax.models import echox, unit_decoder
from echox_jax.models.llama import head_embedding
from echox_jax.models.unit_decoder import DenoisingAdapter, UnitDecoder
from echox_jax.models.whisper import WhisperEncoder
from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step, released_loss
from echox_jax.training.experiment import DataConfig, ExperimentConfig

GOLDEN = Path(__file__).parent / 'golden'
UNITS = 'unit_translator.'


@pytest.fixture(autouse=True, scope='module')
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def cfg():
  made = released_config.config_from_json(json.loads((GOLDEN / 'config.json').read_text()))
  return dataclasses.replace(
      made, adapter=dataclasses.replace(made.adapter, dropout=0.0, shrink_budget=64),
      unit_decoder=dataclasses.replace(made.unit_decoder, denoising_dropout=0.0))


@pytest.fixture(scope='module')
def weights():
  return dict(np.load(GOLDEN / 'golden_weights.npz'))


@pytest.fixture(scope='module')
def echox_weights(weights):
  return {name.removeprefix('echox/'): value for name, value in weights.items() if name.startswith('echox/')}


@pytest.fixture(scope='module')
def params(cfg, echox_weights, weights):
  whisper = {name.removeprefix('whisper/'): value for name, value in weights.items() if name.startswith('whisper/')}
  groups = released.import_s2t(echox_weights, cfg) | released_units.import_units(echox_weights, cfg)
  return jax.tree.map(jnp.asarray, groups | {'whisper': whisper_hf.encoder_params(whisper, cfg.whisper)})


@pytest.fixture(scope='module')
def stage2():
  return dict(np.load(GOLDEN / 'golden_stage2.npz'))


@pytest.fixture(scope='module')
def stage3():
  return dict(np.load(GOLDEN / 'golden_stage3.npz'))


@pytest.fixture(scope='module')
def stream():
  return dict(np.load(GOLDEN / 'golden_stream.npz'))


def compare_gradients(gradients, rules, golden, prefix=''):
  """Every norm of the golden file, and every array; what has no norm there must get no gradient here."""
  flat, squares = traverse_util.flatten_dict(gradients, sep='/'), {}
  for rule in rules:
    for layer, name in enumerate(rule.sources()):
      ours = np.asarray(flat[rule.path] if rule.layers is None else flat[rule.path][layer])
      squares[name] = squares.get(name, 0.0) + float(np.sum(np.square(ours)))
      full = golden.get(f'{prefix}grad/{name}')
      if full is not None:
        np.testing.assert_allclose(ours, rule.read(full), atol=1e-4 * np.abs(full).max(), err_msg=name)
  start = f'{prefix}gradnorm/'
  norms = {key.removeprefix(start): value for key, value in golden.items() if key.startswith(start)}
  assert norms and norms.keys() <= squares.keys()
  for name, square in squares.items():
    np.testing.assert_allclose(np.sqrt(square), norms.get(name, 0.0), rtol=1e-3, atol=1e-6, err_msg=name)


def test_forward_of_the_unit_decoder(cfg, params, stage2):
  table, ids = params['unit_text_embedding']['embedding'], stage2['t2u_input_ids']
  model, variables = UnitDecoder(cfg), {'params': params['echo']}
  projected = model.apply(variables, model.apply(variables, table, ids, method='embed'), method='project')
  np.testing.assert_allclose(projected, stage2['adapter_out'], atol=1e-5)
  real = stage2['t2u_attention_mask']
  hidden = jax.jit(model.apply)(variables, table, ids, real)
  np.testing.assert_allclose(hidden[real], stage2['t2u_hidden'][real], atol=5e-5)
  np.testing.assert_allclose(model.apply(variables, hidden, method='logits')[real], stage2['t2u_logits'][real], atol=5e-5)


def test_stage2_loss_and_gradients(cfg, params, stage2):
  experiment = ExperimentConfig(model=cfg, data=DataConfig(max_unit_words=30))
  held = {'t2c': params['echo'], 'unit_text_embedding': params['unit_text_embedding']}
  batch = {'input_ids': stage2['t2u_input_ids'], 'labels': stage2['t2u_labels']}
  step = jax.jit(lambda p, b: jax.value_and_grad(echo_step.t2c_loss, has_aux=True)(p, b, jax.random.key(0), experiment))
  (loss, metrics), grads = step(held, batch)
  np.testing.assert_allclose(loss, stage2['loss'], rtol=1e-5)
  assert metrics['tokens'] == (stage2['t2u_labels'] != IGNORE).sum() and metrics['overflow_unit_words'] == 0
  compare_gradients(grads, released_units.unit_rules(cfg, 't2c', adapted=False), stage2)


@pytest.fixture(scope='module')
def encoded(cfg, params, stage3):
  """Encoder states of the clips of stage 3: float[2,1500,Dw]."""
  clips = dict(np.load(GOLDEN / 'golden_stage1_loss.npz')) | {'mel0': np.load(GOLDEN / 'golden_stage1.npz')['mel']}
  mels = np.stack([clips[f'mel{i}'] for i in stage3['mel_index']]).swapaxes(1, 2)
  return np.asarray(WhisperEncoder(cfg.whisper).apply({'params': params['whisper']}, mels))


@pytest.mark.parametrize('kind', ['kd_train', 'kd_eval_like'])
def test_stage3_loss_and_gradients(cfg, params, stage3, encoded, kind):
  ids, labels = stage3['input_ids'], stage3['labels']
  batch = {'input_ids': ids, 'labels': labels, 'states': encoded, 'state_lengths': np.full(len(encoded), 1500)}
  counts = (labels != IGNORE).sum(1)
  words = np.stack([np.pad(row[row != IGNORE], (0, counts.max() - n)) for row, n in zip(labels, counts)])
  audio_at = np.argmax(ids == cfg.special_ids.audio, axis=1)

  @jax.jit
  def step(held):
    def loss(held):
      output = echox.s2t_forward(held, cfg, batch)
      starts = audio_at + output.speech.kept - 1 + stage3['assistant_after_audio_shifts']
      found = released_loss.finetune_kd(held, cfg, output.hidden, words, starts, stage3['sub_lengths'],
                                        stage3['unit_targets'], int(stage3['sub_lengths'].max()), kind == 'kd_train')
      return found.loss, (output, found)
    return jax.value_and_grad(loss, has_aux=True)(held)

  held = {name: group for name, group in params.items() if name != 'whisper'}
  (_, (output, found)), gradients = step(held)
  golden = lambda name: stage3[f'{kind}/{name}']
  length = golden('aligner_in').shape[1]
  real = np.asarray(output.valid)[:, :length]
  np.testing.assert_allclose(output.hidden[:, :length][real], golden('aligner_in')[real], atol=1e-4)
  adapted = DenoisingAdapter(cfg).apply({'params': params['denoising_adapter']}, golden('aligner_in'))
  np.testing.assert_allclose(adapted, golden('aligner_out'), atol=1e-5)
  np.testing.assert_array_equal(found.labels, golden('flat_targets'))
  np.testing.assert_array_equal(found.valid, golden('t2u_mask'))
  np.testing.assert_allclose(found.inputs, golden('t2u_inputs_embeds'), atol=5e-5)
  spoken = np.arange(4) != 3  # the last slice is absent and nothing of it counts
  np.testing.assert_allclose(found.logits[spoken], golden('t2u_logits')[spoken], atol=5e-4)
  np.testing.assert_allclose(found.loss, golden('loss'), rtol=1e-5)
  np.testing.assert_allclose(found.unit_ce, golden('unit_ce'), rtol=1e-5)
  if kind == 'kd_train':
    np.testing.assert_allclose(found.cosine, golden('cosine_loss'), rtol=1e-5)
    np.testing.assert_allclose(found.cosine_weight, golden('cosine_weight'), rtol=1e-5)
  table = gradients['unit_text_embedding']  # torch gives the row of padding_idx no gradient; the whole table is frozen anyway
  table['embedding'] = table['embedding'].at[cfg.special_ids.eot].set(0)
  compare_gradients(gradients, [*released.s2t_rules(cfg), *released_units.unit_rules(cfg)], stage3, f'{kind}/')


def segments(stream):
  stops = np.cumsum([int(stream[f'seg{i}/len']) for i in range(int(stream['n_segments']))])
  return list(zip([0, *stops[:-1]], stops))


def test_trigger_scores_and_segments(cfg, params, stream):
  period = head_embedding(params['llm'])[cfg.special_ids.period]
  np.testing.assert_allclose(trigger.scores(stream['hidden'], period), stream['sims'], atol=1e-6)
  cutter, found = trigger.SliceCutter(cfg.streaming), []
  for score in stream['sims']:
    found.append(cutter.push(score))
  found.append(cutter.finish())
  assert [s for s in found if s] == segments(stream)
  number = trigger.cut_slices(jnp.asarray(stream['sims'])[None], jnp.array([160]), cfg.streaming)[0]
  np.testing.assert_array_equal(number, np.repeat(np.arange(len(segments(stream))), [b - a for a, b in segments(stream)]))


def test_streamed_text(cfg, params, stream):
  """From the waveform to 160 greedy tokens, with the prompt's EOTs hidden."""
  def answer(held, wave):
    states, lengths = echox.encode_speech(held, cfg, wave[None], jnp.array([wave.shape[0]]))
    return generate.generate_text(held, cfg, jnp.asarray(stream['prompt_ids']), states, lengths, 160)

  made = jax.jit(answer)(params, stream['wave'])
  np.testing.assert_array_equal(made.ids[0], stream['tokens'])
  assert int(made.overflow[0]) == 1
  np.testing.assert_allclose(made.hidden[0], stream['hidden'], atol=2e-3)


def test_streamed_unit_words(cfg, params, stream):
  """All segments at once, each as the released code decoded it alone."""
  table, cut = params['unit_text_embedding']['embedding'], segments(stream)
  adapted = DenoisingAdapter(cfg).apply({'params': params['denoising_adapter']}, stream['hidden'])
  lengths = jnp.array([b - a for a, b in cut])
  text = jnp.stack([jnp.pad(adapted[a:b], ((0, 60 - b + a), (0, 0))) for a, b in cut])
  prompt = unit_decoder.slice_prompt(cfg, table, text, lengths)
  first = UnitDecoder(cfg).apply({'params': params['echo']}, prompt.embeddings[0][prompt.valid[0]], method='project')
  np.testing.assert_allclose(first, stream['seg0/t2u_prompt_embeds'], atol=5e-5)
  decode = jax.jit(lambda held: generate.decode_unit_tokens(held, table, cfg, text, lengths, int(stream['unit_cap'])))
  tokens, counts, _ = decode(params['echo'])
  for i in range(len(cut)):
    np.testing.assert_array_equal(tokens[i, :counts[i]], stream[f'seg{i}/unit_tokens'])


def test_import_lists_every_problem(cfg, echox_weights):
  changed = {**echox_weights, 'unit_translator.extra': np.zeros(1), 'unit_translator.adapter.bias': np.zeros(3)}
  del changed['unit_translator.lm_head.weight']
  with pytest.raises(errors.CheckpointError, match=(
      r'missing: unit_translator.lm_head.weight; not used: unit_translator.extra; '
      r'wrong shape: unit_translator.adapter.bias')):
    released_units.import_units(changed, cfg)


def test_stage2_checkpoints_have_no_adapter(cfg, echox_weights):
  kept = {name: value for name, value in echox_weights.items() if 'aligner' not in name}
  assert released_units.import_units(kept, cfg, 't2c').keys() == {'unit_text_embedding', 't2c'}
