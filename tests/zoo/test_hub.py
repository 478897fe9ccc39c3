"""The hub without network: one short try, then the cache, then one message."""

import socket
import threading

import pytest
from huggingface_hub import constants, hf_hub_download

import zoo.hub
from mozoo import ConfigError
from mozoo.fine_tuning import initialize
from zoo import create_model
from zoo.hub import quiet_hub
from zoo.timm_models import create_timm


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tries(monkeypatch):
    """Addresses that were tried; nobody answers, and the look-up of names goes on for as long as the test."""
    asked, over = [], threading.Event()

    def silent(address, timeout):
        asked.append(address)
        over.wait(10)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", silent)
    monkeypatch.setattr(zoo.hub, "_PATIENCE", 0.05)
    yield asked
    over.set()


def test_weights_without_network_are_one_message_after_one_try(tries):
    model = create_model("shared_trunk", in_features=3, classifiers={"a": 2}, regressors={}, width=4, depth=1)
    told = r"cannot get model.safetensors of hf-hub:someone/model \(.*cannot be reached, and the file is not in the cache\)"
    with pytest.raises(ConfigError, match=rf"{told}.*init=folder/model.safetensors"):
        initialize(model, "hf-hub:someone/model")
    with pytest.raises(ValueError, match=r"cannot be reached.*give a file: pretrained_file=model.safetensors"):
        create_timm("dense", "encoder", "test_resnet", pretrained=True)
    assert tries == [("huggingface.co", 443)] * 2
    assert not constants.HF_HUB_OFFLINE


def test_what_is_in_the_cache_is_found_without_network(tries, tmp_path):
    commit = "0" * 40
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(commit)
    with quiet_hub():
        assert hf_hub_download("someone/model", "model.safetensors") == str(snapshot / "model.safetensors")


def test_offline_mode_is_obeyed_without_a_try(tries, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"), quiet_hub():
        hf_hub_download("someone/model", "model.safetensors")
    assert tries == []
    assert constants.HF_HUB_OFFLINE


def test_a_proxy_is_asked_instead(tries, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with quiet_hub():
        pass
    assert tries == [("proxy.example", 3128)]


def test_a_hub_that_answers_is_used_online():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with quiet_hub():
            assert not constants.HF_HUB_OFFLINE
