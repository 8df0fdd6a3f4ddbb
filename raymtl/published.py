"""The published versions of a model, as the Python API has them: what the commands `raymtl versions` call.

Heavy packages are imported when a method needs them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raymtl.model_store.difference import Difference
    from raymtl.model_store.manifest import Manifest
    from raymtl.model_store.store import Listed, Removed
    from raymtl.storage.object_store import Store

Path = str | PathLike[str]


@dataclass(frozen=True)
class ModelStore:
    """The published versions of a model; `open_store` opens one."""

    storage: "Store" = field(repr=False)
    """The folder of the versions as plain storage."""

    def __repr__(self) -> str:
        return f"ModelStore({self.path!r})"

    @property
    def path(self) -> str:
        """The folder or URL, absolute."""
        return self.storage.path

    def current(self) -> str | None:
        """Name of the current version; None: nothing is published."""
        from raymtl.model_store.store import current

        return current(self.storage)

    def versions(self) -> "list[Listed]":
        """The versions, the newest first."""
        from raymtl.model_store.store import list_versions

        return list_versions(self.storage)

    def show(self, version: str | None = None) -> "Manifest":
        """The manifest of a version: its data, metrics, tables and files.

        Args:
            version: its name, or the date that it begins with if no other version does; None: the current one.
        """
        from raymtl.model_store.store import show

        return show(self.storage, version)

    def diff(self, old: str, new: str | None = None) -> "Difference":
        """What changed between two versions; None: the current one. Metrics are those on the same rows if a day has both."""
        from raymtl.daily.same_rows import on_same_rows
        from raymtl.model_store.difference import diff

        a, b = self.show(old), self.show(new)
        return diff(a, b, on_same_rows(self.storage, a, b))

    def verify(self, version: str | None = None) -> list[str]:
        """Read every file of a version and compare its hash; returns one message per missing or damaged file."""
        from raymtl.model_store.store import verify

        return verify(self.storage, version)

    def publish(
        self,
        run: Path,
        *,
        checkpoint: Path | None = None,
        version: str | None = None,
        wait_s: float = 0,
        notify: Callable[[str], None] = lambda line: None,
    ) -> "Manifest":
        """Make a finished run the current version.

        Args:
            run: folder of the run.
            checkpoint: folder of a checkpoint; None: the last one.
            version: its name; None: the last day of its data and six digits.
            wait_s: maximum wait for another process that holds the lease.
            notify: gets a line about the model registry, if the version has one (`train.track`).
        """
        from raymtl.dependencies import check_stack
        from raymtl.model_store.lease import acquire
        from raymtl.model_store.publish_run import publish_run
        from raymtl.model_store.register import register_versions, tracked_run

        check_stack()
        folder = None if checkpoint is None else fspath(checkpoint)
        with acquire(self.storage, f"publish {fspath(run)}", wait_s=wait_s) as lease:
            manifest = publish_run(
                fspath(run), self.storage, checkpoint=folder, version=version, check_lease=lease.check_held
            )
            register_versions(self.storage, notify, tracked_run(fspath(run), manifest.id))
            return manifest

    def rollback(
        self, version: str | None = None, *, wait_s: float = 0, notify: Callable[[str], None] = lambda line: None
    ) -> tuple[str, str | None]:
        """Make an earlier version current again, and update the daily job's reports.

        Args:
            version: its name, or its date as for `show`; None: the parent of the current one, or if that was removed, the last
                version published before the current one that was not rolled back.
            wait_s: maximum wait for another process that holds the lease.
            notify: as for `publish`.

        Returns:
            The current version, and the one that was current before.
        """
        from raymtl.daily.reports.write import rewrite_reports
        from raymtl.model_store.commit_log import entries, rolled_back
        from raymtl.model_store.lease import acquire
        from raymtl.model_store.register import register_versions
        from raymtl.model_store.store import rollback

        with acquire(self.storage, "rollback", wait_s=wait_s) as lease:
            before = self.current()
            withdrawn = set(rolled_back(entries(self.storage)))
            now = rollback(self.storage, version, lease.check_held).current
            if now != before:
                rewrite_reports(self.storage, withdrawn ^ set(rolled_back(entries(self.storage))))
            register_versions(self.storage, notify)
            return now, before

    def gc(
        self,
        keep: int = 7,
        *,
        dry_run: bool = False,
        wait_s: float = 0,
        notify: Callable[[str], None] = lambda line: None,
    ) -> "Removed":
        """Remove all but the newest `keep` versions, and what killed writers left; see `raymtl versions gc`."""
        from raymtl.daily.record import recent_versions
        from raymtl.model_store.lease import acquire
        from raymtl.model_store.register import register_versions
        from raymtl.model_store.store import gc

        with acquire(self.storage, "gc", wait_s=wait_s) as lease:
            removed = gc(
                self.storage, keep, recent_versions(self.storage, keep), check_lease=lease.check_held, dry_run=dry_run
            )
            if removed.versions and not dry_run:
                register_versions(self.storage, notify)
            return removed
