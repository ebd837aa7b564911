"""The plan on paper against sums done by hand, and where it takes its rates from."""

import dataclasses
import json

import pytest

from configs import paper
from echox_jax import errors
from launch import plan, plan_lines, plan_rates
from launch.plan_rates import Figure

BIG = ('--config=configs/echox_8b.py', '--chip=v5e', '--chips=16')
NANO = ('--config=configs/echox_nano.py', '--chip=v5e', '--chips=1', '--mfu=0.5')


def planned(*argv):
  return plan.make(*plan.parse(argv))


def lines(made):
  return {line['step']: line for line in made['steps']}


@pytest.fixture(scope='module')
def big():
  return planned(*BIG, '--mfu=0.4', '--price_per_chip_hour=2', '--price_per_gb_month=0.02')


def test_the_sets_of_the_paper_are_its_hours_and_items():
  assert plan_lines.hours_of(paper.SOURCES) == 6_194
  assert sum(source.items for source in paper.SOURCES) == 1_500_184


def test_every_step_is_there_in_order(big):
  assert list(lines(big)) == [
    'corpus',
    'units',
    'unit language',
    'unit words',
    's2t',
    't2c',
    'echo',
    'vocoder',
    'evaluate',
  ]
  for line in big['steps']:
    for figure in line['figures'].values():
      assert figure['basis'] in ('measured', 'predicted', 'assumed') and figure['source']


def test_hours_of_work_on_hosts(big):
  """6,194 hours at 50 seconds a core second on 4 x 32 cores; 1,729 hours of answers on 4 hosts."""
  found = lines(big)
  assert found['corpus']['hours'] == pytest.approx(6194 / (50 * 4 * 32))
  assert found['unit language']['hours'] == pytest.approx(1729 / (2000 * 4))
  assert found['unit words']['hours'] == pytest.approx(1729 / (500 * 4))
  assert found['evaluate']['hours'] == pytest.approx(1000 * 2 / 3600)


def test_hours_of_a_stage_are_its_flops(big):
  line = lines(big)['s2t']
  # 1,165,000 rows in packs of six, 128 packs a step
  assert line['work'] == '1,516 steps'
  cost = line['figures']['step_flops']['value']
  assert line['hours'] == pytest.approx(1516 * cost / (16 * 197e12 * 0.4) / 3600)
  assert line['price'] == pytest.approx(2 * 16 * line['hours'])


def test_a_step_of_the_8b_costs_what_its_parameters_say(big):
  """Four FLOPs a parameter and position of the LLM (3/4 of the step's cost or more), and no more
  than half as much again for all the rest.
  """
  llm = 4 * 6.98e9 * 128 * 1024
  assert llm < lines(big)['s2t']['figures']['step_flops']['value'] < 2 * llm


def test_bytes_and_their_price(big):
  found = {row['what']: row['size'] for row in big['storage']}
  assert found['data sets']['value'] == 6194 * 3600 * 32000
  assert found['units and unit words']['value'] == 1729 * 3600 * 50 * 8
  assert all(size['basis'] == 'computed' for size in found.values())
  total = big['total']
  assert total['bytes'] == sum(size['value'] for size in found.values())
  assert total['price_of_storage_a_month'] == pytest.approx(0.02 * total['bytes'] / 1e9)
  assert total['price_of_slice'] == pytest.approx(2 * total['chip_hours'])
  assert total['price_of_cpu_hosts'] is None


def test_checkpoints_hold_what_is_trained_three_times_and_what_is_frozen_once():
  args, options = plan.parse((*NANO, '--stages=text'))
  experiment = plan.read_experiment(args.config, 'text', options)
  trained, frozen = plan_lines.parameters(experiment)
  # embedding and head of 512 x 192; four layers, plain and LoRA; norms
  width, inner, kv = 192, 512, 2 * 48
  plain = 2 * width * width + 2 * width * kv + 3 * width * inner + 2 * width
  assert trained == 2 * 512 * width + 4 * plain + width
  into = {'q': width, 'k': kv, 'v': kv, 'o': width, 'gate': inner, 'up': inner}
  lora = sum(32 * (width + out) for out in into.values()) + 32 * (inner + width)
  assert frozen == 4 * lora


