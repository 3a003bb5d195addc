"""The names of models follow the folder of releases, one step after the other, whatever fails."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from galleria.errors import ConfigurationError
from galleria.pipelines.releases import ALIASES, Alias, publish, read_aliases, write_alias
from galleria.serving.config import SEARCH, BundleLocation, ServiceConfig
from galleria.serving.resolve import ReleaseRef, ResolvedAlias, check_fit, in_use
from galleria.serving.schemas.problems import ProblemError
from galleria.serving.schemas.responses import ModelVersion
from galleria.serving.services.releases import Aliases
from galleria.serving.services.traffic import ServedRelease, TrafficSplit

ONE, TWO = Alias(release="mood@1"), Alias(release="mood@2")
BOTH = Alias(release="mood@1", canary="mood@2", canary_weight=0.5)


def offer(release):
    return ReleaseRef(
        ModelVersion(family="fake", hash=release, release=release), BundleLocation(release, release), None
    )


class World:
    """Aliases of a folder with releases of the name "mood", with stand-ins for what makes them ready."""

    def __init__(self, folder, bundle):
        self.folder = folder
        for _ in range(3):
            publish(folder, "mood", bundle.path)
        write_alias(folder, "mood", ONE)
        self.ready = []
        self.closed = []
        self.failing = {}
        self.wait = lambda: None
        self.slots = {"mood": TrafficSplit(self.served("mood@1"))}
        self.aliases = Aliases(folder, self.slots, self.choose, self.make_ready, {"mood": ONE})

    def choose(self, name, alias):
        return ResolvedAlias(offer(alias.release), offer(alias.canary) if alias.canary else None, alias.canary_weight)

    def make_ready(self, name, wanted):
        release = wanted.model.release
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
    def answering(self):
        return [served.model.model.release for served in self.slots["mood"].all]


@pytest.fixture
def world(tmp_path, bundle):
    return World(tmp_path, bundle)


def test_setting_an_alias_exchanges_it_and_writes_it_down(world):
    world.aliases.set("mood", TWO)
    assert (world.answering, world.ready, world.closed) == (["mood@2"], ["mood@2"], ["mood@1"])
    assert read_aliases(world.folder) == {"mood": TWO}


def test_what_is_ready_is_not_made_ready_again(world):
    world.aliases.set("mood", BOTH)
    world.aliases.set("mood", TWO)
    assert (world.answering, world.ready, world.closed) == (["mood@2"], ["mood@2"], ["mood@1"])


def test_the_folder_is_followed(world):
    write_alias(world.folder, "mood", TWO)
    assert world.aliases.look()
    assert world.answering == ["mood@2"]
    assert world.aliases.look()
    assert world.ready == ["mood@2"]


def test_a_release_that_cannot_be_used_is_told_of_once(world, caplog):
    world.failing["mood@2"] = ConfigurationError("the index has other shards")
    write_alias(world.folder, "mood", TWO)
    for _ in range(3):
        assert world.aliases.look()
    assert (world.answering, world.ready) == (["mood@1"], ["mood@2"])
    assert caplog.text.count("the index has other shards") == 1
    with pytest.raises(ProblemError, match="other shards") as error:
        world.aliases.set("mood", TWO)
    assert error.value.status == 422
    del world.failing["mood@2"]
    world.aliases.set("mood", TWO)
    assert world.answering == ["mood@2"]


def test_what_may_go_better_is_tried_again(world):
    world.failing["mood@2"] = OSError("storage is away")
    write_alias(world.folder, "mood", TWO)
    assert not world.aliases.look()
    assert world.answering == ["mood@1"]
    del world.failing["mood@2"]
    assert world.aliases.look()
    assert world.answering == ["mood@2"]


def test_what_was_opened_for_nothing_is_closed_again(world):
    world.failing["mood@3"] = ConfigurationError("no")
    with pytest.raises(ProblemError):
        world.aliases.set("mood", Alias(release="mood@2", canary="mood@3", canary_weight=0.1))
    assert (world.answering, world.closed) == (["mood@1"], ["mood@2"])
    assert read_aliases(world.folder) == {"mood": ONE}


def test_a_damaged_alias_does_not_keep_the_others_from_being_followed(world, caplog):
    world.slots["other"] = TrafficSplit(world.served("mood@1"))
    world.aliases.now["other"] = ONE
    write_alias(world.folder, "other", TWO)
    (world.folder / ALIASES / "mood.json").write_text("{")
    for _ in range(3):
        world.aliases.look()
    assert world.slots["other"].main.model.model.release == "mood@2"
    assert world.answering == ["mood@1"]
    assert caplog.text.count("cannot be read") == 1


def test_one_exchange_follows_the_other(world):
    """A look that has begun does not undo what is set meanwhile."""
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go_on.wait(5)

    world.wait = wait
    write_alias(world.folder, "mood", TWO)
    looking = threading.Thread(target=world.aliases.look)
    looking.start()
    begun.wait(5)
    setting = threading.Thread(target=world.aliases.set, args=("mood", Alias(release="mood@3")))
    setting.start()
    time.sleep(0.05)
    go_on.set()
    looking.join()
    setting.join()
    world.aliases.look()
    assert world.answering == ["mood@3"]


def test_a_name_that_the_service_does_not_have_is_404(world):
    with pytest.raises(ProblemError, match="no alias 'hats', but mood") as error:
        world.aliases.set("hats", TWO)
    assert error.value.status == 404


class TestInUse:
    @pytest.fixture
    def config(self, tmp_path, models):
        for bundle in models.values():
            publish(tmp_path, bundle.family.name, bundle.path)
        write_alias(tmp_path, "mood", Alias(release="aesthetic_emotion@1"))
        return ServiceConfig(releases=str(tmp_path))

    def test_a_replica_that_starts_late_has_what_is_in_use(self, config):
        started = check_fit(config)["mood"]
        publish(Path(config.releases), "aesthetic_emotion", Path(started.main.bundle.path))
        write_alias(Path(config.releases), "mood", Alias(release="aesthetic_emotion@2"))
        assert in_use(config, "mood", started).main.model.release == "aesthetic_emotion@2"

    def test_an_alias_that_cannot_be_used_leaves_what_was_started(self, config):
        started = check_fit(config)["mood"]
        (Path(config.releases) / ALIASES / "mood.json").write_text("{")
        assert in_use(config, "mood", started) == started

    def test_a_search_needs_a_catalogue(self, config):
        write_alias(Path(config.releases), SEARCH, Alias(release="aesthetic_emotion@1"))
        with pytest.raises(ConfigurationError, match="needs a release with a table and an index"):
            check_fit(config)
