"""What a pod finds around it: environment, folders, secrets, interpreter, working folder, GPUs."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from .bench import bench, files_below, on_a_loop, pod, python, training_job, until

ENVIRONMENT = python("import json, os; print(json.dumps(dict(os.environ)))")


async def environment_of(
    run_dir: Path, trainer: dict[str, Any], job: dict[str, Any] | None = None, **options: Any
) -> dict[str, str]:
    async with bench(run_dir, training_job(**(job or {})), **options) as local:
        view, log = await local.run(pod(ENVIRONMENT, trainer=trainer))
        assert view.exit is not None and view.exit.exit_code == 0, log
        return dict(json.loads(log))


@on_a_loop
async def test_variables_are_literal_or_from_the_pod_itself(tmp_path: Path) -> None:
    fields = {
        "POD": "metadata.name",
        "UID_": "metadata.uid",
        "NS": "metadata.namespace",
        "IP": "status.podIP",
        "C": "metadata.labels['color']",
    }
    variables = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    async with bench(tmp_path) as local:
        view, log = await local.run(pod(ENVIRONMENT, trainer={"env": [{"name": "A", "value": "x y"}, *variables]}))
    env = json.loads(log)
    assert [env[name] for name in ("A", "POD", "UID_", "NS", "IP", "C")] == [
        "x y", "demo-0-1", view.uid, "default", "127.0.0.1", "blue"
    ]  # fmt: skip


@on_a_loop
async def test_earlier_variables_are_expanded_in_later_ones_and_in_arguments(tmp_path: Path) -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2"},
        {"name": "C", "value": "$(LATER)$$(A)"},
        {"name": "LATER", "value": "3"},
    ]
    show = python("import os, sys; print(os.environ['B'], os.environ['C'], sys.argv[1])")
    async with bench(tmp_path) as local:
        _, log = await local.run(pod(show, trainer={"env": env, "args": ["$(B)-$(NOPE)"]}))
    assert log == "12 $(LATER)$(A) 12-$(NOPE)\n"


@on_a_loop
async def test_secrets_and_config_maps_become_variables(tmp_path: Path) -> None:
    env = [
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},
        {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "session", "optional": True}}},
        {"name": "NOBODY", "valueFrom": {"secretKeyRef": {"name": "other", "key": "x", "optional": True}}},
    ]
    found = await environment_of(
        tmp_path,
        {"env": env, "envFrom": [{"prefix": "P_", "secretRef": {"name": "s3"}}]},
        secrets={"s3": {"id": "me"}},
        config_maps={"settings": {"mode": "fast"}},
    )
    assert (found["KEY"], found["MODE"], found["P_id"]) == ("me", "fast", "me")
    assert not {"ABSENT", "NOBODY"} & set(found)


@on_a_loop
async def test_nothing_else_of_the_users_environment_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_OF_THE_USER", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD_PATH"):
        monkeypatch.setenv(name, "leak")
    found = await environment_of(tmp_path, {}, {"objectStore": {"credentialsSecret": "s3"}})
    allowed = {
        "PATH",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "SSL_CERT_FILE",
        "CUDA_VISIBLE_DEVICES",
        "DLCLOUD_CACHE",
        "DLCLOUD_SUPERVISED",
    }
    assert set(found) <= allowed


@on_a_loop
async def test_the_users_aws_settings_reach_a_job_that_names_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    assert (await environment_of(tmp_path, {}))["AWS_SECRET_ACCESS_KEY"] == "mine"


@on_a_loop
async def test_python_is_the_given_interpreter_also_for_programs_the_pod_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without the environment's folder
    show = "import sys, shutil, os; print(sys.prefix); print(os.path.dirname(shutil.which('python')))"
    async with bench(tmp_path) as local:
        _, log = await local.run(pod(python(show)))
    assert log.split() == [sys.prefix, str(Path(sys.executable).parent)]


@on_a_loop
async def test_an_empty_dir_is_shared_by_init_and_trainer_container_and_its_path_rewritten(tmp_path: Path) -> None:
    mount = {"volumeMounts": [{"name": "bin", "mountPath": "/dlcloud/bin"}]}
    init = {"name": "copy", "command": ["sh", "-c", "echo tool > /dlcloud/bin/tool"], **mount}
    trainer = {
        **mount,
        "env": [{"name": "WHERE", "value": "a:/dlcloud/bin/tool"}, {"name": "URI", "value": "s3://b/dlcloud/bin"}],
    }
    show = ["sh", "-c", "cat /dlcloud/bin/tool; echo $WHERE $URI"]
    async with bench(tmp_path) as local:
        _, log = await local.run(
            pod(show, trainer=trainer, initContainers=[init], volumes=[{"name": "bin", "emptyDir": {}}])
        )
    tool, where, uri = log.split()
    assert tool == "tool"
    assert where.startswith(f"a:{tmp_path}/pods/demo-0-1/") and uri == "s3://b/dlcloud/bin"


@on_a_loop
async def test_tmp_and_dev_shm_stay_this_machines_own(tmp_path: Path) -> None:
    trainer = {"volumeMounts": [{"name": "t", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]}
    volumes = [{"name": "t", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    async with bench(tmp_path) as local:
        _, log = await local.run(pod(["echo", "/tmp/x", "/dev/shm"], trainer=trainer, volumes=volumes))
    assert log == "/tmp/x /dev/shm\n"


@on_a_loop
async def test_config_map_and_secret_volumes_are_files_only_the_user_reads(tmp_path: Path) -> None:
    trainer = {"volumeMounts": [{"name": "ca", "mountPath": "/ca"}, {"name": "keys", "mountPath": "/keys"}]}
    volumes = [
        {"name": "ca", "configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "sub/root.pem"}]}},
        {"name": "keys", "secret": {"secretName": "s3"}},
    ]
    show = ["sh", "-c", "cat /ca/sub/root.pem /keys/id; stat -L -c ' %a' /keys/id"]
    async with bench(tmp_path, secrets={"s3": {"id": "me"}}, config_maps={"ca": {"ca.crt": "PEM "}}) as local:
        _, log = await local.run(pod(show, trainer=trainer, volumes=volumes))
    assert log == "PEM me 600\n"


@on_a_loop
async def test_the_token_in_the_pod_speaks_for_this_pod_and_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    trainer = {"volumeMounts": [{"name": "token", "mountPath": "/dlcloud/token"}]}
    volume = {
        "name": "token",
        "projected": {"sources": [{"serviceAccountToken": {"audience": "dlcloud", "path": "token"}}]},
    }
    async with bench(tmp_path) as local:
        view, log = await local.run(pod(["cat", "/dlcloud/token/token"], trainer=trainer, volumes=[volume]))
        identity = await local.cluster.tokens.identify(log)
        assert (identity.namespace, identity.pod, identity.uid) == ("default", "demo-0-1", view.uid)
        (file,) = [path for path in files_below(tmp_path) if path.parent.name == "token"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@on_a_loop
async def test_tokens_and_secrets_leave_the_disk_when_the_run_is_closed_and_the_log_stays(tmp_path: Path) -> None:
    async with bench(tmp_path, secrets={"s3": {"id": "very-secret"}}) as local:
        await local.run(pod(["echo", "done"], volumes=[{"name": "keys", "secret": {"secretName": "s3"}}]))
    texts = [path.read_text() for path in files_below(tmp_path)]
    assert not any("very-secret" in text for text in texts) and "done\n" in texts


NO_SECRET = {"valueFrom": {"secretKeyRef": {"name": "gone", "key": "k"}}}
CLAIM = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"volumes": [{"name": "v", "secret": {"secretName": "gone"}}]},
            'MountVolume.SetUp failed for volume "v" : secret "gone" not found',
        ),
        ({"trainer": {"env": [{"name": "A", **NO_SECRET}]}}, 'CreateContainerConfigError: secret "gone" not found'),
        ({"volumes": [CLAIM]}, "persistentVolumeClaim does not exist on this machine"),
        (
            {"trainer": {"resources": {"limits": {"nvidia.com/gpu": 3}}}},
            "Insufficient nvidia.com/gpu (3 wanted, 2 free)",
        ),
    ],
    ids=["secret volume", "secret variable", "claim", "gpus"],
)
@on_a_loop
async def test_a_pod_that_lacks_something_stays_pending_and_says_what(
    tmp_path: Path, spec: dict[str, Any], words: str
) -> None:
    async with bench(tmp_path, gpus=["0", "1"]) as local:
        name = await local.create(pod(["true"], **spec))
        await until(lambda: (view := local.pod(name)) and words in view.waiting, words)
        view = local.pod(name)
        assert view is not None and view.phase == "Pending"


@on_a_loop
async def test_a_pending_pod_starts_once_its_secret_exists(tmp_path: Path) -> None:
    secrets: dict[str, dict[str, str]] = {}
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]
    async with bench(tmp_path, secrets=secrets) as local:
        name = await local.create(pod(["sh", "-c", "echo $A"], trainer={"env": env}))
        await until(lambda: (view := local.pod(name)) and "late" in view.waiting, "a pending pod")
        secrets["late"] = {"k": "here"}
        await local.ended(name)
        assert local.log(name) == "here\n"


@on_a_loop
async def test_each_pod_sees_only_its_own_gpus_and_gives_them_back(tmp_path: Path) -> None:
    show = ["sh", "-c", "echo gpus=$CUDA_VISIBLE_DEVICES; exec sleep 100"]
    want = {"trainer": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    async with bench(tmp_path, gpus=["4", "7"]) as local:
        for index in (0, 1):
            await local.said(await local.create(pod(show, index=index, **want)), f"gpus={(4, 7)[index]}\n")
        none = await local.create(pod(show, index=2))
        assert await local.said(none, "gpus=") == "gpus=\n"
        late = await local.create(pod(show, index=3, **want))
        await until(lambda: (view := local.pod(late)) and "Insufficient" in view.waiting, "a pod without a GPU")
        first = local.cluster._pods["demo-0-1"]
        first.terminate(0)
        assert await local.said(late, "gpus=4")


@on_a_loop
async def test_a_script_runs_where_the_user_is_and_a_workload_in_its_scratch_folder(tmp_path: Path) -> None:
    where = tmp_path / "project"
    where.mkdir()
    trainer = {"volumeMounts": [{"name": "scratch", "mountPath": "/dlcloud/scratch"}]}
    volumes = [{"name": "scratch", "emptyDir": {}}]
    script = training_job(workload="", script={"command": ["python", "train.py"]})
    async with bench(tmp_path / "a", script, working_dir=where) as local:
        _, log = await local.run(pod(["pwd"], trainer=trainer, volumes=volumes))
        assert log.strip() == str(where)
    async with bench(tmp_path / "b", working_dir=where) as local:
        _, log = await local.run(pod(["pwd"], trainer=trainer, volumes=volumes))
        assert log.strip().startswith(str(tmp_path / "b")) and os.path.basename(log.strip()) == "scratch"  # noqa: PTH119
