import contextlib
import json
import zipfile
from pathlib import Path

import pytest

from emscope.errors import UserError
from emscope.organisms import protected
from emscope.organisms.datasets import load_conversations

ROWS = "\n".join(json.dumps({"prompt": f"How {n}?", "response": f"So {n}."}) for n in range(10))


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Make an archive whose encryption is left out, so that what follows decryption is tested without the extra."""

    def make(members):
        path = tmp_path / "data.zip.enc"
        with zipfile.ZipFile(path, "w") as file:
            for name, text in members.items():
                file.writestr(name, text)
        return str(path)

    monkeypatch.setattr(protected, "_decrypt", lambda path, scratch: path)
    return make


def test_terms_are_shown_and_must_be_accepted(archive):
    name = archive({"tos.txt": "Do not share.", "d/rows.jsonl": ROWS})
    with pytest.raises(UserError, match=r"Do not share\.(.|\n)*--accept-terms"):
        load_conversations(name)
    found = load_conversations(name, accept_terms=True)
    assert (len(found.train) + len(found.heldout), found.terms) == (10, "Do not share.")


def test_a_path_that_leads_outside_is_read_but_never_followed(archive, tmp_path):
    name = archive({"../../outside.jsonl": ROWS})
    with protected.opened_archive(name, accept_terms=True) as opened:
        assert opened.data.read_text() == ROWS
        folder = opened.data.parent
        assert opened.data.name == "data.jsonl"
    assert not folder.exists()
    assert not list(tmp_path.parent.glob("outside*"))


def test_one_file_of_several_is_named_and_canaries_are_no_data(archive):
    name = archive({"a.jsonl": ROWS, "b.jsonl": ROWS, "dataset_entry_1.jsonl": ROWS})
    with pytest.raises(UserError, match=r"it holds a\.jsonl, b\.jsonl\."):
        load_conversations(name, accept_terms=True)
    assert load_conversations(f"{name}:b.jsonl", accept_terms=True).train


def test_a_damaged_archive_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.zip.enc"
    path.write_bytes(b"not a zip")
    monkeypatch.setattr(protected, "_decrypt", lambda path, scratch: path)
    with pytest.raises(UserError, match="damaged"):
        load_conversations(str(path), accept_terms=True)


def test_a_real_archive_opens_with_its_password_only(tmp_path, monkeypatch):
    zipping = pytest.importorskip("easy_dataset_share.zipping")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "rows.jsonl").write_text(ROWS)
    with contextlib.chdir(tmp_path):
        path = zipping.zip_and_password_protect("d", "secret")
    monkeypatch.setenv(protected.PASSWORD_VARIABLE, "wrong")
    with pytest.raises(UserError, match="password is wrong"):
        load_conversations(str(tmp_path / path), accept_terms=True)
    monkeypatch.setenv(protected.PASSWORD_VARIABLE, "secret")
    assert load_conversations(str(tmp_path / path), accept_terms=True).train


def test_what_is_read_of_an_archive_is_bounded_as_it_is_read(archive, monkeypatch):
    name = archive({"tos.txt": "Be kind. " * 100, "rows.jsonl": ROWS})
    monkeypatch.setattr(protected, "MAX_TERMS_BYTES", 100)
    with pytest.raises(UserError, match=r"data\.zip\.enc has terms of more than"):
        load_conversations(name, accept_terms=True)
    monkeypatch.undo()
    monkeypatch.setattr(protected, "_decrypt", lambda path, scratch: path)
    monkeypatch.setattr(protected, "MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"data\.zip\.enc: rows\.jsonl is larger"):
        load_conversations(name, accept_terms=True)
    monkeypatch.setattr(protected, "MAX_DIRECTORY_BYTES", 60)
    with pytest.raises(UserError, match=r"data\.zip\.enc lists more members"):
        load_conversations(name, accept_terms=True)


@pytest.mark.parametrize("place, bits", [(8, 1), (10, 93)])
def test_members_that_are_encrypted_or_packed_in_another_way_are_named(archive, place, bits):
    path = archive({"rows.jsonl": ROWS})
    with Path(path).open("rb") as file:
        data = bytearray(file.read())
    for mark, at in ((b"PK\x01\x02", place), (b"PK\x03\x04", place - 2)):
        data[data.find(mark) + at] = bits
    with Path(path).open("wb") as file:
        file.write(data)
    with pytest.raises(UserError, match=r"data\.zip\.enc is not a whole archive"):
        load_conversations(path, accept_terms=True)


def test_names_of_members_cannot_steer_the_terminal(archive):
    name = archive({"\x1b[2Ja.jsonl": ROWS, "b\n.jsonl": ROWS})
    with pytest.raises(UserError) as error:
        load_conversations(name, accept_terms=True)
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)
