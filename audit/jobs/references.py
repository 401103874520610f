"""What an order names by address: a training file, or files of candidates and controls."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import CandidateError
from lorecall.adapters.intake.single_files import FileSources
from lorecall.audit.discovery.discover import DiscoverySettings, controls_path, discover
from lorecall.audit.discovery.finder import Finder
from lorecall.audit.discovery.scan import ScanSettings
from lorecall.audit.inputs.candidates import CandidateSet, TextSplit, Turns
from lorecall.audit.inputs.controls import Recipe, check_disjoint, make_controls
from lorecall.audit.inputs.load import read_input
from lorecall.audit.inputs.parsed import Bound, opened
from lorecall.audit.scorer import CHAT_ROLES, Scorer
from lorecall.audit.training_data.candidates import training_candidates
from lorecall.audit.training_data.rows import DataFormat, open_training_files
from lorecall.audit.verdicts import Group
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SHOWN_NAME = 120
TOKENS_PER_SNIPPET = 50
"""About how long a snippet is, by which an order is charged whose files were not read yet."""
BYTES_PER_TOKEN = 4
CHARACTERS = 1 << 40
"""Characters of a set by reference: they stay on disk, so only the number of snippets is bounded."""
Address = Annotated[str, Field(min_length=1, max_length=5_000)]
MOST_FILES = 64


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Addresses = Annotated[
    tuple[Address, ...], Field(min_length=1, max_length=MOST_FILES), BeforeValidator(_listed)
]
"""One address, or several, whose rows are read in that order."""


def _known(roles: tuple[str, ...]) -> tuple[str, ...]:
    if not set(roles) <= CHAT_ROLES:
        raise ValueError(f"a role is none of {', '.join(sorted(CHAT_ROLES))}")
    return roles


Roles = Annotated[tuple[str, ...], Field(max_length=8), AfterValidator(_known)]


class Reference(BaseModel):
    """What an order names by address, and how it is to be read.

    Attributes:
        data: Training files of one format; or
        candidates: a file of candidates.
        controls: A file of controls; made from the candidates if none is named and the recipe is.
        sha256: Of the bytes of the training files in their order, or of the file of candidates; "" for anything.
        data_format: The training files' format; recognised by default.
        whole: Whether all that is trained on is asked for, not what would hurt in it.
        roles: The roles whose turns are searched; by default those that are trained on.
        top: The most candidates that are chosen from training files.
        control_count: Controls that are made.
        generate_controls: How; a search of training data makes its own.
        skip_bad: Whether bad rows are left out and counted.
        turns: Which turns of chats are asked for, unless the file is searched.
        split: How plain text becomes snippets.
        seed: Of every random choice.
        asker: What the caller may read of what the server reads; None for all of it.
        size: Bytes of all files; known once they are pinned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Addresses | None = None
    candidates: Address | None = None
    controls: Address | None = None
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    data_format: DataFormat | None = None
    whole: bool = False
    roles: Roles = ()
    top: int = Field(default=10_000, ge=1, le=1_000_000)
    control_count: int = Field(default=300, ge=1, le=10_000)
    generate_controls: Recipe | None = None
    skip_bad: bool = False
    turns: Turns = Turns.ONLY
    split: TextSplit = TextSplit.SENTENCE
    seed: int = 0
    asker: tuple[str, ...] | None = None
    size: int = 0

    @property
    def searched(self) -> bool:
        """Whether candidates are chosen from training files."""
        return self.data is not None and not self.whole

    @property
    def snippets(self) -> int:
        """About how many snippets the audit will have."""
        by_size = self.size // BYTES_PER_TOKEN // TOKENS_PER_SNIPPET + 1
        return min(by_size, self.top) + self.control_count if self.searched else by_size

    @property
    def tokens(self) -> int:
        """About how many tokens their texts have."""
        return self.snippets * TOKENS_PER_SNIPPET

    @property
    def name(self) -> str:
        """The name of the file without its folder, as reports show it; of several the first, and their number."""
        first, *others = self.data or (self.candidates or "",)
        return f"{name_of(first)} and {len(others)} more" if others else name_of(first)


def name_of(address: str) -> str:
    """Return the name of the file at an address."""
    return PurePosixPath(address.partition("#")[0]).name[-SHOWN_NAME:]


