"""The report as one HTML file that needs nothing beside it: tables, figures as data, a little CSS."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from measuring.results import cell

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 84rem; margin: 1.5rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.6rem; border-bottom: 2px solid #2a7; padding-bottom: .2rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .4rem; }
table { border-collapse: collapse; font-size: 13px; margin: .3rem 0 1rem; display: block; overflow-x: auto; }
th, td { border: 1px solid #ccc; padding: .16rem .5rem; text-align: right; white-space: nowrap; }
th { background: #f0f4f2; } td.text, th.text { text-align: left; } td.long { white-space: normal; min-width: 16rem; }
tr:nth-child(even) td { background: #fafafa; }
figure { margin: .8rem 0; } figure img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { font-size: 13px; color: #555; } code { background: #f3f3f3; padding: .05rem .25rem; font-size: 12.5px; }
.bar + table { margin-top: 1rem; }
.note { color: #555; font-size: 13.5px; margin: .25rem 0; } .failed { background: #fdd; padding: .6rem; }
nav { columns: 2; font-size: 14px; } nav ul { margin-top: 0; }
th.part { background: #e3eee8; text-align: left; } summary { cursor: pointer; color: #165; margin: .3rem 0; }
pre { white-space: pre-wrap; font-size: 12.5px; } code { overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 17rem 1fr 11rem; gap: .6rem; margin: .2rem 0; }
.bar, dl { font-size: 13.5px; align-items: center; } .track { position: relative; background: #f3f3f3; height: 1.1rem; }
.faster, .slower { display: block; height: 100%; } .faster { background: #2a7; } .slower { background: #c73; }
.one { position: absolute; top: -.2rem; bottom: -.2rem; border-left: 2px solid #222; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { font-weight: 600; }
dd { margin: 0; }
@media (max-width: 44rem) {
  nav { columns: 1; } .bar { grid-template-columns: 1fr 7rem; } .bar .name { grid-column: 1 / 3; }
  dl { display: block; } dd { margin: 0 0 .5rem; }
  figure { overflow-x: auto; } figure img { max-width: none; width: 46rem; }
}
"""
FOLDED = 16  # tables of more rows are folded up


def text(value: Any) -> str:
    """Escaped for HTML."""
    return html.escape(str(value))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def table(columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """Rows by the keys of `columns`, whose values are the headings. Columns of words are to the left."""
    words = {key for key in columns if not any(_number(row.get(key)) for row in rows)}

    def kind(key: str, shown: str = "") -> str:
        classes = (["text"] if key in words else []) + (["long"] if len(shown) > 50 else [])
        return f' class="{" ".join(classes)}"' if classes else ""

    head = "".join(f"<th{kind(key)}>{text(heading)}</th>" for key, heading in columns.items())
    body = "".join(
        "<tr>" + "".join(f"<td{kind(key, shown)}>{text(shown)}</td>" for key, shown in cells) + "</tr>\n"
        for cells in ([(key, cell(row.get(key))) for key in columns] for row in rows)
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def titled_table(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """A table under a heading; a long one can be opened."""
    content = table(columns, rows)
    if len(rows) > FOLDED:
        return f"<details><summary>{text(title)} ({len(rows)} rows)</summary>{content}</details>"
    return f"<h3>{text(title)}</h3>{content}"


COMPARISON = {
    "what": "what",
    "reported": "reported",
    "ours": "here",
    "unit": "unit",
    "source": "reported by",
    "remark": "remark",
}


def summary(groups: dict[str, tuple[str, list[dict[str, Any]]]]) -> str:
    """What the sources reported beside what was found here, in short: (title, comparisons) by anchor of a chapter."""
    body = []
    for anchor, (title, rows) in groups.items():
        body.append(f'<tr><th class="part" colspan="4"><a href="#{text(anchor)}">{text(title)}</a></th></tr>')
        for row in rows:
            unit = f" {row['unit']}" if row["unit"] else ""
            cells = (cell(row["reported"]) + unit, cell(row["ours"]) + unit)
            body.append(
                f'<tr><td class="text long">{text(row["what"])}</td>'
                + "".join(f"<td>{text(each)}</td>" for each in cells)
                + f'<td class="text">{text(row["source"])}</td></tr>'
            )
    head = '<th class="text">what</th><th>reported</th><th>here</th><th class="text">reported by</th>'
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>" + "\n".join(body) + "</tbody></table>"


def facts(values: dict[str, Any]) -> str:
    """Names and values in two columns."""
    rows = "".join(
        f'<tr><th class="text">{text(key)}</th><td class="text long">{text(cell(value))}</td></tr>'
        for key, value in values.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def comparisons(rows: list[dict[str, Any]]) -> str:
    """What the sources reported beside what was found here."""
    return table(COMPARISON, rows) if rows else ""


def figure(path: Path, caption: str) -> str:
    """An image as a part of the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    alternative = text(caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{alternative}">'
        f"<figcaption>{alternative}</figcaption></figure>"
    )


def section(anchor: str, title: str, parts: list[str]) -> str:
    """A chapter of the page."""
    return f'<section id="{text(anchor)}"><h2>{text(title)}</h2>\n' + "\n".join(parts) + "</section>\n"


def page(title: str, parts: list[str], contents: dict[str, str]) -> str:
    """The whole page; `contents` are titles by anchor."""
    links = "".join(f'<li><a href="#{text(anchor)}">{text(name)}</a></li>' for anchor, name in contents.items())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body><h1>{text(title)}</h1>\n<nav><ul>{links}</ul></nav>\n"
        + "\n".join(parts)
        + "</body></html>\n"
    )
