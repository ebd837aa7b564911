"""Shared parts of the full-size configs: the models around the LLM, and the stages.

Rows of `s2t` and `echo` take 1,024 positions of the LLM: 769 ids, one of which makes room for 256
positions of speech. The adapter keeps one frame for each run of equal CTC labels: one run per token
and one run of blanks between tokens. Three words a second are about four tokens and eight runs, so
30 s of speech keep 240 frames. Excess frames are counted (`overflow_shrink`); until the CTC head
has learned something, most of a clip is excess.

Rows of `s2t` and `t2c` are packed, about six dialogues or five speeches per row
(`python -m launch.bench padding`); a row of `echo` is one dialogue. Clips are padded to the
smallest of `BUCKETS` that they fit in. Each bucket is a separately compiled step
(`--compilation_cache` keeps them).

The input is waveforms of up to 30 s; log-mel and Whisper run on the device. States of Whisper
large-v3 take 3.8 MB for half a minute, so caching those of a thousand hours would take half a
terabyte.

During training, align, s2t and echo are evaluated on the `test` split of the question sets, t2c and
vocoder on the `holdout` split of the answer sets. `python -m launch.corpus` makes these splits for
every source. Sets of read speech have a test split only if their source has one, so they are not in
`data.eval_sets`; if you have one, add it, e.g. librispeech_transcripts/dev.

Pretrained parts are in models/ (`PRETRAINED`), made once with
`python -m launch.convert import --kind KIND --source ... --out models/...`, where KIND is llm or
llm-gguf, whisper, hubert, kmeans and unit-vocoder. The environment variable ECHOX_MODELS names
another folder, such as gs://BUCKET/models (`python -m launch.job --models` sets it).
"""

from collections.abc import Iterable, Mapping
import dataclasses
import math
import os
from typing import Any

from ml_collections import ConfigDict

from configs import paper
from echox_jax.training.experiment import ExperimentConfig

POSITIONS = 1024  # LLM positions per row
BUDGET = 256  # positions for speech among them
LABELS = 192  # tokens that a clip may say
CHUNK = 1024  # positions of a device's rows whose logits are in memory at a time
# encoder states, 50 a second
BUCKETS = (75, 100, 125, 150, 180, 215, 260, 310, 370, 440, 530, 640, 770, 920, 1100, 1300, 1500)
DIALOGUES, SPEECHES = 6, 5  # per packed row
SLICE_WORDS = 512  # five unit words per token

WHISPER_LARGE_V3 = dict(
  num_mel_bins=128, hidden_size=1280, intermediate_size=5120, num_layers=32, num_heads=20
)
# mHuBERT's 11th layer and 1,000 units (facts 11); the size of the unit language is an estimate
# (facts 12).
UNITS = dict(
  encoder='hubert', layer=11, num_units=1000, language='ngram', max_word_units=5, vocab_size=7500
)
PRETRAINED = dict(
  whisper='whisper-large-v3',
  hubert='hubert',
  kmeans='kmeans/kmeans.safetensors',
  vocoder='unit-vocoder',
)
# The data sets of each stage with their weights: your own recordings, or the paper's data, weighted
# by the item counts in its table (`configs/paper.py`).
OWN = dict(
  s2t={'questions/train': 1},
  t2c={'answers/train': 1},
  echo={'questions/train': 1},
  vocoder={'answers/train': 1},
)
_STARTS = ('whisper', 'vocoder')  # parts that stages start from, where they are given
_READ, _ASKED, _SPOKEN = (
  {f'{source.name}/train': source.items for source in sources}
  for sources in (paper.READ, paper.ASKED, paper.SPOKEN)
)
PAPER = dict(s2t={**_READ, **_ASKED}, t2c=_SPOKEN, echo=_ASKED, vocoder=_SPOKEN)
# with the AUDIO id
LLAMA_3 = dict(rope_theta=500000.0, rms_norm_eps=1e-5, vocab_size=128257, max_positions=2048)


