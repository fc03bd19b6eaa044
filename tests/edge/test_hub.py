"""The real hub's code against a server on this machine: listings, downloads that go on, and each refusal."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from edge.errors import EdgeError
from edge.hub import HubFile, HuggingFaceHub, RepositoryFiles
from tests.edge.fake_hub import COMMIT
from tests.edge.hub_server import CONTENT, HubServer, hub_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on this machine, which huggingface_hub is told to use."""
    with hub_server() as fake:
        address = fake.address
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "library-cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is lost at most when a connection breaks
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        close_session()
        yield fake
    close_session()


def put_into_library_cache(cache: Path, *names: str) -> Path:
    """What another program downloaded of org/model with huggingface_hub."""
    folder = cache / "models--org--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name in names:
        path = folder / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder / "snapshots" / COMMIT


# Listings


def test_listing_has_the_commit_the_licence_and_the_hashes(server: HubServer) -> None:
    listing = HuggingFaceHub().files("org/model")
    assert listing == RepositoryFiles(
        "org/model",
        COMMIT,
        {
            "model-Q8_0.gguf": HubFile(len(CONTENT), hashlib.sha256(CONTENT).hexdigest()),
            "LICENSE": HubFile(4, None),
        },
        "apache-2.0",
    )
    assert len(server.asked) == 1


def test_licence_of_ones_own_making_has_its_name(server: HubServer) -> None:
    server.card = {"license": "other", "license_name": "llama3"}
    assert HuggingFaceHub().files("org/model").licence == "llama3"


def test_names_that_lead_out_of_a_folder_are_not_listed(server: HubServer) -> None:
    server.files = {"../evil.gguf": b"", "/etc/evil.gguf": b"", "a/../../evil.gguf": b"", "C:evil.gguf": b"", "m": b""}
    assert HuggingFaceHub().files("org/model").names == ["m"]


def test_hub_that_names_no_commit_is_not_believed(server: HubServer) -> None:
    server.sha = "../../x"
    with pytest.raises(EdgeError, match=r"The hub names no commit of org/model: '../../x'") as caught:
        HuggingFaceHub().files("org/model")
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (403, "GatedRepo", "org/model is gated", "HF_TOKEN"),
        (404, "RepoNotFound", "There is no model org/model", "Check the spelling"),
        (404, "RevisionNotFound", "no longer holds what is wanted", "without --lock"),
    ],
)
@pytest.mark.parametrize("method", ["files", "download"])
def test_refusals_of_the_hub_are_told_apart(
    status: int, code: str, message: str, hint: str, method: str, server: HubServer, tmp_path: Path
) -> None:
    listing = HuggingFaceHub().files("org/model")
    server.refusal = (status, {"X-Error-Code": code, "X-Error-Message": "it says"})
    hub = HuggingFaceHub()
    with pytest.raises(EdgeError) as caught:
        hub.files("org/model") if method == "files" else hub.download(listing, ["LICENSE"], tmp_path)
    assert message in caught.value.message
    assert hint in caught.value.hint


# Downloads


def download(folder: Path, *names: str, progress: Any = None) -> Path:
    hub = HuggingFaceHub()
    return hub.download(hub.files("org/model"), names, folder, progress)


def test_files_are_downloaded_with_progress_and_not_again(server: HubServer, tmp_path: Path) -> None:
    seen: list[Any] = []
    folder = tmp_path / "store"
    assert download(folder, "model-Q8_0.gguf", "LICENSE", progress=seen.append) == folder
    assert (folder / "model-Q8_0.gguf").read_bytes() == CONTENT
    assert (folder / "LICENSE").read_bytes() == b"free"
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (len(CONTENT) + 4, len(CONTENT) + 4)
    asked = len(server.asked)
    download(folder, "model-Q8_0.gguf", "LICENSE")
    assert len(server.asked) == asked + 1  # the list
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "model-Q8_0.gguf"]


def test_download_that_ended_is_gone_on_with(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "model-Q8_0.gguf.part").write_bytes(CONTENT[:1000])
    download(tmp_path, "model-Q8_0.gguf")
    assert server.asked[-1] == (f"/org/model/resolve/{COMMIT}/model-Q8_0.gguf", "bytes=1000-")
    assert (tmp_path / "model-Q8_0.gguf").read_bytes() == CONTENT


