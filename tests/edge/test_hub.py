"""The hub: which files are chosen, what a local copy gives without a network, and what each failure says."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from edge.errors import EdgeError
from edge.hub import HuggingFaceHub, RepositoryFiles, checkpoint_names, choose_gguf, gguf_by_quantization

COMMIT = "0" * 40


# Which files are chosen


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("gemma-2-9b-it-Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-1.7b-instruct-q8_0.gguf", "Q8_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-8B-UD-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model_q5_k_m.gguf", "Q5_K_M"),
        ("BF16/model-BF16.gguf", "BF16"),
        ("F16/model.gguf", "F16"),
        ("Q6_K/model-Q6_K-00001-of-00002.gguf", "Q6_K"),
        ("Q4_0.gguf", "Q4_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("Qwen3-0.6B.gguf", ""),
    ],
)
def test_quantization_is_read_from_the_name(name: str, quantization: str) -> None:
    assert gguf_by_quantization([name]) == {quantization: [name]}


def test_files_beside_a_model_are_not_models() -> None:
    names = ["mmproj-model-F16.gguf", "model.imatrix.gguf", "model-Q8_0.gguf", "README.md", "model-Q4_0.gguf.part"]
    assert gguf_by_quantization(names) == {"Q8_0": ["model-Q8_0.gguf"]}


@pytest.mark.parametrize(
    ("names", "quantization", "chosen"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], None, ["m-Q4_K_M.gguf"]),
        (["m-Q8_0.gguf", "m-F16.gguf"], None, ["m-Q8_0.gguf"]),
        (["m-Q2_K.gguf"], None, ["m-Q2_K.gguf"]),
        (["m.gguf"], None, ["m.gguf"]),
        (["m-Q2_K.gguf", "m-IQ1_S.gguf"], None, []),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "Q8_0", ["m-Q8_0.gguf"]),
        (["m-Q8_0.gguf"], "Q4_K_M", []),
        (["model.safetensors"], None, []),
        ([], "Q8_0", []),
    ],
)
def test_gguf_is_chosen_by_quantization_or_preference(
    names: list[str], quantization: str | None, chosen: list[str]
) -> None:
    assert choose_gguf("org/model", names, quantization) == chosen


def test_every_part_of_a_split_gguf_is_chosen_in_order() -> None:
    parts = [f"Q8_0/m-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert choose_gguf("org/model", [*reversed(parts), "m-Q4_K_M.gguf"], "Q8_0") == parts


def test_split_gguf_that_lacks_a_part_is_refused_by_its_name() -> None:
    names = ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"]
    with pytest.raises(EdgeError) as caught:
        choose_gguf("org/model", names, None)
    assert caught.value.message == (
        "org/model has m-Q8_0-00001-of-00003.gguf, but not m-Q8_0-00002-of-00003.gguf: a part of the model is missing."
    )
    assert caught.value.hint == "Choose another quantization, as in org/name:Q4_K_M."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "several Q8_0 files: a-Q8_0.gguf, b-Q8_0.gguf"),
        (["a.gguf", "b.gguf"], "several GGUF"),
        (["m-Q8_0-00001-of-00001.gguf", "n-Q8_0.gguf"], "several Q8_0 files: m-Q8_0-00001-of-00001.gguf, n-Q8_0.gguf"),
    ],
)
def test_choice_between_files_of_one_quantization_is_left_to_the_person(names: list[str], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        choose_gguf("org/model", names, None)


def test_checkpoint_is_its_configuration_tokenizer_and_one_set_of_weights() -> None:
    small = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    other = [
        "README.md",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "onnx/model.onnx",
        "consolidated-1-of-2.safetensors",
    ]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert checkpoint_names([*small, *other, "model.safetensors"]) == [*small, "model.safetensors"]
    assert checkpoint_names([*small, *other, index, *shards]) == [*small, index, *shards]
    assert checkpoint_names([*small, index, *shards, "model.safetensors"]) == [*small, "model.safetensors"]
    assert checkpoint_names([*small, *other, *shards]) == []
    assert checkpoint_names(["tokenizer.json", "model.safetensors"]) == []


# The local copy of huggingface_hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_into_cache(cache: Path, *names: str) -> Path:
    folder = cache / "models--org--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name in names:
        path = folder / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder / "snapshots" / COMMIT


def test_offline_a_downloaded_model_is_found(offline: Path) -> None:
    snapshot = put_into_cache(offline, "model-Q8_0.gguf", "Q4_0/m[1]-Q4_0.gguf")
    files = HuggingFaceHub().files("org/model")
    assert files.is_local_copy
    assert sorted(files.names) == ["Q4_0/m[1]-Q4_0.gguf", "model-Q8_0.gguf"]
    assert HuggingFaceHub().download("org/model", files.names) == snapshot


def test_offline_an_absent_model_says_that_the_network_is_forbidden(offline: Path) -> None:
    asks: list[Callable[[], object]] = [
        lambda: HuggingFaceHub().files("org/model"),
        lambda: HuggingFaceHub().download("org/model", ["model-Q8_0.gguf"]),
    ]
    for ask in asks:
        with pytest.raises(EdgeError, match=r"org/model is not on this machine.*HF_HUB_OFFLINE forbids") as caught:
            ask()
        assert caught.value.hint.startswith("Run once without HF_HUB_OFFLINE")


def test_offline_an_absent_file_of_a_model_is_named(offline: Path) -> None:
    put_into_cache(offline, "config.json")
    with pytest.raises(EdgeError, match=r"The local copy of org/model lacks model\.safetensors"):
        HuggingFaceHub().download("org/model", ["config.json", "model.safetensors"])


def test_name_that_no_repository_can_have_is_refused(offline: Path) -> None:
    with pytest.raises(EdgeError, match="'org/mo--del' cannot be the name of a model"):
        HuggingFaceHub().files("org/mo--del")


# What huggingface_hub raises


httpx: Any = import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])  # httpx, or its successor


def answered(kind: Any, status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))
    error: Exception = kind(f"{status} from the hub", response=response)
    return error


REFUSALS: dict[str, tuple[Exception, str, str]] = {
    "gated": (
        answered(errors.GatedRepoError, 403),
        "org/model is gated",
        "Accept the licence at https://huggingface.co/org/model , then log in with: hf auth login",
    ),
    "not found": (answered(errors.RepositoryNotFoundError, 404), "There is no model org/model", "Check the spelling"),
    "disabled": (answered(errors.DisabledRepoError, 403), "org/model has been disabled", "for the reason"),
    "bad token": (answered(errors.HfHubHTTPError, 401), "with your access token (status 401)", "hf auth login"),
    "forbidden": (answered(errors.HfHubHTTPError, 403), "with your access token (status 403)", "hf auth login"),
    "rate": (answered(errors.HfHubHTTPError, 429), "limits the rate of your requests", "Wait some minutes"),
    "broken": (answered(errors.HfHubHTTPError, 503), "answered with status 503", "Try again"),
    "no network": (
        errors.HTTPError("getaddrinfo failed"),
        "cannot be reached (HTTPError: getaddrinfo failed)",
        "proxy",
    ),  # type: ignore[attr-defined]
    "disk full": (
        OSError(28, "No space left on device"),
        "cannot be downloaded: No space left on device",
        "free space",
    ),
    "not local": (
        errors.LocalEntryNotFoundError("An error happened while trying to locate the files\nmore"),
        "cannot be reached (An error happened while trying to locate the files)",
        "network connection",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("method", ["files", "download"])
def test_every_failure_says_what_happened_and_what_to_do(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, message, hint = REFUSALS[name]

    def fail(*_: object, **options: Any) -> None:
        if options.get("local_files_only"):
            raise errors.LocalEntryNotFoundError("nothing here")
        raise error

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    hub = HuggingFaceHub()
    with pytest.raises(EdgeError) as caught:
        hub.files("org/model") if method == "files" else hub.download("org/model", ["config.json"])
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["no network", "broken"])
def test_local_copy_serves_while_the_hub_is_away(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise REFUSALS[name][0]

    put_into_cache(tmp_path, "model-Q8_0.gguf")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    assert HuggingFaceHub().files("org/model") == RepositoryFiles(["model-Q8_0.gguf"], is_local_copy=True)


def test_refusal_stays_the_reason_when_the_local_copy_is_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **options: Any) -> None:
        raise errors.LocalEntryNotFoundError("incomplete") from REFUSALS["gated"][0]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(EdgeError, match="org/model is gated"):
        HuggingFaceHub().download("org/model", ["config.json"])


@pytest.mark.parametrize(("siblings", "names"), [([SimpleNamespace(rfilename="m.gguf")], ["m.gguf"]), (None, [])])
def test_listing_of_the_hub_is_passed_on(siblings: Any, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda _, repository: SimpleNamespace(siblings=siblings))
    assert HuggingFaceHub().files("org/model") == RepositoryFiles(names)
