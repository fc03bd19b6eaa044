"""Models from the hub into the store: downloaded or converted, checked by hash, recorded; or exactly as locked.

Which name a person gave, and what else a model may be, is for `edge.models`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edge.content import check_content, measure
from edge.conversion_cache import CONVERTER_VERSION, ConversionCache
from edge.conversion_record import converted_file, copy_licences
from edge.errors import EdgeError
from edge.hub import Hub, HubFile, RepositoryFiles
from edge.hub_choice import checkpoint_names, choose_gguf, gguf_by_quantization, licence_names, quantization_of
from edge.lockfile import LockedModel
from edge.store import Store
from edge.store_record import CHECKPOINT, Record, Source
from edge.stored_files import StoredFile

if TYPE_CHECKING:
    from edge.stored_files import Display

DEFAULT_QUANTIZATION = "Q4_K_M"
Chooser = Callable[[str, Mapping[str, int]], str | None]
"""Takes a reference and the bytes of its GGUF files by quantization, none for a checkpoint; gives the one to take."""


def find_current(store: Store, name: str) -> Record | None:
    """The model of that name, unless this edge would convert it differently."""
    record = store.find(name)
    return record if record and record.converter_version in (None, CONVERTER_VERSION) else None


@dataclass(frozen=True)
class Puller:
    """Fetches models of the hub for a store; several processes may do so at once, and share what they wait for."""

    store: Store
    cache: ConversionCache
    hub: Hub
    display: Display

    def pull(self, repository: str, quantization: str | None, choose: Chooser | None = None) -> Record:
        """The model, from the store or else from the hub, which is asked for its newest commit.

        Where no quantization is asked for, `choose` says which.

        A repository of which a checkpoint is in the store stays at that commit, so that its conversions agree.
        """
        with self.store.held(repository):
            name = f"{repository}:{quantization}" if quantization else repository
            if known := find_current(self.store, name):
                return known  # another process was faster
            checkpoint = self.store.find(f"{repository}:{CHECKPOINT}")
            try:
                listing = self.hub.files(repository, checkpoint.revision if checkpoint else None)
            except EdgeError:
                if checkpoint is None:
                    raise
                return self._keep(self._convert(checkpoint, quantization or DEFAULT_QUANTIZATION), quantization)
            wanted_type = quantization
            if wanted_type is None and choose:
                wanted_type = choose(repository, _gguf_bytes(listing))
            if gguf := choose_gguf(repository, listing.names, wanted_type):
                record = self._download(listing, gguf)
            else:
                wanted = checkpoint_names(listing.names)
                if not wanted:
                    refuse_repository(listing, quantization)
                checkpoint = self._checkpoint(listing, wanted, wanted_type or DEFAULT_QUANTIZATION)
                record = self._convert(checkpoint, wanted_type or DEFAULT_QUANTIZATION)
            return self._keep(record, quantization)

    def pull_locked(self, locked: LockedModel, lockfile: Path) -> Record:
        """The model with exactly the bytes of a lockfile. EdgeError, and nothing recorded, where one differs."""
        with self.store.held(locked.repository):
            known = self.store.find(locked.name)
            if known is not None and known.files == locked.model_files:
                check_content(self.store, known, self.display)
                return known
            listing = _locked_listing(locked)
            names = [file.name for file in locked.files]
            if not locked.converted:
                return self._keep(self._download(listing, names, str(lockfile)), None)
            quantization = locked.name.rpartition(":")[2]
            checkpoint = self._checkpoint(listing, names, quantization, str(lockfile))
            record = self._convert(checkpoint, quantization)
            if record.files != locked.converted:
                self._refuse_conversion(record, locked, lockfile)
            return self._keep(record, None)

    def _keep(self, record: Record, quantization: str | None) -> Record:
        """Record a model; pulled without a quantization, it is also what the repository's name stands for."""
        repository = record.repository if quantization is None else None
        is_named = repository is not None and find_current(self.store, repository) is not None
        self.store.add(record, also_called=None if is_named else repository)
        return record

    # Downloads

    def _download(self, listing: RepositoryFiles, gguf: Sequence[str], authority: str = "the hub") -> Record:
        licences = licence_names(listing.names)
        folder, files = self._fetch(listing, [*gguf, *licences], authority)
        return Record(
            name=f"{listing.repository}:{quantization_of(gguf[0])}",
            source=Source.HUB,
            folder=folder,
            files=files[: len(gguf)],
            repository=listing.repository,
            revision=listing.revision,
            licence=listing.licence,
            licence_files=files[len(gguf) :],
        )

    def _checkpoint(
        self, listing: RepositoryFiles, names: Sequence[str], quantization: str, authority: str = "the hub"
    ) -> Record:
        """The files of a repository to convert, in the store."""
        known = self.store.find(f"{listing.repository}:{CHECKPOINT}")
        if known is not None and known.revision == listing.revision:
            return known
        if "config.json" in names:
            self._check_convertible(listing, quantization)
        licences = licence_names(listing.names)
        folder, files = self._fetch(listing, [*names, *licences], authority)
        if not Path(folder).is_absolute():
            for name in names:  # the same content is the same checkpoint, whenever it was downloaded
                os.utime(self.store.folder / folder / name, (0, 0))
        record = Record(
            name=f"{listing.repository}:{CHECKPOINT}",
            source=Source.HUB,
            folder=folder,
            files=files[: len(names)],
            repository=listing.repository,
            revision=listing.revision,
            licence=listing.licence,
            licence_files=files[len(names) :],
        )
        self.store.add(record)
        return record

    def _fetch(
        self, listing: RepositoryFiles, names: Sequence[str], authority: str
    ) -> tuple[str, tuple[StoredFile, ...]]:
        """Files on this disk, each with the content that it must have: their folder, and what they are."""
        target = self.store.hub_folder(listing.repository, listing.revision)
        with self.display(f"Downloading {listing.repository}") as progress:
            place = self.hub.download(listing, names, target, progress)
        files = tuple(self._checked(place, name, listing.files[name], authority) for name in names)
        is_ours = place == target
        return (place.relative_to(self.store.folder).as_posix() if is_ours else str(place)), files

    def _checked(self, place: Path, name: str, expected: HubFile, authority: str) -> StoredFile:
        """What a file is. EdgeError, and the file deleted if it is the store's, when it is not what it should be."""
        path = place / name
        found = measure(path, name, self.display)
        if expected.sha256 is None or found.sha256 == expected.sha256:
            return found
        if place.is_relative_to(self.store.folder):
            self.store.remove_file(path)
            hint = "It has been deleted. Pull it again; if that does not help, ask the authors of the model."
        else:
            hint = f"It is not edge's: delete {path} , then pull the model again."
        raise EdgeError(
            f"{name} arrived with the sha256 {found.sha256[:16]}..., but {authority} says"
            f" {expected.sha256[:16]}...: it is damaged, or not the same file.",
            hint=hint,
        )

    def _check_convertible(self, listing: RepositoryFiles, quantization: str) -> None:
        """EdgeError when config.json alone tells that the conversion must fail: before gigabytes are downloaded."""
        from convert.checkpoint import read_config
        from convert.families import find_family
        from convert.recipes import check_without_matrix, find_recipe

        check_without_matrix(find_recipe(quantization))
        target = self.store.hub_folder(listing.repository, listing.revision)
        place = self.hub.download(listing, ["config.json"], target)
        find_family(read_config(place)["architectures"][0])

    # Conversions

    def _convert(self, checkpoint: Record, quantization: str) -> Record:
        repository = checkpoint.repository
        assert repository is not None
        with self.display(f"Converting {repository} to {quantization}") as progress:
            path = replace(self.cache, progress=progress).gguf(
                self.store.folder / checkpoint.folder,
                name=repository.rpartition("/")[2],
                origin=f"hub:{repository}",
                quantization=quantization,
            )
        copy_licences(self.store.licence_paths(checkpoint), path.parent)
        return Record(
            name=f"{repository}:{quantization}",
            source=Source.CONVERSION,
            folder=path.parent.relative_to(self.store.folder).as_posix(),
            files=(converted_file(path, self.display),),
            repository=repository,
            revision=checkpoint.revision,
            licence=checkpoint.licence,
            licence_files=checkpoint.licence_files,
            origin_files=checkpoint.files,
            origin=f"hub:{repository}",
            converter_version=CONVERTER_VERSION,
        )

    def _refuse_conversion(self, record: Record, locked: LockedModel, lockfile: Path) -> NoReturn:
        known = self.store.find(record.name)
        if known is None or known.files != record.files:
            self.store.remove_file(self.store.paths(record)[0])
        raise EdgeError(
            f"The conversion of {record.name} has the sha256 {record.files[0].sha256[:16]}..., but {lockfile} says"
            f" {locked.converted[0].sha256[:16]}...: it was made by another version of edge or llama.cpp.",
            hint="Install the versions that made it, or take the file itself: edge pull ... --bundle FILE",
        )


