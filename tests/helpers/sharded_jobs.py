"""A tiny job of every stage, its steps on any mesh, and how far two runs are apart.

As a program it compares meshes of 8 virtual devices with one device, and prints JSON lines:
`python -m tests.helpers.sharded_jobs STAGE[:ECHO_TEXT] data=8 fsdp=4,tensor=2 ...`

Adam divides gradients by their own size, so that a gradient which is zero but for rounding moves a
parameter as much as any
other: no two orders of summation then give the same parameters. The jobs here take Adam's epsilon
as 1, far above their gradients, so that steps are proportional to them. Every other choice is that
of real training.
"""

from collections.abc import Iterator
import dataclasses
import json
import sys

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import rows
from echox_jax import prompts
from echox_jax.config import (
  AdapterConfig,
  DiscriminatorConfig,
  DurationPredictorConfig,
  EchoXConfig,
  LlamaConfig,
  LoraConfig,
  StreamingConfig,
  UnitDecoderConfig,
  VocoderConfig,
  WhisperConfig,
)
from echox_jax.models.convolution import Conv
from echox_jax.models.trees import flatten
from echox_jax.parallel import sharding
from echox_jax.prompts import IGNORE, NANO_IDS
from echox_jax.training import init_from, stages, state, step
from echox_jax.training.experiment import (
  DataConfig,
  ExperimentConfig,
  LossConfig,
  OptimizerConfig,
  TrainConfig,
  VocoderLossConfig,
)
from echox_jax.training.vocoder_losses import magnitude

