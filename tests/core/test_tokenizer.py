"""Text to ids and back: the reference's ids, no special token out of user text, and streams that lose no character."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.errors import CheckpointError
from r3core.model.tokenizer import TextStream, Tokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
with_specials = st.lists(texts | st.sampled_from(SPECIALS), max_size=8).map("".join)


def stream(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[str], str]:
    """The pieces that a stream shows, the last by its end, and its whole text."""
    pieces = TextStream(tokenizer)
    shown = [pieces.push(id_) for id_ in ids]
    return [*shown, pieces.finish()], pieces.whole


def test_ids_equal_the_references(golden: dict[str, Any], tokenizer: Tokenizer) -> None:
    recorded = golden["tokenizer"]
    special = recorded["special_ids"]
    ours = tokenizer.im_start, tokenizer.im_end, tokenizer.vision_start, tokenizer.vision_end
    assert ours == (
        special["bos_token_id"],
        special["eos_token_id"],
        special["start_of_image"],
        special["end_of_image"],
    )
    assert len(recorded["cases"]) >= 20
    for case in recorded["cases"]:
        assert tokenizer.encode_parsing_specials(case["text"]) == case["ids"]
        if not any(name in case["text"] for name in SPECIALS):
            assert tokenizer.encode(case["text"]) == case["ids"]
    for case in recorded["decode"]:
        assert tokenizer.decode(case["ids"]) == case["text"]


def test_a_segment_is_a_text_between_its_markers(tokenizer: Tokenizer) -> None:
    assert tokenizer.segment("") == [tokenizer.im_start, tokenizer.im_end]
    assert tokenizer.segment("a bus") == [tokenizer.im_start, *tokenizer.encode("a bus"), tokenizer.im_end]


@given(with_specials)
def test_user_text_never_becomes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    special = {tokenizer.encode_parsing_specials(name)[0] for name in SPECIALS}
    assert {tokenizer.im_start, tokenizer.im_end, tokenizer.vision_start, tokenizer.vision_end} <= special
    assert not special & set(tokenizer.encode(text))


@given(st.lists(st.integers(0, 703), max_size=40))
def test_the_pieces_of_a_stream_are_what_decoding_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    ids = [id_ for id_ in ids if id_ not in (tokenizer.im_start, tokenizer.im_end)]
    pieces, whole = stream(tokenizer, ids)
    assert "".join(pieces) == whole == tokenizer.decode(ids)


@given(texts)
def test_no_piece_ends_inside_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    pieces, whole = stream(tokenizer, ids)
    assert whole == tokenizer.decode(ids)
    assert pieces[-1] == ""
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_a_text_that_ends_inside_a_character_shows_one_replacement_at_its_end(tokenizer: Tokenizer) -> None:
    smile = tokenizer.encode("😀")
    assert len(smile) > 2
    pieces, whole = stream(tokenizer, smile[:-1])
    assert pieces == [*[""] * (len(smile) - 1), "\ufffd"]
    assert whole == "\ufffd"


@given(st.lists(st.integers(0, 703), max_size=12), st.lists(st.integers(0, 703), max_size=12))
def test_a_second_start_or_an_end_cuts_the_text_as_the_reference_does(
    tokenizer: Tokenizer, before: list[int], after: list[int]
) -> None:
    start, end = tokenizer.im_start, tokenizer.im_end
    before = [id_ for id_ in before if id_ not in (start, end)]
    for marker in (start, end):
        ids = [start, *before, marker, *after, end]
        reference = tokenizer.decode(ids).split("<|im_end|>")[0].split("<|im_start|>")[1]
        assert stream(tokenizer, ids[1:])[1] == reference


def test_ids_past_the_tokenizer_are_no_text(tokenizer: Tokenizer) -> None:
    assert stream(tokenizer, [703, 10**6])[1] == ""


def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        Tokenizer(path)


def test_a_tokenizer_without_the_markers_is_refused_with_their_names(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    whole = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    path.write_text(whole.replace("<|vision_end|>", "<|other|>"), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lacks <\|vision_end\|>; take tokenizer\.json from the BAGEL files"):
        Tokenizer(path)


# --- words


@pytest.mark.parametrize(
    ("text", "words", "owners"),
    [
        ("Two  red\n circles.", ("Two", "red", "circles."), None),
        ("na\u00efve \u65e5\u672c x", ("na\u00efve", "\u65e5\u672c", "x"), None),
        (" <|im_end|> a", ("<|im_end|>", "a"), None),
        ("", (), ()),
    ],
)
def test_words_are_what_white_space_parts(
    text: str, words: tuple[str, ...], owners: tuple[int, ...] | None, tokenizer: Tokenizer
) -> None:
    found, owned = tokenizer.words(text)
    assert found == words
    assert owners is None or owned == owners
    assert len(owned) == len(tokenizer.encode(text))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_token_has_a_word_in_their_order_and_every_word_its_own_bytes(tokenizer: Tokenizer, text: str) -> None:
    words, owners = tokenizer.words(text)
    assert words == tuple(text.split())
    ids = tokenizer.encode(text)
    assert len(owners) == len(ids)
    assert list(owners) == sorted(owners)
    if unicodedata.is_normalized("NFC", text):
        for number, word in enumerate(words):
            own = b"".join(tokenizer.bytes_of(id_) for id_, owner in zip(ids, owners, strict=True) if owner == number)
            assert own.decode().strip() == word
