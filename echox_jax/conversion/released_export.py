"""A model -> the files of the released layout (facts 6, 9, 10 and 12): the reverse of
`import --kind echox`.

  config.json         transformers' fields and EchoX's; its field `echox_jax` is our whole config
  model*.safetensors  LLM, adapter and unit decoder, LoRA merged; several files have an index
  unit_vocab.txt      unit words, one line `▁837▁81 count` each
  unit_language.json  the same with all digits of the counts
  tokenizer files     as in the model folder
  whisper/            the speech encoder under transformers' names (the released files lack it)
  vocoder/            g_00000000 and config.json, or a model folder for another architecture
"""

from collections.abc import Iterator, Mapping
import math
from pathlib import Path
import re
from typing import Any

import ml_dtypes
import numpy as np

from echox_jax import config as config_lib
from echox_jax import errors, model_folder, prompts, storage, tensor_files
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion import (
  llm_config,
  released,
  released_config,
  released_units,
  rules,
  unit_vocoder,
  whisper_hf,
)
from echox_jax.conversion.echox_hf import OWN_CONFIG, OWN_ENGINE
from echox_jax.conversion.source import ModelSource
from echox_jax.models import lora, trees
from echox_jax.models.params import param_shapes
from echox_jax.units.unit_language import UnitLanguage