def test_the_slower_of_computing_and_loading_counts(tmp_path):
  (tmp_path / 'slow.json').write_text('{"load": 0.5}')
  found = lines(planned(*BIG, '--mfu=0.4', '--rates', str(tmp_path / 'slow.json')))
  line = found['s2t']
  # three clips of 30 s a row, 128 rows a step, 4 hosts of 32 cores
  assert line['hours'] == pytest.approx(1516 * 128 * 3 * 30 / (0.5 * 4 * 32) / 3600)
  assert line['figures']['load'] == {
    'value': 0.5,
    'basis': 'measured',
    'source': str(tmp_path / 'slow.json'),
  }
  assert 'load' not in found['t2c']['figures']  # it reads no speech


def report(tmp_path, name, content):
  (tmp_path / name).write_text(json.dumps(content))
  return str(tmp_path / name)


def test_rates_come_from_the_reports_of_bench_and_compile_check(tmp_path):
  files = [
    report(
      tmp_path,
      'precompute.json',
      {
        'audio_minutes': 10.0,
        'threads': 2,
        'ours': {
          'parts': {
            'decode and write': 3.0,
            'units:answers/train': 9.0,
            'unit language': 2.0,
            'data set answers': 4.0,
          }
        },
      },
    ),
    report(tmp_path, 'loader.json', {'realtime_per_core': 442.0, 'slowest': 263.0}),
    report(tmp_path, 's2t.json', {'mfu_bound': 0.72, 'stage': 's2t', 'step': 'train'}),
    report(tmp_path, 'echo.json', {'mfu_bound': 0.3, 'stage': 'echo', 'step': 'train'}),
  ]
  found = plan_rates.read(files, None)
  assert {name: found[name].value for name in ('read_in', 'load', 'language', 'records')} == {
    'read_in': 100.0,
    'load': 442.0,
    'language': 300.0,
    'records': 150.0,
  }
  assert found['read_in'] == Figure(100.0, 'measured', files[0])
  assert found['question'].basis == 'assumed'
  made = lines(planned(*BIG, '--mfu=0.4', '--rates', *files))
  # assumed 0.4: possible for s2t, above what the compiled step of echo can reach
  assert made['s2t']['figures']['mfu'] == {'value': 0.4, 'basis': 'assumed', 'source': '--mfu'}
  assert made['echo']['figures']['mfu']['value'] == 0.3
  assert made['echo']['figures']['mfu']['basis'] == 'predicted'
  language = report(
    tmp_path,
    'language.json',
    {'fit_seconds': 50.0, 'curve': [{}] * 5, 'hours': {'a/train': 1.0, 'a/test': 0.1}},
  )
  assert plan_rates.read([language], None)['language'].value == 360.0


def test_a_working_folder_tells_its_own_rates(tmp_path):
  for stage, windows in (('s2t', [0.3, 0.5]), ('t2c', [])):
    (tmp_path / stage).mkdir()
    records = [
      {'kind': 'train', 'step': 10 * i, 'mfu': mfu, 'goodput': 0.8} for i, mfu in enumerate(windows)
    ]
    lost = [{'kind': 'train', 'step': 1, 'loss': 2.0}]  # a chip that is not in the table
    text = ''.join(json.dumps(record) + '\n' for record in records or lost)
    (tmp_path / stage / 'metrics.jsonl').write_text(text)
  (tmp_path / 'precomputed').mkdir()
  steps = {'units:a/train': 50.0, 'unit language': 4.0, 'data set a': 8.0, 'data set q': 2.0}
  written = {
    'steps': {name: {'seconds': seconds} for name, seconds in steps.items()},
    'report': {'sets': {'a/train': {'seconds': 1000.0}, 'q/train': {'seconds': 600.0}}},
  }
  (tmp_path / 'precomputed' / 'precompute.json').write_text(json.dumps(written))
  (tmp_path / 'evaluation.json').write_text(
    json.dumps({'questions': 240, 'seconds': {'total': 120.0}})
  )
  found = plan_rates.read([], str(tmp_path))
  values = {name: figure.value for name, figure in found.items() if figure.basis == 'measured'}
  assert values == {
    'mfu.s2t': pytest.approx(0.4),
    'goodput.s2t': 0.8,
    'units': 20.0,
    'language': 250.0,
    'records': 160.0,
    'question': 0.5,
  }
  without = lines(planned(*BIG, '--mfu=0.4'))['s2t']['hours']
  made = lines(planned(*BIG, '--mfu=0.2', '--workdir', str(tmp_path)))
  assert made['s2t']['hours'] == pytest.approx(without / 0.8)  # what was measured wins over --mfu
  assert made['units']['hours'] == pytest.approx(1729 / (20 * 4))


