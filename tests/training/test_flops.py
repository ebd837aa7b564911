"""The FLOPs that are counted by hand are those that XLA counts in the program, whose loops have one
turn here.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from echox_jax import config as config_lib
from echox_jax.config import (
  DiscriminatorConfig,
  EchoXConfig,
  HubertConfig,
  LlamaConfig,
  LoraConfig,
  VocoderConfig,
  WhisperConfig,
)
from echox_jax.models import adapter, discriminators, hubert, llama, log_mel, vocoder, whisper
from echox_jax.models.attention import Mask
from echox_jax.parallel import chips
from echox_jax.training import flops, stages
from echox_jax.training.experiment import ExperimentConfig

LLM = LlamaConfig(
  vocab_size=500,
  hidden_size=128,
  intermediate_size=384,
  num_layers=1,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
)
CFG = EchoXConfig(
  whisper=WhisperConfig(hidden_size=128, intermediate_size=512, num_layers=1, num_heads=2),
  llm=LLM,
  adapter=config_lib.AdapterConfig(num_heads=4, intermediate_size=256, shrink_budget=16),
)
ROWS, LENGTH = 2, 64


def counted(function, *shapes):
  """FLOPs of the program that XLA makes."""
  return jax.jit(function).lower(*shapes).compile().cost_analysis()['flops']


def params_of(init, cfg=CFG):
  return jax.eval_shape(lambda: nn.meta.unbox(init(jax.random.key(0), cfg)))


def floats(*shape):
  return jax.ShapeDtypeStruct(shape, 'float32')


def integers(*shape):
  return jax.ShapeDtypeStruct(shape, 'int32')


def trunk(params, cfg, x):
  positions = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
  mask = Mask(causal=True)
  return llama.Llama(cfg).apply({'params': params}, x, positions, mask, method='hidden')[0]


def whole_square(forward):
  """XLA's program computes what the mask hides as well."""
  return forward | {'attention': forward['attention'] * 2 * LENGTH / (LENGTH + 1)}


def test_log_mel():
  found = counted(lambda audio: log_mel.log_mel(audio, 80), floats(ROWS, 16000))
  assert found == pytest.approx(flops.log_mel_forward(80, ROWS, 100), rel=0.03)


def test_hubert():
  # exact GELU and norms are dear: wide products
  cfg = HubertConfig(
    hidden_size=512, intermediate_size=1024, num_layers=1, num_heads=2, conv_dim=(256,) * 7
  )
  encoder, clips = hubert.HubertEncoder(cfg), (floats(ROWS, 16000), integers(ROWS))
  params = params_of(lambda key, _: encoder.init(key, *map(jnp.zeros_like, clips)))
  found = counted(encoder.apply, params, *clips)
  assert found == pytest.approx(flops.hubert_forward(cfg, ROWS, 16000), rel=0.05)


def test_whisper():
  # exact GELU is dear: wide products
  cfg = WhisperConfig(hidden_size=512, intermediate_size=1024, num_layers=1, num_heads=2)
  forward = lambda params, mel: whisper.WhisperEncoder(cfg).apply({'params': params}, mel)
  found = counted(
    forward,
    params_of(whisper.init_whisper, dataclasses.replace(CFG, whisper=cfg)),
    floats(ROWS, 2 * LENGTH, 80),
  )
  assert found == pytest.approx(flops.whisper_forward(cfg, ROWS, LENGTH), rel=0.05)


@pytest.mark.parametrize('layers', [1, 3])
def test_adapter(layers):
  cfg = dataclasses.replace(CFG, adapter=dataclasses.replace(CFG.adapter, num_layers=layers))
  forward = lambda params, states, lengths: adapter.SoundwaveAdapter(cfg).apply(
    {'params': params}, states, lengths
  )
  found = counted(
    forward,
    params_of(adapter.init_adapter, cfg),
    floats(ROWS, 2 * LENGTH, 128),
    jax.ShapeDtypeStruct((ROWS,), 'int32'),
  )
  assert found == pytest.approx(sum(flops.adapter_forward(cfg, ROWS, LENGTH).values()), rel=0.05)


