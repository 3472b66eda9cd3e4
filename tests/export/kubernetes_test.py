"""The Kubernetes manifests held against each other, against compose.yaml and against the configurations.

No cluster is needed; where kubectl is, its kustomize puts everything together.
"""

import re
import shutil
import subprocess

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.support.programs import EXPORT

TF_SERVING = EXPORT / "tf_serving"
KUSTOMIZATION = yaml.safe_load((TF_SERVING / "kustomization.yaml").read_text())
OBJECTS = {}
for resource in KUSTOMIZATION["resources"]:
    for document in yaml.safe_load_all((TF_SERVING / resource).read_text()):
        OBJECTS[document["kind"]] = document
DEPLOYMENT, SERVICE = OBJECTS["Deployment"], OBJECTS["Service"]
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
COMPOSE = yaml.safe_load((TF_SERVING / "compose.yaml").read_text())["services"]["serving"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}


def read(path):
    return (TF_SERVING / path).read_text()


def served_names():
    config = text_format.Parse(read("models.config"), model_server_config_pb2.ModelServerConfig())
    return {model.name: model.base_path for model in config.model_config_list.config}


def test_every_manifest_is_used_but_the_one_for_uploading():
    files = {f"kubernetes/{path.name}" for path in (TF_SERVING / "kubernetes").glob("*.yaml")}
    assert files == {*KUSTOMIZATION["resources"], "kubernetes/upload.yaml"}
    assert set(OBJECTS) == {"PersistentVolumeClaim", "Deployment", "Service", "HorizontalPodAutoscaler"}


def test_selectors_match_the_pods_labels():
    labels = POD["metadata"]["labels"]
    for selector in (DEPLOYMENT["spec"]["selector"]["matchLabels"], SERVICE["spec"]["selector"]):
        assert selector and selector.items() <= labels.items()


def test_ports_are_those_that_the_image_listens_on():
    assert PORTS == {"grpc": 8500, "rest": 8501}
    assert {port.split(":")[-1] for port in COMPOSE["ports"]} == {str(port) for port in PORTS.values()}
    for port in SERVICE["spec"]["ports"]:
        assert PORTS[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_the_status_of_a_served_model(name):
    probe = CONTAINER[name]["httpGet"]
    assert probe["path"] in {f"/v1/models/{model}" for model in served_names()}
    assert PORTS[probe["port"]] == 8501


def test_a_server_is_not_killed_before_its_slowest_request_ends():
    (timeout,) = [int(flag.split("=")[1]) for flag in CONTAINER["args"] if flag.startswith("--rest_api_timeout_in_ms")]
    probe = CONTAINER["livenessProbe"]
    assert 1000 * probe["periodSeconds"] * probe["failureThreshold"] >= timeout
    (pause,) = [int(word) for word in CONTAINER["lifecycle"]["preStop"]["exec"]["command"] if word.isdecimal()]
    assert 1000 * (POD["spec"]["terminationGracePeriodSeconds"] - pause) >= timeout


def test_image_and_arguments_are_those_of_compose():
    assert CONTAINER["image"] == re.sub(r"\$\{\w+:-(.*?)\}", r"\1", COMPOSE["image"])
    assert CONTAINER["args"] == COMPOSE["command"]


def test_volumes_are_mounted_where_flags_and_configurations_look():
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in CONTAINER["volumeMounts"]}
    assert all(mount["readOnly"] for mount in CONTAINER["volumeMounts"])
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert mounts["/config"]["configMap"]["name"] == generated["name"]
    paths = [flag.split("=")[1] for flag in CONTAINER["args"] if "/config/" in flag]
    assert sorted(paths) == sorted(f"/config/{name}" for name in generated["files"]) and len(paths) == 3
    claim = mounts["/models"]["persistentVolumeClaim"]["claimName"]
    assert claim == OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert all(path.startswith("/models/") for path in served_names().values())
    upload = yaml.safe_load(read("kubernetes/upload.yaml"))
    assert upload["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim


def test_prometheus_finds_the_figures():
    annotations = POD["metadata"]["annotations"]
    (path,) = re.findall(r'path: "(.*)"', read("monitoring.config"))
    assert annotations["prometheus.io/path"] == path
    assert int(annotations["prometheus.io/port"]) == PORTS["rest"]


def autoscalers():
    """As it stands, and with the commented metric in place of the other."""
    text = read("kubernetes/autoscaler.yaml")
    commented = re.search(r"(?ms)^    # - type: Pods.*?(?=^  \w)", text).group()
    metric = re.sub(r"(?m)^    # ", "    ", commented)
    before, after = text.split("  metrics:\n")[0], text[text.index(commented) + len(commented) :]
    return [yaml.safe_load(text), yaml.safe_load(f"{before}  metrics:\n{metric}{after}")]


def test_both_autoscalers_scale_the_deployment_by_what_it_has():
    by_cpu, by_requests = autoscalers()
    for autoscaler in (by_cpu, by_requests):
        assert autoscaler["apiVersion"] == "autoscaling/v2"
        target = autoscaler["spec"]["scaleTargetRef"]
        assert (target["apiVersion"], target["kind"]) == (DEPLOYMENT["apiVersion"], "Deployment")
        assert target["name"] == DEPLOYMENT["metadata"]["name"]
        assert 1 <= autoscaler["spec"]["minReplicas"] < autoscaler["spec"]["maxReplicas"]
        assert "scaleDown" in autoscaler["spec"]["behavior"]
    assert "replicas" not in DEPLOYMENT["spec"]  # it would be reset whenever the manifest is applied
    assert by_cpu["spec"]["metrics"][0]["resource"]["name"] == "cpu"
    assert "cpu" in CONTAINER["resources"]["requests"]  # what a utilisation is of
    (metric,) = by_requests["spec"]["metrics"]
    assert metric["type"] == "Pods" and metric["pods"]["target"]["type"] == "AverageValue"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to run kustomize with")
def test_kustomize_puts_the_very_configurations_into_the_config_map():
    done = subprocess.run(["kubectl", "kustomize", TF_SERVING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert set(built) == {*OBJECTS, "ConfigMap"}
    config_map = built["ConfigMap"]
    assert config_map["data"] == {name: read(name) for name in KUSTOMIZATION["configMapGenerator"][0]["files"]}
    (volume,) = [v for v in built["Deployment"]["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"] != "serving-config"
