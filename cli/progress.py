"""Progress of the long commands: a line that is redrawn for a person, JSON lines for a program."""

import dataclasses
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from muse.cli.report import (
    duration_text,
    print_json_line,
    print_line,
    print_progress,
    print_warning,
    stderr_console,
)
from muse.cli.speed import print_speed, shares_text, speed_json

if TYPE_CHECKING:
    from muse.head.selection import SelectionRecord
    from muse.head.train import StepReport, TrainSummary
    from muse.pipeline.extract import ExtractSummary
    from muse.pipeline.progress import Progress as ExtractProgress
    from muse.pipeline.records import Listing
    from muse.pipeline.store import StoreCounts

_JSON_EVERY_SECONDS = 1.0
TEST_SPLIT = "test"  # what `muse evaluate` looks at
_PLAIN_EVERY_SECONDS = 10.0  # into a file or a pipe, where no line can be redrawn


class _Line:
    """One line of progress: redrawn on a terminal, printed now and then elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = stderr_console()
        self._bar: Progress | None = _bar() if self._console.is_terminal else None
        self._task: TaskID | None = None
        self._last_plain = time.monotonic()

    def start(self) -> None:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None, note="starting")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the one that is redrawn."""
        if self._bar is not None:
            self._console.print(text, markup=False, highlight=False)
        else:
            print_progress(text)

    def update(self, *, total: int, completed: int, note: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total, completed=completed, note=note)
        elif time.monotonic() - self._last_plain >= _PLAIN_EVERY_SECONDS:
            self._last_plain = time.monotonic()
            print_progress(f"{self._title} {completed}/{total}, {note}")


class ExtractReporter:
    """What ``muse extract`` shows while it runs and when it is done."""

    def __init__(self, *, json_lines: bool) -> None:
        self._json_lines = json_lines
        self._last_json = 0.0
        self._line = _Line("extract")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._line.stop()

    def start(self, listing: "Listing") -> None:
        """Says what is about to happen."""
        missing = sum(video.path is None for video in listing.videos)
        listed, captions = len(listing.videos), len(listing.captions)
        if self._json_lines:
            print_json_line(
                {"event": "start", "listed": listed, "missing": missing, "captions": captions}
            )
            return
        gone = f" ({missing} of them missing)" if missing else ""
        print_progress(f"{listing.protocol}: {listed} videos{gone}, {_captions_text(listing)}")
        self._line.start()

    def update(self, progress: "ExtractProgress") -> None:
        """Redraws the line, or prints one JSON line a second at the most."""
        if self._json_lines:
            if time.monotonic() - self._last_json >= _JSON_EVERY_SECONDS:
                self._last_json = time.monotonic()
                print_json_line(_progress_event(progress))
        else:
            self._line.update(
                total=progress.num_videos,
                completed=progress.num_decoded,
                note=_progress_note(progress),
            )

    def finish(self, summary: "ExtractSummary", out: str) -> None:
        """The sum: every listed video is ok, failed or pending."""
        counts = summary.counts
        if self._json_lines:
            event = {name: getattr(counts, name) for name in counts.__slots__}
            seconds = round(summary.elapsed_seconds, 3)
            print_json_line(
                {
                    "event": "done",
                    **event,
                    "new": summary.num_new_videos,
                    "new_failures": summary.num_new_failures,
                    "seconds": seconds,
                    "speed": speed_json(summary.speed),
                    "store": str(out),
                }
            )
            return
        if summary.was_complete:
            print_line(f"Nothing to do: {out} is complete.")
        if summary.speed is not None:
            print_speed(summary.speed)
        print_line(
            f"{counts_text(counts)}; captions embedded {counts.captions_embedded}"
            f" of {counts.captions}; {duration_text(summary.elapsed_seconds)}"
        )
        if counts.failed:
            print_line(
                f"{counts.failed} videos failed: `muse store errors {out}` says why. Once mended, "
                "the same command with --retry-failed all tries them again."
            )


