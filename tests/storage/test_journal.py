"""An append-only journal that survives kills, and refuses damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import MachineError, MalformedError
from bundler.storage import journal as journal_module
from bundler.storage.journal import Journal, decode_lines, encode_line

TEXT = st.text(st.characters(codec="utf-8"))
ENTRIES = st.lists(st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53), max_size=4), max_size=5)


def _read(path: Path) -> list[dict[str, Any]]:
    journal = Journal(path)
    journal.close()
    return journal.entries


@given(ENTRIES)
def test_what_was_appended_is_read(entries: list[dict[str, Any]]) -> None:
    data = b"".join(map(encode_line, entries))
    assert decode_lines(data, where="journal") == (entries, len(data))


@given(ENTRIES, st.data())
def test_a_torn_last_line_is_dropped_wherever_it_tore(
    entries: list[dict[str, Any]], data: st.DataObject
) -> None:
    whole = b"".join(map(encode_line, entries))
    last = encode_line({"path": "payload/x"})
    torn = last[: data.draw(st.integers(0, len(last) - 1))]
    assert decode_lines(whole + torn, where="journal") == (entries, len(whole))


@given(st.data())
def test_every_flipped_bit_of_a_whole_line_is_refused(data: st.DataObject) -> None:
    lines = [encode_line({"path": f"payload/{name}", "size": 7}) for name in "abc"]
    whole = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    if at == len(whole) - 1:  # the last line end: that line is a torn one now
        assert len(decode_lines(bytes(whole), where="journal")[0]) == 2
        return
    with pytest.raises(MalformedError) as caught:
        decode_lines(bytes(whole), where="journal")
    assert caught.value.reference == "damaged-journal"


def test_a_damaged_middle_line_is_named_by_its_number_and_the_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    before = encode_line({"a": 1}) + b"{damaged}\n" + encode_line({"b": 2})
    path.write_bytes(before)
    with pytest.raises(MalformedError) as caught:
        Journal(path)
    assert caught.value.findings[0].where == f"{path}, line 2"
    assert "move the journal away" in caught.value.findings[0].hint
    assert path.read_bytes() == before


def test_a_torn_line_never_gets_a_line_after_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(encode_line({"a": 1}) + encode_line({"lost": 2})[:9])
    journal = Journal(path)
    journal.append({"b": 3})
    journal.close()
    assert journal.entries == [{"a": 1}]
    assert path.read_bytes() == encode_line({"a": 1}) + encode_line({"b": 3})


def test_a_full_disk_in_the_middle_of_a_line_leaves_a_journal_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"a": 1})

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_all", half)
        with pytest.raises(MachineError) as caught:
            journal.append({"b": 2})
    assert caught.value.reference == "disk-full"
    assert _read(path) == [{"a": 1}]
    journal.append({"c": 3})
    journal.close()
    assert _read(path) == [{"a": 1}, {"c": 3}]


def test_threads_may_append_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")

    def many(who: int) -> None:
        for number in range(20):
            journal.append({"who": who, "number": number})

    threads = [threading.Thread(target=many, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    entries = _read(journal.path)
    assert sorted((entry["who"], entry["number"]) for entry in entries) == [
        (who, number) for who in range(4) for number in range(20)
    ]


def test_a_link_in_place_of_the_journal_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "journal.jsonl").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Journal(tmp_path / "journal.jsonl")


def test_every_line_that_was_promised_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = (
        "import sys, itertools, pathlib\n"
        "from bundler.storage.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for number in itertools.count():\n"
        "    journal.append({'number': number, 'filler': 'x' * 9000})\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    promised = [int(process.stdout.readline()) for _ in range(30)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    numbers = [entry["number"] for entry in _read(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > promised
