"""The whole way at tiny size: recordings -> manifest -> precompute -> stages -> exported folder.
A random encoder stands in for the packaged one.
"""

import dataclasses
import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import batches, ingest, precompute
from echox_jax import audio, config, storage
from echox_jax.conversion import exporters, whisper_ct2
from echox_jax.models import whisper
from echox_jax.prompts import NANO_IDS
from echox_jax.training import loop
from echox_jax.training.experiment import ExperimentConfig

STAGES = ('text', 's2t', 't2c', 'echo', 'vocoder')
ENCODER = config.WhisperConfig(
  hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, max_positions=120
)
TRUNK = dict(
  hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8
)
COLOURS = ['red', 'green', 'blue', 'black', 'white', 'yellow']


def job(stage: str) -> ExperimentConfig:
  """Two steps of a stage."""
  sets = {'t2c': ('answers/train', 'answers/holdout'), 'vocoder': ('answers/train',)}.get(
    stage, ('questions/train',)
  )
  held_out = {
    's2t': ('questions/test',),
    'echo': ('questions/test',),
    'vocoder': ('answers/holdout',),
  }.get(stage, ())
  return config.build(
    ExperimentConfig,
    dict(
      stage=stage,
      tokenizer=dict(vocab_size=300),
      data=dict(
        sets=sets,
        eval_sets=held_out,
        max_tokens=160,
        max_states=80,
        max_ctc_labels=40,
        segment_frames=10,
        max_unit_words=40,
      ),
      train=dict(
        steps=2,
        batch_size=2,
        eval_every=len(held_out),
        optimizer=dict(warmup_steps=1),
        loss=dict(adversarial_start=1, max_slices=2),
        discriminators=dict(
          periods=(2,),
          period_channels=(4, 8),
          num_scales=1,
          scale_channels=(4, 8),
          scale_kernel_sizes=(15, 5),
          scale_strides=(2, 1),
          scale_groups=(1, 1),
        ),
      ),
      model=dict(
        special_ids=dataclasses.asdict(NANO_IDS),
        max_audio_seconds=1.5,
        audio_padding_seconds=0.1,
        whisper=dataclasses.asdict(ENCODER),
        adapter=dict(num_heads=2, intermediate_size=32, shrink_budget=16),
        llm=dict(TRUNK, vocab_size=300, lora=dict(rank=2)),
        unit_decoder=dict(unit_vocab_size=30, trunk=TRUNK, denoising_intermediate_size=32),
        vocoder=dict(
          num_units=12,
          embedding_dim=8,
          model_in_dim=8,
          upsample_initial_channel=16,
          upsample_rates=(5, 4),
          upsample_kernel_sizes=(9, 8),
          resblock_kernel_sizes=(3,),
          resblock_dilation_sizes=((1,),),
          istft_n_fft=64,
          istft_hop=16,
          duration=dict(hidden_size=8),
        ),
        units=dict(layer=1, num_units=12, vocab_size=30, padding_seconds=0.1),
        streaming=dict(
          look_ahead=1,
          peak_window=1,
          min_tokens=6,
          min_tokens_above_threshold=3,
          max_slice_tokens=64,
        ),
      ),
      engine=dict(max_prompt_tokens=96, max_new_tokens=8, max_unit_words=12, max_frames=100),
      precompute=dict(fit=dict(kmeans_iterations=3)),
    ),
  )


def write_recordings(folder):
  """Writes six spoken questions and answers into a folder, and `manifest.jsonl`, which lists
  them.
  """
  rng = np.random.default_rng(0)
  lines = []
  for i, colour in enumerate(COLOURS):
    for kind in 'qa':
      tone = np.sin(np.cumsum(rng.uniform(0, 1, rng.integers(9000, 14000)))) / 10
      audio.write_wav(folder / f'{kind}{i}.wav', tone.astype(np.float32))
    lines.append(
      dict(
        id=str(i),
        question=f'What is {colour}?',
        question_audio=f'q{i}.wav',
        answer=f'It is {colour}. Yes.',
        answer_audio=f'a{i}.wav',
        references=[colour],
        split='test' if i == 5 else 'train',
      )
    )
  storage.atomic_write_text(folder / 'manifest.jsonl', '\n'.join(map(json.dumps, lines)))


def run(folder, stages=STAGES):
  """Makes data sets of the recordings in a folder, trains there, and exports if all stages are
  trained.
  """
  ingest.build('manifest', folder / 'manifest.jsonl', folder / 'data')
  mel = jnp.zeros((1, 8, ENCODER.num_mel_bins))
  params = nn.meta.unbox(jax.jit(whisper.WhisperEncoder(ENCODER).init)(jax.random.key(0), mel))[
    'params'
  ]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      whisper_ct2, 'load_packaged_whisper', lambda size, dtype='float32': (ENCODER, params)
    )
    precompute.run(job('s2t'), folder, progress=False)
    for stage in stages:
      summary = loop.train(job(stage), folder, batches.make_iterator)
      assert summary['finished'] and np.isfinite(summary['metrics']['loss'])
      assert bool(summary['evaluation']) == bool(job(stage).data.eval_sets)
    if stages == STAGES:
      exporters.export(folder, 'safetensors', folder / 'model')