def models_dir() -> str:
  """The folder of the pretrained parts: $ECHOX_MODELS, or `models`."""
  return os.environ.get('ECHOX_MODELS', 'models').rstrip('/')


def in_models(name: str) -> str:
  """The folder of a pretrained part in `models_dir()`."""
  return f'{models_dir()}/{name}'


def model(
  llm: Mapping[str, Any],
  unit_trunk: Mapping[str, Any],
  whisper: Mapping[str, Any] = WHISPER_LARGE_V3,
  units: Mapping[str, Any] = UNITS,
  **others: Any,
) -> dict[str, Any]:
  """Sizes of every part, all but the vocoder in bfloat16.

  Args:
    llm: fields of `LlamaConfig`.
    unit_trunk: layers, widths and heads of T2C and echo decoder (facts 6); the rest is as in the
      LLM.
    whisper, units: fields of `WhisperConfig` and `UnitsConfig`.
    **others: fields of `EchoXConfig`.
  """
  compute = dict(dtype='bfloat16', attention='auto', remat='full')
  inherited = {
    name: llm[name] for name in ('rope_theta', 'rope_scaling', 'rms_norm_eps') if name in llm
  }
  return dict(
    whisper=dict(whisper, dtype='bfloat16', attention='auto'),
    adapter=dict(
      num_heads=math.gcd(llm['num_heads'], llm['hidden_size']),  # heads share the width
      intermediate_size=2 * llm['hidden_size'],
      dropout=0.1,
      shrink_budget=BUDGET,
      ctc_chunk=CHUNK,
      dtype='bfloat16',
    ),
    # Rank and targets: paper, training settings known.
    llm=dict(
      llm,
      **compute,
      lora=dict(rank=64, alpha=16.0, dropout=0.05, targets=('q_proj', 'k_proj', 'v_proj')),
    ),
    unit_decoder=dict(
      unit_vocab_size=units['vocab_size'],
      trunk=dict(unit_trunk, **inherited, **compute),
      denoising_intermediate_size=llm['intermediate_size'],
      denoising_dropout=0.1,
    ),
    units=units,
    # After 50 tokens the released rule cuts at the latest peak.
    streaming=dict(max_slice_tokens=96),
    **others,
  )


def job(
  stage: str,
  parts: Mapping[str, Any],
  rows: Mapping[str, int],
  llm: str,
  pretrained: Mapping[str, str] | None = None,
  mix: Mapping[str, Mapping[str, int]] = OWN,
) -> ConfigDict:
  """The job of one stage.

  Args:
    stage: one of `rows`.
    parts: the parts, from `model`.
    rows: rows of a batch over all chips, by stage: align, s2t, t2c, echo, vocoder. With `align`,
      s2t starts from it.
    llm: folder of the language model and its tokenizer.
    pretrained: folders of the other parts; None = those of `PRETRAINED` in `models_dir()`. Without
      `whisper` the packaged Whisper is used, without `vocoder` a new one.
    mix: sets and weights of each stage, such as `OWN` or `PAPER`; without align, it has those of
      s2t.
  """
  stages = dict(align=align, s2t=s2t, t2c=t2c, echo=echo, vocoder=vocoder)
  if stage not in rows:
    raise ValueError(f'there is no stage {stage!r}: use one of {", ".join(rows)}.')
  if pretrained is None:
    pretrained = {name: in_models(path) for name, path in PRETRAINED.items()}
  config = ConfigDict(dataclasses.asdict(ExperimentConfig()))
  config.stage = stage
  with config.ignore_type():  # a role is one id or several
    config.model.update(parts)
  config.engine.update(dict(max_unit_words=SLICE_WORDS, max_frames=2048))
  config.tokenizer.update(
    dict(model=f'{llm}/tokenizer.json', vocab_size=config.model.llm.vocab_size)
  )
  asked, spoken = tuple(mix['echo']), tuple(mix['t2c'])
  config.precompute.update(
    dict(
      kmeans=pretrained['kmeans'],
      hubert=pretrained.get('hubert', ''),
      state_sets=(),
      language_sets=spoken,
      shard_examples=2048,
      batch_seconds=120.0,
      unit_sets=_splits(spoken, 'train', 'holdout'),
    )
  )
  sets = mix.get(stage, mix['s2t'])
  weights = tuple(map(float, sets.values())) if len(sets) > 1 else ()
  hears = stage in ('align', 's2t', 'echo')
  held_out = _splits(asked, 'test') if hears else _splits(spoken, 'holdout')
  config.data.update(
    dict(sets=tuple(sets), eval_sets=held_out, weights=weights, cached_states=False, workers=8)
  )
  config.mesh.update(dict(data=1, fsdp=-1))
  every = dict(align=500, s2t=500, t2c=250, echo=500, vocoder=1000)[stage]
  config.train.update(
    dict(
      batch_size=rows[stage],
      frozen_dtype='bfloat16',
      checkpoint_every=500,
      keep_checkpoints=2,
      eval_every=every,
      eval_batches=2,
    )
  )
  config.train.loss.chunk_tokens = CHUNK
  hearing, speaking = ([pretrained[name]] if name in pretrained else [] for name in _STARTS)
  first = (llm, *hearing)
  config.train.init_from = dict(
    align=first,
    s2t=('align',) if 'align' in rows else first,
    t2c=(llm,),
    echo=('s2t', 't2c'),
    vocoder=tuple(speaking),
  )[stage]
  stages[stage](config)
  return config


