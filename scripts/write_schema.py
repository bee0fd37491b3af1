#!/usr/bin/env python3
"""Write docs/spec.schema.json from the code; a test says when that is due."""

from __future__ import annotations

from pathlib import Path

from bundler.core.specs.spec_text import schema_bytes

TARGET = Path(__file__).resolve().parent.parent / "docs" / "spec.schema.json"

if __name__ == "__main__":
    TARGET.write_bytes(schema_bytes())
    print(f"wrote {TARGET}")
