"""Each row of docs/failure-modes.md is shown by a test."""

from __future__ import annotations

import re

import pytest

from tests.deploy.files import DOCS, ROOT

SHOWN_BY: dict[str, tuple[str, ...]] = {
    "a gateway": (
        "tests/e2e/test_deaths.py::test_what_a_dead_gateways_answers_held_is_free_at_once",
        "tests/common/queues/test_deaths.py::test_tickets_of_a_gateway_that_died_waiting_are_dropped",
        "tests/common/test_blob_store.py::test_an_unreleased_turn_expires",
        "tests/gateway/usage/test_books.py::test_turns_of_a_gateway_that_died_are_closed_once_as_lost",
    ),
    "a preprocess worker, before it answered": (
        "tests/e2e/test_preprocess_losses.py::test_a_worker_that_is_lost_while_it_prepares_is_replaced",
    ),
    "a preprocess worker that holds features which a thinker still needs": (
        "tests/e2e/test_preprocess_losses.py::"
        "test_features_that_are_lost_before_a_thinker_pulls_them_are_prepared_again",
    ),
    "such a worker, while preprocess is upgraded to other libraries": (
        "tests/gateway/turn/test_remaking.py::"
        "test_a_new_version_s_features_take_the_place_of_lost_ones_that_nobody_read",
        "tests/gateway/turn/test_remaking.py::test_an_answer_never_mixes_the_features_of_two_versions",
    ),
    "a thinker, in the middle of an answer": (
        "tests/e2e/test_thinker_losses.py::test_requests_in_every_phase_survive_the_loss_of_their_thinker",
        "tests/e2e/test_thinking.py::test_an_answer_survives_the_loss_of_its_engine_in_its_thought_and_in_its_content",
        "tests/e2e/test_deaths.py::test_all_workers_killed_together_are_gone_on_from",
    ),
    "a talker, in the middle of speech": (
        "tests/e2e/test_talker_losses.py::test_speech_survives_the_loss_of_its_talker_before_and_after_its_first_frame",
    ),
    "a talker's speech, which derails: a drone, repetition, silence, no end": (
        "tests/talker/test_derailed_streams.py::test_derailed_speech_ends_at_its_last_good_frame",
        "tests/talker/test_derailed_streams.py::"
        "test_derailed_speech_is_spoken_again_as_a_resumed_stream_with_the_next_seed_speaks",
        "tests/gateway/turn/test_derailed_speech.py::test_the_last_chunk_and_the_whole_answer_say_it",
    ),
    "a thinker that holds hidden states which a talker still needs": (
        "tests/e2e/test_talker_losses.py::test_hidden_states_that_are_lost_with_their_thinker_are_made_again",
    ),
    "several of these at once, or one after another": (
        "tests/e2e/test_deaths.py::test_all_workers_killed_together_are_gone_on_from",
        "tests/gateway/turn/test_resume.py::test_several_losses_one_after_another",
    ),
    "two engines in a row, by a request that made no progress; or six, whatever its progress": (
        "tests/e2e/test_fatal_request.py::test_a_request_that_ends_engines_fails_and_those_beside_it_continue",
        "tests/gateway/turn/test_fatal_requests.py::test_a_request_cannot_end_one_engine_per_token",
    ),
    "four workers in a row, for a request that made no progress": (
        "tests/gateway/turn/test_resume.py::test_losses_without_progress_end_with_the_loss",
    ),
    "an engine that hangs": ("tests/e2e/test_deaths.py::test_a_hung_engine_is_found_and_gone_on_from",),
    "a decoder of preprocess, or its processor, that hangs": (
        "tests/preprocess/test_decode_pool.py::test_a_decoder_that_hangs_is_replaced_and_the_file_is_not_blamed",
    ),
    "a worker whose event loop stands still": (
        "tests/common/test_engine_watch.py::test_a_process_with_a_hung_event_loop_ends_and_says_where",
    ),
    "a worker that drains (SIGTERM, scale-down)": (
        "tests/e2e/test_planned_moves.py::test_a_worker_that_leaves_hands_its_answers_over",
        "tests/e2e/test_lone_workers.py::test_a_worker_without_another_keeps_its_answers",
    ),
    "vLLM's engine inside a thinker": ("tests/e2e/test_deaths.py::test_all_workers_killed_together_are_gone_on_from",),
    "a follower of a thinker on several nodes, or its node": (
        "tests/thinker/test_nodes.py::test_tensor_parallel_nodes_answer_as_one_node_and_end_together",
        "tests/thinker/test_group.py::test_followers_join_in_any_order_and_a_loss_is_detected",
    ),
    "the leader of such a thinker": ("tests/thinker/test_group.py::test_a_follower_learns_that_its_leader_is_gone",),
    "the talker's engine": (
        "tests/talker/test_engine.py::test_a_model_failure_reaches_the_streams_and_the_owner",
        "tests/common/test_server.py::test_a_service_that_cannot_continue_exits_with_a_failure",
    ),
    "a node that vanishes": (
        "tests/e2e/test_frozen_workers.py::test_answers_survive_workers_that_stand_still",
        "tests/common/test_half_open.py::test_both_sides_detect_a_frozen_connection",
        "tests/common/queues/test_deaths.py::test_a_dead_worker_is_unlisted",
    ),
    "all workers of a stage": (
        "tests/common/queues/test_grants.py::test_without_a_worker_tickets_soon_fail_at_once",
        "tests/common/queues/test_grants.py::test_a_ticket_waits_as_long_as_measured_starts_take",
        "tests/common/queues/test_grants.py::test_a_turn_that_resumes_waits_longer_for_a_worker",
        "tests/gateway/test_cold_start.py::test_a_request_wakes_all_its_stages_at_once",
    ),
    "Redis, for a while": (
        "tests/gateway/test_http_waits.py::test_without_the_queues_store_it_answers_503_and_recovers",
        "tests/common/queues/test_outages.py::test_a_turn_that_resumes_waits_for_redis",
        "tests/common/test_redis_faults.py::test_a_fault_of_redis_loses_no_slot_and_grants_none_twice",
    ),
    "Redis, with its memory": (
        "tests/common/queues/test_outages.py::test_redis_dies_and_comes_back_empty",
        "tests/common/test_redis_faults.py::test_a_fault_of_redis_loses_no_slot_and_grants_none_twice",
    ),
    "a master of a Redis Cluster, or of Sentinel": (
        "tests/common/test_redis_cluster.py::test_waiting_tickets_are_granted_by_a_promoted_replica",
        "tests/common/test_redis_sentinel.py::test_tickets_are_granted_again_when_the_next_master_is_there",
    ),
    "Redis, full (`noeviction`)": (
        "tests/gateway/test_http_waits.py::test_a_full_queues_store_gives_503_until_it_has_room",
        "tests/common/test_redis_faults.py::test_a_fault_of_redis_loses_no_slot_and_grants_none_twice",
    ),
    "Redis' primary, replaced by another one behind the same name": (
        "tests/common/test_redis_failover.py::test_tickets_are_granted_by_the_new_primary",
        "tests/common/test_redis_faults.py::test_a_fault_of_redis_loses_no_slot_and_grants_none_twice",
    ),
    "one gateway's way to Redis": (
        "tests/common/test_redis_faults.py::test_a_fault_of_redis_loses_no_slot_and_grants_none_twice",
    ),
    "a gateway that runs lines of [batches](batches.md)": (
        "tests/control/test_batches.py::test_a_line_is_one_runners_until_that_is_silent",
        "tests/gateway/batches/test_losses.py::test_every_process_may_be_killed",
    ),
    "the object store": (
        "tests/gateway/batches/test_losses.py::test_results_wait_while_the_object_store_is_away",
        "tests/gateway/batches/test_object_store.py::test_a_store_that_is_away_is_unavailable",
    ),
    "the control plane, for files and batches": (
        "tests/gateway/batches/test_losses.py::test_every_process_may_be_killed",
    ),
    "the Kubernetes API, or the scaler's right to patch pods": (
        "tests/scaler/test_scale_down.py::test_a_scaler_that_may_not_patch_scales_all_the_same",
        "tests/scaler/test_deletion_costs.py::test_a_server_that_hangs_is_left_alone",
    ),
    "Prometheus, the OTLP collector": (
        "tests/gateway/test_process.py::test_without_a_collector_of_spans_it_answers_and_ends",
    ),
    "the weights' volume, after the start": (
        "tests/local/test_stack.py::test_a_running_stack_answers_without_its_weights",
    ),
    "a client": ("tests/e2e/test_chat_completions.py::test_a_client_that_leaves_frees_every_slot_within_a_second",),
    "a client that reads slowly": (
        "tests/gateway/turn/test_turn_parts.py::test_a_slow_reader_blocks_the_writer",
        "tests/talker/test_engine.py::test_a_client_that_reads_nothing_pauses_its_stream",
        "tests/gateway/turn/test_resume.py::test_a_client_that_reads_slowly_gets_every_token_and_frame_once",
    ),
    "free blocks of a talker's KV cache, at more or longer speech than fits": (
        "tests/talker/test_preemption.py::test_a_paused_stream_resumes_unchanged",
    ),
}
"""A row's first cell → the tests that show it."""
IN_A_CLUSTER = frozenset({"the scaler", "KEDA"})
"""Rows that need KEDA in a cluster to be shown."""
_ROW = re.compile(r"^\| (.+?) \|", re.MULTILINE)


def test_each_row_has_its_tests() -> None:
    rows = [row for row in _ROW.findall((DOCS / "failure-modes.md").read_text()) if row != "what fails"]
    assert len(rows) == len(set(rows))
    assert set(rows) == SHOWN_BY.keys() | IN_A_CLUSTER


@pytest.mark.parametrize("test", sorted({test for tests in SHOWN_BY.values() for test in tests}))
def test_the_test_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