class TrainReporter:
    """What ``muse train-head`` shows while it runs and when it is done."""

    def __init__(self, *, json_lines: bool, title: str = "train") -> None:
        self._json_lines = json_lines
        self._line = _Line(title)
        self._started = time.monotonic()
        self._last: StepReport | None = None

    def __enter__(self) -> Self:
        if not self._json_lines:
            self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._line.stop()

    def update(self, report: "StepReport") -> None:
        """Redraws the line, or prints the step as JSON."""
        self._last = report
        if self._json_lines:
            print_json_line({"event": "step", **dataclasses.asdict(report)})
        else:
            self._line.update(
                total=report.num_steps,
                completed=report.step,
                note=f"epoch {report.epoch}, loss {report.loss:.3f}, "
                f"{report.pairs_per_second:.1f} pairs/s",
            )

    def epoch(self, record: "SelectionRecord") -> None:
        """Says what the head could do after an epoch, and which epoch is the best by now."""
        last = record.epochs[-1]
        if self._json_lines:
            event = {"event": "epoch", **last.as_json(), "selected_on": record.name}
            print_json_line({**event, "chosen_epoch": record.chosen.epoch})
        else:
            best = " (best so far)" if record.chosen is last else ""
            self._line.say(
                f"epoch {last.epoch} on {record.name}: text to video "
                f"R@1 {last.text_to_video.recall_at[1]:.1f}{best}"
            )

    def finish(self, summary: "TrainSummary") -> None:
        """What was trained on, with what, where it is, and what the epoch was chosen by."""
        self._print_summary(summary)
        record = summary.chosen_by
        if record is not None and record.chose_on(TEST_SPLIT):
            print_warning(
                f"the epoch was chosen on split {record.split!r}: its numbers there are "
                "optimistic, and no test numbers. --hold-out 0.05 chooses on training videos."
            )

    def _print_summary(self, summary: "TrainSummary") -> None:
        selection = summary.selection
        if self._json_lines:
            print_json_line(_done_event(summary))
            return
        if self._last is None:
            print_line(f"Nothing to do: {summary.run} is finished ({summary.num_steps} steps).")
            return
        if summary.first_step:
            print_line(f"Went on after step {summary.first_step}.")
        print_line(
            f"split {selection.split}: {len(selection.video_rows_V)} of "
            f"{selection.num_videos_listed} videos, {len(selection.caption_rows_Q)} of "
            f"{selection.num_captions_listed} captions; {summary.device}, {summary.precision}, "
            f"scan {summary.scan}"
        )
        print_line(
            f"{summary.num_steps} steps, loss {self._last.loss:.3f}, "
            f"{duration_text(time.monotonic() - self._started)}: {summary.run}"
        )
        print_line(_choice_text(summary.chosen_by))


class WorldReporter:
    """What ``muse world make`` shows while it draws, and encoding a store again."""

    def __init__(self, title: str = "world") -> None:
        self._line = _Line(title)
        self._started = time.monotonic()
        self.num_new = 0
        """Videos so far."""

    def __enter__(self) -> Self:
        self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._line.stop()

    def update(self, made: int, num_videos: int) -> None:
        """Redraws the line after one more video."""
        self.num_new += 1
        rate = self.num_new / max(time.monotonic() - self._started, 1e-9)
        left = duration_text((num_videos - made) / rate)
        note = f"{rate:.1f} videos/s, {left} left"
        self._line.update(total=num_videos, completed=made, note=note)


def counts_text(counts: "StoreCounts") -> str:
    """Where every listed video is: the four always add up."""
    pending = f" + pending {counts.pending}" if counts.pending else ""
    return (
        f"listed {counts.listed} = ok {counts.ok} + failed {counts.failed}"
        f" + skipped {counts.skipped}{pending}"
    )


def _done_event(summary: "TrainSummary") -> dict[str, object]:
    record = summary.chosen_by
    return {
        "event": "done",
        "run": str(summary.run),
        "steps": summary.num_steps,
        "device": summary.device,
        "scan": summary.scan,
        "selected_on": record.name if record else None,
        "chosen_epoch": record.chosen.epoch if record else None,
    }


def _choice_text(record: "SelectionRecord | None") -> str:
    """Whose weights the head has, and why."""
    if record is None:
        return "The head is the last epoch's: no split to choose on. --hold-out 0.05 makes one."
    best = record.chosen
    return (
        f"The head is epoch {best.epoch}'s, the best of {len(record.epochs)} on {record.name} "
        f"({record.num_videos} videos, {record.num_captions} captions): "
        f"text to video R@1 {best.text_to_video.recall_at[1]:.1f}"
    )


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=stderr_console(),
        transient=True,
    )


def _progress_note(progress: "ExtractProgress") -> str:
    left = progress.seconds_left
    parts = [f"{progress.videos_per_second:.1f} videos/s", f"{progress.num_failed} failed"]
    if progress.num_decoded >= progress.num_videos:
        parts.append("all decoded, encoding the last ones and the captions")
    elif left is not None:
        parts.append(f"{duration_text(left)} left")
    if progress.speed is not None:
        parts.append(shares_text(progress.speed))
    return ", ".join(parts)


def _captions_text(listing: "Listing") -> str:
    """How many, and what is not asked: videos that have none are in no number of a head."""
    text = f"{len(listing.captions)} captions"
    if listing.num_empty_captions:
        text += f" ({listing.num_empty_captions} empty ones left out)"
    asked = {caption.video_id for caption in listing.captions}
    silent = sum(video.video_id not in asked for video in listing.videos)
    return f"{text}; {silent} videos without one" if asked and silent else text


def _progress_event(progress: "ExtractProgress") -> dict[str, object]:
    left = progress.seconds_left
    return {
        "event": "progress",
        "videos": progress.num_videos,
        "decoded": progress.num_decoded,
        "committed": progress.num_committed,
        "failed": progress.num_failed,
        "videos_per_second": round(progress.videos_per_second, 3),
        "seconds_left": None if left is None else round(left, 1),
        "speed": speed_json(progress.speed),
    }
