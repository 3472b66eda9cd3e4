"""TF Serving's JSON: a predict request to arrays, and arrays to its reply. A wrong request raises ValueError, one that
is nested too deeply RecursionError.

Row format:     {"signature_name": "png", "instances": [{"seed": 0}, {"seed": 1}]}  -> {"predictions": [...]}
Column format:  {"signature_name": "png", "inputs": {"seed": [0, 1]}}               -> {"outputs": [...]}
With one input its name may be left out; with one output its name is left out.
"""

import base64
import binascii
import json
import math
from typing import Any

import numpy as np


def parse_request(body: bytes) -> tuple[str | None, str, Any]:
    """The body of a predict request -> (signature name or None, "instances" or "inputs", the value under that key)."""
    document = _document(body)
    keys = [key for key in ("instances", "inputs") if key in document]
    if not keys:
        raise ValueError("Missing 'inputs' or 'instances' key")
    if len(keys) == 2:
        raise ValueError("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    return document.get("signature_name"), keys[0], document[keys[0]]


def _document(body: bytes) -> dict:
    if not body:
        raise ValueError("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ValueError(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"JSON Value: {_shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise ValueError("'signature_name' key must be a string value.")
    return document


def inputs_from_json(layout: str, value: Any, dtypes: dict[str, np.dtype]) -> dict[str, np.ndarray]:
    """The value under "instances" or "inputs" -> input names -> arrays of the given dtypes."""
    columns = _columns_of_rows(value, dtypes) if layout == "instances" else _columns(value, dtypes)
    arrays = {}
    for name, column in columns.items():
        try:
            arrays[name] = _array(column, dtypes[name])
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from None
    return arrays


def outputs_to_json(layout: str, outputs: dict[str, np.ndarray]) -> dict:
    """Output names -> arrays to the reply's JSON object."""
    columns = {name: _json_values(name, array) for name, array in outputs.items()}
    if layout == "inputs":
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    sizes = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(f"outputs {sorted(outputs)} have no common batch size: ask with 'inputs' instead")
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row)) for row in zip(*columns.values())]}


def _columns(value, dtypes: dict) -> dict:
    if not isinstance(value, dict) or _is_base64(value):
        if len(dtypes) > 1:
            raise ValueError(f"inputs is a plain value/list, but expecting an object with {sorted(dtypes)}")
        return {next(iter(dtypes)): value}
    for name in dtypes:
        if name not in value:
            raise ValueError(f"Missing named input: {name} in 'inputs' object.")
    return {name: value[name] for name in dtypes}


def _columns_of_rows(rows, dtypes: dict) -> dict:
    if not isinstance(rows, list):
        raise ValueError(f"JSON Value: {_shown(rows)} Excepting 'instances' to be an list/array")
    if not rows:
        raise ValueError("No values in 'instances' array")
    named = [isinstance(row, dict) and not _is_base64(row) for row in rows]
    if any(named) != all(named):
        expected = "object but got list" if named[0] else "value/list but got object"
        raise ValueError(f"Expecting {expected} at item {named.index(not named[0])} of input list")
    if not named[0]:
        if len(dtypes) > 1:
            raise ValueError(f"instances is a plain list, but expecting list of objects with {sorted(dtypes)}")
        return {next(iter(dtypes)): rows}
    for index, row in enumerate(rows):
        if set(row) != set(dtypes):
            keys = f"keys must be equal to: {','.join(sorted(dtypes))}. Received: {','.join(sorted(row))}"
            raise ValueError(f"Failed to process element: {index} of 'instances' list. {keys}")
    return {name: [row[name] for row in rows] for name in dtypes}


def _array(value, dtype: np.dtype) -> np.ndarray:
    """A nested list -> an array, refusing what NumPy would convert in silence: ragged lists, 1.5 or true for an int."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    flat = []
    _flatten(value, shape, 0, dtype, flat)
    return np.array(flat, dtype).reshape(shape)


def _flatten(value, shape: list, level: int, dtype: np.dtype, flat: list) -> None:
    if level == len(shape):
        flat.append(_scalar(value, dtype))
    elif isinstance(value, list) and len(value) == shape[level]:
        for item in value:
            _flatten(item, shape, level + 1, dtype, flat)
    else:
        raise ValueError(f"expecting a list of {shape[level]} values at level {level}. Received: {_shown(value)}")


def _scalar(value, dtype: np.dtype):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype.kind in "iu" and number and isinstance(value, int):
        if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            return value
    elif dtype.kind == "f" and dtype.itemsize > 2 and number:
        if float(np.finfo(dtype).max) < abs(value) < math.inf:
            raise ValueError(f"Cannot convert JSON value: {_shown(value)} to {dtype} without loss of precision.")
        return float(value)
    elif dtype.kind == "b" and isinstance(value, bool):
        return value
    elif dtype.kind == "O" and isinstance(value, str):
        return value.encode()
    elif dtype.kind == "O" and _is_base64(value):
        text = "".join(value["b64"].split())  # TF Serving's decoder skips blanks, and needs no padding
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("Unable to base64 decode") from None
    raise ValueError(f"JSON Value: {_shown(value)} is not of expected type: {dtype if dtype.kind != 'O' else 'string'}")


def _json_values(name: str, array: np.ndarray):
    if array.dtype.kind == "O":
        as_bytes = name.endswith("_bytes")
        texts = [{"b64": base64.b64encode(s).decode()} if as_bytes else s.decode(errors="replace") for s in array.flat]
        boxed = np.empty(len(texts), object)
        boxed[:] = texts
        return boxed.reshape(array.shape).tolist()
    if array.dtype.kind not in "iufb" or array.dtype == np.float16:
        raise ValueError(f"Failed to write JSON value for tensor type: {array.dtype}")
    if array.dtype == np.float32:
        array = array.astype(str).astype(np.float64)  # 0.2 as "0.2", not as 0.20000000298023224
    return array.tolist()


def _is_base64(value) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _shown(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
