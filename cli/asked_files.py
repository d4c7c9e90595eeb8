"""The files that ``muse evaluate`` is asked for, and what each of them is undefined for.

Knows nothing of what is in them: ``results_file``, ``latex_rows``, ``mteb_results``,
``evaluation_extras`` (the ledger) and ``evaluation_page`` do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse.cli.evaluated import Rules

if TYPE_CHECKING:
    from muse.cli.evaluated import Evaluated, OpenedHead
    from muse.head.bootstrap import Resampling


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedFiles:
    """Where the numbers go beside the terminal; None where they don't."""

    json: Path | None
    latex: str | None
    """A file, or ``-`` for the terminal."""
    mteb: Path | None
    """A folder."""
    ledger: Path | None
    html: Path | None
    against: str | None
    """A second head on the page."""
    num_maps: int
    """Examples on the page that show what responds."""

    def require_rules(self, rules: Rules) -> None:
        """Nothing, if every file can be had of ranks that are counted by these rules.

        Raises:
            UsageError: If one can't.
        """
        from muse.errors import UsageError

        if self.num_maps < 0:
            raise UsageError(f"--maps {self.num_maps}: at least 0, which shows none")
        if self.against is not None and self.html is None:
            raise UsageError(
                f"--against {self.against}: both heads are on a page. Add --html FILE."
            )
        if self.html is not None and rules != Rules():
            raise UsageError(
                f"--ties {rules.ties}, --v2t {rules.v2t}: a page's charts follow the rules "
                f"{Rules().ties} and {Rules().v2t}. Leave out --html, or these."
            )
        for flag, value in {"--ledger": self.ledger, "--mteb": self.mteb}.items():
            if value is not None and rules.ties != Rules().ties:
                raise UsageError(
                    f"{flag} with --ties {rules.ties}: there a rank is its expectation, as with "
                    f"--ties {Rules().ties}. Leave one of them out."
                )

    def require_one_run(self, folder: str, runs: Mapping[int, Path]) -> None:
        """Nothing, if every file can be had of a folder of seeds.

        Raises:
            UsageError: If one can't.
        """
        from muse.errors import UsageError

        for flag, value in {
            "--html": self.html, "--ledger": self.ledger, "--mteb": self.mteb,
        }.items():  # fmt: skip
            if value is not None:
                raise UsageError(
                    f"{flag} {value}: it is about one run, and {folder} holds {len(runs)}, one a "
                    f"seed. Name one, such as --head {next(iter(runs.values()))}."
                )

    def require_task(self, opened: "OpenedHead", split: str) -> None:
        """Nothing, if mteb has a task of the split's, or none of its files is asked for.

        Raises:
            ManifestError: If the split has no usable pair.
            UsageError: If there is none.
        """
        from muse.cli.mteb_results import task_of
        from muse.head.data import select_split

        if self.mteb is not None:
            task_of(opened.store, select_split(opened.store, split))

    def write(self, content: Callable[[], Mapping[str, Any]]) -> None:
        """Those that the content of a results file is enough for, which is made if there is one.

        Raises:
            UsageError: If one can't be written.
        """
        from muse.cli.json_file import write_json, write_text
        from muse.cli.latex_rows import latex_rows
        from muse.cli.report import print_line

        if self.json is None and self.latex is None:
            return
        found = content()
        if self.json is not None:
            write_json(self.json, found)
        if self.latex == "-":
            print_line(latex_rows([found]).removesuffix("\n"))
        elif self.latex is not None:
            write_text(Path(self.latex), latex_rows([found]), flag="--latex")

    def write_of_one(self, evaluated: "Evaluated") -> None:
        """Those of one head: the ledger and mteb's results, with a line that names each.

        Raises:
            UsageError: If one can't be written.
        """
        from muse.cli.evaluation_extras import write_ledger
        from muse.cli.mteb_results import task_of, write_mteb_results
        from muse.cli.report import print_line

        if self.ledger is not None:
            write_ledger(self.ledger, evaluated.store, {evaluated.opened.name: evaluated.embedded})
        if self.mteb is not None:
            task = task_of(evaluated.store, evaluated.embedded.selection)
            for file in write_mteb_results(self.mteb, task, evaluated):
                print_line(f"mteb: {file}")

    def write_page(self, evaluated: "Sequence[Evaluated]", *, resampling: "Resampling") -> None:
        """The page of one head or of two, and a line that names it.

        Raises:
            UsageError: If it can't be written.
        """
        from muse.cli.evaluation_page import write_evaluation_page
        from muse.cli.report import print_line

        if self.html is not None:
            write_evaluation_page(
                self.html, evaluated, resampling=resampling, num_maps=self.num_maps
            )
            print_line(f"report: {self.html}")