def test_what_arrived_before_a_connection_broke_for_good_is_kept(server: HubServer, tmp_path: Path) -> None:
    server.breaks_after_bytes = 0
    (tmp_path / "model-Q8_0.gguf.part").write_bytes(CONTENT[:1000])
    with pytest.raises(EdgeError, match="cannot be reached"):
        download(tmp_path, "model-Q8_0.gguf")
    assert (tmp_path / "model-Q8_0.gguf.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "model-Q8_0.gguf").exists()


def test_connection_that_breaks_now_and_then_does_not_matter(server: HubServer, tmp_path: Path) -> None:
    server.breaks_after_bytes = 3000
    download(tmp_path, "model-Q8_0.gguf")
    assert (tmp_path / "model-Q8_0.gguf").read_bytes() == CONTENT
    assert len(server.asked) == 1 + 4


def test_remains_that_are_longer_than_the_file_are_thrown_away(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "model-Q8_0.gguf.part").write_bytes(bytes(len(CONTENT) + 1))
    download(tmp_path, "model-Q8_0.gguf")
    assert (tmp_path / "model-Q8_0.gguf").read_bytes() == CONTENT


def test_whole_file_that_did_not_get_its_name_is_not_downloaded_again(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "model-Q8_0.gguf.part").write_bytes(CONTENT)
    download(tmp_path, "model-Q8_0.gguf")
    assert (tmp_path / "model-Q8_0.gguf").read_bytes() == CONTENT
    assert len(server.asked) == 1  # the list


def test_page_in_place_of_a_file_does_not_become_a_part_of_it(server: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "model-Q8_0.gguf.part"
    server.sent_instead = b"<html>Please log in.</html>"
    for there in (b"", CONTENT[:10]):
        part.write_bytes(there)
        with pytest.raises(EdgeError) as caught:
            download(tmp_path, "model-Q8_0.gguf")
        assert caught.value.message == (
            "model-Q8_0.gguf of org/model has 10.2 kB, and 27 bytes arrived: something between this machine and the hub"
            " answers in its place."
        )
        assert "login" in caught.value.hint
        assert part.read_bytes() == there
    server.sent_instead = None
    download(tmp_path, "model-Q8_0.gguf")
    assert (tmp_path / "model-Q8_0.gguf").read_bytes() == CONTENT


def test_file_larger_than_the_hub_gives_is_refused_before_the_first_byte(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 9000)
    with pytest.raises(EdgeError) as caught:
        download(tmp_path, "model-Q8_0.gguf")
    assert caught.value.message == (
        "model-Q8_0.gguf of org/model has 10.2 kB: more than the 9.00 kB of a file that the hub gives over HTTP."
    )
    assert "hf download org/model model-Q8_0.gguf" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_disk_without_the_room_is_noticed_before_the_first_byte(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model-Q8_0.gguf.part").write_bytes(CONTENT[:240])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(EdgeError) as caught:
        download(tmp_path, "model-Q8_0.gguf")
    assert caught.value.message == f"org/model needs 10.0 kB more, and 5.00 kB are free in {tmp_path}."
    assert "edge rm" in caught.value.hint
    assert "EDGE_CACHE" in caught.value.hint
    assert len(server.asked) == 1


def test_what_another_program_has_downloaded_is_used_where_it_is(server: HubServer, tmp_path: Path) -> None:
    server.files = {"Q4_0/m-Q4_0.gguf": b"Q4_0/m-Q4_0.gguf", "m-Q8_0.gguf": b"another size"}
    snapshot = put_into_library_cache(tmp_path / "library-cache", "Q4_0/m-Q4_0.gguf", "m-Q8_0.gguf")
    assert download(tmp_path / "store", "Q4_0/m-Q4_0.gguf") == snapshot
    assert download(tmp_path / "store", "m-Q8_0.gguf") == tmp_path / "store"  # that one is not whole


# Without a network


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "library-cache"))
    close_session()
    return tmp_path / "library-cache"


def test_offline_a_downloaded_model_is_found(offline: Path, tmp_path: Path) -> None:
    snapshot = put_into_library_cache(offline, "model-Q8_0.gguf", "Q4_0/m[1]-Q4_0.gguf")
    listing = HuggingFaceHub().files("org/model")
    assert listing.is_local_copy
    assert listing.revision == COMMIT
    assert sorted(listing.names) == ["Q4_0/m[1]-Q4_0.gguf", "model-Q8_0.gguf"]
    assert HuggingFaceHub().download(listing, listing.names, tmp_path) == snapshot


def test_offline_an_absent_model_says_that_the_network_is_forbidden(offline: Path, tmp_path: Path) -> None:
    listing = RepositoryFiles("org/model", COMMIT, {"model-Q8_0.gguf": HubFile(5)})
    for ask in (
        lambda: HuggingFaceHub().files("org/model"),
        lambda: HuggingFaceHub().download(listing, ["model-Q8_0.gguf"], tmp_path / "store"),
    ):
        with pytest.raises(EdgeError, match=r"org/model is not on this machine.*HF_HUB_OFFLINE forbids") as caught:
            ask()
        assert caught.value.hint.startswith("Run once without HF_HUB_OFFLINE")


def test_name_that_no_repository_can_have_is_refused(offline: Path) -> None:
    with pytest.raises(EdgeError, match="'org/mo--del' cannot be the name of a model"):
        HuggingFaceHub().files("org/mo--del")


@pytest.mark.parametrize("status", [500, 503])
def test_local_copy_serves_while_the_hub_is_away(status: int, server: HubServer, tmp_path: Path) -> None:
    server.refusal = (status, {})
    put_into_library_cache(tmp_path / "library-cache", "model-Q8_0.gguf")
    assert HuggingFaceHub().files("org/model") == RepositoryFiles(
        "org/model", COMMIT, {"model-Q8_0.gguf": HubFile(15)}, is_local_copy=True
    )


def test_hub_that_is_away_and_a_model_that_is_not_here_are_one_error(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(EdgeError, match="The Hugging Face hub cannot be reached") as caught:
        HuggingFaceHub().files("org/model")
    assert "network connection" in caught.value.hint
