'use strict';

/**
 * The names of a session's fields. A test holds that they are those of the Python package (core/schema.py). This file
 * loads nothing.
 *
 * The daemon decides which field exists, and counts an unknown one as a mistake. A producer needs the names only to
 * bound how many unknown ones it keeps.
 */
module.exports = new Set([
  'brakit_version', 'node_version', 'python_version', 'os', 'arch', 'sdk', 'framework', 'package_manager',
  'is_custom_command', 'first_session', 'adapters_detected', 'adapters_failed', 'framework_detection_candidates',
  'request_count', 'error_count', 'query_count', 'fetch_count', 'insight_count', 'finding_count', 'insight_types',
  'rules_triggered', 'endpoint_count', 'avg_duration_ms', 'slowest_endpoint_bucket', 'tabs_viewed',
  'dashboard_opened', 'explain_used', 'session_duration_s', 'setup_succeeded', 'setup_duration_ms',
  'time_to_first_request_ms', 'time_to_dashboard_ms', 'exit_reason',
]);
