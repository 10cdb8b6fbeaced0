"""Tables as data, and the same table in markdown, LaTeX (booktabs) and plain text.

Numbers become text here and nowhere else: fractions are shown in percent, counts compactly.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.stats import Difference, Spread

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MARK = "†"


@dataclass(frozen=True)
class Column:
    """A column's head, its unit, and how early it goes where the page is narrow (high first)."""

    head: str
    unit: str = ""
    dispensable: int = 0


@dataclass(frozen=True)
class Cell:
    """A cell's text; `best` is set in bold, `mark` gets a dagger, `faint` is not a measurement."""

    text: str = ""
    best: bool = False
    mark: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table: its label and its cells. Headings set a group of rows apart."""

    label: str
    cells: tuple[Cell, ...]
    heading: bool = False  # a teacher, with its students below
    full_label: str = ""  # where a format has no indentation


@dataclass(frozen=True)
class Table:
    """A title, columns (without the one of the labels), rows, and the notes below.

    A `lesser` table belongs to the one before it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    lesser: bool = False

    def without(self, dropped: Column) -> "Table":
        """Return the table without a column."""
        keep = [i for i, column in enumerate(self.columns) if column is not dropped]
        rows = tuple(
            replace(row, cells=tuple(row.cells[i] for i in keep if i < len(row.cells)))
            for row in self.rows
        )
        return replace(self, columns=tuple(self.columns[i] for i in keep), rows=rows)


# ---- numbers --------------------------------------------------------------------------------


def percent(value: Spread) -> str:
    """Write a mean of fractions in percent: "80.54 ± 1.35", or "80.54" for a single run."""
    if not value.n:
        return DASH
    mean = f"{100 * value.mean:.2f}"
    return mean if math.isnan(value.std) else f"{mean} ± {100 * value.std:.2f}"


def compact(value: float) -> str:
    """Write a number in three digits: 183k, 1.23M, 45.6, 0.0123."""
    if math.isnan(value):
        return DASH
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return _three_digits(value / limit) + suffix
    whole = float(value).is_integer()
    return f"{value:.0f}" if whole else _three_digits(value)


def _three_digits(value: float) -> str:
    if value and abs(value) < 0.0005:
        return f"{value:.1e}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(0, min(digits, 4))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def points(value: Difference | Spread) -> str:
    """Write a difference of fractions in points: "+0.42 [+0.01, +0.83]"."""
    if math.isnan(value.mean):
        return DASH
    middle = _signed(value.mean)
    if math.isnan(value.low):
        return middle
    return f"{middle} [{_signed(value.low)}, {_signed(value.high)}]"


def _signed(value: float) -> str:
    text = f"{100 * value:+.2f}".replace("-", MINUS)
    return "0.00" if text[1:] == "0.00" else text


# ---- formats --------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """Write a table as a markdown pipe table, its title as a heading, its notes as a list."""
    heads = ["method", *(" ".join(filter(None, (c.head, c.unit))) for c in table.columns)]
    lines = [_pipes(heads), _pipes(["---", *("---:" for _ in table.columns)])]
    for row in (row for row in table.rows if row.cells):
        label = _escape_markdown(row.full_label or row.label)
        cells = [_markdown_cell(cell) for cell in _padded(row, table)]
        lines.append(_pipes([f"*{label}*" if row.heading else label, *cells]))
    notes = [f"- {_escape_markdown(note)}" for note in table.notes]
    return "\n".join([f"### {_escape_markdown(table.title)}", "", *lines, "", *notes, ""])


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = _escape_markdown(cell.text)
    return (f"**{text}**" if cell.best else text) + (f" {MARK}" if cell.mark else "")


def _escape_markdown(text: str) -> str:
    for special in "\\`*_|<>":
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())


