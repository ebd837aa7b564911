"""Talker: any chat LLM learns to hear and to speak, with Whisper tiny.en and a small unit vocoder.

  python -m launch.convert import --kind llm --source Qwen2.5-0.5B-Instruct --out models/qwen
  python -m launch.talker --llm models/qwen --out out/qwen

The second command does everything. By hand, the environment names the LLM and the share of the
corpus; STAGE is align, s2t, t2c, echo or vocoder:

  export ECHOX_LLM=models/qwen ECHOX_SHARE=0.25
  python -m launch.corpus     --recipe talker --llm models/qwen --share 0.25 --spoken_answers 5h
                              --spoken_sentences 8h --spoken_parts 8h --spoken_words 8h
                              --spoken_numbers 2h --test_questions 0.4 --data out/qwen/data
  python -m launch.precompute --config=configs/talker.py:align --workdir=out/qwen
  python -m launch.train      --config=configs/talker.py:STAGE --workdir=out/qwen

or, on several hosts, after the corpus and on each of them:

  python -m launch.job pipeline --config=configs/talker.py --workdir=gs://BUCKET/qwen
                                --stages=align,s2t,t2c,echo,vocoder

Sizes, chat template, special ids and system message are those of the LLM's folder, whether it is a
Llama, a Qwen2 or a Qwen3. The rest follows from it:

- The unit decoders see how tokens are spelled, each token as wide as what says it
  (`unit_decoder.text_table`, `.text_stride`): they shall say words that no recording has.
- The echo decoder reads that beside the LLM's states (`.text_fusion`), and so begins as T2C. From
  the states alone its denoising adapter would have to learn how every token is spelled.
- A slice that ends within a sentence is read with a full stop behind it
  (`unit_decoder.closing_ids`): T2C learns from whole sentences, and says more than the text of one
  that does not end.
- Of the ways to take what was said, the LLM chooses the one that it would rather read
  (`engine.hypotheses`): of 150 test questions, echox-135m misheard 13.5 % of the words without it
  and 9.9 % with it. It takes 0.2 s more of two CPU cores until the first sound.
- A spoken answer ends with its first paragraph (`engine.ending_ids`), for nobody listens to lists,
  and where it says the same again (`engine.text_loop_times`), as small LLMs do that take the
  likeliest token.
- The unit decoders are small (`UNIT_TRUNK`): per step they learn as fast as four layers of 576 do,
  and a step takes a third of the time. LLMs wider than 768 have the released `medium` decoder of
  `echox_8b.py` instead.
- Where the LLM ties its embeddings, they also score the words that the adapter hears
  (`adapter.tied_ctc`): they are made for that. How a word is written scores it, too
  (`.spelled_ctc`): most words of a vocabulary are rarer than the corpus is long. Where the LLM does
  not tie them, the adapter learns a table of its own.
- The LLM reads what the adapter hears as words (`adapter.output`), unsure ones as mixtures. So it
  answers a spoken question as the written one from the end of `align` on, and s2t has to teach it
  nothing but what to make of words that were misheard.
- A vocabulary in which every token means something gets one more id, for speech.
- `STEPS` are for the whole corpus. A share of it takes that share of the steps, so that everything
  is heard as often, and spoken as often; the warm-up is a twentieth of them.

In `align` the adapter learns to write with the words of the LLM, from the sentences of the corpus
and from its questions. Blanks are dropped: a clip keeps as many frames as it has tokens. A step
scores the labels that its clips say and a sample of the others (`train.loss.ctc_candidates`).

T2C and echo decoder choose among unit words alone (`train.loss.units_only`): the 1,000 of them are
a fiftieth of the ids of such an LLM. In `t2c` a head of each layer is told where in the text the
speech is (`train.loss.guide_weight`), and Muon takes the kernels (`train.optimizer.name`).

The speech encoder is frozen and small, so its states are computed once: 384 numbers of 2 bytes, 50
a second, are 138 MB an hour of speech. Units are those of EchoX-nano. The vocoder predicts the
pitch that units do not tell, and filters pulses of that pitch and noise (`vocoder.source_filter`).
Its duration predictor looks 26 units back, 0.8 s, and chooses among counts of frames.

Parts compute in bfloat16. On CPUs without fast bfloat16 products (AMX, AVX-512 BF16) float32 is
faster: --config.model.adapter.dtype=float32, and in s2t and echo --config.model.llm.dtype=float32
too; where memory is plenty, --config.model.llm.remat=none saves a third of the work. Batches are
for an LLM of 135 million parameters on two CPU cores, or a GPU or TPU chip of 16 GB; for a larger
one choose `train.batch_size`, `train.accumulate_steps` and `mesh`.
"""

