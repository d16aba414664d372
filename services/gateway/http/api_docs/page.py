"""An OpenAPI document as one page of HTML: without scripts, and without a request to anyone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { color: #1b1f24; background: #fff }
code { font: 14px ui-monospace, monospace; background: #f2f4f6; padding: 0 .2em; border-radius: 3px }
details { border: 1px solid #d5dade; border-radius: 6px; margin: .6rem 0; padding: .4rem .8rem }
summary { cursor: pointer }
summary b { display: inline-block; min-width: 3.4em }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
td { border-top: 1px solid #e4e8eb; padding: .2rem .6rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { color: #e3e6e8; background: #16191c }
  code { background: #24292e }
  a { color: #8ab4f8 }
  details, td { border-color: #3a4046 }
}
"""
_REF = "#/components/schemas/"


def page_policy() -> str:
    """Return the Content-Security-Policy of the page: its own style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(document: Json) -> str:
    """Return the page of a document that uses what openapi.py writes."""
    info, schemas = document["info"], document["components"]["schemas"]
    body = [
        f"<h1>{escape(info['title'])}</h1>",
        _text(info["description"]),
        '<p>As a document for programs: <a href="openapi.json">openapi.json</a>. Show the key as '
        "<code>Authorization: Bearer &lt;key&gt;</code>.</p>",
        *(
            _operation(method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method != "servers"
        ),
        "<h2>Schemas</h2>",
        *(_schema(name, schema) for name, schema in schemas.items()),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _operation(method: str, path: str, operation: Json) -> str:
    body = [_text(operation.get("description", ""))]
    if "security" in operation:
        body.append("<p>It needs no key.</p>")
    if operation["parameters"]:
        rows = [
            (f"<code>{escape(each['name'])}</code>", f"{each['in']}, {_type(each['schema'])}", each["description"])
            for each in operation["parameters"]
        ]
        body += ["<h4>Parameters</h4>", _table((name, kind, _inline(about)) for name, kind, about in rows)]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        body += [f"<h4>Body: <code>{escape(kind)}</code></h4>", _of_body(content["schema"])]
    rows = [
        (status, _contents(answer), _inline(answer["description"])) for status, answer in operation["responses"].items()
    ]
    body += ["<h4>Responses</h4>", _table(rows)]
    return (
        f'<details id="{escape(operation["operationId"])}"><summary><b>{method.upper()}</b> '
        f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>{''.join(body)}</details>"
    )


def _of_body(schema: Json) -> str:
    return f"<p>{_type(schema)}</p>" if "$ref" in schema else _fields(schema)


def _contents(answer: Json) -> str:
    shown: list[str] = []
    for kind, content in answer.get("content", {}).items():
        schema = content.get("x-events", content["schema"])
        shown.append(f"<code>{escape(kind)}</code> {_type(schema) if schema else ''}")
    return "<br>".join(shown)


def _schema(name: str, schema: Json) -> str:
    body = _text(schema.get("description", "")) + (
        _fields(schema) if "properties" in schema else f"<p>{_type(schema)}</p>"
    )
    return f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>{body}</details>'


def _fields(schema: Json) -> str:
    required = schema.get("required", ())
    return _table(
        (
            f"<code>{escape(name)}</code>" + (" *" if name in required else ""),
            _type(about),
            _inline(about.get("description", "")) + _default(about),
        )
        for name, about in schema.get("properties", {}).items()
    )


def _default(about: Json) -> str:
    default = about.get("default")
    return "" if default in (None, "") else f" Default: <code>{escape(_value(default))}</code>"


def _type(schema: Json) -> str:
    """Return the type of a value in short, with links to what has a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REF))
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(_type(each) for each in schema[several])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(f"<code>{escape(_value(value))}</code>" for value in values)
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema, 'Items')}"
    return f"{escape(kind)}{_bounds(schema, 'Length') if kind == 'string' else _range(schema)}"


def _bounds(schema: Json, of: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    return "" if least is None and most is None else f", {least or 0} to {'any' if most is None else most}"


def _range(schema: Json) -> str:
    signs = (("minimum", "≥"), ("exclusiveMinimum", "&gt;"), ("maximum", "≤"), ("exclusiveMaximum", "&lt;"))
    return "".join(f", {sign} {schema[name]}" for name, sign in signs if name in schema)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    """Return paragraphs and lists of Markdown, as far as openapi.py writes it."""
    out: list[str] = []
    for block in filter(None, text.strip().split("\n\n")):
        if block.startswith("- "):
            out.append(f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in block.splitlines())}</ul>")
        else:
            out.append(f"<p>{_inline(block)}</p>")
    return "".join(out)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(rows: Iterable[Iterable[str]]) -> str:
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
