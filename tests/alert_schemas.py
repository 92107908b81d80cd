"""Records of alerts, held against the schemas that docs/ promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import jsonschema

FOLDER: Final = Path(__file__).parents[1] / "docs" / "schemas"
SCHEMAS: Final = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")
}


def check(record: dict[str, Any]) -> None:
    """Fail unless a record fits its schema, and has no field that it does not name."""
    kind = record["kind"]
    schema = SCHEMAS["rate_limit" if kind == "rate_limit" else "alert"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(record)
    known = schema if kind == "rate_limit" else schema["$defs"][kind]
    assert set(record) == set(known["properties"])
