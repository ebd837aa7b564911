"""Sizes and options of every model part, as frozen dataclasses.

`build(cls, values)` builds them from an ml-collections ConfigDict or from JSON. It rejects unknown
fields and lists the valid ones, so a misspelt option never passes silently.
"""

from collections.abc import Mapping
import copy
import dataclasses
import types
import typing
from typing import Any, TypeVar

from echox_jax import errors
from echox_jax.prompts import SpecialIds

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
  """Whisper encoder. Defaults: tiny.en."""

  num_mel_bins: int = 80
  hidden_size: int = 384
  intermediate_size: int = 1536
  num_layers: int = 4
  num_heads: int = 6
  max_positions: int = 1500
  layer_norm_eps: float = 1e-5
  attention: str = 'xla'
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class HubertConfig:
  """HuBERT base encoder (unit extraction at full size). Defaults: mHuBERT base."""

  hidden_size: int = 768
  intermediate_size: int = 3072
  num_layers: int = 12
  num_heads: int = 12
  conv_dim: tuple[int, ...] = (512,) * 7
  conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
  conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
  num_conv_pos_embeddings: int = 128
  num_conv_pos_embedding_groups: int = 16
  layer_norm_eps: float = 1e-5
  attention: str = 'auto'
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama-3 scaling of rotary frequencies (transformers' `rope_type: llama3`)."""

  factor: float = 8.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters on the named projections; rank 0 = none. Paper: rank 64, alpha 16, dropout
  0.05.
  """

  rank: int = 0
  alpha: float = 16.0
  dropout: float = 0.0
  targets: tuple[str, ...] = ('q_proj', 'k_proj', 'v_proj')


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """A Llama decoder, or one of its relatives Qwen2 and Qwen3: the LLM, and with other sizes the
  trunk of the unit decoder.

  `head_dim`: width of a head; the heads together may be wider or narrower than `hidden_size`.
  `qkv_bias`: the projections of queries, keys and values have biases (Qwen2, Qwen2.5).
  `qk_norm`: an RMS norm of each head of queries and keys, before the rotary positions (Qwen3).
  `max_positions`: the context length of training; no row may be longer
  (echox_jax/models/positions.py).
  `remat`: what a layer recomputes in the backward pass: `none`, `dots` (all but the matmuls with
  weights) or `full`.
  `attention`: `xla`, `splash` (TPU), `cudnn` (GPU) or `auto` (the best one for the platform). The
  encoders have the same options.
  """

  vocab_size: int = 512
  hidden_size: int = 192
  intermediate_size: int = 512
  num_layers: int = 4
  num_heads: int = 4
  num_kv_heads: int = 2
  head_dim: int = 48
  rms_norm_eps: float = 1e-5
  rope_theta: float = 500000.0
  rope_scaling: RopeScaling | None = None
  tie_embeddings: bool = False
  qkv_bias: bool = False
  qk_norm: bool = False
  max_positions: int = 2048
  remat: str = 'none'
  attention: str = 'xla'
  dtype: str = 'float32'
  lora: LoraConfig = LoraConfig()


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  """Soundwave adapter between Whisper and the LLM.

  `variant`: `paper` (the alignment layer attends over time and looks back over all frames) or
  `released` (as the released weights were trained: attention over the turn axis, look-back over
  kept frames only; facts 3.3 and 3.7).
  `num_layers`: alignment layers; Soundwave has one.
  `shrink_budget`: static number of speech positions a clip may keep; the excess is counted.
  `drop_blank`: drops runs of CTC blanks; by default they are kept like other runs, as released
  (facts 3.6).
  `ctc_chunk`: number of frames of a batch whose CTC logits are in memory at once while the adapter
  selects the frames to keep; 0 = all.
  `tied_ctc`: the LLM's input embeddings score the CTC labels, without gradient, in place of a table
  of the adapter's own, so that frames come to lie where the LLM knows words. The blank alone has a
  row of its own, because the LLM has learned none for it.
  `spelled_ctc`: with `tied_ctc`, how a token is written scores it too: a learned map of the table
  `unit_decoder.text_table` = `spelling` is added to the embeddings. So rare tokens, too, have the
  letters of others that sound like them.
  `output`: what the LLM reads of a kept frame. `frames`: the frame itself, having looked back, as
  Soundwave has it. `words`: the mean of the LLM's input embeddings, each weighed by the CTC
  probability of its token among those that are no blank (LegoSLM, arXiv 2505.11352), so that the
  LLM reads a question as if it were written, without having learned to. It takes `drop_blank`.
  """

  variant: str = 'paper'
  num_layers: int = 1
  num_heads: int = 4
  intermediate_size: int = 384
  dropout: float = 0.0
  shrink_budget: int = 64
  drop_blank: bool = False
  ctc_chunk: int = 0
  tied_ctc: bool = False
  spelled_ctc: bool = False
  output: str = 'frames'
  layer_norm_eps: float = 1e-5
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class UnitDecoderConfig:
  """Text-to-codec model and echo decoder: one module, used twice.

  The trunk's `vocab_size` is not used: the head has V + unit_vocab_size rows, where V is the LLM's
  vocabulary.
  `text_table`: the frozen table that embeds text for the unit decoders; stage `t2c` makes it.
  `spelling` says how a token is written (`units.spelling`); the others are copies of the LLM's. The
  paper uses the text embeddings, `embed_tokens`. The released training script uses the rows
  of `lm_head` (facts 6), and so does the config of an imported released model. With a tied head
  both are the same table. A trained or imported unit decoder includes its own copy.
  `text_stride`: 0 = rotary positions run on from the text to the unit words, as in the released
  model. n = a token of text takes n positions, and those of the unit words begin again at 0: where
  n unit words say a token, each is near the token that it says (`positions.of_unit_rows`).
  `text_fusion`: the echo decoder reads the sum of the adapted state of a token and the token's own
  row of the text table. Without it, it reads the adapted states alone, as in the paper, and the
  denoising adapter has to learn the whole table. LLaMA-Omni 2 (arXiv 2505.02625) fuses both, too.
  `closing_ids`: a slice that ends with none of these ids is read with the first of them behind it.
  A text-to-codec model that has learnt from whole sentences does not know where to stop without a
  full stop: it says the last words again, and others. () = slices are read as they are.
  """

  unit_vocab_size: int = 1500
  trunk: LlamaConfig = LlamaConfig()
  text_table: str = 'embed_tokens'
  text_stride: int = 0
  text_fusion: bool = False
  closing_ids: tuple[int, ...] = ()
  denoising_intermediate_size: int = 512
  denoising_dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class DurationPredictorConfig:
  """Duration predictor of the unit vocoder (fairseq `dur_predictor_params`). With `dilations` it
  looks further back, and chooses among 1 to `longest` frames (`models.prosody`).
  """

  hidden_size: int = 128
  kernel_size: int = 3
  dropout: float = 0.5
  dilations: tuple[int, ...] = ()
  longest: int = 16


@dataclasses.dataclass(frozen=True)
class PitchPredictorConfig:
  """Pitch predictor of a vocoder with `source_filter`: convolutions at 50 Hz."""

  hidden_size: int = 256
  kernel_size: int = 5
  dilations: tuple[int, ...] = (1, 2, 4)
  dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
  """Code HiFi-GAN. Defaults: the public configuration (facts 10).

  `istft_hop` > 0 replaces the last stages by an inverse STFT. `context_dilations` adds a residual
  block at 50 Hz. `source_filter` filters pulses at a predicted pitch, and noise.
  """

  num_units: int = 1000
  embedding_dim: int = 128
  model_in_dim: int = 128
  upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
  upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 4, 4)
  upsample_initial_channel: int = 512
  resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
  resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
  num_speakers: int = 0
  speaker_id: int = 1
  context_kernel_size: int = 5
  context_dilations: tuple[int, ...] = ()
  istft_n_fft: int = 0
  istft_hop: int = 0
  code_hop_size: int = 320
  sample_rate: int = 16000
  source_filter: bool = False
  duration: DurationPredictorConfig = DurationPredictorConfig()
  pitch: PitchPredictorConfig = PitchPredictorConfig()
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """HiFi-GAN multi-period and multi-scale discriminators; defaults are the published sizes."""

  periods: tuple[int, ...] = (2, 3, 5, 7, 11)
  period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
  num_scales: int = 3
  scale_channels: tuple[int, ...] = (128, 128, 256, 512, 1024, 1024, 1024)
  scale_kernel_sizes: tuple[int, ...] = (15, 41, 41, 41, 41, 41, 5)
  scale_strides: tuple[int, ...] = (1, 2, 2, 4, 4, 1, 1)
  scale_groups: tuple[int, ...] = (1, 4, 16, 16, 16, 16, 1)
  dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class UnitsConfig:
  """How speech becomes units and unit words.

  `encoder`: `hubert` at full size; `whisper` if no HuBERT is available (nano).
  `layer`: 1-based (facts 11).
  `language`: `ngram` (the paper's unit language), `bpe` (SentencePiece) or `plain` (one word per
  unit).
  """

  encoder: str = 'whisper'
  layer: int = 3
  num_units: int = 500
  language: str = 'ngram'
  max_word_units: int = 4
  vocab_size: int = 1500
  padding_seconds: float = 0.5


@dataclasses.dataclass(frozen=True)
class UnitFitConfig:
  """How k-means and the unit language are fitted; nothing depends on it after the fit.

  `ngram_order`: order of the unit-word model: 1 (unigram) or 2 (bigram).
  """

  kmeans_iterations: int = 30
  em_iterations: int = 6
  ngram_order: int = 1
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class StreamingConfig:
  """Where training and inference cut an answer into slices. Defaults: the released rule (facts 8).

  `max_slice_tokens`: longest slice. Inference splits a longer one into pieces and counts it; echo
  training skips it and counts it.
  """

  threshold: float = 0.1
  look_ahead: int = 5
  peak_window: int = 5
  min_tokens: int = 50
  min_tokens_above_threshold: int = 20
  max_slice_tokens: int = 64


@dataclasses.dataclass(frozen=True)
class EchoXConfig:
  """The whole model: everything its parameters depend on, and its input and output conventions.

  `profile`: the chat template and the conventions of inference, see echox_jax/prompts.py.
  `special_ids`: the ids of the template.
  `system_message`: the exact text of the system turn; empty = no system turn.
  """

  profile: str = 'paper'
  special_ids: SpecialIds = SpecialIds()
  system_message: str = ''
  max_audio_seconds: float = 30.0
  pad_audio_to_30_s: bool = False
  audio_padding_seconds: float = 0.5
  whisper: WhisperConfig = WhisperConfig()
  adapter: AdapterConfig = AdapterConfig()
  llm: LlamaConfig = LlamaConfig()
  unit_decoder: UnitDecoderConfig = UnitDecoderConfig()
  vocoder: VocoderConfig = VocoderConfig()
  hubert: HubertConfig = HubertConfig()
  units: UnitsConfig = UnitsConfig()
  streaming: StreamingConfig = StreamingConfig()


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Inference budgets: the static sizes of the compiled programs. Anything over budget is counted.

  `max_prompt_tokens`: tokens per question; a longer question is refused.
  `prompt_step`: questions are padded to so many tokens, or to four times as many and so on; each
  size takes programs that compile for seconds.
  `max_new_tokens`: tokens per answer.
  `ending_ids`: tokens that end an answer as EOT does, but for its first one, such as line breaks:
  who listens wants a paragraph, not a page with lists. () = EOT alone does.
  `text_loop_times`: an answer ends where a round of up to 32 tokens has come so many times, and 8
  tokens or more were repeated; 0 = no such loop is looked for.
  `max_unit_words`: unit words per slice.
  `max_frames`: audio frames per slice, at 50 per second.
  `words_per_token`: a slice that says more unit words per token than this runs away: it is cut off
  and counted like one that exceeds `max_unit_words`; 0 = no such limit.
  `least_words_per_token`: a slice that says fewer did not say its text.
  `loop_times`: a round of unit words that comes so many times is a loop; 0 = none is looked for.
  `retry_temperature`: a slice that loops, is silent, runs away or says too little is tried once
  more, at this temperature; 0 = it is only reported.
  `hypotheses`: what was said is chosen by the LLM among so many hypotheses of a CTC beam search; it
  takes an adapter whose `output` is words. 0 = the likeliest label of each frame.
  `hypothesis_nodes`: labels that the LLM reads to choose, of all hypotheses, which begin alike; the
  least likely ones are left out where they are more.
  `lm_weight`: of the LLM's log-probability beside that of CTC.
  `label_bonus`: what each label adds, as long hypotheses are less probable.
  `least_surety`: a question that scores less, per label and without bonus, is noise; 0 = none is.
  `unheard`: what is answered to a spoken question of which no word was heard, at most 31 tokens;
  '' = what the LLM makes of it.
  `first_slice_tokens`: the first slice ends after so many tokens at the latest, so that sound comes
  sooner; 0 = where the rule says.
  `max_context`: positions per conversation, all turns together; never more than the LLM has.
  `conversations`: rows of the KV cache: conversations that are answered at the same time.
  `questions`: questions that are read at once when several wait.
  `first_tokens`, `tokens`: tokens per decode chunk, before the first sound and after it.
  `first_words`, `words`: unit words per chunk of the echo decoder, likewise.
  `first_window`, `window`: frames that the vocoder turns into sound at a time, likewise.
  `long_window`: windows double up to it where so much lies ready and everybody hears something.
  """

  max_prompt_tokens: int = 1024
  prompt_step: int = 32
  max_new_tokens: int = 512
  ending_ids: tuple[int, ...] = ()
  text_loop_times: int = 0
  max_unit_words: int = 2048
  max_frames: int = 1024
  words_per_token: int = 0
  least_words_per_token: float = 0.0
  loop_times: int = 4
  retry_temperature: float = 0.7
  hypotheses: int = 0
  hypothesis_nodes: int = 48
  lm_weight: float = 0.5
  label_bonus: float = 2.0
  least_surety: float = 0.0
  unheard: str = ''
  first_slice_tokens: int = 0
  max_context: int = 4096
  conversations: int = 1
  questions: int = 4
  first_tokens: int = 8
  tokens: int = 16
  first_words: int = 16
  words: int = 48
  first_window: int = 20
  window: int = 50
  long_window: int = 200


def build(cls: type[T], values: Mapping[str, Any], where: str = 'config') -> T:
  """Builds the frozen dataclass `cls` from a (nested) mapping or ConfigDict.

  Raises:
    ConfigError: a field is unknown or a value has the wrong type. The message names the field and
      the allowed values.
  """
  if isinstance(values, cls):
    return values
  hints = typing.get_type_hints(cls)
  unknown = sorted(set(values.keys()) - set(hints))
  if unknown:
    raise errors.ConfigError(
      f'{where} has no field {", ".join(map(repr, unknown))}: use one of '
      f'{", ".join(sorted(hints))}.'
    )
  converted = {name: _convert(hints[name], values[name], f'{where}.{name}') for name in values}
  return cls(**converted)


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a JSON-ready mapping that `build` turns back into `config`."""
  return dataclasses.asdict(config)


# Old model config field -> its places in an experiment config now. Both file versions still load.
_MOVED = {
  'discriminators': ('train.discriminators',),
  'max_prompt_tokens': ('engine.max_prompt_tokens',),
  'streaming.max_new_tokens': ('engine.max_new_tokens', 'train.loss.max_new_tokens'),
  'streaming.max_unit_words': ('engine.max_unit_words',),
  'streaming.max_frames': ('engine.max_frames',),
  'streaming.max_slices': ('train.loss.max_slices',),
  'units.ngram_order': ('precompute.fit.ngram_order',),
  'units.em_iterations': ('precompute.fit.em_iterations',),
  'units.kmeans_iterations': ('precompute.fit.kmeans_iterations',),
  'units.seed': ('precompute.fit.seed',),
}


def split_model(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a model's JSON, of this version or an earlier one, into the fields of `EchoXConfig` and
  fields that earlier versions kept there.

  Returns:
    The model's JSON, and the other fields in the layout of an experiment: `{'engine': ...}` and so
    on. The latter is empty if the file is of this version.
  """
  model, moved = copy.deepcopy(dict(values)), {}
  for old, places in _MOVED.items():
    section, _, name = old.rpartition('.')
    holder = model.get(section, {}) if section else model
    if isinstance(holder, dict) and name in holder:
      value = holder.pop(name)
      for place in places:
        _set(moved, place.split('.'), value)
  return model, moved


def upgrade_experiment(values: Mapping[str, Any]) -> dict[str, Any]:
  """Converts the JSON of a training job, from this version or an earlier one, to this version."""
  model, moved = split_model(values.get('model', {}))
  return _merge(moved, {**values, 'model': model})


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
  for name in path[:-1]:
    values = values.setdefault(name, {})
  values[path[-1]] = value


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
  """Merges two nested mappings; values in `over` win."""
  merged = dict(under)
  for name, value in over.items():
    nested = isinstance(value, Mapping) and isinstance(under.get(name), Mapping)
    merged[name] = _merge(under[name], value) if nested else value
  return merged


def _convert(hint: Any, value: Any, where: str) -> Any:
  """Checks `value` against the annotation `hint`; converts mappings to dataclasses and lists to
  tuples.
  """
  origin = typing.get_origin(hint)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in typing.get_args(hint):
      return None
    options = [a for a in typing.get_args(hint) if a is not type(None)]
    given_several = isinstance(value, (list, tuple))
    several = [a for a in options if typing.get_origin(a) is tuple and given_several]
    return _convert((several or options)[0], value, where)
  if dataclasses.is_dataclass(hint):
    if not isinstance(value, hint) and not hasattr(value, 'keys'):
      raise errors.ConfigError(f'{where} is {value!r}: give it the fields of {hint.__name__}.')
    return build(hint, value, where)
  if origin is tuple:
    if isinstance(value, str) or not hasattr(value, '__iter__'):
      raise errors.ConfigError(f'{where} is {value!r}: give it a list.')
    item = typing.get_args(hint)[0]
    return tuple(_convert(item, v, f'{where}[{i}]') for i, v in enumerate(value))
  if origin is dict or hint is dict:
    return dict(value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
    return value
  raise errors.ConfigError(f'{where} is {value!r}: it must be of type {hint.__name__}.')
