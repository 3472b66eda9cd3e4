"""The page of every key of a config, made from the schema.

python -m tf_blurdiff.config.reference > docs/configs.md
"""

import json
from collections.abc import Iterator
from typing import Any, get_args

from tf_blurdiff.config.schema import Config

_HEAD = """# Every key of a config

This page is made from the schema, and held to it by a test:

    python -m tf_blurdiff.config.reference > docs/configs.md

A config is a YAML file of these sections, in [`configs/`](../configs) or your own. `--set section.key=value` changes
one key, with YAML's forms (`--set network.multipliers=[1,2]`, `--set data.root=photos`); a key that is not there, a
wrong type or a value out of range is one line that names the key, the value and what is allowed. A run's
`config.yaml` has every key with the value that it was trained with. [training.md](training.md) says how to choose.

Beside the sections there is `imports`, a list of packages of your own that the config names. A section with `class`
takes what it is made of from there, and its other keys are that function's arguments: [extending.md](extending.md).
"""
_COLUMNS = "| key | values | default | meaning |\n|---|---|---|---|\n"
_TYPES = {"string": "text", "number": "number", "integer": "integer", "boolean": "true or false", "null": "null"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def page() -> str:
    """The whole page, as Markdown."""
    sections = {name: field for name, field in Config.model_fields.items() if name != "imports"}
    return _HEAD + "".join(_section(name, field) for name, field in sections.items())


def _section(name, field):
    text = f"\n## {name}\n\n{_capitalized(field.description)}.\n"
    kinds = [getattr(each, "__origin__", each) for each in get_args(field.annotation)] or [field.annotation]
    for kind in kinds:
        described = kind.model_json_schema()
        if len(kinds) > 1:
            text += f"\n### {_title(described['properties'])}\n\n{described['description']}\n"
        rows = (_row(key, f, key in described.get("required", ())) for key, f in described["properties"].items())
        text += "\n" + _COLUMNS + "".join(rows)
    return text


def _title(properties):
    if "class" in properties:
        return "class: package.name"
    selector = next((key for key in ("source", "preset") if key in properties), None)
    return f"{selector}: {properties[selector]['const']}" if selector else "the U-Net"


def _row(key, field, is_required):
    default = "must be given" if is_required else f"`{json.dumps(field.get('default'))}`".replace('"', "")
    return f"| `{key}` | {' or '.join(_values(field))} | {default} | {field['description']} |\n"


def _values(field: dict[str, Any]) -> Iterator[str]:
    """What a key can be, in words: each alternative."""
    if "anyOf" in field:
        for alternative in field["anyOf"]:
            yield from _values(alternative)
    elif "const" in field or "enum" in field:
        yield ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    elif field.get("type") == "array":
        yield f"list of {_items(field)}"
    else:
        bounds = [f"{sign} {_plain(field[bound])}" for bound, sign in _BOUNDS.items() if bound in field]
        if "multipleOf" in field:
            bounds.append(f"a multiple of {field['multipleOf']}")
        yield ", ".join([f"{_TYPES[field['type']]} {bounds[0]}", *bounds[1:]] if bounds else [_TYPES[field["type"]]])


def _items(field):
    if "prefixItems" in field:
        return f"{len(field['prefixItems'])} of {' or '.join(_values(field['prefixItems'][0]))}"
    return " or ".join(_values(field["items"]))


def _capitalized(text):
    return text[0].upper() + text[1:]


def _plain(number):
    return int(number) if number == int(number) else number


if __name__ == "__main__":
    print(page(), end="")
