"""Model names follow the folder of releases, one exchange at a time, whatever fails."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from galleria.errors import ConfigurationError
from galleria.pipelines.releases import ALIASES, Alias, publish, read_aliases, write_alias
from galleria.serving.config import SEARCH, BundleLocation, ServiceConfig
from galleria.serving.inference.client import ModelClient
from galleria.serving.inference.types import Prediction
from galleria.serving.resolve import ReleaseRef, resolve_all, resolve_current
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.schemas.responses import ModelVersion
from galleria.serving.services.models import ModelService
from galleria.serving.services.releases import ReleaseFollower, alias_of
from galleria.serving.services.traffic import LiveTraffic, ServedRelease
from galleria.serving.traffic_split import TrafficSplit
from tests.serving.conftest import LIMITS, FakeModel

FIRST, SECOND = Alias(release="mood@1"), Alias(release="mood@2")
CANARY = Alias(release="mood@1", canary="mood@2", canary_weight=0.5)


def reference(release):
    return ReleaseRef(
        ModelVersion(family="fake", hash=release, release=release), BundleLocation(release, release), None
    )


class World:
    """A folder with releases of the name "mood", and a follower with fakes of what it opens."""

    def __init__(self, folder, bundle):
        self.folder = folder
        for _ in range(3):
            publish(folder, "mood", bundle.path)
        write_alias(folder, "mood", FIRST)
        self.ready = []
        self.closed = []
        self.failing = {}
        self.wait = lambda: None
        self.traffic = {"mood": LiveTraffic(TrafficSplit(self.served("mood@1")))}
        self.follower = ReleaseFollower(
            folder, self.traffic, self.resolve, self.make_ready, {"mood": FIRST}, exchange_timeout_s=5
        )

    def resolve(self, name, alias):
        return TrafficSplit(alias.release, alias.canary, alias.canary_weight).map(reference)

    def make_ready(self, name, reference):
        release = reference.model.release
        self.wait()
        self.ready.append(release)
        if release in self.failing:
            raise self.failing[release]
        return self.served(release)

    def served(self, release):
        catalog = SimpleNamespace(close=lambda: self.closed.append(release))
        model = SimpleNamespace(model=SimpleNamespace(release=release))
        return ServedRelease(model, SimpleNamespace(catalog=catalog))

    @property
    def serving(self):
        return [served.model.model.release for served in self.traffic["mood"].split.all]


@pytest.fixture
def world(tmp_path, bundle):
    return World(tmp_path, bundle)


def test_set_exchanges_and_writes_alias(world):
    world.follower.set("mood", SECOND)
    assert (world.serving, world.ready, world.closed) == (["mood@2"], ["mood@2"], ["mood@1"])
    assert read_aliases(world.folder) == {"mood": SECOND}


@pytest.mark.parametrize("alias", [FIRST, CANARY])
def test_alias_of_releases_resolves_to_them(world, alias):
    assert alias_of(world.resolve("mood", alias)) == alias


def test_open_release_is_not_opened_again(world):
    world.follower.set("mood", CANARY)
    world.follower.set("mood", SECOND)
    assert (world.serving, world.ready, world.closed) == (["mood@2"], ["mood@2"], ["mood@1"])


def test_refresh_follows_the_folder(world):
    write_alias(world.folder, "mood", SECOND)
    assert world.follower.refresh()
    assert world.serving == ["mood@2"]
    assert world.follower.refresh()
    assert world.ready == ["mood@2"]


def test_unusable_release_is_logged_once(world, caplog):
    world.failing["mood@2"] = ConfigurationError("the index has other shards")
    write_alias(world.folder, "mood", SECOND)
    for _ in range(3):
        assert world.follower.refresh()
    assert (world.serving, world.ready) == (["mood@1"], ["mood@2"])
    assert caplog.text.count("the index has other shards") == 1
    with pytest.raises(ProblemError, match="other shards") as error:
        world.follower.set("mood", SECOND)
    assert error.value.status == 422
    del world.failing["mood@2"]
    world.follower.set("mood", SECOND)
    assert world.serving == ["mood@2"]


def test_rejected_release_is_retried(world):
    world.follower = ReleaseFollower(
        world.folder, world.traffic, world.resolve, world.make_ready, {"mood": FIRST}, retry_rejected_after_s=0
    )
    world.failing["mood@2"] = ConfigurationError("its table is not here yet")
    write_alias(world.folder, "mood", SECOND)
    assert world.follower.refresh()
    assert world.follower.failing == {"mood": "its table is not here yet"}
    del world.failing["mood@2"]
    assert world.follower.refresh()
    assert (world.serving, world.follower.failing) == (["mood@2"], {})


def test_withdrawn_alias_is_no_failure(world):
    world.failing["mood@2"] = ConfigurationError("the index has other shards")
    for alias in (SECOND, FIRST):
        write_alias(world.folder, "mood", alias)
        world.follower.refresh()
    assert (world.serving, world.follower.failing) == (["mood@1"], {})


def test_temporary_failure_is_retried(world):
    world.failing["mood@2"] = OSError("storage is away")
    write_alias(world.folder, "mood", SECOND)
    assert not world.follower.refresh()
    assert world.serving == ["mood@1"]
    del world.failing["mood@2"]
    assert world.follower.refresh()
    assert world.serving == ["mood@2"]


def test_failed_exchange_closes_what_it_opened(world):
    world.failing["mood@3"] = ConfigurationError("no")
    with pytest.raises(ProblemError):
        world.follower.set("mood", Alias(release="mood@2", canary="mood@3", canary_weight=0.1))
    assert (world.serving, world.closed) == (["mood@1"], ["mood@2"])
    assert read_aliases(world.folder) == {"mood": FIRST}


def test_damaged_alias_does_not_stop_others(world, caplog):
    world.traffic["other"] = LiveTraffic(TrafficSplit(world.served("mood@1")))
    world.follower.current["other"] = FIRST
    write_alias(world.folder, "other", SECOND)
    (world.folder / ALIASES / "mood.json").write_text("{")
    for _ in range(3):
        world.follower.refresh()
    assert world.traffic["other"].split.main.model.model.release == "mood@2"
    assert world.serving == ["mood@1"]
    assert caplog.text.count("cannot be read") == 1


class Pause:
    """Holds the follower inside an exchange until `proceed` is set; counts the exchanges that have begun."""

    def __init__(self, world):
        self.started, self.proceed = threading.Event(), threading.Event()
        self.count = 0
        world.wait = self

    def __call__(self):
        self.count += 1
        self.started.set()
        self.proceed.wait(5)


def test_refresh_does_not_undo_a_later_set(world):
    pause = Pause(world)
    write_alias(world.folder, "mood", SECOND)
    with ThreadPoolExecutor(2) as pool:
        refreshing = pool.submit(world.follower.refresh)
        assert pause.started.wait(5)
        setting = pool.submit(world.follower.set, "mood", Alias(release="mood@3"))
        time.sleep(0.05)
        assert pause.count == 1, "the exchange of `set` has not begun"
        pause.proceed.set()
        assert refreshing.result()
        setting.result()
    assert (world.serving, world.ready) == (["mood@3"], ["mood@2", "mood@3"])
    world.follower.refresh()
    assert world.serving == ["mood@3"]


def test_set_waits_for_another_exchange(world):
    pause = Pause(world)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(world.follower.set, "mood", SECOND)
        assert pause.started.wait(5)
        second = pool.submit(world.follower.set, "mood", Alias(release="mood@3"))
        time.sleep(0.05)
        assert (world.serving, pause.count) == (["mood@1"], 1), "the second has not begun"
        pause.proceed.set()
        first.result()
        second.result()
    assert world.ready == ["mood@2", "mood@3"]
    assert world.closed == ["mood@1", "mood@2"]
    assert world.serving == ["mood@3"]
    assert read_aliases(world.folder) == {"mood": Alias(release="mood@3")}


def test_set_is_503_during_long_exchange(world):
    world.follower = ReleaseFollower(
        world.folder, world.traffic, world.resolve, world.make_ready, {"mood": FIRST}, exchange_timeout_s=0.01
    )
    pause = Pause(world)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.follower.set, "mood", SECOND)
        assert pause.started.wait(5)
        with pytest.raises(ProblemError, match="another release is being made ready") as error:
            world.follower.set("mood", Alias(release="mood@3"))
        assert error.value.status == 503
        assert read_aliases(world.folder) == {"mood": FIRST}
        pause.proceed.set()
        first.result()
    assert world.serving == ["mood@2"]
    world.follower.set("mood", Alias(release="mood@3"))
    assert world.serving == ["mood@3"]


def test_requests_see_whole_splits_only(world):
    """A split that a request has read does not change under it."""
    before = world.traffic["mood"].split
    world.follower.set("mood", CANARY)
    after = world.traffic["mood"].split
    assert [served.model.model.release for served in before.all] == ["mood@1"]
    assert (before.canary, before.canary_weight) == (None, 0)
    assert [served.model.model.release for served in after.all] == ["mood@1", "mood@2"]
    assert after.canary_weight == 0.5
    assert after.main is before.main


def test_exchange_uses_the_new_models_description(world):
    """No description of the replaced model is left in use."""

    def served(release, kind):
        backend = FakeModel(Prediction(release, {}), release, kind=kind)
        model = ModelVersion(family="fake", hash=release, release=release)
        return ServedRelease(ModelClient("mood", model, BundleLocation(release, release), backend, 1, 1))

    world.traffic["mood"].split = TrafficSplit(served("mood@1", "classify"))
    world.served = lambda release: served(release, "events")
    service = ModelService(world.traffic, LIMITS)
    assert asyncio.run(service.get("mood").kind()) == "classify"
    world.follower.set("mood", SECOND)
    assert asyncio.run(service.get("mood").kind()) == "events"
    assert asyncio.run(service.describe())["mood"].hash == "mood@2"
    assert service.releases() == {"mood": "mood@2"}


def test_unknown_alias_is_404(world):
    with pytest.raises(ProblemError, match="no alias 'hats', but mood") as error:
        world.follower.set("hats", SECOND)
    assert error.value.status == 404


class TestResolveCurrent:
    @pytest.fixture
    def config(self, tmp_path, models):
        for bundle in models.values():
            publish(tmp_path, bundle.family.name, bundle.path)
        write_alias(tmp_path, "mood", Alias(release="aesthetic_emotion@1"))
        return ServiceConfig(releases=str(tmp_path))

    def test_late_replica_resolves_current_alias(self, config):
        started = resolve_all(config)["mood"]
        publish(Path(config.releases), "aesthetic_emotion", Path(started.main.bundle.path))
        write_alias(Path(config.releases), "mood", Alias(release="aesthetic_emotion@2"))
        assert resolve_current(config, "mood", started).main.model.release == "aesthetic_emotion@2"

    def test_unusable_alias_keeps_started_release(self, config):
        started = resolve_all(config)["mood"]
        (Path(config.releases) / ALIASES / "mood.json").write_text("{")
        assert resolve_current(config, "mood", started) == started

    def test_search_alias_needs_a_catalogue(self, config):
        write_alias(Path(config.releases), SEARCH, Alias(release="aesthetic_emotion@1"))
        with pytest.raises(ConfigurationError, match="needs a release with a table and an index"):
            resolve_all(config)
