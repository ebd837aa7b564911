"""EchoX-nano: the whole of EchoX at a size that two CPU cores train in half an hour.

  python -m launch.precompute --config=configs/echox_nano.py:s2t   --workdir=out/demo
  python -m launch.train      --config=configs/echox_nano.py:STAGE --workdir=out/demo

STAGE is text, s2t, t2c, echo or vocoder.

Meant for: 2 CPU cores, 4 GiB. It has a frozen Whisper tiny.en, a 2 M Llama that learns its few
hundred facts in stage `text`, units from the states after Whisper's third block (which replace
HuBERT, if no HuBERT is available), an n-gram unit language, and a small unit vocoder that ends in
an inverse STFT. `make demo` runs all of it; minutes are for two CPU cores of a 2025 server.

During training, s2t and echo are evaluated on voices never heard in training, and the vocoder on
held-out answers. Stages `text` and `t2c` have no held-out set: they learn every fact and every
answer by heart.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from echox_jax.prompts import NANO_IDS
from echox_jax.training.experiment import ExperimentConfig

# the vocoder and k-means that nano runs start from
PRETRAINED = Path(__file__).parent / 'pretrained'
WIDTH = 192
TRUNK = dict(
  hidden_size=WIDTH,
  intermediate_size=512,
  num_layers=4,
  num_heads=4,
  num_kv_heads=2,
  head_dim=48,
  max_positions=256,
  attention='auto',
)
ENGINE = dict(max_prompt_tokens=96, max_new_tokens=40, max_unit_words=96, max_frames=400)
DISCRIMINATORS = dict(
  periods=(2, 3, 5),
  period_channels=(8, 16, 32, 64),
  num_scales=2,
  scale_channels=(8, 16, 32, 64),
  scale_kernel_sizes=(15, 15, 15, 5),
  scale_strides=(2, 4, 4, 1),
  scale_groups=(1, 1, 1, 1),
)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: text, s2t, t2c, echo or vocoder."""
  config = ConfigDict(dataclasses.asdict(ExperimentConfig()))
  config.stage = stage
  config.model.update(model())
  config.engine.update(ENGINE)
  config.train.discriminators.update(DISCRIMINATORS)
  config.train.loss.update(dict(max_slices=3, max_new_tokens=ENGINE['max_new_tokens']))
  config.tokenizer.vocab_size = config.model.llm.vocab_size
  config.precompute.kmeans = str(PRETRAINED / 'kmeans.safetensors')
  stages = dict(text=text, s2t=s2t, t2c=t2c, echo=echo, vocoder=vocoder)
  if stage not in stages:
    raise ValueError(f'echox_nano has no stage {stage!r}: use one of {", ".join(stages)}.')
  stages[stage](config)
  return config


def model() -> dict:
  """Sizes of every part."""
  return dict(
    special_ids=dataclasses.asdict(NANO_IDS),
    max_audio_seconds=8.0,
    whisper=dict(attention='auto'),
    adapter=dict(num_heads=4, intermediate_size=2 * WIDTH, dropout=0.1, shrink_budget=48),
    llm=dict(
      TRUNK,
      vocab_size=512,
      lora=dict(
        rank=32,
        alpha=80.0,
        targets=('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'),
      ),
    ),
    unit_decoder=dict(unit_vocab_size=1000, trunk=TRUNK, denoising_intermediate_size=512),
    vocoder=dict(
      num_units=500,
      embedding_dim=128,
      model_in_dim=128,
      upsample_rates=(5, 2),
      upsample_kernel_sizes=(11, 4),
      upsample_initial_channel=256,
      resblock_kernel_sizes=(3, 7),
      resblock_dilation_sizes=((1, 3), (1, 3)),
      context_kernel_size=5,
      context_dilations=(1, 3),
      istft_n_fft=128,
      istft_hop=32,
      duration=dict(hidden_size=128, kernel_size=3, dropout=0.1),
    ),
    units=dict(
      encoder='whisper', layer=3, num_units=500, language='ngram', max_word_units=5, vocab_size=1000
    ),
    streaming=dict(
      threshold=0.5,
      look_ahead=2,
      peak_window=4,
      min_tokens=40,
      min_tokens_above_threshold=5,
      max_slice_tokens=32,
    ),
  )


def text(config: ConfigDict) -> None:
  """Teaches the LLM its facts from text. About 4 minutes."""
  config.data.sets = ('questions/train',)
  config.data.max_tokens = 72
  config.train.update(dict(steps=550, batch_size=32, checkpoint_every=275))
  config.train.optimizer.update(dict(learning_rate=3e-3, warmup_steps=20))


def s2t(config: ConfigDict) -> None:
  """Teaches the LLM to hear: adapter and LoRA. About 9 minutes."""
  config.data.sets = ('questions/train',)
  config.data.max_tokens = 56
  config.data.max_states = 200
  config.data.written_fraction = 0.25
  config.data.augment.update(dict(time_warp=0.2, noise=0.15, time_mask=0.1, feature_mask=0.1))
  config.data.eval_sets = ('questions/test',)
  config.train.update(
    dict(steps=1400, batch_size=16, checkpoint_every=500, eval_every=350, eval_batches=4)
  )
  config.train.optimizer.update(dict(learning_rate=2e-3, warmup_steps=100))


def t2c(config: ConfigDict) -> None:
  """Teaches a small decoder to turn text into unit words. About 6 minutes."""
  config.data.sets = ('answers/train', 'answers/holdout')
  config.data.max_tokens = 128
  config.data.max_unit_words = 96
  config.data.packing = True
  config.train.update(dict(steps=1000, batch_size=12, checkpoint_every=500))
  config.train.optimizer.update(dict(learning_rate=2e-3, warmup_steps=50))


def echo(config: ConfigDict) -> None:
  """Echo training: pseudo-labels decoded on the fly by the frozen text-to-codec model. About 7
  minutes.
  """
  s2t(config)
  config.data.max_unit_words = 64
  config.train.update(
    dict(steps=400, batch_size=16, checkpoint_every=200, eval_every=100, eval_batches=2)
  )
  config.train.loss.update(dict(echo_text='argmax', denoising_weight=1.0, slices_per_batch=22))
  config.train.optimizer.update(dict(learning_rate=4e-4, warmup_steps=60))


def vocoder(config: ConfigDict) -> None:
  """Unit vocoder with its discriminators, fine-tuned from configs/pretrained. About 2 minutes."""
  config.data.sets, config.data.eval_sets = ('answers/train',), ('answers/holdout',)
  config.train.update(
    dict(
      steps=360,
      batch_size=8,
      checkpoint_every=180,
      eval_every=90,
      eval_batches=4,
      init_from=(str(PRETRAINED),),
    )
  )
  config.train.optimizer.update(
    dict(learning_rate=2e-4, warmup_steps=20, weight_decay=0.0, b1=0.8, b2=0.99, clip_norm=5.0)
  )
  config.train.loss.vocoder.update(
    dict(
      mel=1.0,
      stft=1.0,
      stft_windows=(128, 512, 2048),
      adversarial=0.1,
      feature_matching=0.2,
      duration=0.1,
    )
  )