def test_llama_forward():
  cfg = dataclasses.replace(LLM, lora=LoraConfig(rank=16))
  params = params_of(llama.init_llm, dataclasses.replace(CFG, llm=cfg))
  found = counted(lambda params, x: trunk(params, cfg, x), params, floats(ROWS, LENGTH, 128))
  assert found == pytest.approx(
    sum(whole_square(flops.llama_forward(cfg, ROWS, LENGTH)).values()), rel=0.05
  )


def test_gradient_of_lora_takes_two_thirds_of_full_training():
  cfg = dataclasses.replace(LLM, lora=LoraConfig(rank=16))
  params = params_of(llama.init_llm, dataclasses.replace(CFG, llm=cfg))
  is_lora = lambda path: path[-1].key.startswith('lora')

  def step(params, x):
    frozen = lambda tree: jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf if is_lora(path) else jax.lax.stop_gradient(leaf), tree
    )
    grads, dx = jax.grad(lambda p, x: jnp.sum(trunk(frozen(p), cfg, x) ** 2), argnums=(0, 1))(
      params, x
    )
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if is_lora(path)], dx

  found = counted(step, params, floats(ROWS, LENGTH, 128))
  forward = whole_square(flops.llama_forward(cfg, ROWS, LENGTH))
  assert found == pytest.approx(
    2 * forward['base'] + 3 * (forward['lora'] + forward['attention']), rel=0.05
  )


@pytest.mark.parametrize(
  'cfg',
  [
    VocoderConfig(upsample_initial_channel=256),
    VocoderConfig(
      upsample_rates=(5, 2),
      upsample_kernel_sizes=(11, 4),
      upsample_initial_channel=256,
      istft_n_fft=128,
      istft_hop=32,
      context_dilations=(1, 3),
    ),
  ],
)
def test_vocoder(cfg):
  params = params_of(vocoder.init_vocoder, dataclasses.replace(CFG, vocoder=cfg))
  forward = lambda params, units: vocoder.UnitVocoder(cfg).apply(
    {'params': params}, units, method='generate'
  )
  found = counted(forward, params, jax.ShapeDtypeStruct((ROWS, 40), 'int32'))
  assert found == pytest.approx(flops.vocoder_forward(cfg, ROWS, 40), rel=0.06)


def test_discriminators():
  cfg = DiscriminatorConfig(
    scale_channels=(16, 32, 64),
    scale_kernel_sizes=(15, 41, 5),
    scale_strides=(1, 4, 1),
    scale_groups=(1, 4, 1),
    period_channels=(16, 64, 64),
  )
  forward = lambda params, wave: discriminators.Discriminators(cfg).apply({'params': params}, wave)
  found = counted(forward, params_of(discriminators.init_discriminators, cfg), floats(ROWS, 8000))
  assert found == pytest.approx(flops.discriminators_forward(cfg, ROWS, 8000), rel=0.06)


def test_every_stage_has_flops():
  assert all(flops.step_flops(ExperimentConfig(stage=stage)) > 0 for stage in stages.STAGES)


def test_cached_states_save_the_encoder():
  cached = flops.stage_flops(ExperimentConfig(stage='s2t'))
  heard = flops.stage_flops(
    config_lib.build(ExperimentConfig, {'stage': 's2t', 'data': {'cached_states': False}})
  )
  assert (
    cached['whisper'] == 0
    and heard['whisper'] > 0
    and cached | {'whisper': 0} == heard | {'whisper': 0}
  )


def test_chips_by_the_names_that_jax_gives():
  names = {
    'TPU v5 lite': 'v5e',
    'TPU v5': 'v5p',
    'TPU v5p': 'v5p',
    'TPU v4': 'v4',
    'TPU v6 lite': 'v6e',
    'NVIDIA H100 80GB HBM3': 'H100',
    'NVIDIA H100 PCIe': 'H100 PCIe',
    'NVIDIA H200': 'H200',
    'NVIDIA A100-SXM4-40GB': 'A100 40 GB',
  }
  assert {kind: chips.find(kind).name for kind in names} == names
  assert chips.find('cpu') is None and chips.peak_flops(jax.devices()) is None
