"""The flags that the tools of the cloud recipes really have, and a check of commands against them.

`cloud_flags.json` holds, for each command, its flags and the values that they take: "bool", "value"
or a list of choices. `python -m tests.helpers.cloud_flags GCLOUD_SDK SBATCH_MANUAL GCSFUSE_PARAMS`
records it for the commands that the file names: from gcloud's own table of completions, the help of
kubectl, docker and xpk, the manual page of sbatch, and gcsfuse's cfg/params.yaml. Recorded with
gcloud 528.0.0, kubectl 1.32.4, docker 28.2.2, xpk 1.16.0, Slurm 22.05.8, gcsfuse of August 2026.
"""

from collections.abc import Sequence
import gzip
import json
from pathlib import Path
import re
import runpy
import subprocess
import sys

FILE = Path(__file__).with_name('cloud_flags.json')


def table() -> dict:
  """{tool: {command: {flag: kind}}}; the command '' has the flags of all commands."""
  return json.loads(FILE.read_text('utf-8'))


def check(argv: Sequence[str], known: dict | None = None) -> str | None:
  """What is wrong with a command line, or None.

  Every flag must be one of its command, have a value if it takes one, and a value among the choices
  if there are such.
  """
  known = known or table()
  tool, *words = argv
  if tool not in known:
    return f'{tool} is not in the table'
  commands = known[tool]
  name = _command(words, commands)
  if name is None:
    return f'{tool} has no command {" ".join(words[:5])!r} in the table'
  flags = commands.get('', {}) | commands[name]
  rest = words[len(name.split()) :]
  while rest:
    word = rest.pop(0)
    if word == '--':
      break
    if not word.startswith('-') or word == '-':
      if tool == 'sbatch' or (tool, name) == ('docker', 'run'):
        break  # what is run, and its own arguments
      continue
    flag, given, value = word.partition('=')
    if flag not in flags:
      return f'{tool} {name} has no flag {flag}'
    kind = flags[flag]
    if kind == 'bool' and not given:
      continue
    if not given:
      if not rest or rest[0].startswith('--'):
        return f'{tool} {name} {flag} lacks its value'
      value = rest.pop(0)
    if isinstance(kind, list) and value not in kind:
      return f'{tool} {name} {flag}={value} is none of {", ".join(kind)}'
    if not value:
      return f'{tool} {name} {flag} is empty'
  return None


def _command(words: Sequence[str], commands: dict) -> str | None:
  """The longest command of the table that the words begin with."""
  for count in range(len(words), -1, -1):
    name = ' '.join(words[:count])
    if name in commands and (name or set(commands) == {''}):
      return name
  return None


def gcloud(sdk: Path, names: Sequence[str]) -> dict:
  """The flags of gcloud commands, from the table of completions of the installed SDK."""
  tree = runpy.run_path(str(sdk / 'data' / 'cli' / 'gcloud_completions.py'))
  tree = tree['STATIC_COMPLETION_CLI_TREE']
  found = {}
  for name in names:
    node = tree
    for word in name.split():
      node = node['commands'][word]
    found[name] = {
      flag: 'value' if kind in ('value', 'dynamic') else kind
      for flag, kind in node['flags'].items()
    }
  return found


def kubectl(names: Sequence[str]) -> dict:
  """The flags of kubectl commands, from its help."""
  found = {}
  for name in names:
    told = _help('kubectl', *(name.split() or ['options']), *(['--help'] if name else []))
    found[name] = {}
    for short, flag, default in re.findall(r'^ +(-\w, )?(--[\w-]+)=(\S*):', told, re.M):
      kind = 'bool' if default in ('true', 'false') else 'value'
      found[name] |= {flag: kind} | ({short[:2]: kind} if short else {})
  return found


def docker(names: Sequence[str]) -> dict:
  """The flags of docker commands, from their help."""
  found = {}
  for name in names:
    found[name] = {}
    line = r'^ +(-\w, )?(--[\w-]+)(?: (\w+))?(?:  |$)'
    for short, flag, value in re.findall(line, _help('docker', name, '--help'), re.M):
      kind = 'value' if value else 'bool'
      found[name] |= {flag: kind} | ({short[:2]: kind} if short else {})
  return found


def gcsfuse(params: Path) -> dict:
  """The flags of gcsfuse, from the file that its own are generated from."""
  found = {}
  for entry in re.split(r'^ *- (?=[a-z-]+:)', params.read_text(), flags=re.M)[1:]:
    name = re.search(r'^ *flag-name: "?([\w-]+)', entry, re.M)
    if name:
      kind = 'bool' if re.search(r'^ *type: "?bool', entry, re.M) else 'value'
      found[('-' if len(name[1]) == 1 else '--') + name[1]] = kind
  return {'': found}


def xpk(names: Sequence[str]) -> dict:
  """The flags of xpk commands, from its help."""
  found = {}
  for name in names:
    line = r'^  (?:-\w+(?: \w+)?, )?(--[\w-]+)(?: ([A-Z{]))?'
    flags = re.findall(line, _help('xpk', *name.split(), '--help'), re.M)
    found[name] = {flag: 'value' if value else 'bool' for flag, value in flags}
  return found


def sbatch(manual: Path) -> dict:
  """The long flags of sbatch, from its manual."""
  text = gzip.decompress(manual.read_bytes()).decode().replace('\\-', '-')
  found = {}
  for line in re.findall(r'^\\fB.*--.*$', text, re.M):
    for flag, value in re.findall(r'(--[a-z-]+)\\fR?(\[?=)?', line):
      found[flag] = 'value' if value == '=' else 'bool'
  return {'': found}


def _help(*command: str) -> str:
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(sdk: str, manual: str, params: str) -> None:
  known = table()
  known['gcloud'] = gcloud(Path(sdk), list(known['gcloud']))
  known['kubectl'] = kubectl(list(known['kubectl']))
  known['xpk'] = xpk(list(known['xpk']))
  known['docker'] = docker(list(known['docker']))
  known['sbatch'] = sbatch(Path(manual))
  known['gcsfuse'] = gcsfuse(Path(params))
  FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + '\n', 'utf-8')


if __name__ == '__main__':
  main(*sys.argv[1:])
