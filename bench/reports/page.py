"""The comparison as one self-contained page: no script, no request, light and dark."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from bench.tables import MARK, Cell, Table

_CAPTIONS = {
    "accuracy": "Accuracy by student and teacher: every seed, the mean and its 95 % interval. "
    "Dashed: the teacher's mean. Arrows: far below, with the mean.",
    "pareto_latency": "Accuracy against the latency of one node. Grey line: nothing cheaper is "
    "more accurate. Bars: 95 % intervals. Small dots: stages and early exits.",
    "pareto_macs": "Accuracy against multiply-accumulates of the whole graph. Grey line: nothing "
    "cheaper is more accurate. Bars: 95 % intervals. Small dots: stages and early exits.",
}

_STYLE = """
:root { color-scheme: light dark; --ink:#1f2328; --soft:#656d76; --line:#d8dee4; --page:#fbfbfa;
  --card:#fff; --best:#0b5fa5; --band:#f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e7eb; --soft:#9aa4af; --line:#30363d;
  --page:#14171b; --card:#1b1f24; --best:#7ab8f5; --band:#22272e; } }
body { margin:0; background:var(--page); color:var(--ink); line-height:1.5;
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif; }
main { max-width:92rem; margin:0 auto; padding:2.5rem 1.2rem 4rem; }
h1 { font-size:1.7rem; font-weight:650; margin:0 0 .2rem; }
h2 { font-size:1.08rem; font-weight:620; margin:0 0 .7rem; }
nav { color:var(--soft); font-size:.9rem; margin-bottom:2rem; }
nav a { color:inherit; text-decoration:none; border-bottom:1px solid var(--line); margin-right:1rem;
  white-space:nowrap; }
section, figure { background:var(--card); border:1px solid var(--line); border-radius:10px;
  padding:1.2rem 1.2rem; margin:0 0 1.4rem; }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; font-size:.83rem; font-variant-numeric:tabular-nums; }
th, td { padding:.24rem .44rem; text-align:right; white-space:nowrap; font-weight:400; }
th:first-child { text-align:left; padding-left:0; }
thead th { color:var(--soft); font-size:.8rem; vertical-align:bottom; }
thead { border-top:1.5px solid var(--ink); border-bottom:1px solid var(--ink); }
tbody { border-bottom:1.5px solid var(--ink); }
thead small { display:block; font-size:.92em; opacity:.8; }
tr.group th { font-style:italic; padding-top:.55rem; }
tr.group td { padding-top:.55rem; color:var(--soft); }
tr.student th:first-child { padding-left:1.2rem; }
tr.student:hover { background:var(--band); }
.best { font-weight:680; color:var(--best); }
.faint { color:var(--soft); }
td { position:relative; }
td sup { position:absolute; font-size:.72em; top:.15rem; }
h3 { font-size:.9rem; font-weight:560; margin:1.4rem 0 .5rem; }
ul.notes { margin:.8rem 0 0; padding-left:1.1rem; color:var(--soft); font-size:.86rem; }
figure img { display:block; width:100%; background:#fff; border-radius:6px; }
figcaption { color:var(--soft); font-size:.86rem; margin-top:.6rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<nav>{% for table in tables if not table.lesser %}
<a href="#t{{ loop.index }}">{{ table.title }}</a> {% endfor %}
<a href="#figures">figures</a><a href="#read">how to read</a>
{%- for label, target in links.items() %}<a href="{{ target }}">{{ label }}</a>{% endfor %}</nav>
{% for group in groups %}
<section id="t{{ loop.index }}">
{% for table in group %}
{% if table.lesser %}<h3>{{ short(table.title) }}</h3>{% else %}<h2>{{ table.title }}</h2>
{%- endif %}
<div class="scroll"><table>
<thead><tr><th scope="col">method</th>
{%- for column in table.columns %}<th scope="col">{{ column.head }}
{%- if column.unit %}<small>{{ column.unit }}</small>{% endif %}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr class="{{ 'group' if row.heading else 'student' }}"><th scope="row">{{ row.label }}</th>
{%- for cell in row.cells %}{{ shown(cell) | safe }}{% endfor %}
{%- for _ in table.columns[row.cells | length:] %}<td></td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{% if table.notes %}<ul class="notes">{% for note in table.notes %}<li>{{ note }}</li>{% endfor %}
</ul>{% endif %}
{% endfor %}
</section>
{% endfor %}
<div id="figures">
{% for caption, source, width in images %}
<figure><img alt="{{ caption }}" src="{{ source }}" style="max-width:{{ width }}px">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
<section id="read"><h2>How to read</h2>
<ul class="notes">{% for sentence in told %}<li>{{ sentence }}</li>{% endfor %}</ul></section>
</main>
</body>
</html>
"""


LARGE = 2**19  # bytes of an SVG


def render(
    title: str,
    tables: Sequence[Table],
    told: Sequence[str],
    figures: Iterable[Path],
    *,
    captions: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Return the page; the figures are embedded, as SVG, a large one as PNG if that is smaller.

    Args:
        title: its head.
        tables: in order; a lesser one goes with the one before it, under the end of its title.
        told: how to read it.
        figures: files; those that are not SVG are left out.
        captions: of the figures by stem, beside those of the comparison.
        links: to other pages beside this one, label -> file.
    """
    known = {**_CAPTIONS, **(captions or {})}
    images = [
        (known.get(path.stem, path.stem), _embedded(path), _widest(path))
        for path in figures
        if path.suffix == ".svg"
    ]
    groups: list[list[Table]] = []
    for table in tables:
        groups[-1].append(table) if table.lesser and groups else groups.append([table])
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    looks = {"style": _STYLE, "shown": _shown, "images": images, "short": _short}
    looks["links"] = links or {}
    return template.render(title=title, tables=tables, groups=groups, told=told, **looks) + "\n"


def _shown(cell: Cell) -> str:
    """One table cell; the mark hangs outside so that numbers stay aligned."""
    kind = " ".join(name for name in ("best", "faint") if getattr(cell, name))
    mark = f"<sup>{MARK}</sup>" if cell.mark else ""
    opening = f'<td class="{kind}">' if kind else "<td>"
    return f"{opening}{html.escape(cell.text)}{mark}</td>"


def _widest(path: Path) -> int:
    """Up to which width a figure may grow, in pixels: 1.7 times its own."""
    own = re.search(r'<svg[^>]* width="([0-9.]+)pt"', path.read_text(encoding="utf-8"))
    return round(float(own[1]) * 4 / 3 * 1.7) if own else 1400


def _short(title: str) -> str:
    """The end of a lesser table's title, after the protocol that stands above it."""
    end = title.rpartition(": ")[2]
    return end[:1].upper() + end[1:]


def _embedded(path: Path) -> str:
    """An SVG as a data URL; the PNG beside it where many names make the SVG a large one."""
    png, size = path.with_suffix(".png"), path.stat().st_size
    large = size > LARGE and png.exists() and png.stat().st_size < size
    kind, best = ("png", png) if large else ("svg+xml", path)
    return f"data:image/{kind};base64,{base64.b64encode(best.read_bytes()).decode()}"
