"""Everything that is computed once before training: tokenizer, k-means, units, unit language, unit words, encoder states.

`run` writes under `WORKDIR/precomputed`: tokenizer.model (or a tokenizer.json), kmeans.safetensors, unit_language.json, the data sets with their
columns filled in, and precompute.json, which says what each step was made from and what was measured. A step whose inputs
have not changed is skipped, so a run that was stopped goes on where it was.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
from pathlib import Path
import shutil
from typing import Any

from data_pipeline import dataset, parts, schema, selection
from data_pipeline.journal import Journal, file_fingerprint, fingerprint
from echox_jax import config as config_lib
from echox_jax import errors, files, tokenizer
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import extract, kmeans, unit_language
from echox_jax.units.extract import SpeechEncoder
from echox_jax.units.unit_language import UnitLanguage
import numpy as np
from tqdm import tqdm

KMEANS, LANGUAGE, JOURNAL, PARTS = 'kmeans.safetensors', 'unit_language.json', 'precompute.json', 'parts'
LANGUAGES = ('ngram', 'bpe', 'plain')  # compared in the report
_ASSIGNED = 65536  # states that get their units at a time


@dataclasses.dataclass(frozen=True)
class Encoders:
  """How the two frozen encoders are loaded: the one that units come from, and the one that the LLM hears through."""
  units: Callable[[], SpeechEncoder]
  speech: Callable[[], SpeechEncoder]


def run(experiment: ExperimentConfig, workdir: str | Path, encoders: Encoders | None = None, *,
        progress: bool = True) -> dict[str, Any]:
  """Does all steps of `experiment.precompute` that are not finished.

  Args:
    experiment: the job; its stage does not matter.
    workdir: working folder; the raw data sets are in `experiment.data_dir`, or in `data` there.
    encoders: in place of the pretrained ones.
    progress: whether to show bars with the time left.

  Returns:
    The report: `clips` and `seconds` of speech of each set, `units_per_second` (reduced units), `unit_words_per_second` of
    speech, `compression` of each kind of unit language (`vocab_size`, reduced `units_per_word` on what it was fitted on, and
    `units_per_word_held_out` on the other unit sets), `tokenizer_vocab_size`, `step_seconds`, `ran` (the steps done now).

  Raises:
    EchoXError: missing raw data, sizes that do not fit each other, missing weights.
  """
  check_sizes(experiment)
  job = _Job(experiment, Path(workdir), encoders or pretrained_encoders(experiment), progress)
  job.tokenizer()
  job.units()
  job.language()
  job.datasets()
  shutil.rmtree(job.folder / PARTS / 'states', ignore_errors=True)
  return job.report()


def check_sizes(experiment: ExperimentConfig) -> None:
  """Whether the sizes of the config fit each other.

  Raises:
    ConfigError: they do not, or nothing is to be computed.
  """
  model, jobs = experiment.model, experiment.precompute
  words = model.units.num_units if model.units.language == 'plain' else model.units.vocab_size
  if words > model.unit_decoder.unit_vocab_size:
    raise errors.ConfigError(
        f'the unit language has up to {words} words, more than the {model.unit_decoder.unit_vocab_size} of the '
        'unit decoder: raise model.unit_decoder.unit_vocab_size or lower model.units.vocab_size.')
  if model.units.num_units > model.vocoder.num_units:
    raise errors.ConfigError(f'model.units.num_units is {model.units.num_units}, but the vocoder knows {model.vocoder.num_units} '
                             'units: make model.vocoder.num_units the same.')
  if not jobs.unit_sets and not jobs.state_sets:
    raise errors.ConfigError('precompute has nothing to do: name data sets in precompute.unit_sets or precompute.state_sets.')
  if jobs.state_sets and model.pad_audio_to_30_s:
    raise errors.ConfigError('states of audio padded to 30 s are not cached: set precompute.state_sets to () and data.cached_states to False.')
  fitted_on = (*(() if jobs.kmeans else jobs.kmeans_sets), *jobs.language_sets)
  stray = [name for name in fitted_on if name not in jobs.unit_sets]
  if jobs.unit_sets and (stray or not jobs.language_sets or not (jobs.kmeans or jobs.kmeans_sets)):
    raise errors.ConfigError(f'k-means and unit language are fitted on sets that get units, not on {", ".join(stray) or "none"}: '
                             'name sets of precompute.unit_sets in precompute.kmeans_sets and precompute.language_sets.')


def pretrained_encoders(experiment: ExperimentConfig) -> Encoders:
  """The encoders that the config names; weights are read when first needed."""
  model = experiment.model

  def whisper(layer: int, padding_seconds: float) -> SpeechEncoder:
    from echox_jax.conversion import whisper_ct2

    cfg, params = whisper_ct2.load_packaged_whisper(experiment.speech_encoder, model.whisper.dtype)
    if dataclasses.replace(cfg, attention=model.whisper.attention) != model.whisper:
      raise errors.ConfigError(f'model.whisper has not the sizes of {experiment.speech_encoder!r}: make them those of {cfg}.')
    return extract.speech_encoder(dataclasses.replace(model.units, encoder='whisper', layer=layer, padding_seconds=padding_seconds), model.whisper, params)

  def units() -> SpeechEncoder:
    if model.units.encoder != 'hubert':
      return whisper(model.units.layer, model.units.padding_seconds)
    return extract.speech_encoder(model.units, *_load_hubert(experiment.precompute.hubert))

  return Encoders(units, speech=lambda: whisper(model.whisper.num_layers, model.audio_padding_seconds))


def _load_hubert(folder: str):
  """Config and parameters of a HuBERT, imported or as transformers wrote it."""
  from echox_jax.conversion import importers

  if not folder:
    raise errors.ConfigError('there is no HuBERT in precompute.hubert, which is empty: name a folder with config.json and safetensors.')
  return importers.load_group('hubert', Path(folder))


class _Job:
  """One run: what each step is made from, and the steps in order."""

  def __init__(self, experiment: ExperimentConfig, workdir: Path, encoders: Encoders, progress: bool):
    self.experiment, self.jobs, self.cfg = experiment, experiment.precompute, experiment.model.units
    self.encoders, self.progress = encoders, progress
    self.raw, self.folder = selection.raw_dir(experiment, workdir), selection.precomputed_dir(workdir)
    self.sets = tuple(dict.fromkeys((*self.jobs.unit_sets, *self.jobs.state_sets)))
    self.sources = {name: dataset.open_dataset(self.raw, *selection.split_name(name)) for name in self.sets}
    self.journal = Journal(self.folder / JOURNAL)
    self.ran: list[str] = []
    self._loaded: dict[str, SpeechEncoder] = {}

  # What the steps are made from.

  def raw_inputs(self, name: str) -> str:
    """Of one raw data set and split."""
    folder, split = selection.split_name(name)
    note = self.raw / f'{folder}.json'
    return fingerprint(split, file_fingerprint(self.raw / folder / 'dataset_info.json'), file_fingerprint(note) if note.exists() else '')

  def states_inputs(self, name: str, role: str) -> str:
    model = self.experiment.model
    made_by = ((self.cfg.encoder, self.cfg.layer, self.cfg.padding_seconds, self.jobs.hubert) if role == 'assistant'
               else (model.audio_padding_seconds,))
    return fingerprint(self.raw_inputs(name), self.experiment.speech_encoder, config_lib.to_dict(model.whisper), *made_by)

  def kmeans_inputs(self) -> str:
    if self.jobs.kmeans:
      return fingerprint(file_fingerprint(self.jobs.kmeans))
    return fingerprint([self.states_inputs(name, 'assistant') for name in self.jobs.kmeans_sets], self.cfg.num_units,
                       self.cfg.kmeans_iterations, self.cfg.seed)

  def units_inputs(self, name: str) -> str:
    return fingerprint(self.states_inputs(name, 'assistant'), self.kmeans_inputs())

  def language_inputs(self) -> str:
    return fingerprint([self.units_inputs(name) for name in self.jobs.language_sets], config_lib.to_dict(self.cfg))

  def dataset_inputs(self, names: Iterable[str]) -> str:
    spoken = lambda name: [self.units_inputs(name), self.language_inputs()] if name in self.jobs.unit_sets else []
    heard = lambda name: [self.states_inputs(name, 'user')] if name in self.jobs.state_sets else []
    return fingerprint([(name, self.raw_inputs(name), spoken(name), heard(name)) for name in names])

  # Where they lie.

  def part(self, kind: str, name: str) -> Path:
    return self.folder / PARTS / kind / name.replace('/', '-')

  # The steps.

  def do(self, step: str, inputs: str, outputs: Iterable[Path], work: Callable[[], Any]) -> None:
    if self.journal.run(step, inputs, outputs, work):
      self.ran.append(step)

  def tokenizer(self) -> None:
    """Copies the tokenizer, or trains it on the texts of the training splits."""
    own = self.experiment.tokenizer
    target = self.folder / tokenizer.file_name(own.model)
    learn_from = [name for name in self.sets if selection.split_name(name)[1] == 'train']
    inputs = (fingerprint(file_fingerprint(own.model)) if own.model
              else fingerprint(own.vocab_size, [self.raw_inputs(name) for name in learn_from]))

    def work():
      (self.folder / tokenizer.BPE_FILE).unlink(missing_ok=True)  # of an earlier config: it would go first
      if own.model:
        files.atomic_write_bytes(target, Path(own.model).read_bytes())
        return
      texts = dict.fromkeys(turn['text'] for name in learn_from for record in _records(self.sources[name])
                            for turn in schema.text_turns(record) if turn['text'])
      tokenizer.train_tokenizer(texts, target, own.vocab_size)

    self.do('tokenizer', inputs, [target], work)
    size, limit = tokenizer.precomputed_tokenizer(self.folder).vocab_size, self.experiment.model.llm.vocab_size
    if size > limit:
      raise errors.ConfigError(f'the tokenizer has {size} ids, the LLM only {limit}: raise model.llm.vocab_size or lower tokenizer.vocab_size.')

  def states(self, name: str, role: str) -> Path:
    """Encoder states of the clips of `role`, made now unless they are there."""
    folder = self.part('states', f'{name}-{role}')

    def work():
      count, samples = parts.count_clips(self.sources[name], role)
      if not count:
        raise errors.DataError(f'the data set {name!r} has no audio of role {role!r}: take it out of precompute or record some.')
      encoder = self.encoder('units' if role == 'assistant' else 'speech')
      clips = parts.read_clips(self.sources[name], role)
      encoded = extract.encode_clips(encoder, clips, self.jobs.batch_size)
      seconds = samples / schema.SAMPLE_RATE
      with self.bar(f'encoding {name} ({seconds / 60:.1f} min of speech)', count, 'clip') as bar:
        parts.write_part(folder, _watched((s.layer if role == 'assistant' else s.final for s in encoded), bar), np.float16)
      self.journal.content['report'].setdefault('sets', {})[name] = {'clips': count, 'seconds': round(seconds, 1)}

    self.do(f'states:{name}:{role}', self.states_inputs(name, role), [folder], work)
    return folder

  def kmeans(self) -> np.ndarray:
    """Centroids float32[K,D]: the given ones, or fitted."""
    target, inputs = self.folder / KMEANS, self.kmeans_inputs()
    fit = not self.jobs.kmeans and not self.journal.finished('kmeans', inputs, [target])
    folders = [self.states(name, 'assistant') for name in self.jobs.kmeans_sets] if fit else []

    def work():
      if not fit:
        kmeans.save(target, kmeans.load(self.jobs.kmeans))
        return
      states = np.concatenate([parts.read_part(folder)[0] for folder in folders])
      if self.progress:
        print(f'fitting {self.cfg.num_units} units on {len(states)} states', flush=True)
      kmeans.save(target, kmeans.fit(states, self.cfg.num_units, self.cfg.kmeans_iterations, self.cfg.seed))

    self.do('kmeans', inputs, [target], work)
    centroids = kmeans.load(target)
    if len(centroids) != self.cfg.num_units:
      raise errors.ConfigError(f'{self.jobs.kmeans or target} has {len(centroids)} units, the config {self.cfg.num_units}: '
                               'make model.units.num_units the same.')
    return centroids

  def units(self) -> None:
    """The unit of every state of every unit set."""
    for name in self.jobs.unit_sets:
      folder, inputs = self.part('units', name), self.units_inputs(name)
      if self.journal.finished(f'units:{name}', inputs, [folder]):
        continue
      centroids, states = self.kmeans(), self.states(name, 'assistant')

      def work():
        values, lengths = parts.read_part(states)
        if values.shape[1] != centroids.shape[1]:
          raise errors.ConfigError(f'the k-means is for states of width {centroids.shape[1]}, the encoder gives {values.shape[1]}: '
                                   'use the encoder and layer it was fitted on, or fit another (precompute.kmeans empty).')
        units = np.concatenate([np.asarray(kmeans.assign(values[i:i + _ASSIGNED].astype(np.float32), centroids))
                                for i in range(0, len(values), _ASSIGNED)])
        parts.write_part(folder, np.split(units, np.cumsum(lengths)[:-1]), np.int32)

      self.do(f'units:{name}', inputs, [folder], work)

  def reduced(self, names: Iterable[str]) -> list[np.ndarray]:
    return [kmeans.reduce_units(units)[0] for name in names for units in parts.iterate_part(self.part('units', name))]

  def language(self) -> None:
    """Fits the unit language of the config, and measures what each kind would compress."""
    if not self.jobs.unit_sets:
      return
    target = self.folder / LANGUAGE

    def work():
      fitted_on = self.reduced(self.jobs.language_sets)
      others = self.reduced(name for name in self.jobs.unit_sets if name not in self.jobs.language_sets)
      compression = {}
      for kind in dict.fromkeys((*LANGUAGES, self.cfg.language)):
        language = unit_language.fit(fitted_on, dataclasses.replace(self.cfg, language=kind))
        compression[kind] = {'vocab_size': language.vocab_size, 'units_per_word': round(1 / language.compression(fitted_on), 3)}
        if others:
          compression[kind]['units_per_word_held_out'] = round(1 / language.compression(others), 3)
        if kind == self.cfg.language:
          language.save(target)
      self.journal.content['report']['compression'] = compression

    self.do('unit language', self.language_inputs(), [target], work)

  def datasets(self) -> None:
    """Writes the data sets with states, units and unit words."""
    for folder in dict.fromkeys(selection.split_name(name)[0] for name in self.sets):
      names = [name for name in self.sets if selection.split_name(name)[0] == folder]
      step, target, inputs = f'data set {folder}', self.folder / folder, self.dataset_inputs(names)
      if self.journal.finished(step, inputs, [target]):
        continue
      for name in names:
        if name in self.jobs.state_sets:
          self.states(name, 'user')

      def work():
        with self.bar(f'writing {folder}', sum(len(self.sources[name]) for name in names), 'example') as bar:
          dataset.write_dataset(self.folder, folder, {
              selection.split_name(name)[1]: _watched(self.filled(name), bar) for name in names})

      self.do(step, inputs, [target], work)

  def filled(self, name: str) -> Iterator[schema.Example]:
    """The examples of a raw set, with what was computed. Where states take its place, audio is dropped."""
    has_units, has_states = name in self.jobs.unit_sets, name in self.jobs.state_sets
    units = parts.iterate_part(self.part('units', name)) if has_units else iter(())
    states = parts.iterate_part(self.part('states', f'{name}-user')) if has_states else iter(())
    language = UnitLanguage.load(self.folder / LANGUAGE) if has_units else None
    for record in _records(self.sources[name]):
      example = schema.decode(record)
      turns = []
      for turn in example.turns:
        if has_units and turn.role == 'assistant' and len(turn.audio):
          own = next(units)
          words = language.encode(kmeans.reduce_units(own)[0])
          turn = dataclasses.replace(turn, units=np.asarray(own), unit_words=np.asarray(words, np.int32))
        if has_states and turn.role == 'user' and len(turn.audio):
          turn = dataclasses.replace(turn, states=np.asarray(next(states)), audio=np.zeros(0, np.int16))
        turns.append(turn)
      yield schema.Example(example.id, tuple(turns))

  def report(self) -> dict[str, Any]:
    """Adds up what the steps measured, and keeps it in the journal."""
    report = self.journal.content['report']
    if self.jobs.unit_sets and (self.ran or 'units_per_second' not in report):
      language = UnitLanguage.load(self.folder / LANGUAGE)
      sequences = self.reduced(self.jobs.unit_sets)
      frames = sum(len(parts.read_part(self.part('units', name))[0]) for name in self.jobs.unit_sets)
      seconds = frames * selection.HOP / schema.SAMPLE_RATE
      report['units_per_second'] = round(sum(map(len, sequences)) / seconds, 2)
      report['unit_words_per_second'] = round(sum(len(language.encode(s)) for s in sequences) / seconds, 2)
    report['tokenizer_vocab_size'] = tokenizer.precomputed_tokenizer(self.folder).vocab_size
    self.journal.save()
    return {**report, 'step_seconds': {k: v['seconds'] for k, v in self.journal.content['steps'].items()}, 'ran': self.ran}

  # Helpers.

  def encoder(self, kind: str) -> SpeechEncoder:
    if kind not in self._loaded:
      self._loaded[kind] = getattr(self.encoders, kind)()
    return self._loaded[kind]

  def bar(self, title: str, total: int, unit: str) -> tqdm:
    return tqdm(total=total, desc=title, unit=unit, disable=not self.progress, mininterval=1.0)


def _records(source) -> Iterator[dict[str, Any]]:
  return (source[i] for i in range(len(source)))


def _watched(items: Iterable[Any], bar: tqdm) -> Iterator[Any]:
  for item in items:
    yield item
    bar.update()


def summary(report: dict[str, Any]) -> str:
  """The report in words."""
  lines = [f'{name}: {c["clips"]} clips, {c["seconds"] / 60:.1f} min of speech' for name, c in report.get('sets', {}).items()]
  if 'units_per_second' in report:
    lines.append(f'{report["units_per_second"]} reduced units and {report["unit_words_per_second"]} unit words a second of speech')
    lines += [f'unit language {name}: {c["units_per_word"]} reduced units a word' for name, c in report['compression'].items()]
  lines.append(f'{sum(report["step_seconds"].get(step, 0) for step in report["ran"]):.0f} s; '
               + (f'done: {", ".join(report["ran"])}' if report['ran'] else 'everything was there already'))
  return '\n'.join(lines)