def _splits(names: Iterable[str], *splits: str) -> tuple[str, ...]:
  """The same data sets as `NAME/train`, with other splits."""
  return tuple(f'{name.rpartition("/")[0]}/{split}' for name in names for split in splits)


def align(config: ConfigDict) -> None:
  """The adapter learns which words it hears, and the LLM's vectors for them."""
  config.data.update(dict(max_ctc_labels=LABELS, max_states=BUCKETS[-1], buckets=BUCKETS))
  config.train.steps = 1_165_000 // config.train.batch_size
  config.train.optimizer.update(dict(learning_rate=1e-3, warmup_steps=config.train.steps // 100))


def s2t(config: ConfigDict) -> None:
  """Adapter and LoRA learn to hear. 1.2 million rows (paper, data) are an epoch."""
  align(config)
  config.data.update(
    dict(max_tokens=POSITIONS - config.model.adapter.shrink_budget + 1, packing=True)
  )
  config.train.steps = 1_165_000 // (DIALOGUES * config.train.batch_size)
  config.train.optimizer.update(dict(learning_rate=1e-5, warmup_steps=config.train.steps // 100))


def t2c(config: ConfigDict) -> None:
  """A small decoder learns to turn text into unit words."""
  config.data.update(dict(max_tokens=POSITIONS, max_unit_words=896, packing=True))
  config.train.steps = 3 * 335_000 // (SPEECHES * config.train.batch_size)
  config.train.optimizer.update(dict(learning_rate=1e-3, warmup_steps=config.train.steps // 100))


def echo(config: ConfigDict) -> None:
  """Echo training: the frozen text-to-codec model decodes pseudo-labels on the fly, for three
  slices per row on average.
  """
  s2t(config)
  config.data.update(dict(packing=False, max_unit_words=SLICE_WORDS))
  config.train.steps = 160_000 // config.train.batch_size
  config.train.loss.update(dict(echo_text='argmax', slices_per_batch=3 * config.train.batch_size))
  config.train.optimizer.update(dict(learning_rate=3e-5, warmup_steps=config.train.steps // 100))


def vocoder(config: ConfigDict) -> None:
  """Unit vocoder with its discriminators, on segments of 8,960 samples (facts 10)."""
  config.data.update(dict(segment_frames=28, max_reduced_units=512))
  config.train.steps = 100_000
  config.train.optimizer.update(
    dict(learning_rate=2e-4, warmup_steps=0, weight_decay=0.0, b1=0.8, b2=0.99, clip_norm=0.0)
  )