def latex(table: Table, label: str, legend: str = "") -> str:
    r"""Write a table environment for booktabs and graphicx, scaled down where it is too wide.

    Include it with \input; the preamble needs \usepackage{booktabs,graphicx}. The `legend` ends the
    caption.
    """
    heads = ["method", *(column.head for column in table.columns)]
    units = ["", *(f"({column.unit})" if column.unit else "" for column in table.columns)]
    lines = [_latex_row(map(escape_latex, heads))]
    if any(units):
        lines.append(_latex_row(rf"\footnotesize {escape_latex(u)}" if u else "" for u in units))
    notes = " ".join(escape_latex(note) for note in table.notes)
    columns = "l" + "r" * len(table.columns)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(' '.join([table.title + '.', legend]))}}}",
            rf"\label{{{label}}}",
            r"\setbox0=\hbox{\small\setlength{\tabcolsep}{6pt}%",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{\hspace{{0.6em}}}}}}",
            r"\toprule",
            *lines,
            r"\midrule",
            *_latex_body(table),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\leavevmode\box0\fi",
            rf"\par\medskip\begin{{minipage}}{{\linewidth}}\footnotesize {notes}\end{{minipage}}",
            r"\end{table}",
            "",
        ]
    )


def latex_document(title: str, included: str, told: Iterable[str]) -> str:
    """Write a document that includes a file of tables and tells below how to read them."""
    items = "\n".join(rf"\item {escape_latex(sentence)}" for sentence in told)
    return rf"""\documentclass[10pt]{{article}}
\usepackage[T1]{{fontenc}}
\usepackage{{lmodern}}
\usepackage[a4paper,landscape,margin=18mm]{{geometry}}
\usepackage{{booktabs,graphicx}}
\makeatletter\def\fps@table{{htbp}}\makeatother % tables stay where they are
\begin{{document}}
\section*{{{escape_latex(title)}}}
\input{{{included}}}
\clearpage
\subsection*{{How to read}}
\begin{{itemize}}
{items}
\end{{itemize}}
\end{{document}}
"""


def _latex_body(table: Table) -> Iterator[str]:
    for i, row in enumerate(table.rows):
        if row.heading and i:
            yield r"\addlinespace"
        label = escape_latex(row.label)
        first = rf"\textit{{{label}}}" if row.heading else rf"\quad {label}"
        yield _latex_row([first, *(_latex_cell(cell) for cell in _padded(row, table))])


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return text + (r"\rlap{\textsuperscript{\dag}}" if cell.mark else "")


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a row's \\ a bracket would be its optional argument
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "†": r"\dag{}",
    DASH: "--",
    MINUS: r"$-$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
}


def escape_latex(text: str) -> str:
    """Escape text for LaTeX; what pdflatex does not know in any font encoding becomes "?"."""
    return "".join(_LATEX.get(c, c if _typesettable(c) else "?") for c in " ".join(text.split()))


def _typesettable(c: str) -> bool:
    """Printable ASCII, and the accented letters of western Europe."""
    return 31 < ord(c) < 127 or ("À" <= c <= "ÿ" and c.isalpha() and c not in "ÐðÞþ")


def plain(table: Table, width: int = 120) -> str:
    """Write a table for a terminal, leaving out dispensable columns until it fits `width`."""
    while _width(table) > width and any(c.dispensable for c in table.columns):
        table = table.without(max(table.columns, key=lambda c: c.dispensable))
    rows = _plain_rows(table)
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, sizes)).rstrip() for row in rows]
    rule = "─" * min(width, sum(sizes) + 2 * (len(sizes) - 1))
    notes = [line for note in table.notes for line in _wrapped(note, width)]
    return "\n".join([table.title, rule, *lines[:2], rule, *lines[2:], rule, *notes, ""])


def _plain_rows(table: Table) -> list[list[str]]:
    heads = [["", *(c.head for c in table.columns)], ["method", *(c.unit for c in table.columns)]]
    body = []
    for row in table.rows:
        cells = [c.text + (MARK if c.mark else "*" if c.best else " ") for c in _padded(row, table)]
        body.append([("" if row.heading else "  ") + row.label, *cells])
    return heads + body


def _width(table: Table) -> int:
    rows = _plain_rows(table)
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) - 2


def _aligned(row: Sequence[str], sizes: Sequence[int]) -> list[str]:
    align: Callable[[str, int], str] = str.rjust
    return [row[0].ljust(sizes[0]), *map(align, row[1:], sizes[1:])]


def _wrapped(note: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(note, width, initial_indent="  ", subsequent_indent="    ")


def _padded(row: Row, table: Table) -> tuple[Cell, ...]:
    return row.cells + (Cell(),) * (len(table.columns) - len(row.cells))
