"""The life of models' versions: found, loaded, handed out, replaced, unloaded, with a loader that can be held up."""

import asyncio
import gc
import weakref

import pytest
from tensorflow_serving.apis import model_management_pb2

from dev_server import model_store as store
from dev_server.config import ModelConfig, RestOptions, ServerConfig
from dev_server.errors import ConfigurationError, ServingError
from dev_server.grpc_services import ModelService
from dev_server.metrics import ServerMetrics
from dev_server.server import ModelConfigFile, load_models
from tests.support.event_loop import in_event_loop

Spec = store.ModelSpec


@pytest.fixture(scope="module", autouse=True)
def earlier_tests_objects_are_left_alone():
    """The store has Python look for garbage at every version that goes, which is long among what other tests left."""
    gc.freeze()
    yield
    gc.unfreeze()


class Model:
    """What the loader makes of a version's folder."""

    def __init__(self, name, version, path):
        self.name, self.version, self.text = name, version, (path / "model").read_text()


class Loader:
    """Loads `Model`s; fails where the file says "broken"; waits at the gate."""

    def __init__(self):
        self.loaded, self.loading, self.gate = [], asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def __call__(self, name, version, path):
        self.loading.set()
        await self.gate.wait()
        model = Model(name, version, path)
        if model.text == "broken":
            raise ServingError("DATA_LOSS", f"cannot read {path.name}")
        self.loaded.append((name, version))
        return model


def write(base, *versions, text="well"):
    for version in versions:
        (base / str(version)).mkdir(parents=True, exist_ok=True)
        (base / str(version) / "model").write_text(text)


def remove(base, version):
    (base / str(version) / "model").unlink()
    (base / str(version)).rmdir()


@pytest.fixture
def base(tmp_path):
    write(tmp_path, 1)
    return tmp_path


@pytest.fixture
def loader():
    return Loader()


async def made(loader, base, labels_may_wait=False, **config):
    models = store.ModelStore(loader, labels_may_wait)
    models.configure([ModelConfig("m", base, **config)])
    await models.update()
    return models


def written(base, folder):
    text = f'model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow" }} }}'
    (folder / "models.config").write_text(text)
    return folder / "models.config"


@in_event_loop
async def test_a_config_file_that_changed_while_models_loaded_is_taken_up(loader, base, tmp_path):
    models = await made(loader, base)
    served_then = [ModelConfig("m", base)]
    write(tmp_path / "other", 5)
    file = ModelConfigFile(models, written(tmp_path / "other", tmp_path), served_then)
    await file.reread()
    assert loader.loaded == [("m", 1), ("m", 5)]


@in_event_loop
async def test_versions_that_are_gone_before_they_load_are_a_mistake(tmp_path):
    options = {"rest": RestOptions(), "batching": None, "labels_may_wait": False, "file_system_poll_seconds": 0}
    file = {"model_config_file": None, "model_config_poll_seconds": 0}
    config = ServerConfig([ModelConfig("m", tmp_path / "gone")], 0, 0, **options, **file)
    with pytest.raises(ConfigurationError, match=r"cannot load from .*/gone: Could not find any versions of model m"):
        await load_models(config, ServerMetrics())


def states(models, name="m"):
    return {number: state for number, state, _ in models.statuses(Spec(name))}


def version(models, *spec):
    with models.use(Spec("m", *spec)) as model:
        return model.version


def refusal(models, spec):
    with pytest.raises(ServingError) as refused, models.use(spec):
        pass
    return refused.value.code, str(refused.value)


@in_event_loop
async def test_the_newest_version_is_served_and_what_is_no_version_is_skipped(loader, base):
    write(base, 9, 10, "11.tmp", "latest", "-3", "1e3", 2**63)
    (base / "12").write_text("a file")
    models = await made(loader, base)
    assert loader.loaded == [("m", 10)] and version(models) == version(models, 10) == 10
    assert models.available("m") == [10] and models.knows("m") and not models.knows("other")
    assert refusal(models, Spec("m", 9)) == ("NOT_FOUND", "Servable not found for request: Specific(m, 9)")
    assert refusal(models, Spec("other")) == ("NOT_FOUND", "Servable not found for request: Latest(other)")
    assert refusal(models, Spec("")) == ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
    for spec, missing in [(Spec("m", 9), "version 9 of model m"), (Spec("other"), "any versions of model other")]:
        with pytest.raises(ServingError, match=f"Could not find {missing}"):
            models.statuses(spec)


@in_event_loop
async def test_a_version_may_be_any_number_of_64_bits(loader, base):
    write(base, 2**63 - 1)
    models = await made(loader, base)
    assert 2**63 - 1 in models.available("m")


@in_event_loop
async def test_several_versions_are_served_by_number_and_the_highest_by_default(loader, base):
    write(base, 2, 3)
    models = await made(loader, base, num_versions=2)
    assert [version(models), version(models, 2), version(models, 3)] == [3, 2, 3]
    assert [number for number, _, _ in models.statuses(Spec("m"))] == [3, 2]
    assert (await made(Loader(), base, policy="all")).available("m") == [3, 2, 1]
    assert (await made(Loader(), base, policy="specific", versions=(1, 7))).available("m") == [1]


@in_event_loop
async def test_the_old_version_serves_until_the_new_one_is_available(loader, base):
    models = await made(loader, base)
    loader.gate.clear()
    loader.loading.clear()
    write(base, 2)
    update = asyncio.create_task(models.update())
    await loader.loading.wait()
    assert states(models) == {1: "AVAILABLE", 2: "LOADING"} and version(models) == 1
    loader.gate.set()
    await update
    assert version(models) == 2 and states(models) == {1: "END", 2: "AVAILABLE"}
    assert refusal(models, Spec("m", 1))[0] == "NOT_FOUND"


