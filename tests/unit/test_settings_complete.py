"""Nothing is configurable that no test shows working: every setting names the test that shows its effect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mcp_sidecar.config import Config, Section
from mcp_sidecar.config.vocabulary import inner_section

TESTS = Path(__file__).parents[1] / "integration"
STDIO, HTTP, FRONT = "test_settings_stdio", "test_settings_http", "test_settings_front"
SERVER = "servers.NAME"

SHOWN: dict[str, tuple[str, str]] = {
    "globalTimeout": (HTTP, "test_global_timeout_is_the_default"),
    "maxConcurrentConnections": (HTTP, "test_max_concurrent_connections_bounds_all_servers_together"),
    "maxConcurrentStarts": (STDIO, "test_max_concurrent_starts_is_a_bound"),
    "readiness.mode": (FRONT, "test_readiness_mode_and_require"),
    "readiness.require": (FRONT, "test_readiness_mode_and_require"),
    "front.host": (FRONT, "test_host_and_port_of_both_ports"),
    "front.port": (FRONT, "test_host_and_port_of_both_ports"),
    "front.adminHost": (FRONT, "test_host_and_port_of_both_ports"),
    "front.adminPort": (FRONT, "test_host_and_port_of_both_ports"),
    "front.allowedHosts": (FRONT, "test_allowed_hosts"),
    "front.allowedOrigins": (FRONT, "test_allowed_origins"),
    "front.maxRequestBytes": (FRONT, "test_max_request_bytes"),
    "front.maxHeaderBytes": (FRONT, "test_max_header_bytes"),
    "front.headerTimeout": (FRONT, "test_header_timeout"),
    "front.bodyTimeout": (FRONT, "test_body_timeout"),
    "front.idleTimeout": (FRONT, "test_idle_timeout"),
    "front.maxConnections": (FRONT, "test_max_connections"),
    "front.maxCallsPerConnection": (FRONT, "test_max_calls_per_connection_bounds_a_batch"),
    "front.maxSessions": (FRONT, "test_max_sessions"),
    "front.tls.certFile": (FRONT, "test_tls_of_the_front"),
    "front.tls.keyFile": (FRONT, "test_tls_of_the_front"),
    "front.tls.clientCaFile": (FRONT, "test_tls_of_the_front"),
    "front.tokens[].name": (FRONT, "test_tokens_admit_callers_with_their_tools"),
    "front.tokens[].file": (FRONT, "test_tokens_admit_callers_with_their_tools"),
    "front.tokens[].tools": (FRONT, "test_tokens_admit_callers_with_their_tools"),
    "sessions.keyFile": (FRONT, "test_session_key_file_is_shared_by_replicas"),
    "sessions.stateDirectory": (FRONT, "test_state_directory_keeps_the_key_of_sessions"),
    "sessions.address": (FRONT, "test_sessions_address_lets_replicas_pass_on"),
    "sessions.lifetime": (FRONT, "test_sessions_end_after_their_lifetime"),
    "sessions.idleTimeout": (FRONT, "test_idle_sessions_are_closed_with_their_process"),
    "shutdown.gracePeriod": (FRONT, "test_grace_period_bounds_the_drain"),
    "secrets.keyFile": (FRONT, "test_secrets_key_file_opens_sealed_values"),
    "secrets.require": (FRONT, "test_secrets_require_refuses_literals"),
    "secrets.pollInterval": (FRONT, "test_poll_interval_is_how_soon_a_change_is_seen"),
    "log.level": (FRONT, "test_log_level"),
    "log.calls": (FRONT, "test_log_calls"),
    "log.stderrLinesPerSecond": (STDIO, "test_stderr_lines_per_second_bounds_what_is_passed_on"),
    "audit.enabled": (FRONT, "test_audit_enabled"),
    "audit.arguments": (FRONT, "test_audit_arguments"),
    "audit.onFull": (FRONT, "test_audit_on_full_blocks_calls"),
    "metrics.enabled": (FRONT, "test_metrics_enabled"),
    "metrics.maxToolLabels": (FRONT, "test_max_tool_labels"),
    "metrics.toolHistograms": (FRONT, "test_tool_histograms"),
    f"{SERVER}.command": (STDIO, "test_command_and_args_are_run"),
    f"{SERVER}.args": (STDIO, "test_command_and_args_are_run"),
    f"{SERVER}.env": (STDIO, "test_env_reaches_the_process"),
    f"{SERVER}.envFrom[].directory": (STDIO, "test_env_from_reaches_the_process"),
    f"{SERVER}.envFrom[].prefix": (STDIO, "test_env_from_reaches_the_process"),
    f"{SERVER}.workingDir": (STDIO, "test_working_dir_is_where_it_runs"),
    f"{SERVER}.url": (HTTP, "test_url_is_where_calls_go"),
    f"{SERVER}.headers": (HTTP, "test_headers_are_sent"),
    f"{SERVER}.socket": (STDIO, "test_socket_is_a_process_for_each_connection"),
    f"{SERVER}.transport": (HTTP, "test_transport_sse_is_spoken_where_it_is_said"),
    f"{SERVER}.revision": (STDIO, "test_a_new_revision_begins_a_new_process_and_drains_the_old"),
    f"{SERVER}.disabled": (FRONT, "test_disabled_servers_are_left_out"),
    f"{SERVER}.isolation": (STDIO, "test_isolation_gives_each_session_its_process"),
    f"{SERVER}.processes": (STDIO, "test_processes_serve_beside_each_other"),
    f"{SERVER}.maxSessions": (STDIO, "test_max_sessions_bounds_processes_of_sessions"),
    f"{SERVER}.sessions": (HTTP, "test_stateless_sessions_are_begun_anew"),
    f"{SERVER}.timeout": (STDIO, "test_timeout_bounds_an_attempt"),
    f"{SERVER}.totalTimeout": (STDIO, "test_total_timeout_bounds_the_call"),
    f"{SERVER}.connectTimeout": (HTTP, "test_connect_timeout_includes_tls"),
    f"{SERVER}.startTimeout": (STDIO, "test_start_timeout_gives_a_start_up"),
    f"{SERVER}.credentials": (HTTP, "test_credentials_of_the_caller"),
    f"{SERVER}.allowLinkLocal": (HTTP, "test_allow_link_local"),
    f"{SERVER}.allowedTools": (STDIO, "test_allowed_tools_alone_are_seen_and_called"),
    f"{SERVER}.deniedTools": (STDIO, "test_denied_tools_are_neither_seen_nor_called"),
    f"{SERVER}.retry.maxRetries": (HTTP, "test_max_retries_is_the_number_after_the_first_attempt"),
    f"{SERVER}.retry.backoff.base": (HTTP, "test_backoff_base_is_the_first_wait"),
    f"{SERVER}.retry.backoff.max": (HTTP, "test_backoff_max_is_the_longest_wait"),
    f"{SERVER}.retry.budget.enabled": (HTTP, "test_backoff_max_is_the_longest_wait"),
    f"{SERVER}.retry.budget.maxTokens": (HTTP, "test_budget_max_tokens_bounds_retries"),
    f"{SERVER}.retry.budget.ratio": (HTTP, "test_budget_ratio_is_given_back_by_successes"),
    f"{SERVER}.retry.budget.minPerSecond": (HTTP, "test_budget_min_per_second_is_given_back_by_time"),
    f"{SERVER}.retry.budget.timeoutCost": (HTTP, "test_budget_timeout_cost"),
    f"{SERVER}.retry.trustAnnotations": (HTTP, "test_trust_annotations_believes_read_only_hints"),
    f"{SERVER}.retry.tools": (HTTP, "test_retry_tools_say_what_may_be_repeated"),
    f"{SERVER}.retry.retryOn429": (HTTP, "test_retry_on_429"),
    f"{SERVER}.retry.retryOn503": (HTTP, "test_retry_on_503"),
    f"{SERVER}.circuitBreaker.enabled": (HTTP, "test_breaker_can_be_disabled"),
    f"{SERVER}.circuitBreaker.failureRateThreshold": (HTTP, "test_failure_rate_threshold_and_minimum_calls"),
    f"{SERVER}.circuitBreaker.minimumCalls": (HTTP, "test_failure_rate_threshold_and_minimum_calls"),
    f"{SERVER}.circuitBreaker.window": (HTTP, "test_window_forgets_old_failures"),
    f"{SERVER}.circuitBreaker.consecutiveFailures": (HTTP, "test_consecutive_failures_open_the_breaker"),
    f"{SERVER}.circuitBreaker.slowCallRateThreshold": (HTTP, "test_slow_calls_open_the_breaker"),
    f"{SERVER}.circuitBreaker.slowCallDuration": (HTTP, "test_slow_calls_open_the_breaker"),
    f"{SERVER}.circuitBreaker.openDuration": (HTTP, "test_open_duration_ends"),
    f"{SERVER}.circuitBreaker.maxOpenDuration": (HTTP, "test_max_open_duration_bounds_the_doubling"),
    f"{SERVER}.circuitBreaker.halfOpenPermits": (HTTP, "test_half_open_permits_must_all_succeed"),
    f"{SERVER}.circuitBreaker.probeInterval": (HTTP, "test_probe_interval_tries_in_the_background"),
    f"{SERVER}.pool.max": (HTTP, "test_pool_max_bounds_connections"),
    f"{SERVER}.pool.min": (HTTP, "test_pool_min_is_opened_under_traffic"),
    f"{SERVER}.pool.acquireTimeout": (HTTP, "test_acquire_timeout_ends_the_wait_for_a_connection"),
    f"{SERVER}.pool.idleTimeout": (HTTP, "test_idle_timeout_closes_connections"),
    f"{SERVER}.pool.maxLifetime": (HTTP, "test_max_lifetime_replaces_connections"),
    f"{SERVER}.pool.maxStreams": (HTTP, "test_max_streams_bounds_listeners"),
    f"{SERVER}.pool.leakThreshold": (HTTP, "test_leak_threshold_reports_long_leases"),
    f"{SERVER}.limits.maxConcurrent": (STDIO, "test_max_concurrent_and_max_queue_bound_calls"),
    f"{SERVER}.limits.maxQueue": (STDIO, "test_max_concurrent_and_max_queue_bound_calls"),
    f"{SERVER}.limits.queueTimeout": (STDIO, "test_queue_timeout_ends_a_wait"),
    f"{SERVER}.limits.maxResponseBytes": (STDIO, "test_max_response_bytes_bounds_a_message"),
    f"{SERVER}.limits.rate.requestsPerSecond": (STDIO, "test_rate_is_refilled"),
    f"{SERVER}.limits.rate.burst": (STDIO, "test_rate_burst_is_let_through_at_once"),
    f"{SERVER}.limits.rate.per": (STDIO, "test_rate_per_tool"),
    f"{SERVER}.cache.enabled": (HTTP, "test_cache_can_be_disabled"),
    f"{SERVER}.cache.maxBytes": (HTTP, "test_cache_max_bytes"),
    f"{SERVER}.cache.listTtl": (STDIO, "test_list_ttl_keeps_lists_of_a_legacy_server"),
    f"{SERVER}.cache.staleIfError": (HTTP, "test_stale_if_error"),
    f"{SERVER}.cache.tools": (HTTP, "test_cache_tools"),
    f"{SERVER}.health.enabled": (HTTP, "test_health_interval_and_enabled"),
    f"{SERVER}.health.interval": (HTTP, "test_health_interval_and_enabled"),
    f"{SERVER}.health.timeout": (HTTP, "test_health_timeout_and_failure_threshold"),
    f"{SERVER}.health.failureThreshold": (HTTP, "test_health_timeout_and_failure_threshold"),
    f"{SERVER}.restart.backoffBase": (STDIO, "test_backoff_base_is_the_first_wait"),
    f"{SERVER}.restart.backoffMax": (STDIO, "test_backoff_max_is_the_longest_wait"),
    f"{SERVER}.restart.resetAfter": (STDIO, "test_reset_after_begins_the_waits_anew"),
    f"{SERVER}.stop.stdinGrace": (STDIO, "test_stop_graces_are_the_time_between_the_steps"),
    f"{SERVER}.stop.termGrace": (STDIO, "test_stop_graces_are_the_time_between_the_steps"),
    f"{SERVER}.tls.caFile": (HTTP, "test_tls_to_a_server"),
    f"{SERVER}.tls.certFile": (HTTP, "test_tls_to_a_server"),
    f"{SERVER}.tls.keyFile": (HTTP, "test_tls_to_a_server"),
    f"{SERVER}.tls.serverName": (HTTP, "test_tls_to_a_server"),
    f"{SERVER}.tls.verify": (HTTP, "test_tls_to_a_server"),
}


def settings(model: type[Section], path: str = "") -> list[str]:
    """The paths of all settings that are no sections."""
    found = []
    for name, info in model.model_fields.items():
        alias = str(info.alias or name)
        section, container = inner_section(info.annotation)
        if section is None:
            found.append(path + alias)
            continue
        suffix = ".NAME" if container is dict else "[]" if container is tuple else ""
        found += settings(section, f"{path}{alias}{suffix}.")
    return found


def test_every_setting_has_a_test_that_shows_its_effect() -> None:
    assert sorted(settings(Config)) == sorted(SHOWN)


@pytest.mark.parametrize("module", [STDIO, HTTP, FRONT])
def test_the_tests_exist(module: str) -> None:
    tree = ast.parse((TESTS / f"{module}.py").read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    named = {test for where, test in SHOWN.values() if where == module}
    assert named - there == set()