import dataclasses
import os
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import echox_8b, echox_nano, full_size
from configs.paper import Source
from echox_jax import model_folder, storage, tensor_files, tokenizer
from echox_jax.config import EchoXConfig, LlamaConfig
from echox_jax.errors import ConfigError

# variables of the environment: the folder of the LLM, and the share of the corpus (default 1)
LLM, SHARE = 'ECHOX_LLM', 'ECHOX_SHARE'
# About what the whole recipe of `launch.corpus --recipe talker` makes, to train on and to test.
QUESTIONS = Source('questions', 29_819, 24.0)
SENTENCES = Source('alignment_questions', 121_000, 130.0)
ANSWER_HOURS = 20.0
# of sentences, parts of answers, lists of words, numbers that the answer voice says beside them
ALONE_HOURS = dict(sentences=8.0, parts=8.0, words=8.0, numbers=2.0)
TESTS = 1_250  # of the questions
SMALLEST = 0.01  # share of the corpus
STAGES = ('align', 's2t', 't2c', 'echo', 'vocoder')
HEARS = ('align', 's2t', 'echo')  # the others learn from the answer voice alone
# as many of each as there are
MIX = dict(full_size.OWN, align={'alignment_questions/train': 3, 'questions/train': 1})
TINY_EN = dict(num_mel_bins=80, hidden_size=384, intermediate_size=1536, num_layers=4, num_heads=6)
# of every stage that hears
CACHED_SETS = ('alignment_questions/train', 'questions/train', 'questions/test')
AUGMENT = dict(time_warp=0.2, noise=0.15, time_mask=0.1, feature_mask=0.1)  # as in nano
ROWS = dict(align=32, s2t=16, t2c=8, echo=16, vocoder=16)
# A line of the corpus has up to 24 words, about 60 tokens if all are rare; an answer has up to 64.
LABELS = 96
POSITIONS = dict(s2t=512, echo=256)  # of the LLM in a row: three dialogues or so, and one
SPEECH = dict(max_tokens=512, max_unit_words=448)  # of a row of t2c: up to 26 s of speech
WORDS_A_TOKEN = 5  # unit words: the answer voice says 4.6 (SmolLM2's tokens)
# Slices of ten tokens or so, three in four of which end at a sign of punctuation (32 answers of
# SmolLM2: before those its states score 0.21, before other tokens 0.13, and 0.19 is the 95th
# percentile). The small decoders say short slices better than long ones.
STREAMING = dict(
  threshold=0.2,
  look_ahead=2,
  peak_window=3,
  min_tokens=20,
  min_tokens_above_threshold=5,
  max_slice_tokens=32,
)
SLICE_WORDS = 192  # unit words of a slice
# Texts to learn from end with one of these. A slice that does not is read with the first behind it.
CLOSING_MARKS = '.?!'
BREAKS = ('\n', '\n\n')
# Answers have up to three sentences. A slice that says more unit words a token runs away, one that
# says fewer left something out. A first slice of eight tokens comes sooner and is said as well: of
# 36 answers, 1,429 words, Whisper base heard 40.4 % wrong with it and 40.2 % without. What was
# heard scores for each label (`least_surety`): -5.3 and less where it is noise or a tone, -4.5 and
# less where it is speech backwards, -4.4 and more in 66 of 68 questions; both others were misheard.
ENGINE = dict(
  prompt_step=16,  # ids around what is said
  max_new_tokens=128,
  text_loop_times=2,
  first_slice_tokens=8,
  max_unit_words=SLICE_WORDS,
  max_frames=768,
  max_prompt_tokens=512,
  max_context=1024,
  words_per_token=12,
  least_words_per_token=1.0,
  hypotheses=8,
  hypothesis_nodes=48,
  lm_weight=0.5,
  label_bonus=2.0,
  least_surety=-4.5,
  unheard='I am sorry, I did not hear a question. Could you say it again?',
)
ADAPTER = dict(num_layers=2, drop_blank=True, output='words')
UNIT_TRUNK = dict(
  hidden_size=256, intermediate_size=768, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=64
)
# A filter has 161 bins, and there are 200 of them a second: pulses carry what is faster. With 65
# bins at 500 a second, as nano has, losses were higher after as many steps, which took longer.
VOCODER = dict(
  echox_nano.model()['vocoder'],
  upsample_rates=(4,),
  upsample_kernel_sizes=(8,),
  istft_n_fft=320,
  istft_hop=80,
  source_filter=True,
  duration=dict(hidden_size=192, kernel_size=5, dropout=0.1, dilations=(1, 2, 4)),
)
CANDIDATES = 4096  # CTC labels that a step of align chooses among
STEPS = dict(align=10000, s2t=3000, t2c=3800, echo=1000, vocoder=12000)
RATES = dict(align=1e-3, s2t=5e-4, t2c=4e-3, echo=2e-4, vocoder=5e-4)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage, for the LLM and the share that the environment names.

  Raises:
    ConfigError: as `chat_llm`, or the share is no number from 0.01 to 1.
  """
  folder = os.environ.get(LLM, '').rstrip('/')
  if not folder:
    raise ConfigError(
      f'configs/talker.py trains the LLM that the environment variable {LLM} names: set it to a '
      'folder that `python -m launch.convert import --kind llm` wrote.'
    )
  model = chat_llm(folder)
  config = recipe(stage, model, folder, marks(folder), share())
  config.tokenizer.model = str(tokenizer.find_tokenizer(folder))
  return config


def chat_llm(folder: str) -> EchoXConfig:
  """The config of an imported language model.

  Raises:
    ConfigError: there is none in the folder, or it is not complete; the sentence says how to import
      one.
  """
  how = f'python -m launch.convert import --kind llm --source {folder} --out DIR'
  if model_folder.config_has(folder, 'model_type'):
    raise ConfigError(f'{folder} is a model as others save it: import it with `{how}`, name DIR.')
  if not model_folder.is_model(folder):
    raise ConfigError(
      f'{folder} holds no imported chat model: import one with `python -m launch.convert import '
      '--kind llm --source FOLDER --out DIR`, or `--kind llm-gguf` for a GGUF file, and name DIR.'
    )
  weights = storage.path(folder) / model_folder.WEIGHTS
  if not storage.is_file(weights):
    raise ConfigError(
      f'{folder} has no {model_folder.WEIGHTS}: import the LLM without --format orbax.'
    )
  parts = {name.split('/')[0] for name in tensor_files.open_tensors(weights).shapes}
  if 'llm' not in parts:
    raise ConfigError(
      f'{folder} holds {", ".join(sorted(parts))} and no language model: name one that '
      '`python -m launch.convert import --kind llm` wrote.'
    )
  if tokenizer.find_tokenizer(folder) is None:
    raise ConfigError(f'{folder} has no tokenizer: import the LLM from a folder that holds it.')
  return model_folder.read_config(folder)


class Marks(NamedTuple):
  """Ids of an LLM: `closing`, with which a text may end, the full stop first, and `breaks`, those
  of a line and of a paragraph.
  """

  closing: tuple[int, ...]
  breaks: tuple[int, ...]


def marks(folder: str) -> Marks:
  """The marks of an imported language model."""
  encode = tokenizer.load_tokenizer(folder).encode
  closing, breaks = (tuple(encode(mark)[-1] for mark in own) for own in (CLOSING_MARKS, BREAKS))
  return Marks(closing, tuple(dict.fromkeys(breaks)))


def share() -> float:
  """The share of the corpus that the environment names.

  Raises:
    ConfigError: it is no number from 0.01 to 1.
  """
  given = os.environ.get(SHARE, '1')
  try:
    value = float(given)
  except ValueError:
    value = 0.0
  if not SMALLEST <= value <= 1:
    raise ConfigError(f'{SHARE} is {given!r}: set it to a share of the corpus, {SMALLEST:g} to 1.')
  return value


def recipe(
  stage: str, model: EchoXConfig, folder: str, marks: Marks, share: float = 1.0
) -> ConfigDict:
  """The job of one stage.

  Args:
    stage: one of `STAGES`.
    model: of the LLM: its sizes, profile, special ids and system message.
    folder: of the LLM, imported, with its tokenizer.json.
    marks: of the LLM.
    share: of the corpus, which is that of the steps.
  """
  parts = full_size.model(
    _sizes(model),
    unit_trunk(model.llm),
    TINY_EN,
    units=echox_nano.model()['units'],
    vocoder=VOCODER,
    special_ids=dataclasses.asdict(model.special_ids),
    profile=model.profile,
    system_message=model.system_message,
  )
  parts['unit_decoder'] |= dict(
    text_table='spelling', text_stride=WORDS_A_TOKEN, text_fusion=True, closing_ids=marks.closing
  )
  parts['streaming'] = STREAMING
  # as many slots as a clip may have tokens
  ties = model.llm.tie_embeddings
  parts['adapter'] |= ADAPTER | dict(tied_ctc=ties, spelled_ctc=ties, shrink_budget=LABELS)
  pretrained = dict(kmeans=str(echox_nano.PRETRAINED / 'kmeans.safetensors'))
  config = full_size.job(stage, parts, ROWS, folder, pretrained, MIX)
  part = share if stage in HEARS else spoken(share).hours / spoken(1.0).hours
  steps = max(1, round(STEPS[stage] * part))
  config.engine.update(ENGINE, ending_ids=marks.breaks)
  config.train.discriminators.update(echox_nano.DISCRIMINATORS)
  config.train.steps = steps
  config.train.optimizer.update(dict(learning_rate=RATES[stage], warmup_steps=steps // 20))
  config.precompute.state_sets = CACHED_SETS
  if stage in HEARS:
    config.data.update(dict(cached_states=True, workers=0))
    config.data.augment.update(AUGMENT)
    config.data.max_ctc_labels = LABELS
  if stage in POSITIONS:
    config.data.max_tokens = POSITIONS[stage] - LABELS + 1
  if stage in ('t2c', 'echo'):
    config.train.loss.units_only = True
  if stage == 't2c':
    config.data.update(SPEECH)
    config.train.loss.guide_weight = 0.3
    config.train.optimizer.name = 'muon'
  if stage == 'echo':
    config.data.max_unit_words = SLICE_WORDS
    # The LLM answers as after s2t: nothing but what speaks is trained.
    config.train.only = ('echo/.*', 'denoising_adapter/.*')
    config.train.loss.s2t_weight = 0.0
  if stage == 'align' and model.llm.vocab_size > 2 * CANDIDATES:
    config.train.loss.ctc_candidates = CANDIDATES
  if stage == 'vocoder':
    config.data.segment_frames = 50
    config.train.loss.vocoder.update(echox_nano.get_config(stage).train.loss.vocoder)
    config.train.loss.adversarial_start = steps // 20
    config.train.optimizer.clip_norm = 5.0
  return config


def alone_hours(share: float) -> dict[str, float]:
  """Hours of each kind that the answer voice says beside the answers.

  A quarter of the corpus has all of them: to learn to speak takes as long for few answers as for
  many. A text-to-codec model with ten hours in all said other texts with a cross-entropy of 1.90,
  and of its own with 1.69; with 25 hours, 1.53 and 1.46.
  """
  return {kind: hours * min(1.0, 4 * share) for kind, hours in ALONE_HOURS.items()}


def spoken(share: float) -> Source:
  """About what the answer voice says in a share of the corpus."""
  hours = ANSWER_HOURS * share + sum(alone_hours(share).values())
  return Source('answers', round(hours * 1100), hours)  # 3.3 s each


def unit_trunk(llm: LlamaConfig) -> dict[str, int]:
  """Layers, widths and heads of T2C and echo decoder."""
  if llm.hidden_size > echox_8b.UNIT_TRUNK['hidden_size']:
    return echox_8b.UNIT_TRUNK
  return UNIT_TRUNK


def _sizes(model: EchoXConfig) -> dict:
  """Fields of the LLM, with a row for each special id."""
  rows = 1 + max(model.special_ids.all())
  return dataclasses.asdict(model.llm) | {'vocab_size': max(model.llm.vocab_size, rows)}
