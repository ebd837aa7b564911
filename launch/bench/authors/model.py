"""The released model and its streaming class with random weights, of the sizes of a job.

So that the work does not depend on chance, a few things are set from outside, as the bench does
with our model: the CTC head says a new token every few frames, the LLM says `.` and never EOT,
its states resemble the row of `.`, slices end where they should, the unit decoder says unit words
alone and as many as it should, and each unit lasts two frames.

Built here instead of loaded from a hub: the Whisper encoder (transformers), the vocoder's weights
(a file of random ones, which the released code loads), and as much of a tokenizer as is called.
"""

import argparse
import json
import math
from pathlib import Path
import tempfile
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import transformers

from launch.bench import torch_models

_LIKENESS = 10.0  # how far states are moved towards the row of `.`; they are about 23 long


class Tokenizer:
  """What the released code calls of a tokenizer; like theirs it puts BOS before each piece.

  Args:
    ids: special ids.
    words: units of each unit word.
    first_word: id of the first unit word.
  """

  def __init__(self, ids: Any, words: list[list[int]], first_word: int):
    self.eos_token_id = self.pad_token_id = ids.eot
    self._bos, self._words, self._first_word = ids.bos, words, first_word
    names = ('bos', 'start_header', 'end_header', 'eot')
    written = ('begin_of_text', 'start_header_id', 'end_header_id', 'eot_id')
    self._vocab = {f'<|{text}|>': getattr(ids, name) for name, text in zip(names, written)}
    roles = {name: [getattr(ids, name)] for name in ('system', 'user', 'assistant', 'speaker')}
    audio = {'\n': [ids.nl], '\n<audio_patch>': [ids.nl, ids.audio]}
    self._pieces = {'': [], '.': [ids.period], **audio, **roles}

  def get_vocab(self) -> dict[str, int]:
    return self._vocab

  def __call__(self, text: str, return_tensors: str | None = None) -> SimpleNamespace:
    ids = [self._bos, *self._pieces[text]]
    return SimpleNamespace(input_ids=torch.tensor([ids]) if return_tensors else ids)

  def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
    return ' '.join(map(str, ids))

  def batch_decode(self, rows: torch.Tensor) -> list[str]:
    return [''.join(map(self._word, row)) for row in rows.tolist()]

  def _word(self, token: int) -> str:
    units = ''.join(f'▁{unit}' for unit in self._words[token - self._first_word])
    return f'<|unit_{units}|>'


def config(code: ModuleType, job: Any, **fields: Any) -> Any:
  """The released config of a job's LLM; `fields` as the unit decoder asks for."""
  return code.EchoXConfig(
    **torch_models.llama_sizes(job.model.llm),
    adapter_size=job.model.whisper.hidden_size,
    max_position_embeddings=job.model.llm.max_positions,
    tie_word_embeddings=False,
    **fields,
  )


def hears(model: Any, job: Any) -> Any:
  """Gives a released model its Whisper, and lets its CTC head keep `job.kept` frames of a clip."""
  encoder, ids = torch_models.whisper_encoder(job.model.whisper), job.model.special_ids
  sizes = encoder.config
  sizes.audio_patch_token, sizes.llm_pad_token_id, sizes.audio_patch_size = ids.audio, ids.pad, 1
  model.model.audio_tower = [SimpleNamespace(encoder=encoder, config=sizes)]
  frames = torch.arange(job.model.whisper.max_positions // 2)
  said = 20 + frames // (len(frames) // job.kept)

  def say(module, arguments, logits):
    with torch.no_grad():
      logits[:, frames, said] += 100.0

  model.model.audio_feature_head.register_forward_hook(say)
  return model


def assistant(stream: ModuleType, code: ModuleType, job: Any) -> Any:
  """The streaming class with a model that answers as forced.

  Args:
    stream, code: of `code.load`.
    job: sizes, see `launch.bench.released`.
  """
  unit = job.model.unit_decoder
  sizes = config(
    code,
    job,
    unit_vocab_size=unit.unit_vocab_size,
    unit_output='finetune_kd',
    unit_model='small',
    pad_token_id=job.model.special_ids.pad,
  )
  model = hears(code.EchoXForCausalLM(sizes).eval().requires_grad_(False), job)
  _force_text(model, job)
  translator = model.get_unit_translator()
  _force_units(translator, job)
  words = torch.randint(0, job.vocoder['num_embeddings'], (unit.unit_vocab_size, job.units))
  tokenizer = Tokenizer(job.model.special_ids, words.tolist(), job.model.llm.vocab_size)
  features = transformers.WhisperFeatureExtractor(feature_size=job.model.whisper.num_mel_bins)
  stream.load_model = lambda args, device: (model, features, tokenizer, translator)
  stream.load_speech_model = lambda device: _vocoder(stream, job)
  made = stream.EchoxAssistant()
  made.device, made.system_message = 'cpu', ''
  ends = range(job.slice_tokens - 1, job.tokens, job.slice_tokens)
  made._is_local_maximum = lambda scores, index, window: index in ends
  return made


def _force_text(model: Any, job: Any) -> None:
  row = torch.nn.functional.normalize(torch.randn(job.model.llm.hidden_size), dim=0)
  model.lm_head.weight[job.model.special_ids.period] = row
  model.model.norm.register_forward_hook(lambda module, arguments, out: out + _LIKENESS * row)


def _force_units(translator: Any, job: Any) -> None:
  translator.lm_head.weight[: job.model.llm.vocab_size] = 0.0
  generate, headers = translator.generate, 14  # positions around the states of a slice

  def forced(**options: Any) -> Any:
    states = options['inputs_embeds'].shape[1] - headers
    return generate(**options | {'max_new_tokens': job.words * states})

  translator.generate = forced


def _vocoder(stream: ModuleType, job: Any) -> tuple[Any, argparse.Namespace]:
  from fairseq.models.text_to_speech.codehifigan import CodeGenerator

  with tempfile.TemporaryDirectory() as folder:
    weights, sizes = Path(folder, 'generator.pt'), Path(folder, 'config.json')
    torch.save({'generator': CodeGenerator(job.vocoder).state_dict()}, weights)
    sizes.write_text(json.dumps(job.vocoder), 'utf-8')
    settings = stream.get_vocoder_config(str(weights), str(sizes))
    loaded = stream.load_units_vocoder(settings, 'cpu')
  loaded[0].requires_grad_(False)
  proj = loaded[0].model.dur_predictor.proj
  proj.weight[:], proj.bias[:] = 0.0, math.log(1.0 + job.frames)
  return loaded, settings
