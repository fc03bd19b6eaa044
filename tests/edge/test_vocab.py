"""Text to token ids and back, on a vocabulary made for the purpose and on those of the tiny checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.gguf_header import header_bytes
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, ValueType
from edge.llama.model import Model
from edge.llama.vocab import Vocab

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # llama_token_type
LONG_WORD = "a" * 5000
LONG_CONTROL = "<|" + "x" * 3000 + "|>"
# the printable stand-ins of GPT-2's byte alphabet for the bytes 0x21 to 0x7e are the bytes themselves
LETTERS = [chr(code) for code in range(0x21, 0x7F)]
SPACE, NEWLINE, NUL = "Ġ", "Ċ", "Ā"
SPECIAL = {
    "<|begin|>": CONTROL,
    "<|finish|>": CONTROL,
    LONG_CONTROL: CONTROL,
    "<tool>": USER_DEFINED,
    "</s>": USER_DEFINED,
}
TOKENS = [*LETTERS, SPACE, NEWLINE, "ab", "abc", "Ġabc", LONG_WORD, *SPECIAL]
MERGES = ["a b", "ab c", "Ġ abc"]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.gguf"
    write_vocabulary(path, TOKENS)
    with Model(path, vocabulary_only=True) as model:
        yield model.vocab


def write_vocabulary(path: Path, tokens: list[str]) -> None:
    types = [SPECIAL.get(token, NORMAL) for token in tokens]
    path.write_bytes(
        header_bytes(
            [
                MetadataEntry("general.architecture", ValueType.STRING, "llama"),
                MetadataEntry("tokenizer.ggml.model", ValueType.STRING, "gpt2"),
                MetadataEntry("tokenizer.ggml.pre", ValueType.STRING, "gpt-2"),
                MetadataEntry("tokenizer.ggml.tokens", ValueType.ARRAY, tokens, ValueType.STRING),
                MetadataEntry("tokenizer.ggml.token_type", ValueType.ARRAY, types, ValueType.INT32),
                MetadataEntry("tokenizer.ggml.merges", ValueType.ARRAY, MERGES, ValueType.STRING),
                MetadataEntry("tokenizer.ggml.bos_token_id", ValueType.UINT32, tokens.index("<|begin|>")),
                MetadataEntry("tokenizer.ggml.eos_token_id", ValueType.UINT32, tokens.index("<|finish|>")),
                MetadataEntry("tokenizer.ggml.add_bos_token", ValueType.BOOL, True),
            ],
            [],
        )
    )


@pytest.mark.parametrize("others", [[], [NUL * 2], [f"a{NUL}b"]])
def test_pieces_are_those_of_each_token_whatever_has_a_nul_and_spaces_before_punctuation(
    tmp_path: Path, others: list[str]
) -> None:
    path = tmp_path / "vocabulary.gguf"
    # llama.cpp takes spaces before punctuation out of a text as a whole, but not out of a piece
    write_vocabulary(path, [NUL, *TOKENS, "Ġ?", "Ġ!a", "aĠ.", "Ġ'Ġ", "Ġ's", *others])
    with Model(path, vocabulary_only=True) as model:
        pieces = model.vocab.pieces()
        assert pieces == [model.vocab.piece(token) for token in range(model.vocab.size)]
    assert pieces[0] == b"\0"
    assert pieces[len(TOKENS) + 1 :][:5] == [b" ?", b" !a", b"a .", b" ' ", b" 's"]


def test_the_pieces_of_all_tokens_are_those_of_each(vocab: Vocab) -> None:
    pieces = vocab.pieces()
    assert pieces == [vocab.piece(token) for token in range(vocab.size)]
    assert pieces[TOKENS.index(LONG_WORD)] == LONG_WORD.encode()
    assert pieces[TOKENS.index("</s>")] == b"</s>"


def test_threads_do_not_write_over_each_others_pieces(vocab: Vocab) -> None:
    expected = vocab.pieces()
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda _: [vocab.pieces() for _ in range(20)], range(4)))
    assert all(pieces == expected for several in read for pieces in several)


def test_token_longer_than_the_buffer_is_returned_whole(vocab: Vocab) -> None:
    assert vocab.piece(TOKENS.index(LONG_WORD)) == LONG_WORD.encode()


def test_short_token_after_a_long_one_has_nothing_of_it(vocab: Vocab) -> None:
    vocab.piece(TOKENS.index(LONG_WORD))
    assert vocab.piece(TOKENS.index("ab")) == b"ab"


def test_control_token_longer_than_the_buffer_has_its_whole_text(vocab: Vocab) -> None:
    assert vocab.text(TOKENS.index(LONG_CONTROL)) == LONG_CONTROL


def test_pieces_are_the_bytes_of_every_token_and_control_tokens_add_none(vocab: Vocab) -> None:
    shown = [*LETTERS, " ", "\n", "ab", "abc", " abc", LONG_WORD, "", "", "", "<tool>", "</s>"]
    assert vocab.size == len(TOKENS)
    assert vocab.pieces() == [text.encode() for text in shown]


def test_special_tokens_are_the_control_tokens_by_their_text(vocab: Vocab) -> None:
    control = ["<|begin|>", "<|finish|>", LONG_CONTROL]
    assert vocab.special_tokens == {text: TOKENS.index(text) for text in control}
    assert [text for text in TOKENS if vocab.is_control(TOKENS.index(text))] == control


def test_tokens_that_begin_and_end_a_text_are_known(vocab: Vocab) -> None:
    assert vocab.bos_token == TOKENS.index("<|begin|>")
    assert vocab.eos_token == TOKENS.index("<|finish|>")
    assert vocab.eot_token is None
    assert vocab.add_bos
    assert vocab.end_tokens == {TOKENS.index("<|finish|>")}


def test_text_is_merged_into_tokens(vocab: Vocab) -> None:
    assert [TOKENS[token] for token in vocab.tokenize("abc abc\n!")] == ["abc", "Ġabc", "Ċ", "!"]


def test_more_tokens_than_the_text_has_bytes_are_no_problem(vocab: Vocab) -> None:
    assert vocab.tokenize("") == []


def test_control_tokens_written_out_become_tokens_only_when_asked(vocab: Vocab) -> None:
    end = TOKENS.index("<|finish|>")
    assert vocab.tokenize("a<|finish|>", parse_special=True) == [TOKENS.index("a"), end]
    typed = vocab.tokenize("a<|finish|>")
    assert end not in typed
    assert b"".join(map(vocab.piece, typed)) == b"a<|finish|>"


def test_user_defined_tokens_are_tokens_wherever_they_are_typed(vocab: Vocab) -> None:
    assert vocab.tokenize("<tool>") == [TOKENS.index("<tool>")]


@pytest.fixture(scope="module")
def tiny_vocab(tiny_gguf: Path) -> Iterator[Vocab]:
    with Model(tiny_gguf, vocabulary_only=True) as model:
        yield model.vocab


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_survives_the_way_to_tokens_and_back(tiny_vocab: Vocab, text: str) -> None:
    assert b"".join(map(tiny_vocab.piece, tiny_vocab.tokenize(text))).decode() == text


@pytest.mark.model
@pytest.mark.parametrize("text", ["  two\n\n\nlines \t", "naïve 日本語 👩‍👩‍👧", "<|im_end|>", "12345 x[0] |= 1 << 2"])
def test_text_survives_a_real_vocabulary(demo_gguf: Path, text: str) -> None:
    with Model(demo_gguf, vocabulary_only=True) as model:
        assert b"".join(map(model.vocab.piece, model.vocab.tokenize(text))).decode() == text


@pytest.mark.model
def test_real_vocabulary_ends_a_generation_with_its_end_of_turn(demo_gguf: Path) -> None:
    with Model(demo_gguf, vocabulary_only=True) as model:
        ends = {model.vocab.text(token) for token in model.vocab.end_tokens}
    assert "<|im_end|>" in ends


def test_html_strike_through_is_text_where_the_file_says_so(vocab: Vocab) -> None:
    # llama.cpp takes any token of this text for the end of a generation
    token = TOKENS.index("</s>")
    assert not vocab.is_control(token)
    assert vocab.end_tokens == {TOKENS.index("<|finish|>")}
    assert vocab.tokenize("ab</s>ab") == [TOKENS.index("ab"), token, TOKENS.index("ab")]
    begin = TOKENS.index("<|begin|>")
    assert vocab.tokenize("<|begin|>ab</s>", parse_special=True) == [begin, TOKENS.index("ab"), token]
    assert vocab.piece(token) == b"</s>"


def test_html_strike_through_is_merged_where_it_is_an_ordinary_token(tmp_path: Path) -> None:
    # as in Qwen's vocabulary, where nothing looks for it before merging
    tokens = [*LETTERS, SPACE, NEWLINE, "</", "</s>", "<|end|>"]
    entries = [
        MetadataEntry("general.architecture", ValueType.STRING, "llama"),
        MetadataEntry("tokenizer.ggml.model", ValueType.STRING, "gpt2"),
        MetadataEntry("tokenizer.ggml.pre", ValueType.STRING, "gpt-2"),
        MetadataEntry("tokenizer.ggml.tokens", ValueType.ARRAY, tokens, ValueType.STRING),
        MetadataEntry(
            "tokenizer.ggml.token_type", ValueType.ARRAY, [NORMAL] * (len(tokens) - 1) + [CONTROL], ValueType.INT32
        ),
        MetadataEntry("tokenizer.ggml.merges", ValueType.ARRAY, ["< /"], ValueType.STRING),
        MetadataEntry("tokenizer.ggml.eos_token_id", ValueType.UINT32, tokens.index("<|end|>")),
    ]
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(header_bytes(entries, []))
    with Model(path, vocabulary_only=True) as model:
        ids = [tokens.index(text) for text in ("a", "</", "s", ">", "b", "<|end|>")]
        assert model.vocab.tokenize("a</s>b<|end|>", parse_special=True) == ids
        assert model.vocab.tokenize("a</s>b") == ids[:-1]


def rules_vocab(path: Path, *rules: tuple[str, str]) -> Model:
    """A SentencePiece vocabulary of single letters whose file says the given rules."""
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "e", "é", "▁a"]
    types = [2, 3, *[6] * 256, *[1] * 5]
    entries = [
        MetadataEntry("general.architecture", ValueType.STRING, "llama"),
        MetadataEntry("tokenizer.ggml.model", ValueType.STRING, "llama"),
        MetadataEntry("tokenizer.ggml.tokens", ValueType.ARRAY, tokens, ValueType.STRING),
        MetadataEntry("tokenizer.ggml.scores", ValueType.ARRAY, [0.0] * len(tokens), ValueType.FLOAT32),
        MetadataEntry("tokenizer.ggml.token_type", ValueType.ARRAY, types, ValueType.INT32),
        MetadataEntry("tokenizer.ggml.add_space_prefix", ValueType.BOOL, True),
        *(MetadataEntry(f"edge.tokenizer.{name}", ValueType.STRING, value) for name, value in rules),
    ]
    path.write_bytes(header_bytes(entries, []))
    return Model(path, vocabulary_only=True)


@pytest.mark.parametrize(
    ("rule", "starts_text", "text", "expected"),
    [
        ("first", True, "a", "▁a"),
        ("first", False, "a", "a"),
        ("first", True, " a", "▁a"),
        ("always", False, "a", "▁a"),
        ("always", False, " a", "▁a"),
        ("always", True, "", ""),
    ],
)
def test_space_is_put_in_front_as_the_file_says(
    rule: str, starts_text: bool, text: str, expected: str, tmp_path: Path
) -> None:
    with rules_vocab(tmp_path / "rules.gguf", ("prefix_space", rule)) as model:
        tokens = model.vocab.tokenize(text, starts_text=starts_text)
        assert b"".join(map(model.vocab.piece, tokens)).decode() == expected.replace("▁", " ")
        assert len(tokens) == bool(expected)


@pytest.mark.parametrize(
    ("rule", "starts_text", "text", "expected"),
    [
        ("first", True, "a<s>a", ["▁a", "<s>", "a"]),
        ("first", True, "<s>a<unk>a", ["<s>", "a", "<unk>", "a"]),
        ("first", False, "a<s> a", ["a", "<s>", "▁a"]),
        ("always", True, "a<s>a", ["▁a", "<s>", "▁a"]),
        ("always", True, "<s><s>", ["<s>", "<s>"]),
    ],
)
def test_space_is_put_between_control_tokens_as_the_file_says(
    rule: str, starts_text: bool, text: str, expected: list[str], tmp_path: Path
) -> None:
    with rules_vocab(tmp_path / "rules.gguf", ("prefix_space", rule)) as model:
        tokens = model.vocab.tokenize(text, parse_special=True, starts_text=starts_text)
        assert [model.vocab.text(token) for token in tokens] == [piece.replace("▁", " ") for piece in expected]


def test_text_is_normalized_as_the_file_says(tmp_path: Path) -> None:
    with rules_vocab(tmp_path / "rules.gguf", ("prefix_space", "first"), ("normalization", "NFC")) as model:
        assert model.vocab.tokenize("e\u0301", starts_text=False) == model.vocab.tokenize("é", starts_text=False)


def test_unknown_normalization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="asks for the text normalization 'NFKC', which this version does not know"):
        rules_vocab(tmp_path / "rules.gguf", ("normalization", "NFKC"))
