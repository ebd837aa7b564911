"""The configuration of a training job: what model, which stage, which data, how long."""

import dataclasses

from echox_jax.config import DiscriminatorConfig, EchoXConfig, EngineConfig, UnitFitConfig


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with warm-up and cosine decay (paper, training settings known)."""

  learning_rate: float = 1e-3
  warmup_steps: int = 20
  end_fraction: float = 0.05
  weight_decay: float = 0.1
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Augmentation of speech in training, all off by default.

  Attributes:
    time_mask, feature_mask: fractions of a clip's time and features that are hidden at most: of its
      cached states, or where waveforms are read of its log-mel (SpecAugment).
    time_warp, noise: of cached states (`rows.augment`).
    speed, reverb, snr_db: of waveforms (`waveforms.augment`): how much faster or slower, seconds,
      (lowest, highest) dB.
  """

  time_mask: float = 0.0
  feature_mask: float = 0.0
  time_warp: float = 0.0
  noise: float = 0.0
  speed: float = 0.0
  reverb: float = 0.0
  snr_db: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which sets a stage reads and the static sizes of its batches.

  `sets`: names like `questions/train` under the raw or the precomputed folder. `eval_sets`:
  held-out ones, on which the stage is evaluated while it trains (`validation`). `weights`: how
  often rows of each come, relative to one another; empty = every row of all sets once an epoch.
  Rows that exceed a size are left out and counted, never cut silently. `max_tokens` is the length
  of a whole row, prompt and answer; `max_reduced_units` bounds what the duration predictor sees of
  a clip at a time; `workers` > 0 reads in that many processes. `written_fraction` of the rows of
  s2t and echo are written questions, without speech.
  `packing`: rows of text, t2c and s2t hold as many examples as find room; `max_row_states` bounds
  the clips of one: a bucket of 1500 states has room for max_row_states / 1500 of them.
  `buckets`: lengths in states; the clips of a batch are padded to the first one that they fit in,
  the last is `max_states`.
  """

  sets: tuple[str, ...] = ()
  eval_sets: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  cached_states: bool = True
  written_fraction: float = 0.0
  max_tokens: int = 96
  max_ctc_labels: int = 48
  max_states: int = 256
  max_unit_words: int = 96
  segment_frames: int = 50
  max_reduced_units: int = 128
  workers: int = 0
  packing: bool = False
  max_row_states: int = 4500
  buckets: tuple[int, ...] = ()
  augment: AugmentConfig = AugmentConfig()


@dataclasses.dataclass(frozen=True)
class VocoderLossConfig:
  """Weights and resolutions. `mel` and `stft` windows are samples; hop is a quarter of the window.

  Attributes:
    num_mels: bands of the mel loss; f_max in Hz.
    mel_windows: one mel L1 each (HiFi-GAN: 1024 alone).
    stft_windows: resolutions of the spectral loss (log magnitude L1 + spectral convergence); none =
      off.
    mel, stft, adversarial, feature_matching, duration: weights.
  """

  num_mels: int = 80
  f_max: float = 8000.0
  mel_windows: tuple[int, ...] = (1024,)
  stft_windows: tuple[int, ...] = ()
  mel: float = 45.0
  stft: float = 0.0
  adversarial: float = 1.0
  feature_matching: float = 2.0
  duration: float = 1.0


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights and choices of the losses.

  `echo_text`: source of X' for the pseudo-labels: `gold`, `argmax` (teacher-forced argmax) or
  `generate`.
  `max_new_tokens`: the longest answers that `generate` makes.
  `max_slices`: of an answer; what is beyond is counted.
  `slices_per_batch`: static number of slices that echo training takes from a batch; 0 = batch size
  x `max_slices`. Every device (with `accumulate_steps` every part of a batch) takes an
  equal share of them from its own rows; what exceeds the share is counted.
  `generate_gib`: with `echo_text` = `generate` on several devices each of them holds the LLM and
  the adapter whole while answers are made; a config whose LLM takes more GiB than this is refused.
  `chunk_tokens`: positions of a device's rows whose logits exist at a time, in the losses of all
  heads; 0 = all (`chunked`).
  `adversarial_start`: the vocoder's discriminators come in at this step.
  """

  ctc_weight: float = 0.3
  echo_text: str = 'argmax'
  max_new_tokens: int = 512
  max_slices: int = 8
  slices_per_batch: int = 0
  generate_gib: float = 2.0
  denoising_weight: float = 0.2
  s2t_weight: float = 1.0
  chunk_tokens: int = 0
  vocoder: VocoderLossConfig = VocoderLossConfig()
  adversarial_start: int = 0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One stage's run.

  `eval_every`: steps from one evaluation on `data.eval_sets` to the next, 0 = never;
  `eval_batches`: batches of each set.
  `tensorboard`: the metrics are also written as TensorBoard event files (`event_files`).
  `init_from`: stage names or checkpoint folders, tried left to right for each parameter group.
  `accumulate_steps`: parts that a batch is computed in, one after another, before the one update.
  `frozen_dtype`: `float32` or `bfloat16`, of the parameters that the stage does not train; trained
  ones are float32.
  `discriminators`: sizes of those that stage `vocoder` trains against.
  """

  steps: int = 100
  batch_size: int = 16
  log_every: int = 10
  tensorboard: bool = False
  eval_every: int = 0
  eval_batches: int = 4
  accumulate_steps: int = 1
  frozen_dtype: str = 'float32'
  checkpoint_every: int = 200
  keep_checkpoints: int = 1
  init_from: tuple[str, ...] = ()
  optimizer: OptimizerConfig = OptimizerConfig()
  loss: LossConfig = LossConfig()
  discriminators: DiscriminatorConfig = DiscriminatorConfig()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes; one may be -1 = all devices that are left.

  `dcn_data`: slices of a multi-slice job, the outermost part of the data axis; `data` counts within
  a slice.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1
  dcn_data: int = 1


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """The text tokenizer: `model` is a SentencePiece file, or a `tokenizer.json`; empty = trained by
  precompute on the corpus text (nano).
  """

  model: str = ''
  vocab_size: int = 512


@dataclasses.dataclass(frozen=True)
class PrecomputeConfig:
  """What precompute reads and writes.

  `kmeans` names a fitted k-means file (empty = fit here); `hubert` the folder of a HuBERT, imported
  or as transformers writes it, needed where `units.encoder` is `hubert`. `kmeans_hours`: about so
  much speech of `kmeans_sets`, spread evenly, is what k-means is fitted on; 0 = all of it. Its
  states are kept on disk meanwhile and rest on the devices, 276 MB an hour at width 768.
  `shard_examples`: so many examples are worked on and written at a time by one process; what is
  stopped repeats no more.
  `batch_seconds`: of speech, padding included, that each device encodes at a time; 12 is what CPUs
  are fastest with, accelerators want more.
  """

  kmeans_sets: tuple[str, ...] = ('answers/train',)
  unit_sets: tuple[str, ...] = ('answers/train', 'answers/holdout')
  language_sets: tuple[str, ...] = ('answers/train',)
  state_sets: tuple[str, ...] = ('questions/train', 'questions/test')
  kmeans: str = ''
  kmeans_hours: float = 0.0
  hubert: str = ''
  shard_examples: int = 512
  batch_seconds: float = 12.0
  fit: UnitFitConfig = UnitFitConfig()


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
  """Everything a job needs, built from a ConfigDict by `echox_jax.config.build`.

  `model` is what is trained. `engine` is how the model will answer: no stage reads it, it is
  exported beside the model.
  """

  stage: str = 'text'
  seed: int = 0
  speech_encoder: str = 'tiny.en'
  data_dir: str = ''
  model: EchoXConfig = EchoXConfig()
  engine: EngineConfig = EngineConfig()
  tokenizer: TokenizerConfig = TokenizerConfig()
  precompute: PrecomputeConfig = PrecomputeConfig()
  data: DataConfig = DataConfig()
  train: TrainConfig = TrainConfig()
  mesh: MeshConfig = MeshConfig()