def test_own_data_sets_and_sources(tmp_path):
  for name, hours in (('answers', 1.5), ('questions', 0.5)):
    splits = {'train': {'examples': 90, 'hours': hours}, 'test': {'examples': 10, 'hours': 0.5}}
    (tmp_path / name).mkdir()
    (tmp_path / name / 'manifest.json').write_text(json.dumps({'splits': splits}))
    (tmp_path / name / 'dataset_info.json').write_text('{}')
  made = planned(*NANO, '--stages=s2t', '--data', str(tmp_path))
  assert made['inputs']['sources'] == [
    dataclasses.asdict(paper.Source('answers', 100, 2.0)),
    dataclasses.asdict(paper.Source('questions', 100, 1.0)),
  ]
  found = lines(made)
  # k-means is given; the questions get states of width 384
  assert list(found) == [
    'corpus',
    'units',
    'unit language',
    'states',
    'unit words',
    's2t',
    'evaluate',
  ]
  assert {row['what']: row['size']['value'] for row in made['storage']}['states'] == (
    3600 * 50 * 384 * 2
  )
  fitted = lines(
    planned(*NANO, '--stages=s2t', '--data', str(tmp_path), '--config.precompute.kmeans=')
  )
  # every iteration: distances of 50 states a second to 500 centroids of width 384
  distances = 30 * 2 * 2 * 3600 * 50 * 500 * 384 / (197e12 * 0.5) / 3600
  assert fitted['k-means']['hours'] == pytest.approx(found['units']['hours'] + distances)
  listed = report(tmp_path, 'list', [{'name': 'answers', 'items': 5, 'hours': 1.0}])
  with pytest.raises(errors.ConfigError, match='reads questions, whose hours are not known'):
    planned(*NANO, '--stages=s2t', '--sources', listed)


@pytest.mark.parametrize(
  'options, sentence',
  [
    ((*BIG,), "share of the peak the stage 's2t' reaches: give --mfu"),
    ((BIG[0], '--chip=v9', '--chips=1', '--mfu=0.4'), "--chip is 'v9': use one of v4, v5e"),
    ((*BIG, '--mfu=40'), '--mfu is 40.0: give a share'),
    ((BIG[0], '--chip=v5e', '--chips=0', '--mfu=0.4'), '--chips is 0'),
    ((*BIG, '--mfu=0.4', '--config.train.stepps=3'), 'stepps'),
    ((*BIG, '--mfu=0.4', '--rates', '/nowhere.json'), '/nowhere.json is missing'),
    ((*NANO,), 'reads answers, whose hours are not known'),
    ((*NANO, '--sources', '/nowhere.json'), 'no list of sources'),
  ],
)
def test_mistakes_are_told(options, sentence):
  with pytest.raises(errors.EchoXError) as told:
    planned(*options)
  assert sentence in str(told.value)


@pytest.mark.parametrize(
  'content, sentence', [('{"speed": 3}', "the rate 'speed'"), ('[1]', 'no report with rates')]
)
def test_files_without_rates_are_told(tmp_path, content, sentence):
  (tmp_path / 'rates.json').write_text(content)
  with pytest.raises(errors.DataError, match=sentence):
    plan_rates.read([str(tmp_path / 'rates.json')], None)


def test_the_text_and_the_json_say_the_same(tmp_path, capsys):
  plan.main([*BIG, '--mfu=0.4', '--json', str(tmp_path / 'plan.json')])
  text, made = capsys.readouterr().out, json.loads((tmp_path / 'plan.json').read_text())
  assert 'nothing was run' in text and 'price' in text and 'not given' in text
  for line in made['steps']:
    assert f'{line["hours"]:,.2f}' in text and line['work'] in text
  assert f'{made["total"]["hours"]:,.1f} hours one after the other' in text
