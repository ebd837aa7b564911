"""The configuration of a training job: model, stage, data and training settings."""

import dataclasses

from echox_jax.config import DiscriminatorConfig, EchoXConfig, EngineConfig, UnitFitConfig


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Optimizer with warm-up and cosine decay.

  `name`: `adamw` (paper, training settings known), or `muon` (Jordan et al., 2024), which takes the
  kernels of a trunk, and AdamW the rest. Its steps are as large as those of AdamW (Liu et al.,
  arXiv 2502.16982), so rates are comparable.
  """

  name: str = 'adamw'
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
    time_mask, feature_mask: maximum fractions of a clip's time and features to mask, in its cached
      states or, for waveforms, in its log-mel (SpecAugment).
    time_warp, noise: for cached states (`rows.augment`).
    speed, reverb, snr_db: for waveforms (`waveforms.augment`): relative speed change, seconds,
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
  """The data sets of a stage and the static sizes of its batches.

  Rows that exceed a size are skipped and counted, never silently truncated.

  `sets`: names like `questions/train` under the raw or the precomputed folder.
  `eval_sets`: held-out sets for evaluation during training (`validation`).
  `weights`: relative sampling weights of the sets; empty = every row of all sets once per epoch.
  `written_fraction`: fraction of s2t and echo rows that are written questions, without speech.
  `spoken_share`: share of the spoken questions of s2t and echo, evenly spread over the sets.
  `recordings`: sets that hold the recorded answers of s2t and echo questions; a question whose
  answer has no recording is left out. Empty = no recording is needed.
  `max_tokens`: length of a whole row, prompt and answer.
  `max_reduced_units`: maximum units of a clip that the duration predictor sees at a time.
  `workers`: number of reader processes; 0 = read in a thread.
  `packing`: rows of text, t2c and s2t hold as many examples as fit.
  `max_row_states`: limits the clips of a packed row; a bucket of 1500 states has room for
  max_row_states / 1500 of them.
  `buckets`: lengths in states; the clips of a batch are padded to the first bucket that fits them
  all. The last bucket is `max_states`.
  `cache_gigabytes`: local disk for copies of data sets in a bucket; 0 = each record is read there.
  `cache_folder`: where; empty = `~/.cache/echox-jax/records`.
  """

  sets: tuple[str, ...] = ()
  eval_sets: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  cached_states: bool = True
  written_fraction: float = 0.0
  spoken_share: float = 1.0
  recordings: tuple[str, ...] = ()
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
  cache_gigabytes: float = 0.0
  cache_folder: str = ''


@dataclasses.dataclass(frozen=True)
class VocoderLossConfig:
  """Weights and resolutions. `mel` and `stft` windows are in samples; the hop is a quarter window.

  Attributes:
    num_mels: bands of the mel loss; f_max in Hz.
    mel_windows: one mel L1 each (HiFi-GAN: only 1024).
    stft_windows: resolutions of the spectral loss (log magnitude L1 + spectral convergence); empty
      = off.
    mel, stft, adversarial, feature_matching, duration: weights; pitch, of both losses of the
      predicted pitch (`vocoder.source_filter`).
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
  pitch: float = 1.0


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights and options of the losses.

  `echo_text`: source of X' for the pseudo-labels: `gold`, `argmax` (teacher-forced argmax) or
  `generate`.
  `echo_targets`: unit words that the echo decoder learns to say: `decoded` (pseudo-labels of the
  frozen text-to-codec model, the paper's) or `recorded` (those of the answer's recording in
  `data.recordings`: conventional training). A recording is of a whole answer: let
  `model.streaming` cut none. Slices of answers that are cut count as silent.
  `max_new_tokens`: longest answer that `generate` makes.
  `max_slices`: maximum slices of an answer; the excess is counted.
  `slices_per_batch`: static number of slices that echo training takes from a batch; 0 = batch size
  x `max_slices`. Every device (with `accumulate_steps`, every part of a batch) takes an equal share
  from its own rows; the excess is counted.
  `generate_gib`: with `echo_text` = `generate`, each of several devices holds the whole LLM and
  adapter while it generates answers. A config that needs more GiB than this limit is refused.
  `chunk_tokens`: positions of a device's rows whose logits are in memory at a time, in the losses
  of all heads; 0 = all (`models.chunked_head`).
  `pull_weight`: of the distance between kept frames and the embeddings of their words, in stage
  `align`.
  `ctc_candidates`: ids among which stage `align` chooses at each step, those that are said and
  others at random, in place of the whole vocabulary (`candidates`); 0 = the whole.
  `units_only`: in `t2c` and `echo` the unit decoders choose among EOT and the unit words, as they
  do when they speak, and not among the text ids, too; not with a profile of `free_unit_ids`. With
  the vocabulary of a large language model the text ids are most of the work of a small decoder.
  `guide_weight`: in `t2c`, of attention that is not where the speech is in its text (`guided`).
  `adversarial_start`: first step with the vocoder's discriminators.
  """

  ctc_weight: float = 0.3
  pull_weight: float = 1.0
  ctc_candidates: int = 0
  units_only: bool = False
  guide_weight: float = 0.0
  echo_text: str = 'argmax'
  echo_targets: str = 'decoded'
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
  """Training settings of one stage.

  `eval_every`: steps between evaluations on `data.eval_sets`, 0 = never.
  `eval_batches`: batches of each set.
  `tensorboard`: also writes the metrics as TensorBoard event files (`event_files`).
  `skip_batches`: numbers of batches, from 1, that no step trains on, because they broke a run
  (`skipping`).
  `init_from`: stage names or checkpoint folders, tried left to right for each parameter group.
  `only`: trains these of the patterns that the stage trains (`stages`), and leaves the parameters
  of the others as they are; empty = all.
  `accumulate_steps`: gradient accumulation: number of parts of a batch per update.
  `frozen_dtype`: dtype of the frozen parameters, `float32` or `bfloat16`; trained parameters are
  float32.
  `discriminators`: sizes of the discriminators of stage `vocoder`.
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
  skip_batches: tuple[int, ...] = ()
  init_from: tuple[str, ...] = ()
  only: tuple[str, ...] = ()
  optimizer: OptimizerConfig = OptimizerConfig()
  loss: LossConfig = LossConfig()
  discriminators: DiscriminatorConfig = DiscriminatorConfig()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes; one may be -1 = all remaining devices.

  `dcn_data`: number of slices of a multi-slice job, the outermost part of the data axis. `data`
  counts within a slice.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1
  dcn_data: int = 1


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """The text tokenizer. `model` is a SentencePiece file or a `tokenizer.json`; empty = precompute
  trains one on the corpus text (nano).
  """

  model: str = ''
  vocab_size: int = 512


