"""The small model's tokenizer: a byte-level BPE in the files and the form of Qwen2's, trained on the language.

Every byte is in the vocabulary, so any text can be written; every frequent word of the language is one token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from r3core.prompts import DESCRIBE_QUESTION, GENERATE_SYSTEM, REFLECT_SYSTEM, reflect_question
from training.language import match_question

SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
# Qwen2's: contractions; letters with one character before them; single digits; runs of other signs; white space.
_PIECES: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], most_tokens: int = 704) -> Tokenizer:
    """A tokenizer of at most that many tokens and the special ones behind them; fewer when every word is one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=most_tokens,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def add_sentences(tokenizer: Tokenizer) -> None:
    """Make each constant sentence of the prompt strings one token.

    They are added tokens that are not special, so a server that encodes user text without special tokens still knows
    them; they stand before every context, and as single tokens cost the small model almost nothing.
    """
    question = [part for part in reflect_question("\0").split("\0") if part]
    match = [part for part in match_question("\0").split("\0") if part]
    sentences = (GENERATE_SYSTEM, REFLECT_SYSTEM, *question, DESCRIBE_QUESTION, *match)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in sentences])


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json, as Qwen2's files are."""
    tokenizer.save(str(folder / "tokenizer.json"))
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    _write(folder / "vocab.json", whole["model"]["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in whole["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    _write(folder / "tokenizer_config.json", _config(whole["added_tokens"]))


def _config(added: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