@in_event_loop
async def test_a_version_is_not_unloaded_under_a_request_and_then_leaves_nothing(loader, base):
    models = await made(loader, base)
    with models.use(Spec("m")) as model:
        kept = weakref.ref(model)
        write(base, 2)
        await models.update()
        assert states(models) == {1: "UNLOADING", 2: "AVAILABLE"}
        assert refusal(models, Spec("m", 1))[0] == "NOT_FOUND" and version(models) == 2
        write(base, 3)
        await models.update()
        assert states(models)[2] == "END"
        assert states(models)[1] == "UNLOADING" and model.text == "well"
    del model
    await asyncio.sleep(0)
    assert states(models) == {1: "END", 2: "END", 3: "AVAILABLE"}
    gc.collect()
    assert kept() is None


@in_event_loop
async def test_a_version_that_does_not_load_is_reported_and_the_old_one_goes_on(loader, base):
    models = await made(loader, base)
    write(base, 2, text="broken")
    for _ in range(3):
        await models.update()
        assert version(models) == 1
    ((number, state, error),) = models.statuses(Spec("m", 2))
    assert (number, state, error.code, str(error)) == (2, "END", "DATA_LOSS", "cannot read 2")
    write(base, 2, text="mended by a longer copy")
    await models.update()
    assert version(models) == 2 and models.statuses(Spec("m", 2))[0][2] is None


@in_event_loop
async def test_a_version_that_failed_is_not_loaded_again_and_again(loader, base):
    tries = []

    async def counting(name, number, path):
        tries.append(number)
        return await loader(name, number, path)

    write(base, 2, text="broken")
    models = await made(counting, base)
    for _ in range(3):
        await models.update()
    assert tries == [2]
    remove(base, 2)
    await models.update()
    assert tries == [2, 1] and version(models) == 1


@in_event_loop
async def test_an_older_version_comes_back_when_the_newer_folder_is_removed(loader, base):
    write(base, 2)
    models = await made(loader, base)
    remove(base, 2)
    await models.update()
    assert version(models) == 1
    assert states(models) == {1: "AVAILABLE", 2: "END"}
    write(base, 2)
    await models.update()
    assert version(models) == 2 and loader.loaded == [("m", 2), ("m", 1), ("m", 2)]


@in_event_loop
async def test_a_folder_that_cannot_be_read_takes_nothing_away_and_an_empty_one_takes_all(loader, base):
    models = await made(loader, base)
    hidden = base.with_name("hidden")
    base.rename(hidden)
    await models.update()
    assert version(models) == 1
    hidden.rename(base)
    remove(base, 1)
    await models.update()
    assert states(models) == {1: "END"}


@in_event_loop
async def test_labels(loader, base):
    write(base, 2)
    models = await made(loader, base, policy="all")
    models.configure([ModelConfig("m", base, "all", labels={"stable": 1, "next": 2})])
    assert version(models, None, "stable") == 1 and version(models, None, "next") == 2
    unknown = ("INVALID_ARGUMENT", "Unrecognized servable version label: other")
    assert refusal(models, Spec("m", None, "other")) == unknown
    with pytest.raises(ServingError, match="assign label to version 3 of model m, which is not currently") as refused:
        models.configure([ModelConfig("m", base, "all", labels={"stable": 3})])
    assert refused.value.code == "FAILED_PRECONDITION" and version(models, None, "stable") == 1


@in_event_loop
async def test_a_label_may_wait_for_its_version_only_if_that_is_allowed_and_only_a_new_label(loader, base):
    with pytest.raises(ServingError, match="not currently available"):
        await made(loader, base, labels={"stable": 1})
    models = await made(loader, base, labels_may_wait=True, labels={"stable": 1, "next": 2})
    assert version(models, None, "stable") == 1
    assert refusal(models, Spec("m", None, "next")) == ("NOT_FOUND", "Servable not found for request: Specific(m, 2)")
    with pytest.raises(ServingError, match="version 2"):
        models.configure([ModelConfig("m", base, labels={"stable": 2})])


@in_event_loop
async def test_models_come_and_go_with_the_configuration(loader, tmp_path):
    write(tmp_path / "a", 1)
    write(tmp_path / "b", 1)
    models = store.ModelStore(loader)
    models.configure([ModelConfig("a", tmp_path / "a")])
    await models.update()
    models.configure([ModelConfig("b", tmp_path / "b")])
    await models.update()
    assert models.available("b") == [1]
    assert states(models, "a") == {1: "END"}


@in_event_loop
async def test_no_request_fails_while_versions_roll(loader, base):
    models = await made(loader, base)
    seen, stop = set(), asyncio.Event()

    async def ask():
        while not stop.is_set():
            with models.use(Spec("m")) as model:
                await asyncio.sleep(0.001)  # a run, in which versions come and go
                assert model.text == "well"
                seen.add(model.version)

    clients = [asyncio.create_task(ask()) for _ in range(4)]
    for number in range(2, 10):
        write(base, number)
        await models.update()
        remove(base, number - 1)
        await asyncio.sleep(0.002)
    stop.set()
    await asyncio.gather(*clients)
    await asyncio.sleep(0)
    assert len(seen) > 1 and list(states(models).values()).count("END") == 8


@in_event_loop
async def test_a_reload_goes_on_when_its_client_stops_waiting(loader, base):
    loader.gate.clear()
    models, request = store.ModelStore(loader), model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path=str(base), model_platform="tensorflow")
    reload = asyncio.create_task(ModelService(models).HandleReloadConfigRequest(request, None))
    await loader.loading.wait()
    reload.cancel()
    await asyncio.wait([reload])
    loader.gate.set()
    while models.available("m") != [1]:
        await asyncio.sleep(0.001)
