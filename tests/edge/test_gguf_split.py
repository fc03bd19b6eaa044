"""Split models: any part stands for the whole, and parts that do not fit together are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.gguf_format import ValueType
from edge.gguf_split import PartName, parse_part_name, part_paths
from tests.edge.gguf_bytes import F32, Document, scalar, tensor

KEEP_TOGETHER = "Keep all parts in one folder, under the names they were made with: NAME-00001-of-00003.gguf and so on."
OTHER_PARTS = "The parts are of different models or conversions: fetch all of them again."


def part(
    number: int, count: int, names: list[str], *, tensors: int = 3, number_type: ValueType = ValueType.UINT16
) -> bytes:
    """A part as llama.cpp's gguf-split writes it: the first one has the model's keys."""
    return Document(
        architecture="llama" if number == 1 else None,
        entries=[
            ("split.no", scalar(number_type, number - 1)),
            ("split.count", scalar(ValueType.UINT16, count)),
            ("split.tensors.count", scalar(ValueType.INT32, tensors)),
        ],
        tensors=[tensor(name, [8], F32, 32 * place) for place, name in enumerate(names)],
        weights=b"".join(np.full(8, ord(name), np.float32).tobytes() for name in names),
    ).to_bytes()


def write_parts(folder: Path, parts: list[bytes]) -> list[Path]:
    paths = part_paths(folder / "m.gguf", len(parts))
    for path, content in zip(paths, parts, strict=True):
        path.write_bytes(content)
    return paths


def refusal(path: Path) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        read_gguf(path)
    return caught.value


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_stands_for_the_whole_model(given: int, tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 3, ["a"]), part(2, 3, ["b"]), part(3, 3, ["c"])])
    file = read_gguf(paths[given])
    assert (file.path, file.parts, file.architecture) == (paths[0], tuple(paths), "llama")
    assert file.file_bytes == sum(path.stat().st_size for path in paths)
    assert [(info.name, info.path) for info in file.tensors.values()] == list(zip("abc", paths, strict=True))
    for info in file.tensors.values():
        assert np.fromfile(info.path, np.float32, 1, offset=info.offset) == ord(info.name)


def test_first_part_may_have_no_tensors(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, [], tensors=2), part(2, 2, ["a", "b"], tensors=2)])
    assert list(read_gguf(paths[0]).tensors) == ["a", "b"]


def test_model_of_one_part_is_a_file_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(part(1, 1, ["a"], tensors=1))
    assert (read_gguf(path).path, read_gguf(path).parts) == (path, ())


def test_missing_part_is_named(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 3, ["a"]), part(2, 3, ["b"]), part(3, 3, ["c"])])
    paths[1].unlink()
    error = refusal(paths[2])
    assert error.message == f"{paths[1]} is missing: m-00003-of-00003.gguf is one of 3 parts."
    assert error.hint == KEEP_TOGETHER


def test_part_whose_name_does_not_say_so_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(part(2, 3, ["a"]))
    error = refusal(path)
    assert error.message == f"{path} is part 2 of 3 of a split model, which its name does not say."
    assert error.hint == KEEP_TOGETHER


def test_part_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"]), part(1, 2, ["b"])])
    assert refusal(paths[0]).message == (f"{paths[1]} is part 1 of 2 of a split model, but its name says part 2 of 2.")


def test_number_beyond_the_count_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(4, 3, ["a"])] * 3)
    assert refusal(paths[0]).message == f"{paths[0]} claims to be part 4 of 3."


def test_key_of_a_type_that_ends_llama_cpp_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"]), part(2, 2, ["b"], number_type=ValueType.INT32)])
    assert refusal(paths[0]).message == (
        f"{paths[1]} says that it is part of a split model, but split.no and split.count are not both UINT16."
    )


def test_whole_model_in_the_place_of_a_part_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"]), Document().to_bytes()])
    error = refusal(paths[0])
    assert error.message == f"{paths[1]} does not belong to the same model as {paths[0]}."
    assert error.hint == OTHER_PARTS


def test_part_of_a_model_with_other_tensors_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"], tensors=2), part(2, 2, ["b"], tensors=9)])
    assert refusal(paths[1]).message == f"{paths[1]} does not belong to the same model as {paths[0]}."


def test_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"], tensors=2), part(2, 2, ["a"], tensors=2)])
    error = refusal(paths[0])
    assert error.message == f"{paths[1]} has the tensor 'a' of another part."
    assert error.hint == OTHER_PARTS


def test_parts_with_fewer_tensors_than_promised_are_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"]), part(2, 2, ["b"])])
    assert refusal(paths[0]).message == (f"The 2 parts of {paths[0]} hold 2 tensors; split.tensors.count is 3.")


def test_damaged_part_is_named(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [part(1, 2, ["a"], tensors=2), part(2, 2, ["b"], tensors=2)[:-4]])
    assert refusal(paths[0]).message.startswith(f"{paths[1]} is cut off: tensor 'b' reaches to byte ")


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("m-00002-of-00003.gguf", PartName("m", 2, 3)),
        ("a-00001-of-00002-00001-of-00001.gguf", PartName("a-00001-of-00002", 1, 1)),
        ("m-00000-of-00003.gguf", None),
        ("m-00004-of-00003.gguf", None),
        ("m-2-of-3.gguf", None),
        ("m.gguf", None),
    ],
)
def test_names_of_parts_are_llama_cpp_s(name: str, parsed: PartName | None) -> None:
    assert parse_part_name(name) == parsed
    if parsed:
        assert str(parsed) == name