def _gguf_bytes(listing: RepositoryFiles) -> Mapping[str, int]:
    """The sizes of a repository's GGUF models by quantization, all parts of each together."""
    found = gguf_by_quantization(listing.names)
    return {
        label: sum(listing.files[name].size_bytes or 0 for name in names) for label, names in found.items() if label
    }


def _locked_listing(locked: LockedModel) -> RepositoryFiles:
    """What the hub would list, as far as the lockfile knows it: the hub is not asked."""
    files: Mapping[str, HubFile] = {
        file.name: HubFile(file.size_bytes, file.sha256) for file in (*locked.files, *locked.licence_files)
    }
    return RepositoryFiles(locked.repository, locked.revision, files, locked.licence)


def refuse_repository(listing: RepositoryFiles, quantization: str | None) -> NoReturn:
    """Say why nothing in a repository can be used."""
    repository, names = listing.repository, listing.names
    available = ", ".join(f"{repository}:{label}" for label in gguf_by_quantization(names) if label)
    place = f"What is on this machine of {repository}" if listing.is_local_copy else repository
    if available:
        raise EdgeError(
            f"{place} has no GGUF file of {quantization or 'a usual quantization'}, and nothing to convert.",
            hint=f"It has: {available}.",
        )
    if listing.is_local_copy:
        raise EdgeError(
            f"{place} is no whole model, and the hub cannot be reached to download the rest.",
            hint="Run once with a network connection and without HF_HUB_OFFLINE.",
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise EdgeError(
            f"{repository} has its weights only as Python pickles, which can run any code when they are read.",
            hint="Have safetensors made of it at https://huggingface.co/spaces/safetensors/convert .",
        )
    raise EdgeError(
        f"{repository} holds no model that edge can use: neither GGUF files nor a safetensors checkpoint.",
        hint="Of an adapter, download the files and give them with --lora, and its base as the model.",
    )
