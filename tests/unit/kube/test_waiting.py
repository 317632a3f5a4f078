"""Why a pod does not start: the scheduler's and the kubelet's words, as they reach the job's message."""

from __future__ import annotations

import pytest

from dlcloud_operator.kube.waiting import Waiting, waiting_of

from .objects import Json, condition, container_status, held_back, pending, stamp


def unschedulable(message: str, reason: str = "Unschedulable") -> Waiting:
    return waiting_of(pending(condition("PodScheduled", "False", reason, message)))


def test_a_resource_that_no_node_has_is_named_with_how_much_is_asked_for() -> None:
    message = (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No preemption "
        "victims found for incoming pod."
    )
    assert unschedulable(message) == ("Unschedulable", "0/3 nodes have 1 free nvidia.com/gpu")


def test_newer_schedulers_say_more_between_the_two_sentences() -> None:
    message = (
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes "
        "are available: 2 Preemption is not helpful for scheduling."
    )
    assert unschedulable(message).words == "0/2 nodes have 1 free nvidia.com/gpu"


def test_several_reasons_stand_side_by_side() -> None:
    message = (
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint "
        "{node.kubernetes.io/unreachable: }, 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/4 "
        "nodes are available: 4 Preemption is not helpful for scheduling."
    )
    assert unschedulable(message).words == (
        "0/4 nodes are available: 1 with too little cpu (the pod asks for 1), 1 node(s) had untolerated taint "
        "{node.kubernetes.io/unreachable: }, 2 node(s) didn't match Pod's node affinity/selector"
    )


def test_a_cluster_without_nodes_says_so() -> None:
    assert unschedulable("no nodes available to schedule pods").words == "no nodes available to schedule pods"


def test_a_volume_claim_that_is_missing_is_the_schedulers_word() -> None:
    message = 'persistentvolumeclaim "data" not found. preemption: not eligible due to preemptionPolicy=Never.'
    assert unschedulable(message).words == 'persistentvolumeclaim "data" not found'


def test_an_error_of_the_scheduler_keeps_its_reason() -> None:
    assert unschedulable("binding rejected", "SchedulerError") == ("SchedulerError", "binding rejected")


def test_a_gated_pod_names_its_gates() -> None:
    raw = pending(condition("PodScheduled", "False", "SchedulingGated", "Scheduling is blocked due to ..."))
    raw["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    assert waiting_of(raw) == ("SchedulingGated", "held by scheduling gate kueue.x-k8s.io/admission")


def test_a_pod_nobody_has_looked_at_waits_for_the_scheduler() -> None:
    raw = pending(condition("PodScheduled", "False"))
    raw["status"]["conditions"] = []
    assert waiting_of(raw) == ("", "")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", 'rpc error: code = NotFound desc = failed to pull and unpack image "reg/x:1": not found'),
        (
            "ImagePullBackOff",
            'Back-off pulling image "reg/x:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and '
            'unpack image "reg/x:1": not found',
        ),
    ],
)
def test_an_image_that_cannot_be_pulled_is_told_the_same_in_both_of_the_kubelets_states(
    reason: str, message: str
) -> None:
    raw = held_back(reason, message)
    raw["spec"]["containers"][0]["image"] = "reg/x:1"
    words = "image 'reg/x:1' cannot be pulled: not found"
    assert waiting_of(raw) == ("ImagePull", words)


def test_a_back_off_without_details_still_names_the_image() -> None:
    raw = held_back("ImagePullBackOff", 'Back-off pulling image "dlcloud-trainer:0.1.0"')
    assert waiting_of(raw).words == "image 'dlcloud-trainer:0.1.0' cannot be pulled: ImagePullBackOff"


def test_an_image_name_that_is_none_is_an_image_that_cannot_be_pulled() -> None:
    raw = held_back("InvalidImageName", 'Failed to apply default image tag "UPPER": couldn\'t parse image name')
    assert waiting_of(raw).reason == "ImagePull"


def test_a_missing_secret_is_named() -> None:
    assert waiting_of(held_back("CreateContainerConfigError", 'secret "s3" not found')) == (
        "CreateContainerConfigError",
        'CreateContainerConfigError: secret "s3" not found',
    )


def test_a_container_beside_the_trainer_is_named() -> None:
    assert waiting_of(held_back("CreateContainerError", "no", name="proxy")).words == (
        "container proxy: CreateContainerError: no"
    )


def init_state(state: Json, trainer: str = "PodInitializing") -> Json:
    raw = held_back(trainer)
    raw["status"]["initContainerStatuses"] = [container_status(state, name="agent")]
    return raw


def test_an_init_container_that_crashes_again_and_again_is_named() -> None:
    raw = init_state({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}})
    assert waiting_of(raw) == (
        "CrashLoopBackOff",
        "init container agent: CrashLoopBackOff: back-off 10s restarting failed container",
    )


def test_an_init_container_that_runs_is_named_without_alarm() -> None:
    assert waiting_of(init_state({"running": {"startedAt": stamp(2)}})) == ("", "init container agent runs")


def test_an_image_of_the_trainer_counts_more_than_a_running_init_container() -> None:
    raw = init_state({"running": {"startedAt": stamp(2)}}, trainer="ErrImagePull")
    assert waiting_of(raw).reason == "ImagePull"


def test_a_container_being_created_is_no_trouble_yet() -> None:
    assert waiting_of(held_back("ContainerCreating")) == ("ContainerCreating", "the container is being created")


def test_a_trainer_after_its_init_container_is_being_created() -> None:
    raw = init_state({"terminated": {"exitCode": 0}})
    assert waiting_of(raw).reason == "ContainerCreating"


def test_long_words_are_shortened_to_one_line() -> None:
    words = waiting_of(held_back("CreateContainerError", "a\nb " * 1000)).words
    assert len(words) <= 300 and "\n" not in words


def test_a_reason_that_is_no_word_fits_into_a_condition() -> None:
    assert waiting_of(held_back("strange reason: " + "x" * 100)).reason.isalnum()
