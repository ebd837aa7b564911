"""Another voice for a model that speaks: T2C, echo decoder and vocoder learn on from an exported
model folder, and everything else stays as it is.

  python -m launch.voice --checkpoint MODEL --recordings DIR --data DATA --out OUT

runs all of it; its parts by hand, after the recordings have been read in:

  python -m launch.precompute --config=configs/voice.py:MODEL:t2c   --workdir=OUT
  python -m launch.train      --config=configs/voice.py:MODEL:STAGE --workdir=OUT
  python -m launch.convert export --checkpoint OUT --base MODEL --out OUT/model

MODEL is the folder, STAGE is t2c, echo or vocoder. Sizes, prompts and budgets are the model's own;
units, unit words and tokenizer are the model's files. How long each stage takes is in the table
`STAGES`; like any other field it can be set on the command line.

Rows are kept short, for two CPU cores: a recording or an answer that does not fit is left out, and
the stage says how many. On two cores of an AMD EPYC with AVX2, beside other work, EchoX-nano got
the voice of joe from an hour of him in 33 minutes: 8 for reading in and units, 8 t2c, 7 echo, 7
vocoder, 3 for export and scores. A model with the 50,000 words of SmolLM2 takes several times as
long a step.

Unit words of a new speaker are nearly new to T2C and echo decoder, hence their rates.

Meant for: 2 CPU cores and a model of nano's size.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import echox_nano, full_size
from echox_jax import model_folder, storage, tokenizer
from echox_jax.config import DiscriminatorConfig, EchoXConfig, EngineConfig
from echox_jax.models import positions
from echox_jax.training.experiment import (
  DataConfig,
  ExperimentConfig,
  LossConfig,
  OptimizerConfig,
  PrecomputeConfig,
  TokenizerConfig,
  TrainConfig,
  VocoderLossConfig,
)

PREFIX = 'voice_'  # of the data sets that the recordings become
SPOKEN, HELD_OUT = f'{PREFIX}answers/train', f'{PREFIX}answers/holdout'
ASKED, ASKED_HELD_OUT = 'questions/train', 'questions/test'
# stage -> steps, rows of a batch, learning rate
STAGES = {'t2c': (1000, 8, 2e-3), 'echo': (500, 8, 1e-3), 'vocoder': (1000, 8, 2e-4)}
T2C_TOKENS = 256  # of a packed row
ANSWER_TOKENS, PROMPT_TOKENS = 80, 48  # of a row of echo training
SLICE_WORDS = 256  # unit words of a slice in echo training
STATES = 250  # of a spoken question: five seconds
# Whisper encoders that come in a package, by width and layers
_PACKAGED = {(384, 4): 'tiny.en', (512, 6): 'base'}


def get_config(argument: str) -> ConfigDict:
  """The job of one stage; `argument` is MODEL:STAGE.

  Raises:
    ValueError: no such stage, or no model named.
    CheckpointError: MODEL is not an exported model.
  """
  folder, _, stage = argument.rpartition(':')
  if stage not in STAGES or not folder:
    raise ValueError(
      f'{argument!r} is not MODEL:STAGE: name a model folder, and one of {", ".join(STAGES)}.'
    )
  return ConfigDict(dataclasses.asdict(job(storage.path(folder), stage)))


def job(folder: storage.Path, stage: str) -> ExperimentConfig:
  """The job of a stage for the model in `folder`."""
  model, engine = model_folder.read_config(folder), model_folder.read_engine_config(folder)
  encoder = packaged_encoder(model)
  cached = bool(encoder) and not model.pad_audio_to_30_s
  return ExperimentConfig(
    stage=stage,
    speech_encoder=encoder or ExperimentConfig.speech_encoder,
    model=model,
    engine=engine,
    tokenizer=TokenizerConfig(
      str(tokenizer.find_tokenizer(folder) or ''), vocab_size=model.llm.vocab_size
    ),
    precompute=PrecomputeConfig(
      unit_sets=(SPOKEN, HELD_OUT),
      language_sets=(),
      state_sets=(ASKED, ASKED_HELD_OUT) if cached else (),
      kmeans=kmeans_file(folder, model),
      unit_language=str(folder / model_folder.UNIT_LANGUAGE),
    ),
    data=data(stage, model, engine, cached),
    train=train(stage, str(folder), model),
  )


def packaged_encoder(model: EchoXConfig) -> str:
  """The package's name of a speech encoder of these sizes; '' if none has it."""
  return _PACKAGED.get((model.whisper.hidden_size, model.whisper.num_layers), '')


