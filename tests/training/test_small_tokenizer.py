"""The small model's tokenizer: Qwen2's form, no unknown text, and a token for each word of the language."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.model.tokenizer import Tokenizer
from training.corpus import fixed, texts
from training.eval_set import cases
from training.phrasing import NUMBERS
from training.sampler import Sampler
from training.spec import MOST_OF_A_KIND
from training.tokenizer import SPECIAL_TOKENS, save, train

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save(train(texts()), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "tokenizer.json")


def test_every_word_of_the_language_is_one_token_but_numbers_that_are_never_asked_for(tokenizer: Tokenizer) -> None:
    sampler = Sampler(1)
    written = [text for _ in range(300) for text in (sampler.drawing().prompt, sampler.pair().reflection)]
    for text in (*written, *(case.prompt for case in cases()), *fixed()):
        for word in re.findall(r" ?[A-Za-z]+", text):
            assert len(tokenizer.encode(word)) == 1 or word.strip() in NUMBERS[MOST_OF_A_KIND + 1 :], word


def test_texts_are_short_in_tokens(tokenizer: Tokenizer) -> None:
    sampler = Sampler(2)
    drawings = [sampler.drawing() for _ in range(500)]
    pairs = [sampler.pair() for _ in range(500)]
    assert mean(len(tokenizer.encode(d.prompt)) for d in drawings) <= 12
    assert mean(len(tokenizer.encode(d.reason)) for d in drawings) <= 18
    assert mean(len(tokenizer.encode(p.reflection)) for p in pairs) <= 76
    assert max(len(tokenizer.encode(p.reflection)) for p in pairs) <= 150  # 160 are served


def test_the_vocabulary_is_small_and_holds_every_byte(folder: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocab) <= 704
    assert sum(len(token) == 1 for token in vocab) == 256


@given(text=st.text())
def test_any_text_is_encoded_and_comes_back(tokenizer: Tokenizer, text: str) -> None:
    import unicodedata

    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_special_tokens_stand_behind_the_vocabulary_and_are_never_written_by_a_user(
    folder: Path, tokenizer: Tokenizer
) -> None:
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    ids = [tokenizer.encode_parsing_specials(token) for token in SPECIAL_TOKENS]
    assert ids == [[size + i] for i in range(len(SPECIAL_TOKENS))]
    assert len(tokenizer.encode("<|im_end|>")) > 1


def test_the_files_have_the_form_of_qwen2s(folder: Path) -> None:
    golden = json.loads((PROJECT / "tests" / "golden" / "checkpoint" / "tokenizer.json").read_text(encoding="utf-8"))
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert whole["normalizer"] == golden["normalizer"]
    assert whole["pre_tokenizer"]["pretokenizers"][0] == golden["pre_tokenizer"]["pretokenizers"][0]
    assert whole["model"]["type"] == "BPE"
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert merges == [" ".join(pair) for pair in whole["model"]["merges"]]
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "Qwen2Tokenizer"


def test_training_it_again_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    save(train(texts()), tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
