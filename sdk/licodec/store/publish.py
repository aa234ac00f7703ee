"""Publishing weights on the Hub: one repository a tag, its model card as README.md, and the pin that a table
then has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lic_format.errors import WeightsError
from licodec.store.hub import LIBRARY, obtain, translated
from licodec.store.table import FILE_NAME, Entry, HubFile, known
from licodec.store.weights import entry_of
from licodec.version import __version__

CARD = "card.md"
FRONT_MATTER = ("license", "library_name", "tags", "metrics", "datasets")
"""What a model card must say, so that the Hub can show and find it."""

_OTHERS = ("export.json", "training.jsonl")


def push(folder: Path, repository: str, *, private: bool = False) -> Entry:
    """Upload weights/CODEC/TAG, fetch it back, and return the entry for the table, with its pin.

    Raises:
        WeightsError: no weights, a card that says too little, a tag that is published with another content,
            or what the Hub has against it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    entry = entry_of(folder.resolve() / FILE_NAME)
    _refuse_change(entry)
    _check_card(folder / CARD)
    files = {"README.md": CARD, FILE_NAME: FILE_NAME, **{name: name for name in _OTHERS}}
    operations = [
        CommitOperationAdd(name, (folder / local).read_bytes())
        for name, local in files.items()
        if (folder / local).is_file()
    ]
    api = HfApi(library_name=LIBRARY, library_version=__version__)

    def upload() -> str:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            operations,
            commit_message=f"{entry.name}, decode digest {entry.ref.decode_digest.hex()}",
        )
        return commit.oid

    revision = translated(repository, upload)
    pinned = dataclasses.replace(entry, hub=(HubFile(repository, revision),))
    obtain(pinned, again=True)  # the pin is worth nothing where the content can't be had by it
    return pinned


def _refuse_change(entry: Entry) -> None:
    for other in known():
        if other.name == entry.name and other.hub and other.sha256 != entry.sha256:
            raise WeightsError(
                f"{entry.name} is published already with the SHA-256 {other.sha256}; these weights have "
                f"{entry.sha256}. A tag is one content for ever: give them a tag of their own"
            )


def _check_card(path: Path) -> None:
    import yaml
    from huggingface_hub import ModelCard

    try:
        said = ModelCard(path.read_text(encoding="utf-8")).data
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WeightsError(f"{path} is no model card: {error}") from error
    missing = [field for field in FRONT_MATTER if not getattr(said, field, None)]
    if missing:
        raise WeightsError(
            f"{path} does not say {', '.join(missing)} in its front matter; write it again: "
            f"python -m licodec.training.card {path.parent} bench.json --data DATA/train"
        )
