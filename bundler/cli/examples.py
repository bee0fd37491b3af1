"""One or two examples at the end of every verb's help. A test parses each against the command line itself."""

from __future__ import annotations

import re

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("sealift init --profile kimi-k2-vllm -o kimi.yaml",),
    "lock": ("sealift lock kimi.yaml", "sealift lock kimi.yaml --check"),
    "plan": ("sealift plan kimi.yaml --to /media/transfer/kimi-17", "sealift plan kimi.yaml --node 16xH100"),
    "build": (
        "sealift build kimi.yaml -o /media/transfer/kimi-17",
        "sealift build kimi.yaml -o /media/transfer/kimi-18 --reuse /media/transfer/kimi-17",
    ),
    "sign": ("sealift sign kimi-17 --key release.key", "sealift sign kimi-17 --keyless"),
    "attest list": ("sealift attest list kimi-17 --policy policy.json",),
    "inspect": (
        "sealift inspect kimi-17 --chain config.json",
        "sealift inspect kimi-17 --licenses",
    ),
    "diff": ("sealift diff kimi-17 kimi-18",),
    "verify": (
        "sealift verify kimi-17",
        "sealift verify kimi-17 --policy policy.json --state state.json --resume",
    ),
    "install": ("sealift install kimi-17 --engine vllm --to /srv/vllm",),
    "launch": ("sealift launch kimi-17 --profile default --env /srv/vllm",),
    "keys show": ("sealift keys show release.key",),
    "keys fingerprint": ("sealift keys fingerprint release.pub",),
    "trust show": ("sealift trust show policy.json",),
    "doctor": ("sealift doctor",),
    "demo": ("sealift demo", "sealift demo --serve tour"),
    "completion": ("sealift completion bash > ~/.local/share/bash-completion/completions/sealift",),
    "explain": ("sealift explain digest-mismatch",),
}
_IN_HELP = re.compile(r"\n\s*Example: (sealift [^\n]*(?:\n[ \t]+\S[^\n]*)*)")


def with_examples(name: str, command: click.Command) -> click.Command:
    """`command` with its examples as the last thing of its help: those in its text, and those above."""
    if isinstance(command, click.Group):
        for part, member in command.commands.items():
            with_examples(f"{name} {part}", member)
        return command
    text = command.help or ""
    written = [" ".join(found.split()) for found in _IN_HELP.findall(text)]
    lines = [*written, *EXAMPLES.get(name, ())]
    if lines and not (command.epilog or "").endswith(lines[-1]):
        command.help = _IN_HELP.sub("", text)
        before = f"{command.epilog}\n\n" if command.epilog else ""
        command.epilog = f"{before}\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
    return command
