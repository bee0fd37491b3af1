"""Every hint is a command that works: each command that a message names is parsed, none is unsafe."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from bundler.cli.app import VERBS, sealift
from bundler.references import rows

SOURCE = Path(__file__).parents[1] / "bundler"
PROGRAMS = frozenset(
    {"chmod", "cosign", "cp", "dmesg", "docker", "docker-credential-NAME", "dpkg", "echo", "export", "fuser"}
    | {
        "head",
        "kill",
        "ls",
        "mkdir",
        "mount",
        "nvidia-smi",
        "openssl",
        "pip",
        "pkcs11-tool",
        "podman",
        "python3",
    }
    | {"sha256sum", "skopeo", "ulimit", "unset", "uv"}
)
"""Programs that a hint may name apart from sealift."""
NOT_INSIDE = ("apt ", "apt-get ", "dnf ", "yum ", "zypper ", "curl ", "wget ")
"""What a site without a network cannot do; package names are promised nowhere."""


def literal(node: ast.expr) -> str:
    """The text of a hint; a value that is only known at run time becomes a word."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "NAME"
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    if isinstance(node, ast.IfExp):
        return literal(node.body) + "\n" + literal(node.orelse)
    if isinstance(node, (ast.Dict, ast.Tuple)):
        parts = node.values if isinstance(node, ast.Dict) else node.elts
        return "\n".join(literal(part) for part in parts if part is not None)
    if isinstance(node, ast.Call):
        # `TABLE.get(key, "fallback")`, `"...".replace(...)`: the texts in it.
        return "\n".join(literal(part) for part in (node.func, *node.args))
    return literal(node.value) if isinstance(node, (ast.Attribute, ast.Subscript)) else ""


def named_hint(node: ast.AST) -> Iterator[ast.expr]:
    """Values that are given to a parameter or a name with `hint` in it, or that such a function returns."""
    if isinstance(node, ast.Call):
        yield from (given.value for given in node.keywords if given.arg and "hint" in given.arg)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any("hint" in ast.unparse(target).lower() for target in targets):
            yield node.value
    elif isinstance(node, ast.FunctionDef) and "hint" in node.name:
        yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value)


@cache
def hints() -> dict[str, str]:
    """Place to text: every text in the code that has a command of ours, every hint, every row's advice."""
    found: dict[str, str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name == "bundle_readme.py":
            continue  # the text of a bundle's README: test_bundle_readme runs its commands
        name = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            for value in named_hint(node):
                text = literal(value)
                if text.strip():
                    found[f"{name}:{value.lineno}:{value.col_offset}"] = text
        for value in constants(tree):
            text = literal(value)
            if "`sealift " in text:
                found.setdefault(f"{name}:{value.lineno}:{value.col_offset}", text)
    found.update({f"references: {row.reference}": row.do for row in rows().values()})
    return found


def constants(tree: ast.Module) -> Iterator[ast.expr]:
    """Texts outside docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and id(node) not in docs):
            yield node


def commands(text: str) -> list[str]:
    """What stands between backticks in a text."""
    return re.findall(r"`([^`]+)`", text)


def is_call(command: str) -> bool:
    """Whether a quoted text is a command: a known shape of ours, or a program with arguments."""
    words = command.split()
    return len(words) > 1 and re.fullmatch(r"[a-z][a-z0-9.+-]*", words[0]) is not None and ":" not in words[0]


def fault(command: str) -> str:
    """Why a command of ours does not parse against the command line; empty when it does."""
    words = [word for word in shlex.split(re.split(r" [|>] | && ", command)[0]) if word != "..."]
    found: click.Command = sealift
    rest = words[1:]
    while isinstance(found, click.Group):
        if rest in ([], ["--help"], ["--version"]):
            return ""
        if rest[0] in ("VERB", "NAME"):
            return ""
        member = (
            found.get_command(click.Context(found), rest[0])
            if rest[0] in found.list_commands(click.Context(found))
            else None
        )
        if member is None:
            return f"there is no {rest[0]}"
        found, rest = member, rest[1:]
    if not rest or "--help" in rest:
        # A verb that is only named, as in "run the same `sealift build` again".
        return ""
    context = click.Context(found, info_name="sealift")
    try:
        given, left, _ = found.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        return error.format_message()
    if left:
        return f"too many arguments: {left}"
    return needed(found, given)


def needed(found: click.Command, given: dict[str, object]) -> str:
    """Which argument or option is required and not there."""
    absent = [
        str(parameter.name)
        for parameter in found.params
        if parameter.required and given.get(str(parameter.name)) in (None, (), "")
    ]
    return f"without {', '.join(absent)}" if absent else ""


def test_the_search_finds_hints_of_every_form() -> None:
    texts = hints().values()
    assert len(texts) > 600
    for part in ("chmod 600 NAME", "`sealift explain` lists all", "did you mean `sealift NAME`", "dmesg"):
        assert any(part in text for text in texts), part


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sealift verfy BUNDLE", "no verfy"),
        ("sealift keys shout KEY", "no shout"),
        ("sealift verify BUNDLE --relax", "--relax"),
        ("sealift verify BUNDLE OTHER", "too many"),
        ("sealift attest new BUNDLE", "without kind, out"),
    ],
)
def test_a_command_that_does_not_parse_is_found(command: str, said: str) -> None:
    assert said in fault(command)


def test_every_command_of_ours_in_a_hint_parses() -> None:
    faults = {
        f"{place}: {command}": fault(command)
        for place, text in hints().items()
        for command in commands(text)
        if command.split()[0] == "sealift"
    }
    assert len(faults) > 100
    assert {place: said for place, said in faults.items() if said} == {}


def test_a_command_of_ours_stands_in_backticks() -> None:
    verbs = "|".join(VERBS)
    bare = re.compile(rf"\bsealift ({verbs}) [^ ]")
    found = {
        place: text
        for place, text in hints().items()
        if bare.search(re.sub(r"`[^`]*`", "", text)) and not place.startswith(("cli/examples", "demo/"))
    }
    assert found == {}


def test_every_other_program_in_a_hint_is_a_known_one() -> None:
    unknown = {
        f"{place}: {command}"
        for place, text in hints().items()
        for command in commands(text)
        if is_call(command) and command.split()[0] not in PROGRAMS | {"sealift"}
    }
    assert unknown == set()


def test_no_hint_needs_a_network_of_packages() -> None:
    found = {
        f"{place}: {text}"
        for place, text in hints().items()
        for word in NOT_INSIDE
        if re.search(rf"(^|[^a-z-]){re.escape(word)}", text)
    }
    assert found == set()


def test_no_text_in_the_code_installs_packages_of_a_distribution() -> None:
    joined = {
        f"{path.name}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in constants(ast.parse(path.read_bytes()))
        if re.search(r"\b(apt|apt-get|dnf|yum)\s+install\b", literal(node))
    }
    assert joined == set()


def test_no_hint_hides_a_public_key_or_makes_a_policy_inside() -> None:
    for place, text in hints().items():
        assert not re.search(r"chmod \S+ \S*\.pub", text), place
        assert "trust init" not in text or not place.startswith(
            ("cli/options", "cli/doctor", "verification")
        ), place
