"""A config's mistakes in words: one line each, with the dotted key, the value and what is allowed."""


def problem(key, value, expected):
    """The line for a value that is not allowed."""
    return f"{key}: got {show(value)}, expected {expected}"


def show(value):
    """A value as YAML has it, cut to 80 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(error):
    """An exception's message without its line breaks."""
    return " ".join(str(error).split())


def lines_of(error, schema, mapping):
    """One line for every key that pydantic complains about.

    Args:
        error: pydantic's ValidationError.
        schema: the model's JSON schema.
        mapping: what was to be validated.
    """
    lines = {}
    for found in error.errors():
        if found["type"] == "value_error":
            return str(found["ctx"]["error"]).splitlines()
        key, line = _line(found, schema, mapping)
        lines.setdefault(key, line)
    return list(lines.values())


def _line(found, schema, mapping):
    kind, (keys, node) = found["type"], _locate(schema, found["loc"])
    if kind.startswith("union_tag"):
        keys, node = [*keys, "preset"], {"enum": sorted(node["discriminator"]["mapping"])}
    key = ".".join(keys) or "config"
    if kind in ("missing", "union_tag_not_found"):
        return key, f"{key}: missing, expected {_expected(node)}"
    value = mapping
    for part in keys:
        value = {str(name): item for name, item in value.items()}[part]
    if kind in ("extra_forbidden", "invalid_key"):
        return key, f"{key}: unknown key (value {show(value)}); allowed: {', '.join(node['properties'])}"
    return key, problem(key, value, _expected(node))


def _locate(schema, loc):
    """The parts of the dotted key, and its part of the schema; an unknown key comes with its section's."""
    keys, node = [], schema
    for part in loc:
        if "discriminator" in node:
            node = _resolve(schema, {"$ref": node["discriminator"]["mapping"][part]})
        elif "properties" in node:
            keys.append(str(part))
            if part not in node["properties"]:
                break
            node = _resolve(schema, node["properties"][part])
        else:  # Inside a list, or an alternative of the field.
            break
    return keys, node


def _resolve(schema, node):
    return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


_NOUNS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}


def _expected(node):
    """What a part of the schema allows, in words."""
    if "anyOf" in node:
        return " or ".join(_expected(alternative) for alternative in node["anyOf"])
    if "enum" in node or "const" in node:
        return f"one of {', '.join(map(str, node.get('enum', [node.get('const')])))}"
    if "properties" in node or "discriminator" in node:
        return (
            f"a mapping with the keys {', '.join(node['properties'])}"
            if "properties" in node
            else "a mapping with a preset"
        )
    if node["type"] == "array":
        items = node.get("items") or node["prefixItems"][0]
        count = f"{len(node['prefixItems'])} " if "prefixItems" in node else ""
        return f"a list of {count}{_NOUNS[items['type']]}s{_bounds(items)}"
    article = {"integer": "an ", "number": "a "}.get(node["type"], "")
    return f"{article}{_NOUNS[node['type']]}{_bounds(node)}"


def _bounds(node):
    bounds = [f"{sign} {node[name]}" for name, sign in _BOUNDS.items() if name in node]
    return f" {' and '.join(bounds)}" if bounds else ""
