"""The whole way at tiny size: manifest -> precompute -> five stages -> exported folder -> a spoken
answer.
"""

import dataclasses
import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import batches, ingest, precompute
import echox_jax
from echox_jax import audio, config
from echox_jax.conversion import exporters, whisper_ct2
from echox_jax.errors import CheckpointError
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done
from echox_jax.models import whisper
from echox_jax.prompts import NANO_IDS
from echox_jax.training import loop
from echox_jax.training.experiment import ExperimentConfig

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


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A working folder with all stages trained, on a random encoder in place of the packaged one."""
  folder = tmp_path_factory.mktemp('pipeline')
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
  (folder / 'manifest.jsonl').write_text('\n'.join(map(json.dumps, lines)))
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
    for stage in ('text', 's2t', 't2c', 'echo', 'vocoder'):
      summary = loop.train(job(stage), folder, batches.make_iterator)
      assert summary['finished'] and np.isfinite(summary['metrics']['loss'])
      assert bool(summary['evaluation']) == bool(job(stage).data.eval_sets)
    exporters.export(folder, 'safetensors', folder / 'model')
  return folder


def test_an_exported_model_answers_in_speech(workdir):
  model = echox_jax.load(workdir / 'model')
  assert model.config == job('echo').model
  engine = Engine(model)
  for asked in (dict(audio=audio.load_audio(workdir / 'q0.wav')), dict(text='What is red?')):
    *_, done = engine.answer(**asked)
    assert isinstance(done, Done) and done.finished_at > 0 and len(done.waveform) % 320 == 0


def test_stages_leave_the_frozen_parts_alone(workdir):
  model = echox_jax.load(workdir / 'model').params
  table = model['unit_text_embedding']['embedding']
  np.testing.assert_array_equal(table, model['llm']['embed_tokens']['embedding'])
  assert np.abs(model['llm']['trunk']['layers']['self_attn']['q_proj']['lora_b']).max() > 0


@pytest.mark.parametrize(
  'damage, named',
  [
    (
      lambda f: (f / 'model.safetensors').write_bytes(
        (f / 'model.safetensors').read_bytes()[:-100]
      ),
      'model.safetensors is cut short',
    ),
    (lambda f: (f / 'config.json').write_text('{"llm": '), 'not valid JSON'),
    (lambda f: (f / 'tokenizer.model').unlink(), 'the model lacks tokenizer'),
  ],
)
def test_a_damaged_export_is_named(workdir, tmp_path, damage, named):
  for file in (workdir / 'model').iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  damage(tmp_path)
  with pytest.raises(CheckpointError, match=named):
    Engine(echox_jax.load(tmp_path))


def test_a_folder_of_something_else_is_not_replaced(workdir, tmp_path):
  (tmp_path / 'thesis.txt').write_text('precious')
  with pytest.raises(CheckpointError, match='choose another folder'):
    exporters.export(workdir / 'model', 'safetensors', tmp_path)
  assert (tmp_path / 'thesis.txt').read_text() == 'precious'
