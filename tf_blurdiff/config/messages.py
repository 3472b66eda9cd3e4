"""Error messages of a config: one line for each mistake, with the dotted key, the value and what is allowed."""

from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tf_blurdiff.errors import UserError


class ConfigError(UserError):
    """A config cannot be used; the message has one line per problem."""


def problem(key: str, value: object, expected: str) -> str:
    """The line for a value that is not allowed.

    Example:
        >>> problem("train.clip_norm", None, "a number > 0")
        'train.clip_norm: got null, expected a number > 0'
    """
    return f"{key}: got {show(value)}, expected {expected}"


def show(value: object) -> str:
    """A value as YAML has it, cut to 80 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(error: Exception) -> str:
    """An exception's message without its line breaks."""
    return " ".join(str(error).split())


def lines_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """pydantic's complaints about a config: one line for every key, or those that a validator of ours raised.

    Args:
        error: what validation raised.
        model: the config's; its fields are sections, or unions of sections that a discriminator tells apart.
    """
    lines: dict[tuple[int | str, ...], str] = {}
    for found in error.errors():
        if found["type"] == "value_error":
            lines[found["loc"]] = str(found["ctx"]["error"])
        else:
            keys, section, field = _locate(found["loc"], model)
            # What is wrong inside a list is of one key.
            lines.setdefault(keys[:2], _line(found, keys, section, field))
    return "\n".join(lines.values()).splitlines()


def _locate(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[Any, type[BaseModel], FieldInfo | None]:
    """The parts of the dotted key, the model that should have it, and its field if it has."""
    name, *rest = loc or ("config",)
    field = model.model_fields.get(str(name))
    if field is None or not rest:
        return (name,), model, field
    section: Any = field.annotation
    if field.discriminator:
        tag, *rest = rest
        section = _alternative(section, field.discriminator, tag)
    if not rest:
        return (name,), section, None
    fields = {field.alias or key: field for key, field in section.model_fields.items()}
    return (name, *rest), section, fields.get(rest[0])


def _alternative(union, discriminator, tag):
    """The section of a union that has this tag."""
    if isinstance(discriminator, str):
        return next(each for each in get_args(union) if each.model_fields[discriminator].default == tag)
    tagged = {each.__metadata__[0].tag: each.__origin__ for each in get_args(union)}  # Annotated[Section, Tag(tag)]
    return tagged[tag]


def _line(found: Any, keys: tuple[int | str, ...], section: type[BaseModel], field: FieldInfo | None) -> str:
    key, kind, value = ".".join(map(str, keys)), found["type"], found["input"]
    if kind in ("extra_forbidden", "invalid_key"):
        given = f" (value {show(value)})" if kind == "extra_forbidden" else ""
        return f"{key}: unknown key{given}; allowed: {', '.join(section.model_fields)}"
    if kind == "model_type":
        wanted: Any = field.annotation if field else section
        return problem(key, value, f"a mapping with the keys {', '.join(wanted.model_fields)}")
    assert field is not None  # All else is wrong with the value of a key that there is.
    if kind.startswith("union_tag"):
        tag = str(field.discriminator)
        key, names = f"{key}.{tag}", [each.model_fields[tag].default for each in get_args(field.annotation)]
        expected = f"one of {', '.join(names)}"
        return problem(key, value[tag], expected) if tag in value else f"{key}: missing, expected {expected}"
    if kind == "missing":
        return f"{key}: missing, expected {field.description}"
    if kind == "model_attributes_type":
        return problem(key, value, f"a mapping with a {field.discriminator}")
    # "Input should be a valid tuple", "Tuple should have at least 1 item".
    verb, _, expected = found["msg"].partition(" should ")[2].partition(" ")
    expected = expected.replace("tuple", "list") if verb == "be" else f"to {verb} {expected}"
    return problem(key, value, f"{expected} or null" if NoneType in get_args(field.annotation) else expected)
