"""The stages `text` and `s2t` learn one small batch by heart: their losses reach near zero."""

from flax import linen as nn
import jax
import numpy as np
import optax

from echox_jax.config import AdapterConfig, EchoXConfig, LlamaConfig, WhisperConfig
from echox_jax.models.adapter import init_adapter
from echox_jax.models.llama import init_llm
from echox_jax.prompts import IGNORE, NANO_IDS, answer, get_profile, question_prompt
from echox_jax.training import s2t_step
from echox_jax.training.experiment import ExperimentConfig

CFG = EchoXConfig(
  special_ids=NANO_IDS,
  whisper=WhisperConfig(hidden_size=16),
  adapter=AdapterConfig(num_heads=2, intermediate_size=64, shrink_budget=12),
  llm=LlamaConfig(
    vocab_size=24,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
  ),
)


def rows(audio):
  """Four questions with their answers."""
  ids, labels = np.full((4, 32), NANO_IDS.pad), np.full((4, 32), IGNORE)
  for row in range(4):
    prompt = question_prompt(
      NANO_IDS, get_profile('paper'), [], [] if audio else [12 + row, 16 + row], audio
    )
    reply = answer(NANO_IDS, get_profile('paper'), [20 + row, 12 + 2 * row])
    ids[row, : len(prompt) + len(reply)] = prompt + reply
    labels[row, len(prompt) : len(prompt) + len(reply)] = reply
  return {'input_ids': ids, 'labels': labels}


def train(params, loss, batch, experiment, steps, rate):
  """Metrics after `steps` of AdamW."""
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))

  @jax.jit
  def run(params, state):
    def step(carry, key):
      params, state = carry
      (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(
        params, batch, key, experiment
      )
      updates, state = optimizer.update(gradients, state, params)
      return (optax.apply_updates(params, updates), state), (value, metrics)

    return jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(1), steps))[1]

  return jax.device_get(run(params, optimizer.init(params)))


def test_text():
  params = {'llm': nn.meta.unbox(jax.jit(lambda key: init_llm(key, CFG))(jax.random.key(0)))}
  losses, metrics = train(
    params, s2t_step.text_loss, rows(audio=False), ExperimentConfig(model=CFG), 120, 1e-2
  )
  assert losses[0] > 2.0 and losses[-1] < 0.02
  assert metrics['tokens'][0] == 16


def test_s2t():
  make = lambda key: {'llm': init_llm(key, CFG), 'adapter': init_adapter(key, CFG)}
  params = nn.meta.unbox(jax.jit(make)(jax.random.key(0)))
  random = np.random.default_rng(0)
  sounds = random.normal(size=(24, 16))
  transcripts = np.array([[12, 13, 14], [15, 16, IGNORE], [14, 12, 16], [13, 15, 13]])
  # Ten states of each label's sound, with noise: what a frozen encoder would give.
  states = np.repeat(sounds[np.maximum(transcripts, 0)], 10, axis=1) + 0.1 * random.normal(
    size=(4, 30, 16)
  )
  batch = {
    **rows(audio=True),
    'ctc_labels': transcripts,
    'states': states.astype(np.float32),
    'state_lengths': np.array([30, 20, 30, 30]),
  }
  # CTC leaves a plateau near step 200
  losses, metrics = train(params, s2t_step.s2t_loss, batch, ExperimentConfig(model=CFG), 400, 5e-3)
  assert losses[0] > 3.0
  assert metrics['text_ce'][-1] < 0.02
  assert metrics['ctc'][-1] < 0.01
  assert metrics['kept_frames'][-1] < 0.5 * batch['state_lengths'].sum() / 2
  assert metrics['overflow_shrink'][-1] == 0
  np.testing.assert_allclose(metrics['audio_seconds'][-1], 2.2)