@dataclasses.dataclass(frozen=True)
class PrecomputeConfig:
  """Settings of precompute.

  `kmeans`: a fitted k-means file; empty = fit it here.
  `unit_language`: a fitted unit language (`unit_language.json` of a model); empty = fit it here.
  `hubert`: folder of a HuBERT, imported or in transformers format; required if `units.encoder` is
  `hubert`.
  `kmeans_hours`: approximate hours of speech to fit k-means on, sampled evenly from `kmeans_sets`;
  0 = all. During the fit the states are on disk and on the devices, 276 MB per hour at width 768.
  `shard_examples`: examples that one process computes and writes at a time. An interrupted run
  repeats at most these.
  `batch_seconds`: seconds of speech, padding included, that each device encodes at a time. 12 is
  fastest on CPUs; accelerators need more.
  `wait_seconds`: how long a process waits for the next shard of another one before it gives up.
  """

  kmeans_sets: tuple[str, ...] = ('answers/train',)
  unit_sets: tuple[str, ...] = ('answers/train', 'answers/holdout')
  language_sets: tuple[str, ...] = ('answers/train',)
  state_sets: tuple[str, ...] = ('questions/train', 'questions/test')
  kmeans: str = ''
  unit_language: str = ''
  kmeans_hours: float = 0.0
  hubert: str = ''
  shard_examples: int = 512
  batch_seconds: float = 12.0
  wait_seconds: float = 3600.0
  fit: UnitFitConfig = UnitFitConfig()


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
  """The whole configuration of a job; `echox_jax.config.build` builds it from a ConfigDict.

  `model`: the model to train.
  `engine`: inference budgets, exported with the model; no stage reads them.
  `heartbeat_seconds`: how often each process of training or precompute writes that it lives
  (`parallel.heartbeats`); 0 = never.
  """

  stage: str = 'text'
  seed: int = 0
  speech_encoder: str = 'tiny.en'
  data_dir: str = ''
  heartbeat_seconds: float = 10.0
  model: EchoXConfig = EchoXConfig()
  engine: EngineConfig = EngineConfig()
  tokenizer: TokenizerConfig = TokenizerConfig()
  precompute: PrecomputeConfig = PrecomputeConfig()
  data: DataConfig = DataConfig()
  train: TrainConfig = TrainConfig()
  mesh: MeshConfig = MeshConfig()
