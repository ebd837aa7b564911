"""Made-up byte-pair tokenizers with chat templates, and what jinja2 makes of a conversation."""

import json
from pathlib import Path

from jinja2 import sandbox
import pytest

# As SmolLM2's.
SMOLLM2 = (
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
  "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
  "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
  "'<|im_end|>' + '\n'}}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# ChatML without a system message of its own, worded otherwise.
CHATML = """{%- for turn in messages %}
    {#- One turn. #}
    {{- "<|im_start|>" ~ turn.role ~ "\\n" }}
    {{- turn.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>' }}assistant
{% endif %}"""
# As Llama 3's.
LLAMA_3 = (
  "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
  "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
  '{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}'
  '{% endfor %}{% if add_generation_prompt %}'
  "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# As Llama 3.2's without tools: a system turn in every conversation, which says what day it is.
LLAMA_3_2 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
# What the released code does (facts 1), for written questions.
RELEASED = (
  '{% set b = bos_token %}{{ b }}{% for message in messages %}'
  "{{ '<|start_header_id|>' + b + message['role'] + '<|end_header_id|>' + b }}"
  "{% if message['role'] != 'user' %}{{ '\n' }}{% endif %}"
  "{{ b + message['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
  "{{ '<|start_header_id|>' + b + 'assistant<|end_header_id|>' + b + '\n' }}{% endif %}"
)
# None that is known here: another separator, another family, a prompt that goes on, one that
# refuses system messages, one that is damaged.
UNKNOWN = {
  'separator': '{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}'
  '<|im_end|>{% endfor %}<|im_start|>assistant<|im_sep|>',
  'instruction': "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
  '[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{% endif %}{% endfor %}',
  'thought': CHATML + '<think>\n',
  'refusing': "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}"
  '{% endif %}' + CHATML,
  'damaged': '{% for m in messages %}{{ m.content',
}

_CONTROL = [
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|begin_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
]
_MERGES = [
  'Ċ Ċ',
  'ĊĊ Ċ',
  'Ġ Ġ',
  'Ċ Ġ',
  's y',
  's t',
  'sy st',
  'syst e',
  'syste m',
  'u s',
  'e r',
  'us er',
  'a s',
  'as s',
  'i s',
  't a',
  'n t',
  'Ġ w',
  'Ġw i',
  '. Ċ',
]
_LLAMA_3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def write(folder: Path, template: str | None, bos: str | None = None, without: str = '') -> Path:
  """A tokenizer.json of byte-level BPE, and a tokenizer_config.json with `template`.

  Text is cut as Llama 3 cuts it where there is a `bos` token, else as GPT-2 and SmolLM2 do. The
  token `without` is left out.
  """
  tokenizers = pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  folder.mkdir(parents=True, exist_ok=True)
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  control = [token for token in _CONTROL if token != without]
  names = [*control, *letters, *(merge.replace(' ', '') for merge in _MERGES)]
  level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True}
  split = {'type': 'Split', 'pattern': {'Regex': _LLAMA_3}, 'behavior': 'Isolated', 'invert': False}
  cut = [level | {'use_regex': True}] if bos is None else [split, level | {'use_regex': False}]
  plain = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False}
  added = [plain | {'id': i, 'content': token, 'special': True} for i, token in enumerate(control)]
  values = {
    'version': '1.0',
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': cut},
    'decoder': level | {'use_regex': True},
    'added_tokens': added,
    'model': {
      'type': 'BPE',
      'vocab': {name: i for i, name in enumerate(names)},
      'merges': [merge.split() for merge in _MERGES],
    },
  }
  (folder / 'tokenizer.json').write_text(json.dumps(values))
  config = ({'chat_template': template} if template else {}) | ({'bos_token': bos} if bos else {})
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  return folder


def engine_ids(folder: Path, messages, add_generation_prompt: bool = True) -> list[int]:
  """The ids of a conversation of (role, content), by jinja2 with the tokenizer's own template."""
  import tokenizers

  config = json.loads((folder / 'tokenizer_config.json').read_text())
  environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
  text = environment.from_string(config['chat_template']).render(
    messages=[{'role': role, 'content': content} for role, content in messages],
    add_generation_prompt=add_generation_prompt,
    bos_token=config.get('bos_token', ''),
  )
  model = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  return model.encode(text, add_special_tokens=False).ids
