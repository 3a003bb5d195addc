"""Follows the aliases of a folder of releases: a new release is made ready before it takes the old one's place."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from galleria.errors import GalleriaError
from galleria.pipelines.releases import Alias, read_aliases, write_alias
from galleria.serving.offers import Choice, Offer
from galleria.serving.problems import RefusedError
from galleria.serving.served import Served, Slot

logger = logging.getLogger("ray.serve")

FOLLOW_SECONDS = 0.5
"""How often the folder is looked at: so long may one gateway answer by the old release when another has the new one."""


class Aliases:
    """The names of a service's models, each with the release that it stands for.

    Args:
        folder: of releases.
        slots: what the names stand for; these are exchanged.
        choose: what an alias stands for, checked.
        make_ready: has a release's model and catalogue ready to answer.
        now: the aliases that `slots` stand for.
    """

    def __init__(
        self,
        folder: Path,
        slots: Mapping[str, Slot],
        choose: Callable[[str, Alias], Choice],
        make_ready: Callable[[str, Offer], Served],
        now: Mapping[str, Alias],
    ) -> None:
        self._folder = folder
        self._slots = slots
        self._choose = choose
        self._make_ready = make_ready
        self._one = threading.Lock()
        self._refused: dict[str, Alias] = {}
        self.now = dict(now)

    def follow(self) -> None:
        """Keep up with the folder in a thread of its own."""

        def run() -> None:
            pause = threading.Event()
            while not pause.wait(FOLLOW_SECONDS):
                try:
                    self.look()
                except Exception:  # what was served before goes on
                    logger.exception("the aliases of %s could not be followed", self._folder)

        threading.Thread(target=run, name="aliases", daemon=True).start()

    def look(self) -> None:
        """Stand for what the folder says now. An alias that cannot be used is told of once, and the old one stays."""
        for name, alias in read_aliases(self._folder).items():
            if name not in self._slots or alias in (self.now[name], self._refused.get(name)):
                continue
            try:
                self._exchange(name, alias)
            except Exception as error:
                self._refused[name] = alias
                logger.error("alias %s is not followed, %s goes on: %s", name, self.now[name].release, error)

    def set(self, name: str, alias: Alias) -> None:
        """Have a name stand for something else, here at once and everywhere soon; durable when this returns.

        Raises:
            RefusedError: 404, there is no such name; 422, the release cannot be used: all stays as it was.
        """
        if name not in self._slots:
            known = ", ".join(sorted(self._slots))
            raise RefusedError(
                404, "not-found", f"this service has no alias {name[:64]!r}, but {known}: a new one needs a new start"
            )
        try:
            self._exchange(name, alias, lambda: write_alias(self._folder, name, alias))
        except GalleriaError as error:
            raise RefusedError(422, "unusable-release", str(error)) from error

    def _exchange(self, name: str, alias: Alias, ready: Callable[[], None] = lambda: None) -> None:
        """Make an alias's releases ready, say so, and let requests go over to them."""
        with self._one:
            slot = self._slots[name]
            kept = {served.model.model.release: served for served in slot.all}
            choice = self._choose(name, alias)

            def served(offer: Offer) -> Served:
                return kept.get(offer.model.release) or self._make_ready(name, offer)

            main = served(choice.main)
            canary = served(choice.canary) if choice.canary else None
            ready()
            slot.put(main, canary, choice.share)
            self.now[name] = alias
            self._refused.pop(name, None)
            logger.info("alias %s stands for %s", name, alias)
            for old in kept.values():
                if old not in slot.all and old.searcher is not None:
                    old.searcher.catalog.close()
