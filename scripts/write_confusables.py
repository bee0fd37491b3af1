"""Write `bundler/core/names/confusables.py` from the tables of the `unicode-security` crate.

Usage: python scripts/write_confusables.py TABLES.rs

TABLES.rs is `src/tables.rs` of https://github.com/unicode-rs/unicode-security. The crate generates that file
from Unicode's own `confusables.txt` and `DerivedCoreProperties.txt`; every value there is the full prototype
of UTS 39 section 4. Prints the number of entries.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

TARGET = Path(__file__).parents[1] / "bundler/core/names/confusables.py"
HEAD = '''"""Confusable characters of UTS 39, Unicode {version}.

Written by `scripts/write_confusables.py`: do not edit. Source: `src/tables.rs` of
https://github.com/unicode-rs/unicode-security (MIT or Apache-2.0), made from
https://www.unicode.org/Public/security/{version}/confusables.txt (Unicode License v3).
`PROTOTYPES` holds `character:prototype` and `DEFAULT_IGNORABLE` ranges, all as hexadecimal code points.
"""

UNICODE_VERSION = "{version}"
'''
CHARACTER = r"'\\u\{([0-9a-f]+)\}'"


def main() -> None:
    """Read the tables and write the module."""
    text = Path(sys.argv[1]).read_text("utf-8")
    numbers = re.search(r"UNICODE_VERSION: \(u64, u64, u64\) = \((\d+), (\d+), (\d+)\)", text)
    assert numbers is not None
    pairs = re.findall(rf"\({CHARACTER},\s*&\[([^\]]*)\]\)", _part(text, "confusable_detection"))
    ranges = re.findall(rf"\({CHARACTER},\s*{CHARACTER}\)", _part(text, "default_ignorable_code_point"))
    prototypes = [f"{source}:{','.join(re.findall(CHARACTER, target))}" for source, target in pairs]
    module = HEAD.format(version=".".join(numbers.groups()))
    module += _constant("DEFAULT_IGNORABLE", [f"{first}-{last}" for first, last in ranges])
    module += _constant("PROTOTYPES", prototypes)
    TARGET.write_text(module, "ascii")
    sys.stdout.write(f"{len(prototypes)} prototypes, {len(ranges)} ranges\n")


def _part(text: str, module: str) -> str:
    start = text.index(f"pub mod {module} {{")
    return text[start : text.index("\n}\n", start)]


def _constant(name: str, words: list[str]) -> str:
    lines = textwrap.wrap(" ".join(words), 108, break_long_words=False, break_on_hyphens=False)
    return f'{name} = """\n' + "\n".join(lines) + '\n"""\n'


if __name__ == "__main__":
    main()