def kmeans_file(folder: storage.Path, model: EchoXConfig) -> str:
  """The centroids of the model's units: its own, or those of nano for a folder from before models
  had them; '' if unknown.
  """
  own, units = folder / model_folder.KMEANS, model.units
  if storage.is_file(own):
    return str(own)
  nano = echox_nano.model()['units']
  same = all(getattr(units, name) == nano[name] for name in ('encoder', 'layer', 'num_units'))
  return str(echox_nano.PRETRAINED / model_folder.KMEANS) if same else ''


def data(stage: str, model: EchoXConfig, engine: EngineConfig, cached: bool) -> DataConfig:
  """Sets and sizes of a stage's rows."""
  if stage == 'vocoder':
    return DataConfig(sets=(SPOKEN,), eval_sets=(HELD_OUT,))
  if stage == 't2c':
    return DataConfig(
      sets=(SPOKEN,),
      eval_sets=(HELD_OUT,),
      max_tokens=min(T2C_TOKENS, model.unit_decoder.trunk.max_positions),
      max_unit_words=engine.max_unit_words,
      packing=True,
    )
  room = model.llm.max_positions - positions.speech(model)
  return DataConfig(
    sets=(ASKED,),
    eval_sets=(ASKED_HELD_OUT,),
    cached_states=cached,
    written_fraction=0.25,
    max_tokens=min(room, PROMPT_TOKENS + min(engine.max_new_tokens, ANSWER_TOKENS)),
    max_states=STATES,
    max_unit_words=min(engine.max_unit_words, SLICE_WORDS),
  )


def train(stage: str, folder: str, model: EchoXConfig) -> TrainConfig:
  """Steps, rates and losses of a stage."""
  steps, rows, rate = STAGES[stage]
  common = TrainConfig(
    steps=steps,
    batch_size=rows,
    checkpoint_every=steps // 4,
    eval_every=steps // 4,
    optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=steps // 20),
    loss=LossConfig(chunk_tokens=full_size.CHUNK),
    init_from=(folder,),
  )
  if stage == 'echo':
    loss = dataclasses.replace(
      common.loss, max_slices=4, slices_per_batch=2 * rows, s2t_weight=0.0, denoising_weight=0.0
    )
    # the LLM's states and what the adapter makes of them tell the words, whoever says them
    return dataclasses.replace(common, init_from=('t2c', folder), only=('echo/.*',), loss=loss)
  return common if stage == 't2c' else _vocoder(common, model)


def _vocoder(common: TrainConfig, model: EchoXConfig) -> TrainConfig:
  """New discriminators judge the vocoder: a model folder has none. Those of a vocoder that ends in
  an inverse STFT are small, and its losses are those of nano.
  """
  optimizer = dataclasses.replace(
    common.optimizer, weight_decay=0.0, b1=0.8, b2=0.99, clip_norm=5.0
  )
  common = dataclasses.replace(common, optimizer=optimizer)
  if not model.vocoder.istft_hop:
    return common
  losses = echox_nano.get_config('vocoder').train.loss.vocoder.to_dict()
  return dataclasses.replace(
    common,
    loss=dataclasses.replace(common.loss, vocoder=VocoderLossConfig(**losses)),
    discriminators=DiscriminatorConfig(**echox_nano.DISCRIMINATORS),
  )
