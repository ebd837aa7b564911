"""Every "(facts N.M)" in the code resolves to a section or a point of FACTS.md."""

import re

from tests.helpers.paths import GOLDEN, ROOT

FACTS = ROOT / 'echox_jax' / 'verification' / 'FACTS.md'
# "facts 3.3 and 3.7", "facts 6, 9, 10 and 12"; a line may break after "and" or a comma.
CITATION = re.compile(r'\bfacts (\d[\d.]*(?:(?:,| and|, and)\s+\d[\d.]*)*)')


def sections():
  """{number of a section: its text}."""
  parts = re.split(r'^## (\d+) ', FACTS.read_text('utf-8'), flags=re.MULTILINE)
  return dict(zip(parts[1::2], parts[2::2], strict=True))


def citations():
  """(file, `N` or `N.M`) of all citations."""
  folders = ('echox_jax', 'data_pipeline', 'launch', 'configs', 'tests')
  sources = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
  for path in [*sources, GOLDEN / 'README.md']:
    text = re.sub(r'\s*\n\s*#?\s*', ' ', path.read_text('utf-8'))
    for found in CITATION.finditer(text):
      yield from ((path, number.rstrip('.')) for number in re.findall(r'\d[\d.]*', found[1]))


def resolves(number):
  section, _, point = number.partition('.')
  text = sections().get(section)
  return text is not None and (not point or bool(re.search(rf'(^|\s){point}\. ', text)))


def test_every_citation_resolves():
  found = list(citations())
  assert len(found) > 50
  assert not [(str(path), number) for path, number in found if not resolves(number)]


def test_a_wrong_citation_is_found():
  assert resolves('3.7') and resolves('8') and not resolves('3.99') and not resolves('77')
