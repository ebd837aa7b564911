"""FLOPs of a training step of each stage, counted from the config; `mfu` is based on them.

The count includes matmuls and convolutions, at two FLOPs per multiply-add. It excludes norms,
softmax and other elementwise work (a few percent) and recomputation that saves memory. With F = the
forward FLOPs of a matmul:

  F    frozen, no gradient flows through it (Whisper, the T2C that makes pseudo-labels)
  2 F  frozen, gradients flow through it (the LLM under LoRA): forward and input gradient
  3 F  trained: the weight gradient as well
  3 F  attention (two matmuls without weights) if gradients flow through it, else F

A run that trains a part of its stage (`train.only`) counts as the whole stage.

So an LLM under LoRA takes 4 FLOPs per parameter and position, not the 6 of full training. Causal
attention counts only the visible half of the square. Rows count with all positions of their static
shape, padding included. Decoding loops count as if they used their whole budget, which they seldom
do (pseudo-labels are about 1 % of a step of echo training).
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

from echox_jax import prompts, rates
from echox_jax.config import (
  DiscriminatorConfig,
  DurationPredictorConfig,
  EchoXConfig,
  HubertConfig,
  LlamaConfig,
  PitchPredictorConfig,
  VocoderConfig,
  WhisperConfig,
)
from echox_jax.models import log_mel
from echox_jax.training.experiment import ExperimentConfig

Parts = dict[str, float]


class Clips(NamedTuple):
  """Number of clips in a batch, and their length in states."""

  number: int
  states: int


def step_flops(experiment: ExperimentConfig, batch: Mapping[str, Any] | None = None) -> float:
  """Returns the FLOPs of a step of the stage over all devices. With packed rows and buckets they
  depend on the (global) batch.
  """
  return sum(stage_flops(experiment, batch).values())


def stage_flops(experiment: ExperimentConfig, batch: Mapping[str, Any] | None = None) -> Parts:
  """Like `step_flops`, per part of the model."""
  hearing = {'align': _align, 's2t': _s2t, 'echo': _echo}
  if experiment.stage in hearing:
    return hearing[experiment.stage](experiment, _clips(experiment, batch))
  stages = {'text': _text, 't2c': _t2c, 'vocoder': _vocoder}
  return stages[experiment.stage](experiment)


def log_mel_forward(num_mel_bins: int, rows: int, frames: int) -> float:
  """Real transform as two matmuls, and mel filters, of `frames` at 100 Hz."""
  bins = log_mel.N_FFT // 2 + 1
  return 2 * rows * frames * (2 * log_mel.N_FFT * bins + bins * num_mel_bins)


def whisper_forward(cfg: WhisperConfig, rows: int, states: int) -> float:
  """The encoder on `states` positions at 50 Hz."""
  width, positions = cfg.hidden_size, rows * states
  convolutions = 2 * 3 * width * (2 * cfg.num_mel_bins + width)  # the first at 100 Hz
  layer = 2 * (4 * width * width + 2 * width * cfg.intermediate_size) + _attention(width, states)
  return positions * (convolutions + cfg.num_layers * layer)


def hubert_forward(cfg: HubertConfig, rows: int, samples: int) -> float:
  """The encoder on waveforms of `samples`."""
  macs, before, length = 0, 1, samples
  for width, kernel, stride in zip(cfg.conv_dim, cfg.conv_kernel, cfg.conv_stride):
    length = (length - kernel) // stride + 1
    macs += length * kernel * before * width
    before = width
  width = cfg.hidden_size
  grouped = width // cfg.num_conv_pos_embedding_groups
  macs += length * width * (before + cfg.num_conv_pos_embeddings * grouped)
  layer = 2 * (4 * width * width + 2 * width * cfg.intermediate_size) + _attention(width, length)
  return rows * (2 * macs + cfg.num_layers * length * layer)


def adapter_forward(cfg: EchoXConfig, rows: int, frames: int) -> Parts:
  """`projection` (needs no input gradient), alignment `layers`, `attention`, the CTC `head` and the
  `output` (look-back, or words), on frames at 25 Hz.
  """
  width, slots, all_frames = cfg.llm.hidden_size, cfg.adapter.shrink_budget, rows * frames
  square, layers = 2 * width * width, cfg.adapter.num_layers
  if cfg.adapter.output == 'words':
    looking_back, output = 0, 2 * head_forward(width, cfg.llm.vocab_size, rows * slots)
  else:  # keys and values; queries and output
    looking_back, output = rows * slots, all_frames * 2 * square + rows * slots * 2 * square
  return {
    'projection': all_frames * 2 * 2 * cfg.whisper.hidden_size * width,
    'layers': layers * all_frames * (4 * square + 4 * width * cfg.adapter.intermediate_size),
    'attention': (layers * all_frames + looking_back) * _attention(width, frames),
    'output': output,
    'head': head_forward(width, cfg.llm.vocab_size, all_frames),
  }


def llama_forward(cfg: LlamaConfig, rows: int, length: int) -> Parts:
  """`base` matmuls, `lora` and causal `attention` of all layers; no head."""
  base, lora = _weights(cfg)
  attention = cfg.num_layers * _attention(cfg.num_heads * cfg.head_dim, (length + 1) / 2)
  return {
    'base': rows * length * 2 * base,
    'lora': rows * length * 2 * lora,
    'attention': rows * length * attention,
  }


def llama_step(cfg: LlamaConfig, rows: int, slots: int) -> float:
  """One position of all layers that sees `slots` keys; no LoRA, no head."""
  base, _ = _weights(cfg)
  attention = cfg.num_layers * _attention(cfg.num_heads * cfg.head_dim, slots)
  return rows * (2 * base + attention)


def head_forward(width: int, vocabulary: int, positions: int) -> float:
  """Logits."""
  return 2 * width * vocabulary * positions


def vocoder_forward(cfg: VocoderConfig, rows: int, frames: int) -> float:
  """The generator."""
  blocks = sum(
    2 * kernel * len(dilations)
    for kernel, dilations in zip(cfg.resblock_kernel_sizes, cfg.resblock_dilation_sizes)
  )
  channels, length = cfg.upsample_initial_channel, frames
  shown, spectra = (2, 3) if cfg.source_filter else (0, 2 if cfg.istft_hop else 0)
  macs = length * 7 * (cfg.model_in_dim + shown) * channels
  macs += length * 2 * len(cfg.context_dilations) * cfg.context_kernel_size * channels**2
  for rate, kernel in zip(cfg.upsample_rates, cfg.upsample_kernel_sizes):
    macs += length * kernel * channels * (channels // 2)
    channels, length = channels // 2, length * rate
    macs += length * blocks * channels**2
  bins = cfg.istft_n_fft // 2 + 1
  macs += length * 7 * channels * (spectra * bins or 1)
  transforms = 3 if cfg.source_filter else 1  # those of pulses and noise, and the inverse one
  macs += length * 2 * transforms * bins * cfg.istft_n_fft if cfg.istft_hop else 0
  return 2 * rows * macs


def pitch_forward(cfg: VocoderConfig, rows: int, frames: int) -> float:
  """The pitch predictor, if there is one."""
  pitch, layers = cfg.pitch, len(cfg.pitch.dilations)
  return rows * frames * _predictor(cfg, pitch, layers, 2) if cfg.source_filter else 0.0


def duration_forward(cfg: VocoderConfig, rows: int, units: int) -> float:
  """The duration predictor on reduced units."""
  duration = cfg.duration
  layers, outputs = (len(duration.dilations), duration.longest) if duration.dilations else (2, 1)
  return rows * units * _predictor(cfg, duration, layers, outputs)


def _predictor(
  cfg: VocoderConfig,
  predictor: DurationPredictorConfig | PitchPredictorConfig,
  layers: int,
  outputs: int,
) -> float:
  """A predictor on one unit or frame."""
  hidden, kernel = predictor.hidden_size, predictor.kernel_size
  inputs = cfg.embedding_dim + (layers - 1) * hidden
  return 2.0 * hidden * (kernel * inputs + outputs)


def discriminators_forward(cfg: DiscriminatorConfig, rows: int, samples: int) -> float:
  """All discriminators on one batch of waveforms."""
  macs = 0
  for period in cfg.periods:
    strides = [3] * (len(cfg.period_channels) - 1) + [1]
    macs += period * _convolutions(
      -(-samples // period), cfg.period_channels, [5] * len(strides), strides, [1] * len(strides)
    )
  for _ in range(cfg.num_scales):
    macs += _convolutions(
      samples, cfg.scale_channels, cfg.scale_kernel_sizes, cfg.scale_strides, cfg.scale_groups
    )
    samples = samples // 2 + 1
  return 2 * rows * macs


def _text(experiment: ExperimentConfig) -> Parts:
  cfg, rows, length = experiment.model.llm, experiment.train.batch_size, experiment.data.max_tokens
  forward = llama_forward(cfg, rows, length)
  head = head_forward(cfg.hidden_size, cfg.vocab_size, rows * (length - 1))
  return {
    'llm': 3 * (forward['base'] + forward['attention']) + 2 * forward['lora'],
    'lm_head': 3 * head,
  }


def _clips(experiment: ExperimentConfig, batch: Mapping[str, Any] | None = None) -> Clips:
  """Returns the clips of a batch with speech; None: clips of the longest bucket."""
  data = experiment.data
  if batch is None:
    return Clips(experiment.train.batch_size, data.max_states)
  if 'states' in batch:
    return Clips(math.prod(batch['state_lengths'].shape), batch['states'].shape[-2])
  silence = experiment.model.audio_padding_seconds * rates.SAMPLE_RATE
  return Clips(
    math.prod(batch['audio_lengths'].shape),
    round((batch['audio'].shape[-1] + silence) / (2 * rates.MEL_HOP)),
  )


def _align(experiment: ExperimentConfig, clips: Clips) -> Parts:
  cfg = experiment.model
  adapter = adapter_forward(cfg, clips.number, clips.states // 2)
  few = experiment.train.loss.ctc_candidates if experiment.stage == 'align' else 0
  labels = few / cfg.llm.vocab_size if few else 1.0  # share of the vocabulary
  # Only an LLM needs words: nothing is computed of them where none listens.
  is_read = experiment.stage != 'align' or cfg.adapter.output == 'frames'
  trained = ('layers', 'attention', 'output') if is_read else ('layers', 'attention')
  return {
    'whisper': 0.0 if experiment.data.cached_states else _heard(experiment, clips),
    'adapter': 2 * adapter['projection'] + 3 * sum(adapter[part] for part in trained),
    'ctc_head': (2 if cfg.adapter.tied_ctc and not cfg.adapter.spelled_ctc else 3)
    * adapter['head']
    * labels,
  }


def _s2t(experiment: ExperimentConfig, clips: Clips) -> Parts:
  cfg, data, rows = experiment.model, experiment.data, experiment.train.batch_size
  length = data.max_tokens + cfg.adapter.shrink_budget - 1
  return _align(experiment, clips) | {
    'llm': _under_lora(cfg.llm, rows, length),
    'lm_head': 2 * head_forward(cfg.llm.hidden_size, cfg.llm.vocab_size, rows * (length - 1)),
  }


def _t2c(experiment: ExperimentConfig) -> Parts:
  cfg, data, rows = experiment.model, experiment.data, experiment.train.batch_size
  room = data.max_tokens - 1 if data.packing else min(data.max_tokens - 1, data.max_unit_words + 2)
  return {
    't2c': 3 * _unit_decoder(cfg, rows, data.max_tokens),
    't2c_head': 3 * _unit_head(experiment, rows * room),
  }


def _echo(experiment: ExperimentConfig, clips: Clips) -> Parts:
  cfg, data, rows, choices = (
    experiment.model,
    experiment.data,
    experiment.train.batch_size,
    experiment.train.loss,
  )
  width, vocabulary = cfg.llm.hidden_size, cfg.llm.vocab_size
  slices, tokens, words = (
    choices.slices_per_batch or rows * choices.max_slices,
    cfg.streaming.max_slice_tokens,
    data.max_unit_words,
  )
  # BOS is given, and only EOT and unit words can follow (paper), or any id (released).
  profile = prompts.get_profile(cfg.profile)
  free = profile.free_unit_ids
  said, choices_of_each = (
    words + (2 if free else 1),
    cfg.unit_decoder.unit_vocab_size + (vocabulary if free else 1),
  )
  around = (prompts.slice_prefix, prompts.slice_suffix)
  prompt = tokens + sum(len(part(cfg.special_ids, profile)) for part in around)
  parts = _s2t(experiment, clips) | {
    'pseudo_labels': (
      _unit_decoder(cfg, slices, prompt + said)
      + head_forward(cfg.unit_decoder.trunk.hidden_size, choices_of_each, slices * said)
    ),
    'denoising_adapter': 3
    * slices
    * tokens
    * 4
    * width
    * cfg.unit_decoder.denoising_intermediate_size,
    'echo': 3 * _unit_decoder(cfg, slices, prompt + words + 1),
    'echo_head': 3 * _unit_head(experiment, slices * (words + 2)),
  }
  if choices.echo_targets == 'recorded':
    del parts['pseudo_labels']
  if choices.echo_text == 'argmax':
    parts['own_text'] = head_forward(width, vocabulary, slices * tokens)
  # generated answers, then another pass over them instead of the gold ones
  if choices.echo_text == 'generate':
    length, answer = (
      data.max_tokens + cfg.adapter.shrink_budget - 1,
      min(data.max_tokens, choices.max_new_tokens),
    )
    parts['own_text'] = (
      sum(llama_forward(cfg.llm, rows, length + answer).values())
      + head_forward(width, vocabulary, rows * answer)
      + _under_lora(cfg.llm, rows, length)
    )
  return parts


def _vocoder(experiment: ExperimentConfig) -> Parts:
  cfg, rows, frames = experiment.model, experiment.train.batch_size, experiment.data.segment_frames
  judged = discriminators_forward(
    experiment.train.discriminators, rows, frames * cfg.vocoder.code_hop_size
  )
  return {
    'generator': 3 * vocoder_forward(cfg.vocoder, rows, frames),
    'pitch': 3 * pitch_forward(cfg.vocoder, rows, frames),
    'durations': 3 * duration_forward(cfg.vocoder, rows, experiment.data.max_reduced_units),
    # Generator loss: real speech without gradient, generated speech with input gradient.
    # Discriminator loss: both, trained.
    'discriminators': (1 + 2 + 3 + 3) * judged,
  }


def _heard(experiment: ExperimentConfig, clips: Clips) -> float:
  """Log-mel and Whisper."""
  cfg = experiment.model
  states = cfg.whisper.max_positions if cfg.pad_audio_to_30_s else clips.states
  return log_mel_forward(cfg.whisper.num_mel_bins, clips.number, 2 * states) + whisper_forward(
    cfg.whisper, clips.number, states
  )


def _under_lora(cfg: LlamaConfig, rows: int, length: int) -> float:
  forward = llama_forward(cfg, rows, length)
  return 2 * forward['base'] + 3 * (forward['lora'] + forward['attention'])


def _unit_decoder(cfg: EchoXConfig, rows: int, length: int) -> float:
  """A unit decoder with its width projection, forward; no head."""
  trunk = cfg.unit_decoder.trunk
  return rows * length * 2 * cfg.llm.hidden_size * trunk.hidden_size + sum(
    llama_forward(trunk, rows, length).values()
  )


def _unit_head(experiment: ExperimentConfig, positions: int) -> float:
  cfg = experiment.model
  others = 1 if experiment.train.loss.units_only else cfg.llm.vocab_size
  choices = others + cfg.unit_decoder.unit_vocab_size
  return head_forward(cfg.unit_decoder.trunk.hidden_size, choices, positions)


def _attention(width: int, keys: float) -> float:
  """Scores and weighted sum of one position that sees `keys` positions."""
  return 4 * width * keys


def _weights(cfg: LlamaConfig) -> tuple[int, int]:
  """Returns the number of matmul parameters of all layers: (base, LoRA)."""
  queries, values = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
  shapes = {
    'q_proj': (cfg.hidden_size, queries),
    'k_proj': (cfg.hidden_size, values),
    'v_proj': (cfg.hidden_size, values),
    'o_proj': (queries, cfg.hidden_size),
    'gate_proj': (cfg.hidden_size, cfg.intermediate_size),
    'up_proj': (cfg.hidden_size, cfg.intermediate_size),
    'down_proj': (cfg.intermediate_size, cfg.hidden_size),
  }
  base = sum(rows * columns for rows, columns in shapes.values())
  lora = sum(cfg.lora.rank * sum(shapes[name]) for name in cfg.lora.targets if name in shapes)
  return cfg.num_layers * base, cfg.num_layers * lora


def _convolutions(
  length: int,
  channels: Sequence[int],
  kernels: Sequence[int],
  strides: Sequence[int],
  groups: Sequence[int],
) -> int:
  """Multiplications of a stack of "same" convolutions with one input channel, and of a final
  convolution with kernel 3 and one output channel.
  """
  macs, before = 0, 1
  for width, kernel, stride, group in zip(channels, kernels, strides, groups):
    length = (length - 1) // stride + 1
    macs += length * kernel * before // group * width
    before = width
  return macs + length * 3 * before