CONFIG, UNIT_VOCAB, VOCODER_FILE = 'config.json', 'unit_vocab.txt', 'g_00000000'
DTYPES = {'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16, 'float32': np.float32}
# log probabilities have no counts: relative frequencies in parts per billion
_COUNT_SCALE = 10**9
_SPEECH_MODEL = {
  'architectures': ['WhisperModel'],
  'model_type': 'whisper',
  'activation_function': 'gelu',
  'decoder_layers': 0,
}


def write(folder: Path, source: ModelSource, dtype: str, max_shard_bytes: int) -> list[str]:
  """Writes all files.

  Args:
    folder: an empty folder.
    source: has at least the groups `llm` and `adapter`.
    dtype: dtype of the tensors, a key of `DTYPES`; the vocoder file is always float32, as released.
    max_shard_bytes: size of one file of tensors.

  Returns:
    Sentences about what the released layout or code cannot express.

  Raises:
    CheckpointError: a group is missing, a value is too large for `dtype`, or the released code
      would compute something else.
  """
  _check(source.config)
  cfg = lora.merged_config(source.config)
  decoder, own = _layout(source, cfg)
  write_tensors(folder, source, cfg, own, dtype, max_shard_bytes)
  storage.atomic_write_json(folder / CONFIG, config_json(cfg, source.engine, decoder, dtype))
  notes = _differences(cfg, decoder)
  for name, file in source.files.items():
    storage.atomic_write_bytes(folder / name, file.read_bytes())
  if model_folder.UNIT_LANGUAGE in source.files:
    language = UnitLanguage.load(source.files[model_folder.UNIT_LANGUAGE])
    storage.atomic_write_text(
      folder / UNIT_VOCAB, unit_vocabulary(language, cfg.unit_decoder.unit_vocab_size)
    )
  elif decoder:
    notes.append('The model has no unit language, so no unit vocabulary is written.')
  if 'whisper' in source.groups:
    _write_whisper(folder / 'whisper', source, cfg, dtype, max_shard_bytes)
  if 'vocoder' in source.groups:
    notes += _write_vocoder(folder / 'vocoder', source, cfg)
  used = {rule.path.split('/')[0] for rule in own} | {'whisper', 'vocoder'}
  left = [group for group in source.groups if group not in used]
  return notes + (
    [f'The released layout has no place for {", ".join(left)}: left out.'] if left else []
  )


def _check(cfg: EchoXConfig) -> None:
  """Raises CheckpointError if the released code would compute something else."""
  choices = {
    'adapter.tied_ctc': cfg.adapter.tied_ctc,
    'adapter.output = words': cfg.adapter.output == 'words',
    'unit_decoder.text_stride': cfg.unit_decoder.text_stride,
    'unit_decoder.text_fusion': cfg.unit_decoder.text_fusion,
  }
  for name, chosen in choices.items():
    if chosen:
      raise errors.CheckpointError(
        f'the released code does not know {name}, which this model was trained with: export to '
        f'safetensors, or train without {name}.'
      )


def config_json(
  cfg: EchoXConfig, engine: EngineConfig, decoder: str | None, dtype: str
) -> dict[str, Any]:
  """config.json of the released layout (facts 6).

  Args:
    cfg: without LoRA.
    engine: the budgets.
    decoder: the group of the unit decoder: `echo`, `t2c` (a stage 2 checkpoint), or None.
    dtype: dtype of the tensors.
  """
  values = {
    **llm_config.of_model(cfg, 'EchoX', dtype),
    'attention_bias': False,
    'mlp_bias': False,
    'adapter_size': cfg.whisper.hidden_size,
    'audio_token_len': 1,
  }
  if decoder:
    values |= {
      'unit_vocab_size': cfg.unit_decoder.unit_vocab_size,
      'unit_vocab': UNIT_VOCAB,
      'unit_output': 'finetune_kd' if decoder == 'echo' else 'pretrain',
    }
    known, kind = released_config.unit_model(cfg)
    if known:
      values |= {'unit_model': kind} if kind else {}
    else:
      values['unit_translator'] = llm_config.to_json(cfg.unit_decoder.trunk) | {
        'vocab_size': cfg.llm.vocab_size + cfg.unit_decoder.unit_vocab_size,
        'aligner_intermediate_size': cfg.unit_decoder.denoising_intermediate_size,
      }
  return values | {OWN_CONFIG: config_lib.to_dict(cfg), OWN_ENGINE: config_lib.to_dict(engine)}


def unit_vocabulary(language: UnitLanguage, size: int) -> str:
  """The vocabulary file: lines `word count` in id order; decoder rows without a word get unused
  names.
  """
  log_probs = getattr(language.model, 'log_probs', [0.0] * language.vocab_size)
  counts = [max(1, round(math.exp(p) * _COUNT_SCALE)) for p in log_probs]
  words = [
    *language.vocabulary,
    *(f'unused_{_letters(i)}' for i in range(size - language.vocab_size)),
  ]
  return ''.join(
    f'{word} {count}\n' for word, count in zip(words, [*counts, *[0] * (size - len(counts))])
  )


def _layout(source: ModelSource, cfg: EchoXConfig) -> tuple[str | None, list[rules.Rule]]:
  """(group of the unit decoder, rules for the tensors of the main files)."""
  source.require(('llm', 'adapter'), 'the released layout')
  decoder = next((group for group in ('echo', 't2c') if group in source.groups), None)
  own = released.s2t_rules(cfg)
  if decoder:
    source.require(
      ('unit_text_embedding', *(('denoising_adapter',) if decoder == 'echo' else ())),
      f'the unit decoder {decoder!r}',
    )
    own += released_units.unit_rules(cfg, decoder, adapted=decoder == 'echo')
  return decoder, own


def write_tensors(
  folder: Path,
  source: ModelSource,
  cfg: EchoXConfig,
  own: list[rules.Rule],
  dtype: str,
  max_shard_bytes: int,
  prefix: str = '',
) -> None:
  """Writes the tensors of the rules in layer order, with a few in memory at a time.

  Raises:
    CheckpointError: a value is too large for `dtype`.
  """
  shapes = rules.tensor_shapes(
    own, param_shapes(cfg, sorted({rule.path.split('/')[0] for rule in own}))
  )
  specs = {prefix + name: (shapes[name], DTYPES[dtype]) for name in sorted(shapes, key=_natural)}
  exported = ((prefix + name, value) for name, value in rules.export(_Parameters(source), own))
  tensor_files.write_sharded(folder, specs, _in_range(exported, dtype), max_shard_bytes)


def _in_range(
  tensors: Iterator[tuple[str, np.ndarray]], dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
  largest = float(ml_dtypes.finfo(DTYPES[dtype]).max)
  for name, value in tensors:
    most = max(float(value.max()), -float(value.min()))
    if largest < most < math.inf:
      raise errors.CheckpointError(
        f'the tensor {name!r} holds {most:g}, more than {dtype} can: '
        'export with --dtype bfloat16 or float32.'
      )
    yield name, value


def _write_whisper(
  folder: Path, source: ModelSource, cfg: EchoXConfig, dtype: str, max_shard_bytes: int
) -> None:
  folder.mkdir()
  encoder = cfg.whisper
  write_tensors(
    folder,
    source,
    cfg,
    whisper_hf.encoder_rules(encoder),
    dtype,
    max_shard_bytes,
    whisper_hf.PREFIXES[0],
  )
  storage.atomic_write_json(
    folder / CONFIG,
    _SPEECH_MODEL
    | {
      'torch_dtype': dtype,
      'd_model': encoder.hidden_size,
      'encoder_layers': encoder.num_layers,
      'encoder_attention_heads': encoder.num_heads,
      'encoder_ffn_dim': encoder.intermediate_size,
      'num_mel_bins': encoder.num_mel_bins,
      'max_source_positions': encoder.max_positions,
    },
  )


def _write_vocoder(folder: Path, source: ModelSource, cfg: EchoXConfig) -> list[str]:
  folder.mkdir()
  paths = [path for path in source.tensors if path.startswith('vocoder/')]
  try:
    unit_vocoder.config_to_json(cfg.vocoder)
  except errors.ConfigError:
    specs = source.specs
    model_folder.write_params(
      folder,
      {path: specs[path] for path in paths},
      ((path, None, source.read(path)) for path in paths),
    )
    model_folder.write_rest(folder, cfg, source.engine, {})
    return [
      'The vocoder ends in an inverse STFT or has context blocks, for which the released '
      'layout has no keys: vocoder/ is a model '
      'folder of ours instead, which echox_jax.load opens.'
    ]
  params = trees.unflatten({path: source.read(path) for path in paths})['vocoder']
  unit_vocoder.save_released(folder, params, cfg.vocoder, VOCODER_FILE)
  return []


def _differences(cfg: EchoXConfig, decoder: str | None) -> list[str]:
  """How this model differs from constants in the released code, as one sentence or none."""
  llm, adapter = cfg.llm, cfg.adapter
  checks = {
    f'prompts and masks of the profile {cfg.profile!r}': cfg.profile != 'released',
    'other special ids': cfg.special_ids != prompts.SpecialIds(),
    f'the adapter variant {adapter.variant!r} (same tensors, other attention)': adapter.variant
    != 'released',
    'blanks dropped by the shrink': adapter.drop_blank,
    'another number of adapter heads or another width inside the adapter': (
      adapter.num_heads,
      adapter.intermediate_size,
    )
    != (llm.num_heads, 2 * llm.hidden_size),
    'an output head tied to the embeddings': llm.tie_embeddings,
    'biases on q, k and v, or norms on q and k': llm.qkv_bias or llm.qk_norm,
  }
  if decoder:
    checks['a unit decoder of another size'] = not released_config.unit_model(cfg)[0]
  found = [what for what, differs in checks.items() if differs]
  return (
    [
      f'The released code would need changes to run this model, which has {"; ".join(found)} '
      '(`import --kind echox` restores all of it).'
    ]
    if found
    else []
  )


class _Parameters(Mapping[str, '_Parameter']):
  """A source's parameters without LoRA, for `rules.export`; rows of stacked layers are read one by
  one.
  """

  def __init__(self, source: ModelSource):
    self._source = source

  def __getitem__(self, path: str) -> '_Parameter':
    return _Parameter(self._source, path)

  def __iter__(self) -> Iterator[str]:
    return (path for path in self._source.tensors if path.split('/')[-1] not in lora.LEAVES)

  def __len__(self) -> int:
    return sum(1 for _ in self)


class _Parameter:
  """One parameter, read when it is indexed or converted to an array."""

  def __init__(self, source: ModelSource, path: str):
    self._source, self._path = source, path

  def __getitem__(self, layer: int) -> np.ndarray:
    return self._source.read(self._path, layer)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy
    return np.asarray(self._source.read(self._path), dtype)


def _natural(name: str) -> list[str | int]:
  """A sort key that puts layer 2 before layer 10."""
  return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]


def _letters(number: int) -> str:
  """A name without digits, because digits would be units."""
  return (_letters(number // 26 - 1) if number >= 26 else '') + chr(ord('a') + number % 26)
