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
# As Qwen2's.
QWEN_2 = SMOLLM2.replace(
  'You are a helpful AI assistant named SmolLM, trained by Hugging Face',
  'You are a helpful assistant.',
)
# As Qwen2.5's without tools: its own system message unless the conversation has one.
QWEN_2_5 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. ' }}
    {{- 'You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
# As Qwen3's without tools: no system message of its own, and an empty thought where thinking is
# off, which is taken out of all answers but the last.
QWEN_3 = """{%- set found = namespace(question=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set found.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.last and loop.index0 > found.question %}
            {{- '<think>\\n\\n</think>\\n\\n' }}
        {%- endif %}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
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
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_DIGITS = {'llama3': r'\p{N}{1,3}', 'qwen2': r'\p{N}'}
_THOUGHTS = ['<think>', '</think>']  # of Qwen3: tokens, but not special


def write(
  folder: Path, template: str | None, bos: str | None = None, cut: str = '', without: str = ''
) -> Path:
  """A tokenizer.json of byte-level BPE, and a tokenizer_config.json with `template`.

  Text is cut as `cut` does: `gpt2` (SmolLM2 too), `llama3` or `qwen2`; by default as Llama 3 where
  there is a `bos` token, else as GPT-2. The token `without` is left out.
  """
  tokenizers = pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  folder.mkdir(parents=True, exist_ok=True)
  cut = cut or ('gpt2' if bos is None else 'llama3')
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  control = [token for token in _CONTROL if token != without]
  names = [*control, *letters, *(merge.replace(' ', '') for merge in _MERGES)]
  thoughts = _THOUGHTS if cut == 'qwen2' else []
  plain = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False}
  added = [
    plain | {'id': i, 'content': token, 'special': token in control}
    for i, token in enumerate([*names, *thoughts])
    if token in control or token in thoughts
  ]
  values = {
    'version': '1.0',
    'normalizer': {'type': 'NFC'} if cut == 'qwen2' else None,
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': _cutters(cut)},
    'decoder': _LEVEL | {'use_regex': True},
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


_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True}


def _cutters(cut: str) -> list[dict]:
  if cut == 'gpt2':
    return [_LEVEL | {'use_regex': True}]
  pattern = {'Regex': _WORDS.replace('DIGITS', _DIGITS[cut])}
  split = {'type': 'Split', 'pattern': pattern, 'behavior': 'Isolated', 'invert': False}
  return [split, _LEVEL | {'use_regex': False}]


def engine_ids(folder: Path, messages, add_generation_prompt: bool = True) -> list[int]:
  """The ids of a conversation of (role, content), by jinja2 with the tokenizer's own template."""
  import tokenizers

  config = json.loads((folder / 'tokenizer_config.json').read_text())
  environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
  text = environment.from_string(config['chat_template']).render(
    messages=[{'role': role, 'content': content} for role, content in messages],
    add_generation_prompt=add_generation_prompt,
    bos_token=config.get('bos_token', ''),
    enable_thinking=False,
  )
  model = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  return model.encode(text, add_special_tokens=False).ids
