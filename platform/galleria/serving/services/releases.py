"""Follows the aliases of a folder of releases: a new release is made ready before it takes the old one's place."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from galleria.background import Background
from galleria.errors import GalleriaError
from galleria.pipelines.releases import Alias, read_alias, write_alias
from galleria.serving.resolve import ReleaseRef, ResolvedAlias
from galleria.serving.schemas.problems import ProblemError, unavailable
from galleria.serving.services.traffic import ServedRelease, TrafficSplit

logger = logging.getLogger("ray.serve")

FOLLOW_SECONDS = 0.5
"""How often the folder is looked at."""

AGAIN_SECONDS = 5.0
"""Pause after a failure that may not come again."""

SECONDS_TO_WAIT = 10.0
"""For an exchange that is under way."""


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
        slots: Mapping[str, TrafficSplit],
        choose: Callable[[str, Alias], ResolvedAlias],
        make_ready: Callable[[str, ReleaseRef], ServedRelease],
        now: Mapping[str, Alias],
    ) -> None:
        self._folder = folder
        self._slots = slots
        self._choose = choose
        self._make_ready = make_ready
        self._one = threading.Lock()
        self._refused: dict[str, Alias] = {}
        self._told: dict[str, str] = {}
        self.now = dict(now)

    def follow(self) -> None:
        """Keep up with the folder in a thread of its own, until the process ends."""
        pause = threading.Event()

        def run() -> None:
            while not pause.wait(FOLLOW_SECONDS):
                if not self.look():
                    pause.wait(AGAIN_SECONDS)

        Background("aliases", run, pause.set)

    def look(self) -> bool:
        """Stand for what the folder says now; whether that could be done for now.

        An alias that cannot be used is told of once, and the old one stays. What may go better is tried again.
        """
        done = True
        for name in self._slots:
            try:
                self._follow(name)
            except Exception:  # what was served before goes on
                logger.exception("alias %s could not be followed; %s goes on", name, self.now[name].release)
                done = False
        return done

    def set(self, name: str, alias: Alias) -> None:
        """Have a name stand for something else, here at once and everywhere soon; durable when this returns.

        Raises:
            ProblemError: 404, there is no such name; 422, the release cannot be used; 503, another exchange is under
                way, or a replica was lost. All stays as it was.
        """
        if name not in self._slots:
            known = ", ".join(sorted(self._slots))
            raise ProblemError(
                404, "not-found", f"this service has no alias {name[:64]!r}, but {known}: a new one needs a new start"
            )
        if not self._one.acquire(timeout=SECONDS_TO_WAIT):
            raise unavailable("another release is being made ready: try again")
        try:
            self._exchange(name, alias, lambda: write_alias(self._folder, name, alias))
        except GalleriaError as error:
            raise ProblemError(422, "unusable-release", str(error)) from error
        finally:
            self._one.release()

    def _follow(self, name: str) -> None:
        with self._one:  # what is read before may be old by the time that it is done
            try:
                alias = read_alias(self._folder, name)
                if alias is None or alias in (self.now[name], self._refused.get(name)):
                    return
                self._refused[name] = alias
                self._exchange(name, alias, lambda: None)
            except GalleriaError as error:
                if str(error) != self._told.get(name):
                    logger.error("alias %s is not followed, %s goes on: %s", name, self.now[name].release, error)
                self._told[name] = str(error)
            except Exception:
                self._refused.pop(name, None)
                raise

    def _exchange(self, name: str, alias: Alias, ready: Callable[[], None]) -> None:
        """Make an alias's releases ready, say so, and let requests go over to them."""
        slot = self._slots[name]
        kept = {served.model.model.release: served for served in slot.all}
        choice = self._choose(name, alias)
        opened: list[ServedRelease] = []
        try:
            for offer in choice.offers:
                if offer.model.release not in kept:
                    opened.append(self._make_ready(name, offer))
            ready()
        except BaseException:
            _close(opened)
            raise
        known = kept | {served.model.model.release: served for served in opened}
        main, *others = (known[offer.model.release] for offer in choice.offers)
        slot.put(main, others[0] if others else None, choice.canary_weight)
        self.now[name] = alias
        self._refused.pop(name, None)
        self._told.pop(name, None)
        logger.info("alias %s stands for %s", name, alias)
        _close([served for served in kept.values() if served not in slot.all])


def alias_of(choice: ResolvedAlias) -> Alias:
    """The alias that stands for a choice among releases."""
    releases = [offer.model.release or "" for offer in choice.offers]
    return Alias(release=releases[0], canary=releases[1] if choice.canary else None, canary_weight=choice.canary_weight)


def _close(released: Sequence[ServedRelease]) -> None:
    """Follow their catalogues no longer; requests that have begun go on with them."""
    for served in released:
        if served.searcher is not None:
            served.searcher.catalog.close()
