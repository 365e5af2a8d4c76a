"""Dicts of results as HTML tables. All text is escaped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from numbers import Integral, Real
from typing import Any

from bundle.verdicts import number

MAX_LISTED = 12  # of a longer list only the length is told


def table(rows: Mapping[str, Mapping[str, Any]], caption: str) -> str:
    """{row: {column: value}} as a table; columns in the order in which they come, a value that a row lacks is empty."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    kind = {column: ' class="text"' if _is_text(row.get(column) for row in rows.values()) else "" for column in columns}
    head = "".join(f'<th scope="col"{kind[column]}>{escape(str(column))}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th>'
        + "".join(f"<td{kind[column]}>{cell(row[column]) if column in row else ''}</td>" for column in columns)
        + "</tr>\n"
        for name, row in rows.items()
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"


def nested(data: Mapping[str, Any], caption: str) -> str:
    """A dict of any depth: what has one depth is a list of names and values, what has two a table, the rest tables one after the other."""
    plain = {name: value for name, value in data.items() if not isinstance(value, Mapping)}
    rows = {name: value for name, value in data.items() if isinstance(value, Mapping) and value}
    flat = {name: row for name, row in rows.items() if not any(isinstance(value, Mapping) for value in row.values())}
    found = ""
    if plain:
        lines = "".join(f'<tr><th scope="row">{escape(str(name))}</th><td>{cell(value)}</td></tr>\n' for name, value in plain.items())
        found += f'<table class="plain"><caption>{escape(caption)}</caption><tbody>\n{lines}</tbody></table>\n'
    one_table = len(flat) > 1 and bool(set.intersection(*(set(row) for row in flat.values())))  # they share a column
    if one_table:
        found += table(flat, caption)
    for name, row in rows.items():
        if not (one_table and name in flat):
            found += nested(row, f"{caption}: {name}")
    return found


def cell(value: Any) -> str:
    """One value as escaped text: numbers with four significant digits, – for nothing."""
    if value is None:
        return '<span title="not defined">–</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{value:,}"
    if isinstance(value, Real):
        return escape(number(float(value), 4))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(cell(one) for one in value) if len(value) <= MAX_LISTED else f"{len(value)} values"
    text = escape(str(value))
    return f"<code>{text}</code>" if re.fullmatch("[0-9a-f]{64}", text) else text


def _is_text(values: Iterable[Any]) -> bool:
    """Whether a column holds words, not numbers."""
    told = [value for value in values if value is not None]
    return bool(told) and all(isinstance(value, str) and (value[:1].isalpha() or len(value) > 30) for value in told)