@dataclass(frozen=True, slots=True)
class References:
    """Reads what orders name, from where this server reads adapters and no other place.

    Attributes:
        sources: The places that it may read.
        most: The most snippets of one audit.
    """

    sources: FileSources
    most: int

    def pinned(self, reference: Reference) -> Reference:
        """Return a reference to the files as they are now: a commit of the hub, a version or etag on S3.

        Raises:
            SourceRefusedError: The server, or the caller's key, may not read an address, or no file is there.
        """
        asker = asker_of(reference)
        size = 0

        def pin(address: str) -> str:
            nonlocal size
            pinned, its = self.sources.pinned(address, asker)
            size += its
            return pinned

        pinned = {
            "data": reference.data and tuple(map(pin, reference.data)),
            "candidates": reference.candidates and pin(reference.candidates),
            "controls": reference.controls and pin(reference.controls),
        }
        return reference.model_copy(update={**pinned, "size": size})

    def read(self, reference: Reference, folder: Path, scorer: Scorer) -> dict[Group, CandidateSet]:
        """Read the files, in one pass and bounded memory, and return the sets.

        A search of training data keeps its place in `folder`, and goes on there when it is called again.

        Args:
            reference: What `pinned` returned.
            folder: For the candidates of a search; only the owner may read it.
            scorer: Its base ranks the candidates.

        Raises:
            SourceRefusedError: A file may not be read, or is not the one that was pinned.
            CandidateError: It has other bytes than stated, cannot be used, or holds too much.
        """
        asker = asker_of(reference)
        addresses = reference.data or (reference.candidates or "",)
        with ExitStack() as fetched:
            paths = [fetched.enter_context(self.sources.file(address, asker)) for address in addresses]
            _check_digest(reference, paths)
            if reference.searched:
                sets = self._searched(reference, paths, folder, scorer)
            elif reference.data is not None:
                sets = {Group.CANDIDATES: self._whole(reference, paths)}
            else:
                sets = {Group.CANDIDATES: self._read(reference, paths[0])}
        if reference.controls is not None:
            with self.sources.file(reference.controls, asker) as path:
                controls = self._read(reference, path)
            sets[Group.CONTROLS] = _named(controls, reference.controls)
        if Group.CONTROLS in sets:
            check_disjoint(sets[Group.CANDIDATES], sets[Group.CONTROLS])
        elif reference.generate_controls is not None and not reference.searched:
            sets[Group.CONTROLS] = make_controls(
                sets[Group.CANDIDATES], reference.generate_controls, reference.control_count, reference.seed
            )
        named = _named(sets[Group.CANDIDATES], ", ".join(addresses))
        return {**sets, Group.CANDIDATES: replace(named, name=reference.name)}

    def _searched(
        self, reference: Reference, paths: Sequence[Path], folder: Path, scorer: Scorer
    ) -> dict[Group, CandidateSet]:
        rows = open_training_files(paths, reference.data_format)
        out = folder / "candidates.parquet"
        made = 0 if reference.controls is not None else reference.control_count
        settings = DiscoverySettings(
            scan=ScanSettings(roles=reference.roles),
            top=min(reference.top, self.most - made),
            controls=made,
            seed=reference.seed,
        )
        found = discover(rows, Finder(None).find, out, settings, scorer=scorer)
        what = f"{found.written} of {found.spans} spans in {found.rows} rows of {found.data_format}"
        what += "".join(f", {n} {name}" for name, n in found.left_out.items())
        chosen = replace(
            self._read(reference, out), digest=found.digest, generated=f"{what}, ranked by {found.ranked_by}"
        )
        if not found.controls:
            return {Group.CANDIDATES: chosen}
        return {Group.CANDIDATES: chosen, Group.CONTROLS: self._read(reference, controls_path(out))}

    def _whole(self, reference: Reference, paths: Sequence[Path]) -> CandidateSet:
        return training_candidates(
            open_training_files(paths, reference.data_format),
            reference.name,
            split=reference.split,
            turns=reference.turns,
            skip_bad=reference.skip_bad,
            bound=Bound(self.most, CHARACTERS),
        )

    def _read(self, reference: Reference, path: Path) -> CandidateSet:
        with opened(path) as content:
            return read_input(
                path.name,
                content,
                skip_bad=reference.skip_bad,
                split=reference.split,
                turns=reference.turns,
                bound=Bound(self.most, CHARACTERS),
            )


def _check_digest(reference: Reference, paths: Sequence[Path]) -> None:
    """Check that the files are those that the order states, before they are searched.

    Raises:
        CandidateError: They have other bytes.
    """
    if not reference.sha256:
        return
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as content:
            hashlib.file_digest(content, lambda: found)
    if found.hexdigest() != reference.sha256:
        raise CandidateError(
            f"{reference.name!r} has the sha256 {found.hexdigest()}, not {reference.sha256}",
            hint="it was changed: ask for an audit of what it holds now",
            param="sha256",
        )


def asker_of(reference: Reference) -> SourceList | None:
    """Return what the caller of an order may read of what the server reads."""
    return None if reference.asker is None else SourceList(reference.asker)


def _named(found: CandidateSet, address: str) -> CandidateSet:
    """Return a set under its file's name, with the address that it was read from."""
    parts = [part for part in (found.generated, f"from {address}") if part]
    return replace(found, name=name_of(address), generated="; ".join(parts))