ROWS, STEPS, VOCAB, UNITS = 8, 5, 65, 30  # an odd vocabulary, as Llama's with the AUDIO token is
SIZES = dict(
  hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
MODEL = EchoXConfig(
  special_ids=NANO_IDS,
  whisper=WhisperConfig(
    num_mel_bins=20,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    max_positions=64,
  ),
  adapter=AdapterConfig(num_heads=4, intermediate_size=64, dropout=0.1, shrink_budget=6),
  # the LLM has the parameters of every family, the unit decoder those of a Llama
  llm=LlamaConfig(
    vocab_size=VOCAB,
    lora=LoraConfig(rank=4, dropout=0.1),
    qkv_bias=True,
    qk_norm=True,
    **SIZES | {'head_dim': 12},
  ),
  unit_decoder=UnitDecoderConfig(
    unit_vocab_size=UNITS,
    trunk=LlamaConfig(**SIZES),
    text_stride=2,
    denoising_intermediate_size=48,
    denoising_dropout=0.1,
  ),
  vocoder=VocoderConfig(
    num_units=20,
    embedding_dim=16,
    model_in_dim=16,
    upsample_rates=(5, 4),
    upsample_kernel_sizes=(11, 8),
    upsample_initial_channel=32,
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
    context_dilations=(1,),
    istft_n_fft=64,
    istft_hop=16,
    duration=DurationPredictorConfig(hidden_size=16, dropout=0.1),
  ),
  streaming=StreamingConfig(
    look_ahead=1, peak_window=2, min_tokens=5, min_tokens_above_threshold=3, max_slice_tokens=8
  ),
)
DISCRIMINATORS = DiscriminatorConfig(
  periods=(2, 3),
  period_channels=(4, 8),
  num_scales=2,
  scale_channels=(4, 8),
  scale_kernel_sizes=(15, 41),
  scale_strides=(1, 4),
  scale_groups=(1, 4),
)


def experiment(stage: str, dropout: bool = True, **train) -> ExperimentConfig:
  """The job of a stage: s2t hears waveforms, in packed rows, align and echo cached states. In align
  the LLM scores the CTC labels, some of its vocabulary in each step; in s2t it reads words.
  """
  model = MODEL
  if stage == 'align':
    own = dataclasses.replace(model.adapter, drop_blank=True, tied_ctc=True, spelled_ctc=True)
    spelled = dataclasses.replace(model.unit_decoder, text_table='spelling')
    model = dataclasses.replace(model, adapter=own, unit_decoder=spelled)
  if stage == 's2t':
    own = dataclasses.replace(model.adapter, drop_blank=True, output='words')
    model = dataclasses.replace(model, adapter=own)
  if not dropout:
    model = dataclasses.replace(
      model,
      adapter=dataclasses.replace(model.adapter, dropout=0.0),
      llm=dataclasses.replace(model.llm, lora=LoraConfig(rank=4)),
      unit_decoder=dataclasses.replace(model.unit_decoder, denoising_dropout=0.0),
    )
  optimizer = OptimizerConfig(learning_rate=0.5, warmup_steps=2, weight_decay=0.01, eps=1.0)
  # Gradients of logarithmic spectra magnify rounding a thousandfold, and one sign of an absolute
  # difference that rounding turns moves a bias by 2e-5: these losses are compared, but not trained
  # on.
  vocoder = VocoderLossConfig(
    mel=0.0, mel_windows=(256,), stft=0.0, stft_windows=(128,), feature_matching=0.0
  )
  losses = LossConfig(
    max_new_tokens=16,
    max_slices=3,
    slices_per_batch=24,
    chunk_tokens=0 if stage == 't2c' else 32,
    ctc_candidates=40 if stage == 'align' else 0,
    units_only=stage == 'echo',
    guide_weight=0.5 if stage == 't2c' else 0.0,
    vocoder=vocoder,
  )
  fixed = dict(
    steps=STEPS, batch_size=ROWS, optimizer=optimizer, loss=losses, discriminators=DISCRIMINATORS
  )
  train = TrainConfig(**fixed | train)
  return ExperimentConfig(
    stage=stage,
    model=model,
    train=train,
    data=DataConfig(cached_states=stage != 's2t', max_unit_words=6),
  )


def batch(stage: str, number: int) -> dict[str, np.ndarray]:
  """The batch of a step: random rows of unequal lengths; in s2t two dialogues a row."""
  rng = np.random.default_rng(number)
  if stage == 'vocoder':
    units = np.repeat(rng.integers(0, 20, (ROWS, 6)), 2, axis=1).astype(np.int32)
    return {
      'units': units,
      'audio': (0.1 * rng.normal(size=(ROWS, 12 * 320))).astype(np.float32),
      'real_frames': rng.integers(8, 13, ROWS).astype(np.int32),
      'reduced_units': units[:, ::2],
      'durations': rng.integers(1, 4, (ROWS, 6)).astype(np.int32),
    }
  count = 2 * ROWS if stage == 's2t' else ROWS
  lengths = rng.integers(6, 13, count)
  inside = np.arange(12) < lengths[:, None]
  ids = np.where(inside, rng.integers(16, VOCAB, (count, 12)), NANO_IDS.pad)
  answer = inside & (np.arange(12) >= 4)
  if stage == 't2c':
    return _sayings(rng)
  out = {
    'input_ids': ids.astype(np.int32),
    'labels': np.where(answer, ids, IGNORE).astype(np.int32),
  }
  if stage in ('align', 's2t', 'echo'):
    out['input_ids'][:, 1] = NANO_IDS.audio
    out['ctc_labels'] = np.where(
      np.arange(3) < rng.integers(1, 4, (count, 1)), rng.integers(16, VOCAB, (count, 3)), IGNORE
    ).astype(np.int32)
  if stage == 's2t':
    out |= {
      'audio': rng.normal(size=(count, 4800)).astype(np.float32),
      'audio_lengths': rng.integers(2400, 4801, count).astype(np.int32),
    }
    example = lambda i: {name: out[name][i, : lengths[i]] for name in ('input_ids', 'labels')}
    texts = rows.stack(
      [rows.pack([example(2 * i), example(2 * i + 1)], 24, NANO_IDS.pad) for i in range(ROWS)]
    )
    return texts | {
      name: out[name].reshape(ROWS, 2, *out[name].shape[1:])
      for name in ('ctc_labels', 'audio', 'audio_lengths')
    }
  if stage in ('align', 'echo'):
    out |= {
      'states': rng.normal(size=(count, 20, 32)).astype(np.float32),
      'state_lengths': rng.integers(10, 21, count).astype(np.int32),
    }
  if stage == 'align':
    del out['input_ids'], out['labels']
  return out


def _sayings(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Rows of t2c: random text and unit words."""
  made = []
  for _ in range(ROWS):
    text = rng.integers(16, VOCAB, rng.integers(2, 7)).tolist()
    words = rng.integers(0, UNITS, rng.integers(3, 7)).tolist()
    made.append(
      prompts.text_to_codec_row(NANO_IDS, prompts.get_profile(MODEL.profile), text, words, VOCAB)
    )
  room = max(len(ids) for ids, _ in made)

  def padded(values, fill):
    return np.array([[*row, *[fill] * (room - len(row))] for row in values], np.int32)

  ids, labels = zip(*made)
  return {'input_ids': padded(ids, NANO_IDS.pad), 'labels': padded(labels, IGNORE)}


def run(
  job: ExperimentConfig, mesh: jax.sharding.Mesh, steps: int = STEPS
) -> tuple[list[dict], state.TrainState]:
  """(metrics of each step, state after them), from fresh parameters."""
  stage, values = stages.get_stage(job.stage), []
  with (
    jax.set_mesh(mesh),
    nn.logical_axis_rules(sharding.RULES),
    jax.default_matmul_precision('highest'),
  ):
    current = state.create_state(
      stage, job, mesh, [fresh(job, stage)] if job.stage in ('align', 's2t', 'echo') else None
    )
    train_step = step.make_train_step(stage, job, mesh)
    for number in range(steps):
      function = train_step.functions[train_step.variant(number)]
      current, metrics = train_step(
        function, current, step.put_batch(batch(job.stage, number), mesh)
      )
      values.append(jax.device_get(metrics))
  return values, current


def fresh(job: ExperimentConfig, stage: stages.Stage) -> init_from.ParamSource:
  """Fresh parameters as a source: s2t would take a pretrained encoder, and a fresh T2C says one
  word for ever. The norms and biases of the LLM are away from 1 and 0.
  """
  made = jax.jit(lambda key: sharding.unbox(state.init_params(key, job, stage.groups_for(job))))(
    jax.random.key(0)
  )
  flat, rng = flatten(jax.tree.map(np.array, made)), np.random.default_rng(0)
  for path, leaf in flat.items():
    if path.startswith('llm/') and path.endswith(('scale', 'bias')):
      flat[path] = leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32)
  if 't2c' in made:
    flat |= {
      path: leaf * 20
      for path, leaf in flat.items()
      if path.startswith('t2c/') and not path.endswith(('scale', 'bias'))
    }
    flat['t2c/lm_head/embedding'][NANO_IDS.eot] *= 2
  read = lambda specs: {
    path: jax.device_put(flat[path].astype(spec.dtype), spec.sharding)
    for path, spec in specs.items()
  }
  return init_from.ParamSource('fresh', {path: leaf.shape for path, leaf in flat.items()}, read)


def one_device() -> jax.sharding.Mesh:
  """The mesh of the reference."""
  return sharding.make_mesh({}, devices=jax.devices()[:1])


def loss_distance(ours: list[dict], theirs: list[dict]) -> float:
  """The largest relative difference of a loss part (or gradient norm, or count)."""
  relative = lambda a, b: abs(float(a) - float(b)) / max(abs(float(b)), 1e-6)
  return max(relative(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in b)


def parameter_distance(ours, theirs) -> tuple[float, str]:
  """The largest difference of a trained parameter, relative to the largest element of its array,
  and which array it is.

  Without rotary positions the bias of keys cancels in the softmax: its gradient is rounding alone,
  and it is measured as if its largest element were 1e-3.
  """
  ours, theirs = (flatten(jax.device_get(x.trainable)) for x in (ours, theirs))

  def size(path):
    cancels = path.endswith('k_proj/bias') and '/trunk/' not in path
    return 1e-3 if cancels else np.max(np.abs(theirs[path]))

  return max(
    (float(np.max(np.abs(ours[path] - theirs[path])) / size(path)), path) for path in theirs
  )


def moved(current: state.TrainState, start: state.TrainState) -> float:
  """The median movement of the trained parameters, relative to their largest elements: shows that
  something was compared.
  """
  ours, theirs = (flatten(jax.device_get(x.trainable)) for x in (current, start))
  return float(
    np.median(
      [np.max(np.abs(ours[path] - theirs[path])) / np.max(np.abs(ours[path])) for path in theirs]
    )
  )


def rows_distance() -> float:
  """The largest relative difference that eight devices make to what `sharding.by_rows` splits:
  values and gradients.
  """
  rng = np.random.default_rng(0)
  conv, x = Conv(8, 41, 4, groups=4), rng.normal(size=(ROWS, 48, 4)).astype(np.float32)
  wave = rng.normal(size=(ROWS, 800)).astype(np.float32)
  params = sharding.unbox(conv.init(jax.random.key(0), x))
  weigh = lambda y: jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape)))
  functions = [
    (lambda p, x: weigh(conv.apply(p, x)), (params, x)),
    (lambda wave: weigh(magnitude(wave, 256)), (wave,)),
  ]
  worst = 0.0
  for function, arguments in functions:
    compute = jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(arguments)))))
    expected = jax.device_get(compute(*arguments))
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    arguments = (*arguments[:-1], jax.device_put(arguments[-1], sharding.batch_sharding(mesh)))
    with jax.set_mesh(mesh):
      found = jax.device_get(compute(*arguments))
      pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
      worst = max(worst, *(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs))
  return worst


def compare(job: ExperimentConfig, meshes: list[str]) -> Iterator[dict]:
  """One row for the run on one device, then one for each mesh."""
  expected, reference = run(job, one_device())
  yield {
    'moved': moved(reference, run(job, one_device(), 0)[1]),
    'metrics': {k: float(v) for k, v in expected[0].items()},
  }
  for name in meshes:
    values, current = run(
      job,
      sharding.make_mesh(
        {axis: int(size) for axis, size in (pair.split('=') for pair in name.split(','))}
      ),
    )
    distance, path = parameter_distance(current, reference)
    whole = [
      p
      for p, x in flatten(current.params()).items()
      if x.sharding.is_fully_replicated and x.size > 1000
    ]
    yield {
      'mesh': name,
      'losses': loss_distance(values, expected),
      'parameters': distance,
      'worst': path,
      'whole': whole,
    }


def main(stage: str, meshes: list[str]) -> None:
  jax.config.update('jax_num_cpu_devices', 8)
  if stage == 'rows':
    print(rows_distance())
    return
  stage, _, echo_text = stage.partition(':')
  job = experiment(stage)
  if echo_text:
    job = dataclasses.replace(
      job,
      train=dataclasses.replace(
        job.train, loss=dataclasses.replace(job.train.loss, echo_text=echo_text)
      ),
    )
  for row in compare(job, meshes):
    print(json.dumps(row), flush=True)


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2:])
