"""The frame of a page that opens in any browser: one HTML file that loads nothing else."""

from collections.abc import Iterable
import html

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;
max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.05rem;margin:2rem 0 .3rem}
p{margin:.2rem 0 .6rem}.grey{color:#777}
img,svg{width:100%;height:auto}table{border-collapse:collapse;font-size:.88rem}
td,th{padding:.15rem 1.2rem .15rem 0;text-align:left;
border-bottom:1px solid #eee}td.n{text-align:right;font-variant-numeric:tabular-nums}
audio{height:2rem;vertical-align:middle}
.ok{color:#3f8f5b}.missed{color:#c0443c}
"""


def page(title: str, heading: str, note: str, sections: Iterable[tuple[str, str]]) -> str:
  """Returns the HTML of a page.

  Args:
    title, heading, note: plain text.
    sections: (heading, HTML) pairs; those without HTML are left out.
  """
  body = ''.join(f'<h2>{html.escape(name)}</h2>{content}' for name, content in sections if content)
  return (
    f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    f'<style>{_STYLE}</style><h1>{html.escape(heading)}</h1>'
    f'<p class="grey">{html.escape(note)}</p>{body}</html>\n'
  )
