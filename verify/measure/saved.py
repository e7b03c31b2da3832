"""What a run has left: records of experiments, studies, pictures and tables of attacks on them, wherever one points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verify.measure.files import record_files

#: The directory of the records in the one that a run of the command line wrote to.
RECORDS = "records"


@dataclass(frozen=True)
class Saved:
    """One path for each experiment, set of pictures, study, table of attacks on pictures (``tables``) and comparison at
    equal utility (``utilities``, its trainings; ``theories``, its attacks on theory's network) that is kept, all in
    ``directory``. Of an experiment and a study it stands for both forms, NAME.json and NAME.jsonl."""

    directory: Path
    records: Sequence[Path]
    pictures: Sequence[Path]
    studies: Sequence[Path]
    tables: Sequence[Path] = ()
    utilities: Sequence[Path] = ()
    theories: Sequence[Path] = ()

    @staticmethod
    def find(name: str, source: Path) -> Saved:
        """What is in a directory, or in the ``records`` that a run made in it, or the one that a file belongs to.
        ``ValueError``, which calls the source ``name``, if that is nothing."""
        if source.is_file():
            found = [_all_in(source.parent)._only(source)]
        elif source.is_dir():
            found = [_all_in(place) for place in (source, source / RECORDS) if place.is_dir()]
        else:
            raise ValueError(f"{name} must be a directory or a file with records; got {source}")
        for saved in found:
            if any(saved._all):
                return saved
        raise ValueError(
            f"{name} must hold records (NAME.json, NAME.jsonl), pictures (pictures-*.json), studies (study-*.json), "
            "tables of attacks on pictures (images-*.jsonl) or a comparison at equal utility (utility-*); got none in "
            f"{source}"
        )

    @property
    def home(self) -> Path:
        """Where figures of this belong: above the ``records`` of a run, beside records that lie anywhere else."""
        if self.directory.name == RECORDS:
            return self.directory.parent
        return self.directory / ".." if self.directory.resolve().name == RECORDS else self.directory

    @property
    def _all(self) -> tuple[Sequence[Path], ...]:
        return self.records, self.pictures, self.studies, self.tables, self.utilities, self.theories

    def _only(self, path: Path) -> Saved:
        """Of all this the one that ``path`` is a file of."""
        kept = ([p for p in found if p.stem == path.stem] for found in self._all)
        return Saved(self.directory, *kept)


def _all_in(directory: Path) -> Saved:
    """Of studies those that hold something: one that was stopped at once leaves an empty file."""
    studies = {
        p.with_suffix(".json")
        for p in directory.glob("study-*")
        if p.suffix in (".json", ".jsonl") and p.stat().st_size
    }
    pictures, tables, utilities = (
        sorted(directory.glob(kind))
        for kind in ("pictures-*.json", "images-*.jsonl", "utility-training*.jsonl")
    )
    theories = {p.with_suffix(".jsonl") for p in directory.glob("utility-theory*.json*")}
    return Saved(
        directory, record_files(directory), pictures, sorted(studies), tables, utilities, sorted(theories)
    )
